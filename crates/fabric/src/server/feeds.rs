//! Connections that follow one thing: a watch, a consumer, leases or a blob.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use selvedge_model::{Digest, Generation};
use tokio::io::AsyncWriteExt;

use super::{Shared, send};
use crate::blob::MAX_BLOB;
use crate::wire::{self, Connection, Event, Frame};
use crate::{FabricError, Lease};

impl Shared {
    pub(super) async fn watch(
        &self,
        mut connection: Connection,
        prefix: &str,
        after: Option<Generation>,
    ) -> io::Result<()> {
        let begun = self.fabric.watch(prefix, after).await;
        let Some(watch) = self.welcome(&mut connection, begun).await? else { return Ok(()) };
        forward(connection, watch.receiver, Event::of_change).await
    }

    pub(super) async fn consume(
        &self,
        mut connection: Connection,
        stream: &str,
        name: &str,
    ) -> io::Result<()> {
        let begun = self.fabric.consume(stream, name).await;
        let Some(consumer) = self.welcome(&mut connection, begun).await? else { return Ok(()) };
        forward(connection, consumer.receiver, Event::of_message).await
    }

    pub(super) async fn watch_leases(
        &self,
        mut connection: Connection,
        prefix: &str,
    ) -> io::Result<()> {
        let begun = self.fabric.watch_leases(prefix).await;
        let Some(mut leases) = self.welcome(&mut connection, begun).await? else { return Ok(()) };
        let (mut sink, mut stream) = connection.split();
        loop {
            let list: Vec<Lease> = leases.borrow_and_update().clone();
            for (last, part) in wire::lease_parts(&list)? {
                sink.feed(Frame::new(&Event::Leases { last }, part)?).await?;
            }
            sink.flush().await?;
            tokio::select! {
                changed = leases.changed() => if changed.is_err() { return Ok(()) },
                _ = stream.next() => return Ok(()),
            }
        }
    }

    pub(super) async fn read_blob(
        &self,
        mut connection: Connection,
        digest: &Digest,
    ) -> io::Result<()> {
        let begun = self.fabric.read_blob(digest).await;
        let Some(mut reader) = self.welcome(&mut connection, begun).await? else { return Ok(()) };
        while let Some(piece) = reader.next().await {
            match piece {
                Ok(piece) => connection.feed(Frame::new(&Event::Piece, piece)?).await?,
                Err(error) => return send(&mut connection, &Event::Failed(error.into())).await,
            }
        }
        send(&mut connection, &Event::End).await
    }

    pub(super) async fn put_blob(&self, mut connection: Connection) -> io::Result<()> {
        if self.welcome(&mut connection, Ok(())).await?.is_none() {
            return Ok(());
        }
        // Without a name, so that nothing stays behind however this ends.
        let mut spool = tokio::fs::File::from_std(tempfile::tempfile_in(&self.directory)?);
        let mut size = 0;
        loop {
            let frame = wire::next(&mut connection).await?;
            match frame.parse()? {
                Event::Piece => {
                    size += frame.body.len() as u64;
                    if size > MAX_BLOB {
                        let error = FabricError::Invalid("the blob is too large".to_owned());
                        return send(&mut connection, &Event::Failed(error.into())).await;
                    }
                    spool.write_all(&frame.body).await?;
                }
                Event::End => break,
                _ => return Err(wire::invalid("only pieces of a blob were expected")),
            }
        }
        spool.flush().await?;
        let spool = spool.into_std().await;
        let path = PathBuf::from(format!("/proc/self/fd/{}", spool.as_raw_fd()));
        let answer = match self.fabric.put_blob(&path).await {
            Ok(digest) => Event::Stored(digest),
            Err(error) => Event::Failed(error.into()),
        };
        send(&mut connection, &answer).await
    }
}

/// Forwards until either end has gone. When the peer does not read, this waits, and with it only
/// the feed behind `receiver`.
async fn forward<T>(
    connection: Connection,
    mut receiver: tokio::sync::mpsc::Receiver<T>,
    event: impl Fn(T) -> (Event, Bytes),
) -> io::Result<()> {
    let (mut sink, mut stream) = connection.split();
    loop {
        let item = tokio::select! {
            item = receiver.recv() => item,
            // The peer says nothing more: this is its end.
            _ = stream.next() => return Ok(()),
        };
        let Some(item) = item else { return Ok(()) };
        let mut next = Some(item);
        while let Some(item) = next {
            let (header, body) = event(item);
            sink.feed(Frame::new(&header, body)?).await?;
            next = receiver.try_recv().ok();
        }
        sink.flush().await?;
    }
}
