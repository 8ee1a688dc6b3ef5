//! The fabric: replicated documents, an ordered durable log, leases and blobs, behind one trait.
//!
//! Control writes what is wanted, sites write what they see, and both watch. [`Fabric`] is the
//! contract; [`embedded`] keeps it in SQLite inside the control process, [`server`] serves it to
//! the other processes of the machine over a Unix socket, and [`client`] is that socket's other
//! end. Every backend must pass the same battery of tests (`tests/it/battery.rs`).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::path::Path;
//! use std::sync::Arc;
//! use selvedge_fabric::{SharedFabric, client::Client, embedded::Embedded, server::Server};
//! use tokio_util::sync::CancellationToken;
//!
//! // In the control process.
//! let fabric: SharedFabric = Arc::new(Embedded::open(Path::new("data/fabric"))?);
//! let server = Server::bind(Path::new("data/fabric.sock"), fabric.clone())?;
//! tokio::spawn(server.run(CancellationToken::new()));
//!
//! // In an agent. Control need not be there yet.
//! let fabric: SharedFabric = Arc::new(Client::connect(Path::new("data/fabric.sock")));
//! # Ok(())
//! # }
//! ```
//!
//! Deliberately absent: any knowledge of what the documents mean (see `model`), and any retry
//! policy beyond reconnecting. Callers are `control`, `agent` and later `database`.

pub mod artifact;
mod blob;
pub mod client;
pub mod embedded;
mod error;
pub mod layout;
mod limits;
pub mod server;
pub mod socket;
mod types;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use selvedge_model::{Digest, Generation};

pub use error::{FabricError, WriteError};
pub use types::{
    BlobReader, Change, Consumer, Document, Expect, Lease, Listing, Message, Step, Typed, Watch,
};

/// A shared handle of any backend.
pub type SharedFabric = Arc<dyn Fabric>;

/// The contract that every backend keeps.
///
/// Limits: keys and names are 1 to 512 bytes of printable ASCII without spaces, documents and
/// messages at most [`MAX_VALUE`] bytes, and anything larger is a blob.
#[async_trait]
pub trait Fabric: Send + Sync + 'static {
    /// The store's incarnation: greater after every restore from a backup.
    async fn incarnation(&self) -> Result<u64, FabricError>;

    /// The document at `key`, if there is one.
    async fn get(&self, key: &str) -> Result<Option<Document>, FabricError>;

    /// Every document whose key starts with `prefix`, sorted by key, as of one revision.
    async fn list(&self, prefix: &str) -> Result<Listing, FabricError>;

    /// Writes a whole document and returns its new generation once it is durable.
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Generation, WriteError>;

    /// Deletes a document. Deleting what is absent succeeds unless `expect` names a generation.
    async fn delete(&self, key: &str, expect: Expect) -> Result<(), WriteError>;

    /// Changes of documents whose key starts with `prefix`, in order, each at least once and none
    /// skipped. With `after: None` the current documents come first, then
    /// [`Change::Current`]; with a generation, the changes since it come, then [`Change::Current`],
    /// which may come again later to say how far a quiet watch has got. A watch survives loss of
    /// the connection to the store. When history has been trimmed past `after`, or the incarnation has
    /// changed, [`Change::Reset`] comes, followed by the current documents and
    /// [`Change::Current`]: whoever watches must forget keys that are not among them.
    async fn watch(&self, prefix: &str, after: Option<Generation>) -> Result<Watch, FabricError>;

    /// Appends to `stream` and returns the message's sequence number once it is durable. A message
    /// whose `id` was published to the stream before is not appended again, and the earlier
    /// sequence number is returned. The ids of all messages kept are remembered, and of the last
    /// [`MESSAGE_IDS`] even if trimmed.
    async fn publish(
        &self,
        stream: &str,
        id: Option<&str>,
        payload: Bytes,
    ) -> Result<u64, FabricError>;

    /// A durable consumer: messages come in order from the first that `name` has not acknowledged,
    /// at least once. A name that is new starts at the oldest message kept.
    async fn consume(&self, stream: &str, name: &str) -> Result<Consumer, FabricError>;

    /// Records that consumer `name` of `stream` has dealt with every message up to `sequence`.
    /// Never goes back; a sequence number that the stream has not reached is refused.
    async fn acknowledge(&self, stream: &str, name: &str, sequence: u64)
    -> Result<(), FabricError>;

    /// Removes messages of `stream` before `sequence`. A consumer that had not acknowledged them
    /// gets a [`Message::Gap`], again each time it starts until it acknowledges something later.
    async fn trim(&self, stream: &str, sequence: u64) -> Result<(), FabricError>;

    /// Takes or renews the lease `name` for `holder`, for `ttl` from now. The fencing epoch grows
    /// whenever the holder changes, and never goes back, whatever is restarted or restored.
    /// Refused (`Ok(None)`) while another holder's lease runs. Leases live in memory: a restarted
    /// store has none, and holders renew. At most a day.
    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>, FabricError>;

    /// Gives a lease back before its end. No-op for anybody but its holder.
    async fn release_lease(&self, name: &str, holder: &str) -> Result<(), FabricError>;

    /// The leases that run now and whose name starts with `prefix`, sorted by name.
    async fn leases(&self, prefix: &str) -> Result<Vec<Lease>, FabricError>;

    /// Changes of leases under `prefix`: wakes whenever one is taken, released or runs out, not when
    /// one is renewed. While the store is out of reach the last list stays; it starts empty when the
    /// store has not been reached yet.
    async fn watch_leases(
        &self,
        prefix: &str,
    ) -> Result<tokio::sync::watch::Receiver<Vec<Lease>>, FabricError>;

    /// Stores the file at `path` as a blob (moving or copying it) and returns its digest.
    async fn put_blob(&self, path: &std::path::Path) -> Result<Digest, FabricError>;

    /// Copies a blob into the new file at `path`, checking its digest on the way. A blob that is
    /// damaged is [`FabricError::Damaged`], and no file is left.
    async fn fetch_blob(&self, digest: &Digest, path: &std::path::Path) -> Result<(), FabricError>;

    /// Reads a blob in pieces. When it is damaged, the last piece is [`FabricError::Damaged`]: what
    /// came before must not be used until the end has been seen.
    async fn read_blob(&self, digest: &Digest) -> Result<BlobReader, FabricError>;

    /// Whether the blob is stored (and not known to be damaged).
    async fn has_blob(&self, digest: &Digest) -> Result<bool, FabricError>;

    /// Every stored blob, for collection.
    async fn blobs(&self) -> Result<Vec<Digest>, FabricError>;

    /// Deletes a blob; absent is fine.
    async fn delete_blob(&self, digest: &Digest) -> Result<(), FabricError>;
}

/// The largest document or message, in bytes.
pub const MAX_VALUE: usize = 1 << 20;

/// How many of a stream's latest message ids are remembered at least, trimmed or not.
pub const MESSAGE_IDS: u64 = 65_536;
