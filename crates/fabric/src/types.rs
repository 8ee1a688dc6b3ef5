//! The values that the contract speaks of.

use std::time::Duration;

use bytes::Bytes;
use selvedge_model::Generation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{Fabric, FabricError, WriteError};

/// A document with its key and generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Where it lives.
    pub key: String,
    /// The revision that wrote it.
    pub generation: Generation,
    /// Its content, JSON for every document of `model`.
    pub value: Bytes,
}

impl Document {
    /// Parses the content.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, FabricError> {
        serde_json::from_slice(&self.value)
            .map_err(|source| FabricError::Document { key: self.key.clone(), source })
    }
}

/// Documents under a prefix as of one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The store's revision when the list was taken: a watch may continue after it.
    pub generation: Generation,
    /// Sorted by key.
    pub documents: Vec<Document>,
}

/// What a writer expects to replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// Whatever is there.
    Any,
    /// Nothing.
    Absent,
    /// The document of this generation.
    Generation(Generation),
}

/// A step of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A document was written.
    Put(Document),
    /// A document was deleted.
    Delete {
        /// Where it was.
        key: String,
        /// The revision of the deletion.
        generation: Generation,
    },
    /// Everything is up to date as of this revision.
    Current(Generation),
    /// Forget everything; what follows up to the next [`Change::Current`] is all there is.
    Reset,
}

/// A stream of changes. Ends only when the fabric is shut down.
#[derive(Debug)]
pub struct Watch {
    /// Filled by the backend; bounded, so that a slow watcher slows its own feed only.
    pub(crate) receiver: mpsc::Receiver<Change>,
}

impl Watch {
    /// Waits for the next change; `None` when the fabric is shut down. Cancel safe.
    pub async fn next(&mut self) -> Option<Change> {
        self.receiver.recv().await
    }
}

/// A message of a stream, or the lack of some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A message.
    Data {
        /// Its place in the stream, from 1.
        sequence: u64,
        /// Its content.
        payload: Bytes,
    },
    /// Messages were trimmed before they were acknowledged; the next is `first_available`.
    Gap {
        /// The next sequence number that can be had.
        first_available: u64,
    },
}

/// A stream of messages. Acknowledge with [`Fabric::acknowledge`].
#[derive(Debug)]
pub struct Consumer {
    /// Filled by the backend; bounded.
    pub(crate) receiver: mpsc::Receiver<Message>,
}

impl Consumer {
    /// Waits for the next message; `None` when the fabric is shut down. Cancel safe.
    pub async fn next(&mut self) -> Option<Message> {
        self.receiver.recv().await
    }
}

/// A blob's content in pieces.
#[derive(Debug)]
pub struct BlobReader {
    /// Filled by the backend; bounded.
    pub(crate) receiver: mpsc::Receiver<Result<Bytes, FabricError>>,
}

impl BlobReader {
    /// Waits for the next piece; `None` at the end of a sound blob. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Bytes, FabricError>> {
        self.receiver.recv().await
    }
}

/// A lease that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What is held.
    pub name: String,
    /// Who holds it.
    pub holder: String,
    /// Grows whenever the holder changes: fenced writes carry it.
    pub epoch: u64,
    /// How long it still ran when this was made.
    pub remaining: Duration,
}

/// What becomes of a document; see [`Typed::update`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<T> {
    /// It stays as it is.
    Keep,
    /// It is written.
    Put(T),
    /// It is deleted.
    Delete,
}

/// Attempts at a change before it is given up. Each lost attempt is another writer's success, so
/// this bounds a document that is written without end and not a number of writers.
const ATTEMPTS: u32 = 1_000;

/// Documents by type: JSON on the way in and out.
pub struct Typed<'a>(pub &'a dyn Fabric);

impl Typed<'_> {
    /// The document at `key` and its generation.
    pub async fn get<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<(Generation, T)>, FabricError> {
        match self.0.get(key).await? {
            Some(document) => Ok(Some((document.generation, document.parse()?))),
            None => Ok(None),
        }
    }

    /// Every document under `prefix`, with its key and generation.
    pub async fn list<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<(String, Generation, T)>, FabricError> {
        let listing = self.0.list(prefix).await?;
        listing
            .documents
            .into_iter()
            .map(|document| {
                document.parse().map(|value| (document.key, document.generation, value))
            })
            .collect()
    }

    /// Writes `value` at `key`.
    pub async fn put<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        expect: Expect,
    ) -> Result<Generation, WriteError> {
        let json = serde_json::to_vec(value)
            .map_err(|source| FabricError::Document { key: key.to_owned(), source })?;
        self.0.put(key, json.into(), expect).await
    }

    /// Changes the document at `key` by compare-and-set: reads it, asks `change`, and starts over
    /// when another writer was quicker. What `change` says along with the step is returned.
    pub async fn update<T, R>(
        &self,
        key: &str,
        mut change: impl FnMut(Option<T>) -> (Step<T>, R) + Send,
    ) -> Result<R, FabricError>
    where
        T: Serialize + DeserializeOwned + Send + Sync,
        R: Send,
    {
        for _ in 0..ATTEMPTS {
            let (expect, current) = match self.get(key).await? {
                Some((generation, current)) => (Expect::Generation(generation), Some(current)),
                None => (Expect::Absent, None),
            };
            let absent = current.is_none();
            let (step, result) = change(current);
            let written = match step {
                Step::Keep => return Ok(result),
                Step::Delete if absent => return Ok(result),
                Step::Put(value) => self.put(key, &value, expect).await.map(drop),
                Step::Delete => self.0.delete(key, expect).await,
            };
            match written {
                Ok(()) => return Ok(result),
                Err(WriteError::Conflict { .. }) => {}
                Err(WriteError::Fabric(error)) => return Err(error),
            }
        }
        Err(FabricError::Store(format!("document {key} never stops changing")))
    }
}
