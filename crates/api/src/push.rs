//! Pushes as they go.

use selvedge_model::{AppName, Epoch, Push, SiteId, Stage};
use serde::{Deserialize, Serialize};

/// A step of a push, one JSON object a line. The stream starts with what has happened so far and
/// ends after [`PushEvent::Done`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum PushEvent {
    /// The push is waiting for earlier pushes to the same repository.
    Queued {
        /// How many are ahead of it.
        ahead: u32,
    },
    /// A stage began.
    StageStarted {
        /// Which.
        stage: Stage,
        /// When, in Unix milliseconds.
        at_ms: u64,
    },
    /// A stage ended well. A stage that fails is named by the failure in [`PushEvent::Done`].
    StageFinished {
        /// Which.
        stage: Stage,
        /// How long it took.
        duration_ms: u64,
        /// A word on what was done.
        note: Option<String>,
    },
    /// A line of a build's or test's output, or a word to the pusher.
    Line {
        /// The stage that says it.
        stage: Stage,
        /// Without the line's end.
        text: String,
    },
    /// A site got further.
    Site {
        /// The app.
        app: AppName,
        /// The site.
        site: SiteId,
        /// The epoch that it is about.
        epoch: Epoch,
        /// How far it is.
        progress: SiteProgress,
        /// Since the push was received.
        after_ms: u64,
    },
    /// The push has ended; its state says how. Nothing follows.
    Done {
        /// All of it.
        push: Push,
    },
}

/// How far a site is with an epoch, as a pusher sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "progress", content = "reason", rename_all = "kebab-case")]
pub enum SiteProgress {
    /// Fetching artifacts.
    Fetching,
    /// Starting services.
    Starting,
    /// Ready to serve.
    Warm,
    /// Serving the epoch, and its own request was answered.
    Live,
    /// It can't, with the reason in words.
    Failed(String),
}

/// Asks for an earlier release to be live again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The release: its digest or at least the first 4 digits of it. `None`: the one that was live
    /// before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
}
