//! Signing in to the console.

use serde::{Deserialize, Serialize};

/// `POST /v1/console/links`: a link that signs one browser in, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleLink {
    /// Path and query, to be appended to the URL by which the caller reaches control. It holds the
    /// code, which is a secret until it is used.
    pub path: String,
    /// How long it can be used, in milliseconds.
    pub life_ms: u64,
}
