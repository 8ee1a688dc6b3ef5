//! Making connections.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;

use crate::FabricError;
use crate::wire::{self, Connection, Frame, Hello, Purpose, VERSION, Welcome};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Knows where the server is.
#[derive(Debug)]
pub(super) struct Dialer {
    path: PathBuf,
}

impl Dialer {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Connects once, and returns the store's incarnation too.
    pub(super) async fn dial(&self, purpose: &Purpose) -> Result<(Connection, u64), FabricError> {
        let (connection, welcome) = self.greet(purpose).await.map_err(FabricError::Unreachable)?;
        match welcome {
            Welcome::Ready { incarnation } => Ok((connection, incarnation)),
            Welcome::Refused { reason } => {
                let error = io::Error::new(io::ErrorKind::PermissionDenied, reason);
                Err(FabricError::Unreachable(error))
            }
            Welcome::Failed(failure) => Err(failure.into()),
        }
    }

    async fn greet(&self, purpose: &Purpose) -> io::Result<(Connection, Welcome)> {
        let stream = crate::socket::connect(&self.path).await?;
        let mut connection = wire::framed(stream);
        let hello = Hello { version: VERSION, purpose: purpose.clone() };
        let sent = connection.send(Frame::new(&hello, Bytes::new())?).await;
        match wire::next(&mut connection).await {
            // Even if the hello could not be sent: a server that refuses does not wait for it.
            Ok(frame) => Ok((connection, frame.parse()?)),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }
}

/// The pauses between attempts.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}
