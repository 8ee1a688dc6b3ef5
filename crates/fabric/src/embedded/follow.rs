//! The tasks behind watches and consumers. Each ends when nobody listens anymore or the store is
//! closed.

use std::sync::Arc;
use std::time::Duration;

use selvedge_model::Generation;
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use super::feed::{Batch, Feed};
use super::readers::{self, Readers};
use super::streams;
use crate::{Change, FabricError, Message};

/// The most revisions or messages read at once.
const BATCH: usize = 256;
/// The most bytes of messages read at once.
const BATCH_BYTES: usize = 4 << 20;
/// A watch that has had nothing for this many revisions is told how far it is, so that it can
/// resume even when history has been trimmed up to its last change.
const QUIET: u64 = 1024;
/// How long to wait after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// A watch.
pub(super) struct Follower {
    pub(super) feed: Arc<Feed>,
    pub(super) readers: Arc<Readers>,
    pub(super) incarnation: u64,
    pub(super) prefix: String,
    pub(super) sender: Sender<Change>,
    pub(super) token: CancellationToken,
}

/// Nobody listens anymore.
struct Gone;

impl Follower {
    pub(super) async fn run(self, after: Option<Generation>) {
        let token = self.token.clone();
        tokio::select! {
            _ = self.follow(after) => {}
            () = self.sender.closed() => {}
            () = token.cancelled() => {}
        }
    }

    async fn follow(&self, after: Option<Generation>) -> Result<(), Gone> {
        let mut revision = self.feed.revision();
        let mut position = match after {
            None => self.list().await?,
            Some(after) if after.incarnation != self.incarnation => self.reset().await?,
            Some(after) => after.number,
        };
        // The last position that the listener can know of, and whether it must be told the next.
        let mut told = position;
        let mut catching_up = after.is_some();
        loop {
            let tip = *revision.borrow_and_update();
            if position == tip {
                if catching_up || position - told >= QUIET {
                    self.send(Change::Current(self.generation(position))).await?;
                    told = position;
                    catching_up = false;
                }
                revision.changed().await.map_err(|_| Gone)?;
                continue;
            }
            match self.read(position).await {
                Ok(Some(batch)) => {
                    position = batch.position;
                    for entry in batch.entries {
                        told = entry.revision;
                        self.send(entry.change(self.incarnation)).await?;
                    }
                }
                Ok(None) => {
                    position = self.reset().await?;
                    told = position;
                    catching_up = false;
                }
                Err(error) => failed(&error).await,
            }
        }
    }

    async fn read(&self, position: u64) -> Result<Option<Batch>, FabricError> {
        if let Some(batch) = self.feed.since(position, &self.prefix, BATCH) {
            // In memory there is everything up to the store's revision: nothing more means that
            // the position lies in a future that this store has not had.
            return Ok((batch.position > position).then_some(batch));
        }
        let prefix = self.prefix.clone();
        self.readers
            .read(move |connection| readers::history(connection, position, &prefix, BATCH))
            .await
    }

    async fn reset(&self) -> Result<u64, Gone> {
        self.send(Change::Reset).await?;
        self.list().await
    }

    /// Sends the current documents and returns their revision.
    async fn list(&self) -> Result<u64, Gone> {
        let (revision, documents) = loop {
            let (incarnation, prefix) = (self.incarnation, self.prefix.clone());
            let read = self
                .readers
                .read(move |connection| readers::list(connection, incarnation, &prefix))
                .await;
            match read {
                Ok(listing) => break listing,
                Err(error) => failed(&error).await,
            }
        };
        for document in documents {
            self.send(Change::Put(document)).await?;
        }
        self.send(Change::Current(self.generation(revision))).await?;
        Ok(revision)
    }

    async fn send(&self, change: Change) -> Result<(), Gone> {
        self.sender.send(change).await.map_err(|_| Gone)
    }

    fn generation(&self, revision: u64) -> Generation {
        Generation::new(self.incarnation, revision)
    }
}

/// A consumer that has acknowledged everything up to `position`.
pub(super) struct Consuming {
    pub(super) feed: Arc<Feed>,
    pub(super) readers: Arc<Readers>,
    pub(super) stream: String,
    pub(super) position: u64,
    pub(super) sender: Sender<Message>,
    pub(super) token: CancellationToken,
}

impl Consuming {
    pub(super) async fn run(mut self) {
        let (token, sender) = (self.token.clone(), self.sender.clone());
        tokio::select! {
            _ = self.consume() => {}
            () = sender.closed() => {}
            () = token.cancelled() => {}
        }
    }

    async fn consume(&mut self) -> Result<(), Gone> {
        let mut streams = self.feed.streams();
        loop {
            streams.mark_unchanged();
            let (stream, position) = (self.stream.clone(), self.position);
            let read = self
                .readers
                .read(move |connection| {
                    streams::read(connection, &stream, position, BATCH, BATCH_BYTES)
                })
                .await;
            let messages = match read {
                Ok(messages) => messages,
                Err(error) => {
                    failed(&error).await;
                    continue;
                }
            };
            if messages.is_empty() {
                streams.changed().await.map_err(|_| Gone)?;
            }
            for message in messages {
                self.position = match &message {
                    Message::Data { sequence, .. } => *sequence,
                    Message::Gap { first_available } => first_available - 1,
                };
                self.sender.send(message).await.map_err(|_| Gone)?;
            }
        }
    }
}

async fn failed(error: &FabricError) {
    tracing::warn!(%error, "a watch waits for the fabric's store");
    tokio::time::sleep(RETRY).await;
}
