//! Floors: the oldest epoch of an app that a site may still serve, because its users have seen
//! that one. They live in the ledger beside the documents, so that a restart goes back no more
//! than a running site does.

use selvedge_model::{AppName, EnvironmentName, Epoch, Generation};

use crate::documents::AppKey;
use crate::ledger::Record;

/// Prefix of floors in the ledger; no document's key begins with it.
const PREFIX: &str = "floor/";

/// The ledger key of an app's floor.
pub(crate) fn key((app, environment): &AppKey) -> String {
    format!("{PREFIX}{app}/{environment}")
}

/// A floor as a ledger record: the epoch stands where a document has its generation.
pub(crate) fn record(app: &AppKey, floor: Epoch) -> Record {
    let generation = Generation::new(floor.incarnation, floor.number);
    Record { key: key(app), generation, value: Vec::new() }
}

/// Reads a floor back.
pub(crate) fn parse(record: &Record) -> Option<(AppKey, Epoch)> {
    let (app, environment) = record.key.strip_prefix(PREFIX)?.split_once('/')?;
    let app = (AppName::new(app).ok()?, EnvironmentName::new(environment).ok()?);
    Some((app, Epoch::new(record.generation.incarnation, record.generation.number)))
}
