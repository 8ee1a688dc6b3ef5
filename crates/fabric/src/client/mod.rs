//! The other end of [`crate::server`]'s socket.
//!
//! A client connects by itself, and again after each loss, waiting longer from time to time; it
//! never gives up. Watches, consumers and leases are each a connection of their own that resumes
//! where it was. Calls share one: a call that was on its way when the connection broke is
//! [`FabricError::Unreachable`] and may or may not have happened, since only the caller can know
//! whether to ask again.

mod calls;
mod dial;
mod follow;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::SinkExt;
use selvedge_model::{Digest, Generation};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::blob::CHUNK;
use crate::limits::{check_name, check_prefix, check_ttl, check_value};
use crate::wire::{self, Answer, Call, Event, Frame, Purpose};
use crate::{
    BlobReader, Consumer, Document, Expect, Fabric, FabricError, Lease, Listing, Watch, WriteError,
};
use calls::Calls;
use dial::Dialer;

/// How many changes, messages or pieces may wait for whoever follows them.
const WATCH: usize = 64;

/// How patient a client is.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long a call waits for a connection.
    pub connect_within: Duration,
    /// How long a call waits for its answer.
    pub answer_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { connect_within: Duration::from_secs(2), answer_within: Duration::from_secs(30) }
    }
}

/// A fabric that another process of this machine serves. Dropping it ends its watches.
#[derive(Debug)]
pub struct Client {
    dialer: Arc<Dialer>,
    calls: Calls,
    options: Options,
    token: CancellationToken,
    _end: DropGuard,
}

impl Client {
    /// A client of the server at `path`, which need not be there yet. Call within a Tokio runtime.
    pub fn connect(path: &Path) -> Self {
        Self::connect_with(path, Options::default())
    }

    /// A client that is more patient than usual, or less.
    pub fn connect_with(path: &Path, options: Options) -> Self {
        let token = CancellationToken::new();
        let dialer = Arc::new(Dialer::new(path));
        let calls = Calls::start(dialer.clone(), options, token.clone());
        Self { dialer, calls, options, _end: token.clone().drop_guard(), token }
    }

    async fn call(&self, call: Call, body: Bytes) -> Result<(Answer, Bytes), WriteError> {
        let mut parts = self.calls.ask(call, body).await?;
        match parts.pop() {
            Some((Answer::Failed(failure), _)) => Err(failure.into()),
            Some(part) if parts.is_empty() => Ok(part),
            _ => Err(unexpected().into()),
        }
    }

    /// The parts of an answer that may have several.
    async fn call_parts(&self, call: Call) -> Result<Vec<(Answer, Bytes)>, FabricError> {
        let mut parts = self.calls.ask(call, Bytes::new()).await?;
        match parts.pop() {
            Some((Answer::Failed(failure), _)) => Err(failure.into()),
            Some(part) => {
                parts.push(part);
                Ok(parts)
            }
            None => Err(unexpected()),
        }
    }

    async fn call_without_body(&self, call: Call) -> Result<(Answer, Bytes), FabricError> {
        self.call(call, Bytes::new()).await.map_err(only_fabric)
    }

    async fn done(&self, call: Call) -> Result<(), FabricError> {
        match self.call_without_body(call).await? {
            (Answer::Done, _) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// Runs `follow` until this client is dropped.
    fn spawn(&self, follow: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = follow => {}
                () = token.cancelled() => {}
            }
        });
    }

    /// A connection of its own, once there is any.
    async fn dial(&self, purpose: &Purpose) -> Result<wire::Connection, FabricError> {
        self.calls.connected().await?;
        let dial = tokio::time::timeout(self.options.answer_within, self.dialer.dial(purpose));
        Ok(dial.await.map_err(|elapsed| FabricError::Unreachable(elapsed.into()))??.0)
    }

    async fn send_blob(&self, path: &Path) -> Result<Digest, FabricError> {
        let mut file = tokio::fs::File::open(path).await.map_err(FabricError::File)?;
        let mut connection = self.dial(&Purpose::PutBlob).await?;
        loop {
            let mut piece = vec![0; CHUNK];
            let count = file.read(&mut piece).await.map_err(FabricError::File)?;
            if count == 0 {
                break;
            }
            piece.truncate(count);
            let frame =
                Frame::new(&Event::Piece, piece.into()).map_err(FabricError::Unreachable)?;
            if connection.feed(frame).await.is_err() {
                // The server may have said why it stopped reading.
                break;
            }
        }
        let end = Frame::new(&Event::End, Bytes::new()).map_err(FabricError::Unreachable)?;
        let sent = connection.send(end).await;
        let answer = match wire::next(&mut connection).await {
            Ok(frame) => frame.parse().map_err(FabricError::Unreachable)?,
            Err(error) => return Err(FabricError::Unreachable(sent.err().unwrap_or(error))),
        };
        match answer {
            Event::Stored(digest) => Ok(digest),
            Event::Failed(failure) => Err(failure.into()),
            _ => Err(unexpected()),
        }
    }
}

/// The server has answered what was not asked.
fn unexpected() -> FabricError {
    FabricError::Unreachable(wire::invalid("the server's answer makes no sense"))
}

fn only_fabric(error: WriteError) -> FabricError {
    match error {
        WriteError::Fabric(error) => error,
        conflict @ WriteError::Conflict { .. } => {
            FabricError::Unreachable(io::Error::other(conflict))
        }
    }
}

fn parse_leases(parts: Vec<(Answer, Bytes)>) -> Result<Vec<Lease>, FabricError> {
    let mut leases = Vec::new();
    for (answer, body) in parts {
        let (Answer::Leases, Ok(part)) = (answer, serde_json::from_slice::<Vec<_>>(&body)) else {
            return Err(unexpected());
        };
        leases.extend(part);
    }
    Ok(leases)
}

#[async_trait]
impl Fabric for Client {
    async fn incarnation(&self) -> Result<u64, FabricError> {
        match self.call_without_body(Call::Incarnation).await? {
            (Answer::Number(incarnation), _) => Ok(incarnation),
            _ => Err(unexpected()),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Document>, FabricError> {
        check_name("key", key)?;
        match self.call_without_body(Call::Get { key: key.to_owned() }).await? {
            (Answer::Document { key, generation }, value) => {
                Ok(Some(Document { key, generation, value }))
            }
            (Answer::Absent, _) => Ok(None),
            _ => Err(unexpected()),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Listing, FabricError> {
        check_prefix(prefix)?;
        let mut parts = self.call_parts(Call::List { prefix: prefix.to_owned() }).await?;
        let Some((Answer::Generation(generation), _)) = parts.pop() else {
            return Err(unexpected());
        };
        let documents = parts.into_iter().map(|part| match part {
            (Answer::Document { key, generation }, value) => {
                Ok(Document { key, generation, value })
            }
            _ => Err(unexpected()),
        });
        Ok(Listing { generation, documents: documents.collect::<Result<_, _>>()? })
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Generation, WriteError> {
        check_name("key", key)?;
        check_value(key, &value)?;
        match self.call(Call::Put { key: key.to_owned(), expect }, value).await? {
            (Answer::Generation(generation), _) => Ok(generation),
            _ => Err(unexpected().into()),
        }
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(), WriteError> {
        check_name("key", key)?;
        match self.call(Call::Delete { key: key.to_owned(), expect }, Bytes::new()).await? {
            (Answer::Done, _) => Ok(()),
            _ => Err(unexpected().into()),
        }
    }

    async fn watch(&self, prefix: &str, after: Option<Generation>) -> Result<Watch, FabricError> {
        check_prefix(prefix)?;
        let (sender, receiver) = mpsc::channel(WATCH);
        let (dialer, prefix) = (self.dialer.clone(), prefix.to_owned());
        self.spawn(follow::watch(dialer, prefix, after, sender));
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
        let call = Call::Publish { stream: stream.to_owned(), id: id.map(str::to_owned) };
        match self.call(call, payload).await.map_err(only_fabric)? {
            (Answer::Number(sequence), _) => Ok(sequence),
            _ => Err(unexpected()),
        }
    }

    async fn consume(&self, stream: &str, name: &str) -> Result<Consumer, FabricError> {
        check_name("stream", stream)?;
        check_name("consumer", name)?;
        let (sender, receiver) = mpsc::channel(WATCH);
        let purpose = Purpose::Consume { stream: stream.to_owned(), name: name.to_owned() };
        self.spawn(follow::consume(self.dialer.clone(), purpose, sender));
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
        self.done(Call::Acknowledge { stream, name, sequence }).await
    }

    async fn trim(&self, stream: &str, sequence: u64) -> Result<(), FabricError> {
        check_name("stream", stream)?;
        self.done(Call::Trim { stream: stream.to_owned(), sequence }).await
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
        let (name, holder) = (name.to_owned(), holder.to_owned());
        match self.call_without_body(Call::Lease { name, holder, ttl }).await? {
            (Answer::Lease(lease), _) => Ok(lease),
            _ => Err(unexpected()),
        }
    }

    async fn release_lease(&self, name: &str, holder: &str) -> Result<(), FabricError> {
        check_name("lease", name)?;
        check_name("holder", holder)?;
        self.done(Call::ReleaseLease { name: name.to_owned(), holder: holder.to_owned() }).await
    }

    async fn leases(&self, prefix: &str) -> Result<Vec<Lease>, FabricError> {
        check_prefix(prefix)?;
        parse_leases(self.call_parts(Call::Leases { prefix: prefix.to_owned() }).await?)
    }

    async fn watch_leases(&self, prefix: &str) -> Result<watch::Receiver<Vec<Lease>>, FabricError> {
        check_prefix(prefix)?;
        let (sender, receiver) = watch::channel(Vec::new());
        let purpose = Purpose::WatchLeases { prefix: prefix.to_owned() };
        let (first, known) = tokio::sync::oneshot::channel();
        self.spawn(follow::watch_leases(self.dialer.clone(), purpose, sender, first));
        // Like every call, this waits a while for the store, but does without it in the end.
        let _ = tokio::time::timeout(self.options.connect_within, known).await;
        Ok(receiver)
    }

    async fn put_blob(&self, path: &Path) -> Result<Digest, FabricError> {
        self.send_blob(path).await
    }

    async fn fetch_blob(&self, digest: &Digest, path: &Path) -> Result<(), FabricError> {
        let pieces = self.read_blob(digest).await?;
        let (digest, path) = (*digest, path.to_owned());
        tokio::task::spawn_blocking(move || crate::blob::save(pieces, &digest, &path))
            .await
            .map_err(|error| FabricError::File(io::Error::other(error)))?
    }

    async fn read_blob(&self, digest: &Digest) -> Result<BlobReader, FabricError> {
        let connection = self.dial(&Purpose::ReadBlob { digest: *digest }).await?;
        let (sender, receiver) = mpsc::channel(WATCH);
        self.spawn(follow::read_blob(connection, sender));
        Ok(BlobReader { receiver })
    }

    async fn has_blob(&self, digest: &Digest) -> Result<bool, FabricError> {
        match self.call_without_body(Call::HasBlob { digest: *digest }).await? {
            (Answer::Yes(yes), _) => Ok(yes),
            _ => Err(unexpected()),
        }
    }

    async fn blobs(&self) -> Result<Vec<Digest>, FabricError> {
        let mut parts = self.call_parts(Call::Blobs).await?;
        let Some((Answer::Done, _)) = parts.pop() else { return Err(unexpected()) };
        Ok(parts
            .iter()
            .flat_map(|(_, body)| body.as_chunks::<32>().0)
            .map(|bytes| Digest::from_bytes(*bytes))
            .collect())
    }

    async fn delete_blob(&self, digest: &Digest) -> Result<(), FabricError> {
        self.done(Call::DeleteBlob { digest: *digest }).await
    }
}
