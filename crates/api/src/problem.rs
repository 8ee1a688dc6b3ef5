//! Errors as RFC 9457 problem details.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What kind of problem it is, for programs. The type URI is `urn:selvedge:problem:KIND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// The request can't be understood.
    BadRequest,
    /// No token, or a wrong one.
    Unauthorized,
    /// Nothing is there.
    NotFound,
    /// The path is known, the method is not.
    MethodNotAllowed,
    /// What is asked contradicts how things stand.
    Conflict,
    /// The request is larger than the API takes.
    TooLarge,
    /// A limit on requests at a time is reached.
    Busy,
    /// Control failed.
    Internal,
}

impl ProblemKind {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Busy => 503,
            Self::Internal => 500,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::Conflict => "conflict",
            Self::TooLarge => "too-large",
            Self::Busy => "busy",
            Self::Internal => "internal",
        }
    }
}

/// An error of the API (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Identifies the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// What went wrong, short, the same for every problem of the kind and cause.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The request's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// What to do about it, in words. An extension member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// A problem of `kind`.
    pub fn new(kind: ProblemKind, title: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:selvedge:problem:{}", kind.name()),
            title: title.into(),
            status: kind.status(),
            detail: None,
            instance: None,
            hint: None,
        }
    }

    /// Says what happened this time.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether it is of `kind`.
    pub fn is(&self, kind: ProblemKind) -> bool {
        self.kind.strip_prefix("urn:selvedge:problem:") == Some(kind.name())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}
