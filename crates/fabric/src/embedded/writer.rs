//! The one thread that writes.
//!
//! Writes queue up while the one before is being made durable, and whatever has queued is then
//! committed in one transaction: concurrent writers share the wait for the disk. A write is
//! answered only after the commit that holds it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use selvedge_model::Generation;
use tokio::sync::{mpsc, oneshot};

use super::feed::{Entry, Feed};
use super::{Options, schema, streams};
use crate::{Expect, FabricError, WriteError};

/// The most writes in one transaction.
const MAX_BATCH: usize = 512;
/// A transaction takes no further write once it holds this many bytes of values.
const MAX_BATCH_BYTES: usize = 8 << 20;

/// Something to write.
#[derive(Debug)]
pub(super) enum Write {
    Put {
        key: String,
        value: Bytes,
        expect: Expect,
    },
    Delete {
        key: String,
        expect: Expect,
    },
    Publish {
        stream: String,
        id: Option<String>,
        payload: Bytes,
    },
    /// Makes a consumer's cursor if it is new, and returns what it has acknowledged.
    Subscribe {
        stream: String,
        name: String,
    },
    Acknowledge {
        stream: String,
        name: String,
        sequence: u64,
    },
    Trim {
        stream: String,
        sequence: u64,
    },
}

impl Write {
    fn size(&self) -> usize {
        match self {
            Self::Put { value: bytes, .. } | Self::Publish { payload: bytes, .. } => bytes.len(),
            _ => 0,
        }
    }
}

/// A write and where its answer goes: the revision or sequence number that it led to.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) write: Write,
    pub(super) answer: oneshot::Sender<Result<u64, WriteError>>,
}

/// The writer's own state: what it knows to be in the database.
pub(super) struct Writer {
    connection: Connection,
    feed: Arc<Feed>,
    incarnation: u64,
    revision: u64,
    /// Revision and size of each change kept, the oldest first.
    history: VecDeque<(u64, usize)>,
    history_bytes: usize,
    options: Options,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        feed: Arc<Feed>,
        incarnation: u64,
        options: Options,
    ) -> rusqlite::Result<Self> {
        let mut writer = Self {
            connection,
            feed,
            incarnation,
            revision: 0,
            history: VecDeque::new(),
            history_bytes: 0,
            options,
        };
        writer.load()?;
        Ok(writer)
    }

    /// Reads the state anew: at the start, and after a transaction failed.
    fn load(&mut self) -> rusqlite::Result<()> {
        self.revision = schema::meta(&self.connection, "revision")?;
        let mut statement = self
            .connection
            .prepare("SELECT revision, ifnull(length(value), 0) FROM changes ORDER BY revision")?;
        self.history = statement
            .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        self.history_bytes = self.history.iter().map(|(_, size)| size).sum();
        Ok(())
    }

    /// Writes until nobody can send anymore.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut bytes = first.write.size();
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
                let Ok(job) = jobs.try_recv() else { break };
                bytes += job.write.size();
                batch.push(job);
            }
            self.commit(batch);
        }
    }

    fn commit(&mut self, batch: Vec<Job>) {
        match self.write(&batch) {
            Ok((results, entries)) => {
                let messages = batch
                    .iter()
                    .any(|job| matches!(job.write, Write::Publish { .. } | Write::Trim { .. }));
                self.feed.publish(entries, messages);
                for (job, result) in batch.into_iter().zip(results) {
                    // Whoever asked may have gone away.
                    let _ = job.answer.send(result);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the fabric's store failed: nothing was written");
                for job in batch {
                    let _ = job.answer.send(Err(store(&error).into()));
                }
                if let Err(error) = self.load() {
                    tracing::error!(%error, "the fabric's store can't be read");
                }
            }
        }
    }

    /// Makes the whole batch durable, or nothing of it.
    #[expect(clippy::type_complexity, reason = "named parts would be longer than the function")]
    fn write(
        &mut self,
        batch: &[Job],
    ) -> rusqlite::Result<(Vec<Result<u64, WriteError>>, Vec<Entry>)> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut documents = Documents {
            transaction: &transaction,
            incarnation: self.incarnation,
            revision: self.revision,
            entries: Vec::new(),
        };
        let mut results = Vec::with_capacity(batch.len());
        for job in batch {
            results.push(documents.apply(&job.write)?);
        }
        let Documents { revision, entries, .. } = documents;
        self.history.extend(entries.iter().map(|entry| (entry.revision, entry.size())));
        self.history_bytes += entries.iter().map(Entry::size).sum::<usize>();
        let mut trimmed = None;
        while self.history.len() > self.options.history
            || self.history_bytes > self.options.history_bytes
        {
            let Some((revision, size)) = self.history.pop_front() else { break };
            self.history_bytes -= size;
            trimmed = Some(revision);
        }
        if let Some(trimmed) = trimmed {
            transaction
                .prepare_cached("DELETE FROM changes WHERE revision <= ?1")?
                .execute((trimmed,))?;
        }
        if revision != self.revision {
            schema::set_meta(&transaction, "revision", revision)?;
        }
        transaction.commit()?;
        self.revision = revision;
        Ok((results, entries))
    }
}

/// Documents in the course of a transaction.
struct Documents<'a> {
    transaction: &'a Transaction<'a>,
    incarnation: u64,
    revision: u64,
    entries: Vec<Entry>,
}

impl Documents<'_> {
    /// The outer error fails the whole transaction, the inner one this write only.
    fn apply(&mut self, write: &Write) -> rusqlite::Result<Result<u64, WriteError>> {
        let result = match write {
            Write::Put { key, value, expect } => return self.put(key, value, *expect),
            Write::Delete { key, expect } => return self.delete(key, *expect),
            Write::Publish { stream, id, payload } => {
                streams::publish(self.transaction, stream, id.as_deref(), payload)?
            }
            Write::Subscribe { stream, name } => {
                streams::subscribe(self.transaction, stream, name)?
            }
            Write::Acknowledge { stream, name, sequence } => {
                match streams::acknowledge(self.transaction, stream, name, *sequence)? {
                    Ok(()) => *sequence,
                    Err(last) => {
                        return Ok(Err(FabricError::Invalid(format!(
                            "stream {stream:?} has no message {sequence}: its last is {last}"
                        ))
                        .into()));
                    }
                }
            }
            Write::Trim { stream, sequence } => {
                streams::trim(self.transaction, stream, *sequence)?;
                *sequence
            }
        };
        Ok(Ok(result))
    }

    fn current(&self, key: &str) -> rusqlite::Result<Option<u64>> {
        self.transaction
            .prepare_cached("SELECT revision FROM documents WHERE key = ?1")?
            .query_row((key,), |row| row.get(0))
            .optional()
    }

    /// `Err` when the document is not what the writer expects.
    fn check(&self, key: &str, current: Option<u64>, expect: Expect) -> Result<(), WriteError> {
        let current = current.map(|revision| Generation::new(self.incarnation, revision));
        let met = match expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::Generation(expected) => current == Some(expected),
        };
        if met { Ok(()) } else { Err(WriteError::Conflict { key: key.to_owned(), current }) }
    }

    fn put(
        &mut self,
        key: &str,
        value: &Bytes,
        expect: Expect,
    ) -> rusqlite::Result<Result<u64, WriteError>> {
        if let Err(conflict) = self.check(key, self.current(key)?, expect) {
            return Ok(Err(conflict));
        }
        self.revision += 1;
        self.transaction
            .prepare_cached(
                "INSERT INTO documents (key, revision, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT (key) DO UPDATE SET revision = ?2, value = ?3",
            )?
            .execute((key, self.revision, value.as_ref()))?;
        self.record(key, Some(value))
    }

    fn delete(&mut self, key: &str, expect: Expect) -> rusqlite::Result<Result<u64, WriteError>> {
        let current = self.current(key)?;
        if let Err(conflict) = self.check(key, current, expect) {
            return Ok(Err(conflict));
        }
        if current.is_none() {
            return Ok(Ok(self.revision));
        }
        self.revision += 1;
        self.transaction.prepare_cached("DELETE FROM documents WHERE key = ?1")?.execute((key,))?;
        self.record(key, None)
    }

    fn record(
        &mut self,
        key: &str,
        value: Option<&Bytes>,
    ) -> rusqlite::Result<Result<u64, WriteError>> {
        self.transaction
            .prepare_cached("INSERT INTO changes (revision, key, value) VALUES (?1, ?2, ?3)")?
            .execute((self.revision, key, value.map(Bytes::as_ref)))?;
        self.entries.push(Entry {
            revision: self.revision,
            key: key.to_owned(),
            value: value.cloned(),
        });
        Ok(Ok(self.revision))
    }
}

pub(super) fn store(error: &rusqlite::Error) -> FabricError {
    FabricError::Store(error.to_string())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn put(n: usize, size: usize) -> Write {
        Write::Put { key: format!("k{n}"), value: vec![1; size].into(), expect: Expect::Any }
    }

    #[tokio::test]
    async fn a_full_disk_loses_what_it_refused_and_nothing_else() {
        let directory = TempDir::new().unwrap();
        let opened = schema::open(directory.path()).unwrap();
        opened.connection.pragma_update(None, "max_page_count", 200).unwrap();
        let options = Options { history: 4, ..Options::default() };
        let feed = Arc::new(Feed::new(opened.revision, &options));
        let writer = Writer::new(opened.connection, feed.clone(), 1, options).unwrap();
        let (jobs, queue) = mpsc::channel(8);
        let thread = std::thread::spawn(move || writer.run(queue));
        let write = async |write| {
            let (answer, result) = oneshot::channel();
            jobs.send(Job { write, answer }).await.unwrap();
            result.await.unwrap()
        };
        let mut written = 0;
        let error = loop {
            match write(put(written, 50_000)).await {
                Ok(revision) => written = usize::try_from(revision).unwrap(),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, WriteError::Fabric(FabricError::Store(_))), "{error}");
        assert!(written > 5);
        assert_eq!(*feed.revision().borrow(), written as u64, "no watch was told of it");
        let expect = Expect::Absent;
        write(Write::Delete { key: format!("k{written}"), expect }).await.unwrap();
        let delete = Write::Delete { key: "k0".to_owned(), expect: Expect::Any };
        let next = write(delete).await.unwrap();
        assert_eq!(next, written as u64 + 1, "its revision is used by the next");
        write(put(0, 10)).await.unwrap();
        let batch = feed.since(next - 1, "", 10).unwrap();
        assert_eq!(batch.position, next + 1);
        drop(jobs);
        thread.join().unwrap();
    }
}
