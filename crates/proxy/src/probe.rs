//! The agent's own requests, by which it judges a release. They come over plain HTTP, and are not
//! sent to HTTPS: what is to be judged is the app's own answer.

use http::{HeaderMap, HeaderName};

use crate::Snapshot;

/// Carries the key.
pub(crate) const PROBE: HeaderName = HeaderName::from_static("selvedge-probe");

/// Whether a request is the agent's own.
pub(crate) fn is_own(headers: &HeaderMap, snapshot: &Snapshot) -> bool {
    let (Some(sent), Some(key)) = (headers.get(PROBE), &snapshot.probe_key) else { return false };
    let (sent, key) = (sent.as_bytes(), key.as_bytes());
    // In constant time: who could guess it would see over plain HTTP what is meant for HTTPS.
    sent.len() == key.len() && sent.iter().zip(key).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}
