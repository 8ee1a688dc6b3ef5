//! How a verb fails: what happened, what to do, and the exit code that says which kind it was.

use std::fmt;

/// Exit codes, documented in `docs/guide/exit-codes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The command line, the directory or a file is wrong (clap uses 2 as well).
    Usage = 2,
    /// The pipeline refused the push; what was live is live.
    Refused = 3,
    /// Control can't be reached or does not accept the token.
    Control = 4,
    /// A port is taken, or another box runs on the same data.
    Taken = 5,
}

/// A failed verb.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What happened, with its causes.
    pub(crate) error: anyhow::Error,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// The exit code.
    pub(crate) code: Code,
}

/// What every verb returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with a hint.
    pub(crate) fn new(code: Code, what: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self { error: anyhow::anyhow!("{what}"), hint: Some(hint.into()), code }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), hint: None, code: Code::Failed }
    }
}

/// Adds a hint and a code to any error.
pub(crate) trait OrFail<T> {
    /// Turns an error into a failure.
    fn or_fail(self, code: Code, what: impl fmt::Display, hint: impl Into<String>) -> Outcome<T>;
}

impl<T, E: Into<anyhow::Error>> OrFail<T> for Result<T, E> {
    fn or_fail(self, code: Code, what: impl fmt::Display, hint: impl Into<String>) -> Outcome<T> {
        self.map_err(|error| Failure {
            error: error.into().context(what.to_string()),
            hint: Some(hint.into()),
            code,
        })
    }
}
