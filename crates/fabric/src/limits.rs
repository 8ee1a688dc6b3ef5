//! The limits of the contract, checked alike at every backend and at both ends of the socket.

use std::time::Duration;

use crate::{FabricError, MAX_VALUE};

/// The longest key, stream, consumer or lease name, in bytes.
const MAX_NAME: usize = 512;
/// The longest lease.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

fn printable(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A prefix may be empty: it is then that of everything.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), FabricError> {
    if prefix.len() <= MAX_NAME && printable(prefix) {
        return Ok(());
    }
    Err(FabricError::Invalid(format!(
        "prefix {:?} is not at most {MAX_NAME} printable ASCII characters without spaces",
        cut(prefix)
    )))
}

/// Checks a key, a stream, a consumer, a holder or a lease; `kind` is the word for it.
pub(crate) fn check_name(kind: &str, name: &str) -> Result<(), FabricError> {
    if !name.is_empty() && name.len() <= MAX_NAME && printable(name) {
        return Ok(());
    }
    Err(FabricError::Invalid(format!(
        "{kind} {:?} is not 1 to {MAX_NAME} printable ASCII characters without spaces",
        cut(name)
    )))
}

/// Checks the size of a document or a message.
pub(crate) fn check_value(name: &str, value: &[u8]) -> Result<(), FabricError> {
    if value.len() <= MAX_VALUE {
        return Ok(());
    }
    Err(FabricError::Invalid(format!(
        "the value for {:?} has {} bytes, and at most {MAX_VALUE} are stored: put it in a blob",
        cut(name),
        value.len()
    )))
}

/// Checks how long a lease is to run.
pub(crate) fn check_ttl(ttl: Duration) -> Result<(), FabricError> {
    if !ttl.is_zero() && ttl <= MAX_TTL {
        return Ok(());
    }
    Err(FabricError::Invalid(format!("a lease can't run for {ttl:?}: at most a day")))
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
