//! Reading: a few connections of their own, used on threads that may block.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};
use selvedge_model::Generation;
use tokio::sync::Semaphore;

use super::feed::{Batch, Entry};
use super::{schema, writer};
use crate::{Document, FabricError};

/// How many reads run at once.
const CONNECTIONS: usize = 4;
/// A batch of history ends once it holds this many bytes.
const MAX_BATCH_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Readers {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, idle: Mutex::new(Vec::new()), permits: Arc::new(Semaphore::new(CONNECTIONS)) }
    }

    /// Runs `query` on a connection.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, FabricError> {
        let closed = || FabricError::Store("reading was interrupted".to_owned());
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| closed())?;
        let readers = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let idle = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                None => schema::open_reader(&readers.file)?,
            };
            let result = query(&connection);
            if result.is_ok() {
                readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            }
            result
        });
        read.await.map_err(|_| closed())?.map_err(|error| writer::store(&error))
    }
}

pub(super) fn get(
    connection: &Connection,
    incarnation: u64,
    key: String,
) -> rusqlite::Result<Option<Document>> {
    let found = connection
        .prepare_cached("SELECT revision, value FROM documents WHERE key = ?1")?
        .query_row((&key,), |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)))
        .optional()?;
    Ok(found.map(|(revision, value)| Document {
        key,
        generation: Generation::new(incarnation, revision),
        value: value.into(),
    }))
}

/// The documents under `prefix`, sorted, and the revision at which this was so.
pub(super) fn list(
    connection: &Connection,
    incarnation: u64,
    prefix: &str,
) -> rusqlite::Result<(u64, Vec<Document>)> {
    let transaction = connection.unchecked_transaction()?;
    let revision = schema::meta(&transaction, "revision")?;
    // Keys are ASCII, so that every key under the prefix sorts before the prefix and this.
    let end = format!("{prefix}\u{7f}");
    let mut statement = transaction.prepare_cached(
        "SELECT key, revision, value FROM documents WHERE key >= ?1 AND key < ?2 ORDER BY key",
    )?;
    let documents = statement
        .query_map((prefix, end), |row| {
            Ok(Document {
                key: row.get(0)?,
                generation: Generation::new(incarnation, row.get(1)?),
                value: row.get::<_, Vec<u8>>(2)?.into(),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok((revision, documents))
}

/// Changes under `prefix` after `position`, from at most `limit` revisions. `None` when history
/// does not reach back so far.
pub(super) fn history(
    connection: &Connection,
    position: u64,
    prefix: &str,
    limit: usize,
) -> rusqlite::Result<Option<Batch>> {
    let transaction = connection.unchecked_transaction()?;
    let oldest: Option<u64> = transaction
        .prepare_cached("SELECT min(revision) FROM changes")?
        .query_row((), |row| row.get(0))?;
    let revision = schema::meta(&transaction, "revision")?;
    let floor = oldest.map_or(revision, |oldest| oldest.saturating_sub(1));
    if position < floor || position > revision {
        return Ok(None);
    }
    let mut statement = transaction.prepare_cached(
        "SELECT revision, key, value FROM changes WHERE revision > ?1 ORDER BY revision LIMIT ?2",
    )?;
    let mut rows = statement.query((position, limit))?;
    let mut batch = Batch { entries: Vec::new(), position };
    let mut bytes = 0;
    while bytes < MAX_BATCH_BYTES {
        let Some(row) = rows.next()? else { break };
        batch.position = row.get(0)?;
        let key: String = row.get(1)?;
        if key.starts_with(prefix) {
            let value: Option<Vec<u8>> = row.get(2)?;
            let entry = Entry { revision: batch.position, key, value: value.map(Bytes::from) };
            bytes += entry.size();
            batch.entries.push(entry);
        }
    }
    Ok(Some(batch))
}
