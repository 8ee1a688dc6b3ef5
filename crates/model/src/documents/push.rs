//! Pushes: what was asked for, and what became of it.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{AppName, ReleaseId, RepositoryName, SiteId};
use crate::version::Epoch;

/// The stages of a push, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The push is taken in, queued and checked out.
    Receive,
    /// `selvedge.toml` is read and checked; hosts are free.
    Validate,
    /// Build commands run.
    Build,
    /// Test commands run.
    Test,
    /// Artifacts and the release are stored.
    Publish,
    /// Sites are chosen.
    Plan,
    /// Sites fetch and start the release.
    Warm,
    /// The ref moves and the activation is written.
    Activate,
    /// Every site reports the epoch and answers.
    Verify,
}

impl Stage {
    /// Every stage in order.
    pub const ALL: [Stage; 9] = [
        Self::Receive,
        Self::Validate,
        Self::Build,
        Self::Test,
        Self::Publish,
        Self::Plan,
        Self::Warm,
        Self::Activate,
        Self::Verify,
    ];

    /// The stage's name as people see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Validate => "validate",
            Self::Build => "build",
            Self::Test => "test",
            Self::Publish => "publish",
            Self::Plan => "plan",
            Self::Warm => "warm",
            Self::Activate => "activate",
            Self::Verify => "verify",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A push and what became of it: the recorded intent that a restarted control completes or undoes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// Counts up in the repository from 1.
    pub number: u64,
    /// The repository.
    pub repository: RepositoryName,
    /// What started it.
    pub cause: PushCause,
    /// What main was when the push was made; `None` for the first push.
    pub old_commit: Option<String>,
    /// What main is to be.
    pub new_commit: String,
    /// When it was received.
    pub received_ms: u64,
    /// How it stands.
    pub state: PushState,
    /// The stages begun so far, in order.
    pub stages: Vec<StageRecord>,
    /// The apps that it releases, once known.
    pub apps: Vec<PushApp>,
}

impl Push {
    /// Whether the push is still under way: waiting, or anywhere before its end.
    pub fn is_open(&self) -> bool {
        match self.state {
            PushState::Queued
            | PushState::Preparing
            | PushState::Committing
            | PushState::Settling => true,
            PushState::Live | PushState::Refused(_) | PushState::RolledBack(_) => false,
        }
    }
}

/// What started a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PushCause {
    /// `git push`.
    Push,
    /// `selvedge rollback`, to this release.
    Rollback {
        /// The release that becomes live again.
        release: ReleaseId,
    },
    /// Verification of another push failed.
    Restore {
        /// The push that failed.
        push: u64,
    },
    /// `selvedge apps rm`, of this app.
    Removal {
        /// The app that goes.
        app: AppName,
    },
}

/// How a push stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PushState {
    /// Waiting for the repository's earlier pushes.
    Queued,
    /// Before the commit point: a restart undoes it.
    Preparing,
    /// At or past the commit point: a restart completes it.
    Committing,
    /// Verified: a restart has only the records left to bring up to date, and asks the sites no
    /// more.
    Settling,
    /// Live and verified.
    Live,
    /// Refused before the commit point; nothing changed.
    Refused(PushFailure),
    /// Failed after the commit point; the previous release is live again.
    RolledBack(PushFailure),
}

/// Why a push failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushFailure {
    /// Where.
    pub stage: Stage,
    /// What happened and what to do, in words.
    pub reason: String,
    /// The last lines of the output that shows it.
    pub last_lines: Vec<String>,
}

/// One stage of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRecord {
    /// Which.
    pub stage: Stage,
    /// When it began.
    pub started_ms: u64,
    /// How long it took; `None` while it runs.
    pub duration_ms: Option<u64>,
    /// A word on what was done ("dependencies from the cache", "unchanged, not rebuilt").
    pub note: Option<String>,
}

/// An app of the pushed commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushApp {
    /// The app.
    pub app: AppName,
    /// Its release.
    pub release: ReleaseId,
    /// Its directory in the commit, `/`-separated, empty for the top. `None` in records of versions
    /// that did not keep it.
    #[serde(default)]
    pub directory: Option<String>,
    /// Its epoch, once reserved. An app that the push does not change never gets one.
    pub epoch: Option<Epoch>,
    /// Where it goes, once planned.
    pub sites: BTreeSet<SiteId>,
    /// The sites that had it warm just before it was committed. A site that was away then has not
    /// tried it before everybody was sent to it, and cannot fail it afterwards.
    #[serde(default)]
    pub warm: BTreeSet<SiteId>,
}
