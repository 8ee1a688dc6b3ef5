//! The fabric of one machine: SQLite and files in a directory, inside one process.
//!
//! A single thread writes and commits whatever has queued in one transaction
//! (`synchronous=FULL`), a few connections read, and watchers follow an in-memory feed of the
//! latest changes. Everything acknowledged survives the loss of the process and of power. Leases
//! live in memory only. [`crate::server`] serves the store to other processes; nothing here listens
//! anywhere.

mod feed;
mod follow;
mod leases;
mod readers;
mod schema;
mod streams;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use selvedge_model::{Digest, Generation};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use schema::{OpenError, new_incarnation};

use crate::blob::{Blobs, CHUNK};
use crate::limits::{check_name, check_prefix, check_ttl, check_value};
use crate::{
    BlobReader, Consumer, Document, Expect, Fabric, FabricError, Lease, Listing, Watch, WriteError,
};
use feed::Feed;
use follow::{Consuming, Follower};
use leases::Leases;
use readers::Readers;
use writer::{Job, Write, Writer};

/// How many writes may queue.
const QUEUE: usize = 1024;
/// How many changes or messages may wait for whoever follows them.
const WATCH: usize = 64;
/// How many pieces of a blob are read ahead.
const READ_AHEAD: usize = 4;

/// What the store keeps.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many of the latest changes a watch can resume over.
    pub history: usize,
    /// How many bytes of values these may hold.
    pub history_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { history: 16_384, history_bytes: 64 << 20 }
    }
}

/// The store. Dropping it waits for the writes that have begun, and ends all watches.
#[derive(Debug)]
pub struct Embedded {
    incarnation: u64,
    feed: Arc<Feed>,
    readers: Arc<Readers>,
    leases: Arc<Leases>,
    blobs: Blobs,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<std::thread::JoinHandle<()>>,
    token: CancellationToken,
    _lock: schema::Lock,
}

impl Embedded {
    /// Opens the store in `directory`, making it if it is absent. Blocks shortly.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        Self::open_with(directory, Options::default())
    }

    /// Opens the store with other options than the usual.
    pub fn open_with(directory: &Path, options: Options) -> Result<Self, OpenError> {
        let opened = schema::open(directory)?;
        let file = opened.file;
        let unusable = |source| OpenError::Directory { path: directory.to_owned(), source };
        let blobs = Blobs::open(directory.join("blobs")).map_err(unusable)?;
        let feed = Arc::new(Feed::new(opened.revision, &options));
        let writer = Writer::new(opened.connection, feed.clone(), opened.incarnation, options)
            .map_err(|source| OpenError::Database { path: file.clone(), source })?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("fabric-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(unusable)?;
        Ok(Self {
            incarnation: opened.incarnation,
            feed,
            readers: Arc::new(Readers::new(file)),
            leases: Arc::new(Leases::new(opened.life)),
            blobs,
            jobs: Some(jobs),
            writer: Some(writer),
            token: CancellationToken::new(),
            _lock: opened.lock,
        })
    }

    async fn write(&self, write: Write) -> Result<u64, WriteError> {
        let closed = || FabricError::Store("the store is closed".to_owned());
        let (answer, result) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(closed)?;
        jobs.send(Job { write, answer }).await.map_err(|_| closed())?;
        result.await.map_err(|_| closed())?
    }

    async fn write_stream(&self, write: Write) -> Result<u64, FabricError> {
        Ok(self.write(write).await?)
    }

    async fn with_blobs<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Blobs) -> Result<T, FabricError> + Send + 'static,
    ) -> Result<T, FabricError> {
        let blobs = self.blobs.clone();
        tokio::task::spawn_blocking(move || work(&blobs))
            .await
            .map_err(|_| FabricError::Store("work on a blob was interrupted".to_owned()))?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.token.cancel();
        self.jobs = None;
        // The lock is given back only after the last write, so that whoever opens next sees it.
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the fabric's writer thread has failed");
        }
    }
}

#[async_trait]
impl Fabric for Embedded {
    async fn incarnation(&self) -> Result<u64, FabricError> {
        Ok(self.incarnation)
    }

    async fn get(&self, key: &str) -> Result<Option<Document>, FabricError> {
        check_name("key", key)?;
        let (incarnation, key) = (self.incarnation, key.to_owned());
        self.readers.read(move |connection| readers::get(connection, incarnation, key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, FabricError> {
        check_prefix(prefix)?;
        let (incarnation, prefix) = (self.incarnation, prefix.to_owned());
        let (revision, documents) = self
            .readers
            .read(move |connection| readers::list(connection, incarnation, &prefix))
            .await?;
        Ok(Listing { generation: Generation::new(incarnation, revision), documents })
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Generation, WriteError> {
        check_name("key", key)?;
        check_value(key, &value)?;
        let revision = self.write(Write::Put { key: key.to_owned(), value, expect }).await?;
        Ok(Generation::new(self.incarnation, revision))
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(), WriteError> {
        check_name("key", key)?;
        self.write(Write::Delete { key: key.to_owned(), expect }).await.map(|_| ())
    }

    async fn watch(&self, prefix: &str, after: Option<Generation>) -> Result<Watch, FabricError> {
        check_prefix(prefix)?;
        let (sender, receiver) = mpsc::channel(WATCH);
        let follower = Follower {
            feed: self.feed.clone(),
            readers: self.readers.clone(),
            incarnation: self.incarnation,
            prefix: prefix.to_owned(),
            sender,
            token: self.token.clone(),
        };
        tokio::spawn(follower.run(after));
        Ok(Watch { receiver })
    }

    async fn publish(
        &self,
        stream: &str,
        id: Option<&str>,
        payload: Bytes,
    ) -> Result<u64, FabricError> {
        check_name("stream", stream)?;
        check_value(stream, &payload)?;
        if let Some(id) = id {
            check_name("message id", id)?;
        }
        let id = id.map(str::to_owned);
        self.write_stream(Write::Publish { stream: stream.to_owned(), id, payload }).await
    }

    async fn consume(&self, stream: &str, name: &str) -> Result<Consumer, FabricError> {
        check_name("stream", stream)?;
        check_name("consumer", name)?;
        let subscribe = Write::Subscribe { stream: stream.to_owned(), name: name.to_owned() };
        let position = self.write_stream(subscribe).await?;
        let (sender, receiver) = mpsc::channel(WATCH);
        let consuming = Consuming {
            feed: self.feed.clone(),
            readers: self.readers.clone(),
            stream: stream.to_owned(),
            position,
            sender,
            token: self.token.clone(),
        };
        tokio::spawn(consuming.run());
        Ok(Consumer { receiver })
    }

    async fn acknowledge(
        &self,
        stream: &str,
        name: &str,
        sequence: u64,
    ) -> Result<(), FabricError> {
        check_name("stream", stream)?;
        check_name("consumer", name)?;
        let (stream, name) = (stream.to_owned(), name.to_owned());
        self.write_stream(Write::Acknowledge { stream, name, sequence }).await.map(|_| ())
    }

    async fn trim(&self, stream: &str, sequence: u64) -> Result<(), FabricError> {
        check_name("stream", stream)?;
        self.write_stream(Write::Trim { stream: stream.to_owned(), sequence }).await.map(|_| ())
    }

    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>, FabricError> {
        check_name("lease", name)?;
        check_name("holder", holder)?;
        check_ttl(ttl)?;
        self.leases.take(name, holder, ttl)
    }

    async fn release_lease(&self, name: &str, holder: &str) -> Result<(), FabricError> {
        check_name("lease", name)?;
        check_name("holder", holder)?;
        self.leases.release(name, holder);
        Ok(())
    }

    async fn leases(&self, prefix: &str) -> Result<Vec<Lease>, FabricError> {
        check_prefix(prefix)?;
        Ok(self.leases.list(prefix).0)
    }

    async fn watch_leases(&self, prefix: &str) -> Result<watch::Receiver<Vec<Lease>>, FabricError> {
        check_prefix(prefix)?;
        let (sender, receiver) = watch::channel(self.leases.list(prefix).0);
        let (leases, prefix, token) = (self.leases.clone(), prefix.to_owned(), self.token.clone());
        tokio::spawn(async move { leases.follow(&prefix, sender, token).await });
        Ok(receiver)
    }

    async fn put_blob(&self, path: &Path) -> Result<Digest, FabricError> {
        let path = path.to_owned();
        self.with_blobs(move |blobs| blobs.put(&path)).await
    }

    async fn fetch_blob(&self, digest: &Digest, path: &Path) -> Result<(), FabricError> {
        let (digest, path) = (*digest, path.to_owned());
        self.with_blobs(move |blobs| blobs.reader(&digest)?.copy_to(&path)).await
    }

    async fn read_blob(&self, digest: &Digest) -> Result<BlobReader, FabricError> {
        let digest = *digest;
        let mut reader = self.with_blobs(move |blobs| blobs.reader(&digest)).await?;
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut piece = vec![0; CHUNK];
                let piece = match reader.read(&mut piece) {
                    Ok(0) => return,
                    Ok(count) => {
                        piece.truncate(count);
                        Ok(Bytes::from(piece))
                    }
                    Err(error) => Err(error),
                };
                let last = piece.is_err();
                if sender.blocking_send(piece).is_err() || last {
                    return;
                }
            }
        });
        Ok(BlobReader { receiver })
    }

    async fn has_blob(&self, digest: &Digest) -> Result<bool, FabricError> {
        let digest = *digest;
        self.with_blobs(move |blobs| blobs.has(&digest)).await
    }

    async fn blobs(&self) -> Result<Vec<Digest>, FabricError> {
        self.with_blobs(Blobs::list).await
    }

    async fn delete_blob(&self, digest: &Digest) -> Result<(), FabricError> {
        let digest = *digest;
        self.with_blobs(move |blobs| blobs.delete(&digest)).await
    }
}
