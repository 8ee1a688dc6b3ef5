//! Calls: many at a time over one connection, each answered when it is done.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{Semaphore, mpsc};

use super::Shared;
use crate::wire::{self, Answer, Call, Connection, Frame, PART, Request, Response};
use crate::{FabricError, WriteError};

/// The most calls in progress of one connection. Further ones wait in the socket.
const MAX_CALLS: usize = 256;
/// How many answers may wait for the socket.
const ANSWERS: usize = 64;

/// An answer's parts, each with its body.
type Parts = Vec<(Answer, Bytes)>;

impl Shared {
    pub(super) async fn calls(&self, mut connection: Connection) -> io::Result<()> {
        if self.welcome(&mut connection, Ok(())).await?.is_none() {
            return Ok(());
        }
        let (mut sink, mut stream) = connection.split();
        let (answers, mut queue) = mpsc::channel::<Frame>(ANSWERS);
        let write = async move {
            while let Some(frame) = queue.recv().await {
                sink.feed(frame).await?;
                while let Ok(frame) = queue.try_recv() {
                    sink.feed(frame).await?;
                }
                sink.flush().await?;
            }
            Ok(())
        };
        let read = async move {
            let permits = Arc::new(Semaphore::new(MAX_CALLS));
            while let Ok(permit) = permits.clone().acquire_owned().await {
                let frame = wire::next(&mut stream).await?;
                let Request { id, call } = frame.parse()?;
                let (shared, answers) = (self.clone(), answers.clone());
                self.tasks.spawn(async move {
                    let _permit = permit;
                    let parts = shared.answer(call, frame.body).await;
                    let count = parts.len();
                    for (index, (answer, body)) in parts.into_iter().enumerate() {
                        let response = Response { id, last: index + 1 == count, answer };
                        // When the peer has gone, nobody is left to be told.
                        let Ok(frame) = Frame::new(&response, body) else { return };
                        if answers.send(frame).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Ok(())
        };
        tokio::select! {
            result = write => result,
            result = read => result,
        }
    }

    async fn answer(&self, call: Call, body: Bytes) -> Parts {
        self.perform(call, body).await.unwrap_or_else(|error| alone(Answer::Failed(error.into())))
    }

    async fn perform(&self, call: Call, body: Bytes) -> Result<Parts, WriteError> {
        let fabric = &self.fabric;
        Ok(match call {
            Call::Incarnation => alone(Answer::Number(fabric.incarnation().await?)),
            Call::Get { key } => match fabric.get(&key).await? {
                Some(document) => {
                    let answer = Answer::Document { key, generation: document.generation };
                    vec![(answer, document.value)]
                }
                None => alone(Answer::Absent),
            },
            Call::List { prefix } => self.list(&prefix).await?,
            Call::Put { key, expect } => {
                alone(Answer::Generation(fabric.put(&key, body, expect).await?))
            }
            Call::Delete { key, expect } => done(fabric.delete(&key, expect).await?),
            Call::Publish { stream, id } => {
                alone(Answer::Number(fabric.publish(&stream, id.as_deref(), body).await?))
            }
            Call::Acknowledge { stream, name, sequence } => {
                done(fabric.acknowledge(&stream, &name, sequence).await?)
            }
            Call::Trim { stream, sequence } => done(fabric.trim(&stream, sequence).await?),
            Call::Lease { name, holder, ttl } => {
                alone(Answer::Lease(fabric.lease(&name, &holder, ttl).await?))
            }
            Call::ReleaseLease { name, holder } => {
                done(fabric.release_lease(&name, &holder).await?)
            }
            Call::Leases { prefix } => {
                let leases = fabric.leases(&prefix).await?;
                let parts = wire::lease_parts(&leases).map_err(FabricError::Unreachable)?;
                parts.into_iter().map(|(_, part)| (Answer::Leases, part)).collect()
            }
            Call::HasBlob { digest } => alone(Answer::Yes(fabric.has_blob(&digest).await?)),
            Call::Blobs => {
                let digests = fabric.blobs().await?;
                let mut parts: Parts = digests
                    .chunks(PART)
                    .map(|part| part.iter().flat_map(|digest| *digest.as_bytes()).collect())
                    .map(|body| (Answer::Digests, body))
                    .collect();
                parts.push((Answer::Done, Bytes::new()));
                parts
            }
            Call::DeleteBlob { digest } => done(fabric.delete_blob(&digest).await?),
        })
    }

    async fn list(&self, prefix: &str) -> Result<Parts, FabricError> {
        let listing = self.fabric.list(prefix).await?;
        let mut parts: Parts = listing
            .documents
            .into_iter()
            .map(|document| {
                let answer =
                    Answer::Document { key: document.key, generation: document.generation };
                (answer, document.value)
            })
            .collect();
        parts.push((Answer::Generation(listing.generation), Bytes::new()));
        Ok(parts)
    }
}

fn alone(answer: Answer) -> Parts {
    vec![(answer, Bytes::new())]
}

fn done((): ()) -> Parts {
    alone(Answer::Done)
}
