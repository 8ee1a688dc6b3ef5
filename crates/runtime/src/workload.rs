//! What a workload is, in the terms of its caller.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::limits::Limits;

/// Gets the lines that a workload prints, as they come: without control characters and of bounded
/// length. It is called where nothing may block; keeping lines within bounds is its own business.
#[derive(Clone)]
pub struct Output(Arc<dyn Fn(&str) + Send + Sync>);

impl Output {
    /// Calls `take` with each line.
    pub fn new(take: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    pub(crate) fn line(&self, line: &str) {
        (self.0)(line);
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Output")
    }
}

/// A process workload to keep running.
#[derive(Clone)]
pub struct WorkloadSpec {
    /// For people and for the user id that it runs as: `SITE/APP/ENVIRONMENT/SERVICE`.
    pub name: String,
    /// What tenant it belongs to: workloads of one app share a user, those of different apps never do.
    pub tenant: String,
    /// The unpacked artifact, at `/app`. It is never changed: what the program writes there is kept
    /// in memory, within its limit, and ends with it.
    pub app: PathBuf,
    /// Run by `/bin/sh -c` in `/app`, with `$PORT` set.
    pub command: String,
    /// Variables over the scrubbed environment.
    pub environment: BTreeMap<String, String>,
    /// A path that answers 2xx or 3xx over HTTP/1.1 when ready; `None`: ready when the port accepts.
    pub health: Option<String>,
    /// How long it may take to be ready.
    pub start_timeout: Duration,
    /// How long it may take to end after SIGTERM.
    pub stop_timeout: Duration,
    /// What it may use.
    pub limits: Limits,
    /// Gets its output too.
    pub output: Option<Output>,
}

impl fmt::Debug for WorkloadSpec {
    /// Without the environment, which may hold secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WorkloadSpec")
            .field("name", &self.name)
            .field("tenant", &self.tenant)
            .field("app", &self.app)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// How a workload has fared since it was first started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// When the program was last started; `None` while it is not running.
    pub since: Option<SystemTime>,
    /// How often it was started again.
    pub restarts: u64,
    /// How it last ended, in words, with the last lines of its output.
    pub last_end: Option<(String, Vec<String>)>,
}

/// How a workload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkloadState {
    /// Started, not ready yet.
    Starting,
    /// Answers.
    Ready,
    /// Ended or unwell; it is started again after a pause.
    BackingOff {
        /// What happened, in words.
        reason: String,
        /// Last lines of its output.
        last_lines: Vec<String>,
        /// How often it has been restarted in a row.
        restarts: u32,
    },
    /// Ended before it was ever ready, or too often: it is tried again ever more rarely.
    CrashLoop {
        /// What happened, in words.
        reason: String,
        /// Last lines of its output.
        last_lines: Vec<String>,
    },
    /// Stopped on request.
    Stopped,
}
