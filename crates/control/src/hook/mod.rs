//! The `proc-receive` hook, both ends.
//!
//! git runs the hook once for each push and asks it what becomes of every ref. The hook is this
//! executable with the verb `hook`: [`hook_main`] passes the question to control over a Unix
//! socket, shows the progress that comes back on its standard error, which git shows to the pusher,
//! and passes on the verdicts. It decides nothing. [`listener`] is the end in control.

mod client;
pub(crate) mod listener;
pub mod pktline;

use selvedge_model::RepositoryName;
use serde::{Deserialize, Serialize};

pub use client::hook_main;

/// The hidden verb that git's hook runs: `selvedge hook`.
pub const HOOK_VERB: &str = "hook";

/// Refs in one push at most.
const MAX_UPDATES: usize = 1000;
/// The longest message between hook and control, in bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// What the hook asks, as one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    repository: RepositoryName,
    updates: Vec<Update>,
}

/// A ref that the pusher wants moved. Zeros stand for "absent".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Update {
    pub(crate) old: String,
    pub(crate) new: String,
    pub(crate) name: String,
}

/// What control says, as one line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
enum Word {
    /// A line for the pusher to read.
    Progress { text: String },
    /// The end: one verdict an update, in order.
    Verdicts { verdicts: Vec<Verdict> },
}

/// What becomes of a ref.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// Control has moved it.
    Moved,
    /// git is to move it: a ref that releases nothing.
    Leave,
    /// It stays as it is.
    Refused {
        /// Why, in a few words.
        reason: String,
    },
}
