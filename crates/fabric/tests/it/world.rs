//! A store in a temporary directory, reached directly or over a socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use selvedge_fabric::client::Client;
use selvedge_fabric::embedded::{Embedded, Options};
use selvedge_fabric::server::Server;
use selvedge_fabric::{Change, Consumer, Message, SharedFabric, Watch};
use selvedge_model::Generation;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// How much history the stores of the battery keep.
pub(crate) const HISTORY: usize = 4096;

/// Nothing here takes so long, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) fabric: SharedFabric,
    pub(crate) directory: TempDir,
    _server: Option<tokio_util::sync::DropGuard>,
}

impl World {
    pub(crate) fn embedded() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fabric = Arc::new(open(directory.path().join("fabric")));
        Self { fabric, directory, _server: None }
    }

    pub(crate) fn socket() -> Self {
        let inner = Self::embedded();
        let path = inner.path("fabric.sock");
        let token = CancellationToken::new();
        let server = Server::bind(&path, inner.fabric.clone()).unwrap();
        tokio::spawn(server.run(token.clone()));
        Self {
            fabric: Arc::new(Client::connect(&path)),
            directory: inner.directory,
            _server: Some(token.drop_guard()),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The only file under `fabric/blobs/??`.
    pub(crate) fn blob_file(&self, digest: &str) -> PathBuf {
        self.path("fabric/blobs").join(&digest[..2]).join(digest)
    }
}

pub(crate) fn open(directory: PathBuf) -> Embedded {
    let options = Options { history: HISTORY, ..Options::default() };
    Embedded::open_with(&directory, options).unwrap()
}

/// Waits for what must come.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("this should have come long ago")
}

pub(crate) async fn change(watch: &mut Watch) -> Change {
    soon(watch.next()).await.expect("the watch has ended")
}

pub(crate) async fn message(consumer: &mut Consumer) -> Message {
    soon(consumer.next()).await.expect("the consumer has ended")
}

/// Reads the documents that a watch begins with: their keys, and the generation that they are of.
pub(crate) async fn documents(watch: &mut Watch) -> (Vec<String>, Generation) {
    let mut keys = Vec::new();
    loop {
        match change(watch).await {
            Change::Put(document) => keys.push(document.key),
            Change::Current(generation) => return (keys, generation),
            other => panic!("{other:?} is no part of a list"),
        }
    }
}

/// The next change that is no mere [`Change::Current`]: key, generation, value.
pub(crate) async fn step(watch: &mut Watch) -> (String, Generation, Option<String>) {
    loop {
        match change(watch).await {
            Change::Put(document) => {
                let value = String::from_utf8(document.value.to_vec()).unwrap();
                return (document.key, document.generation, Some(value));
            }
            Change::Delete { key, generation } => return (key, generation, None),
            Change::Current(_) => {}
            Change::Reset => panic!("history should have sufficed"),
        }
    }
}
