//! What a client follows, each over a connection of its own that resumes where it was.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use selvedge_model::Generation;
use tokio::sync::{mpsc, oneshot, watch as watched};

use super::dial::{Backoff, Dialer};
use crate::wire::{self, Connection, Event, Purpose};
use crate::{Change, FabricError, Lease, Message};

/// How far a watch has got.
#[derive(Debug)]
struct Progress {
    /// The listener has everything up to here; `None` while it is being given the documents.
    after: Option<Generation>,
    /// The listener has been given something of an unfinished list of documents.
    partial: bool,
}

impl Progress {
    fn note(&mut self, change: &Change) {
        match change {
            Change::Put(document) => self.advance(document.generation),
            Change::Delete { generation, .. } => self.advance(*generation),
            Change::Current(generation) => {
                *self = Self { after: Some(*generation), partial: false };
            }
            Change::Reset => *self = Self { after: None, partial: true },
        }
    }

    fn advance(&mut self, generation: Generation) {
        if self.after.is_some() {
            self.after = Some(generation);
        } else {
            self.partial = true;
        }
    }
}

/// Follows documents until nobody listens.
pub(super) async fn watch(
    dialer: Arc<Dialer>,
    prefix: String,
    after: Option<Generation>,
    sender: mpsc::Sender<Change>,
) {
    let mut link = Link::new(dialer);
    let mut progress = Progress { after, partial: false };
    loop {
        let purpose = Purpose::Watch { prefix: prefix.clone(), after: progress.after };
        let step = tokio::select! {
            step = link.next(&purpose) => step,
            () = sender.closed() => return,
        };
        let change = match step {
            // What was given of the old list may be gone from the new one.
            Step::Connected { .. } if progress.partial => Change::Reset,
            Step::Connected { .. } => continue,
            Step::Event(event, body) => match event.into_change(body) {
                Some(change) => change,
                None => {
                    link.hang_up().await;
                    continue;
                }
            },
        };
        progress.note(&change);
        if sender.send(change).await.is_err() {
            return;
        }
    }
}

/// Follows a stream until nobody listens.
pub(super) async fn consume(dialer: Arc<Dialer>, purpose: Purpose, sender: mpsc::Sender<Message>) {
    let mut link = Link::new(dialer);
    // The store's incarnation and the last message given to the listener. After a loss the store
    // sends again what has not been acknowledged, of which the listener has some.
    let (mut life, mut seen) = (0, 0);
    loop {
        let step = tokio::select! {
            step = link.next(&purpose) => step,
            () = sender.closed() => return,
        };
        match step {
            Step::Connected { incarnation } if incarnation == life => {}
            Step::Connected { incarnation } => (life, seen) = (incarnation, 0),
            Step::Event(event, body) => {
                let Some(message) = event.into_message(body) else {
                    link.hang_up().await;
                    continue;
                };
                let reaches = match &message {
                    Message::Data { sequence, .. } => *sequence,
                    Message::Gap { first_available } => first_available.saturating_sub(1),
                };
                if reaches > seen {
                    seen = reaches;
                    if sender.send(message).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Follows leases until nobody listens; `first` is told when there is a list.
pub(super) async fn watch_leases(
    dialer: Arc<Dialer>,
    purpose: Purpose,
    sender: watched::Sender<Vec<Lease>>,
    first: oneshot::Sender<()>,
) {
    let mut link = Link::new(dialer);
    let mut first = Some(first);
    let mut list: Vec<Lease> = Vec::new();
    loop {
        let step = tokio::select! {
            step = link.next(&purpose) => step,
            () = sender.closed() => return,
        };
        match step {
            Step::Connected { .. } => list.clear(),
            Step::Event(Event::Leases { last }, body) => {
                match serde_json::from_slice::<Vec<Lease>>(&body) {
                    Ok(part) => list.extend(part),
                    Err(_) => {
                        link.hang_up().await;
                        continue;
                    }
                }
                if last {
                    sender.send_replace(std::mem::take(&mut list));
                    if let Some(first) = first.take() {
                        // Whoever waits for the first may have stopped waiting.
                        let _ = first.send(());
                    }
                }
            }
            Step::Event(..) => link.hang_up().await,
        }
    }
}

/// Receives a blob's pieces.
pub(super) async fn read_blob(
    mut connection: Connection,
    sender: mpsc::Sender<Result<Bytes, FabricError>>,
) {
    loop {
        let next = async {
            let frame = wire::next(&mut connection).await?;
            Ok::<_, io::Error>((frame.parse::<Event>()?, frame.body))
        };
        let piece = match next.await {
            Ok((Event::Piece, piece)) => Ok(piece),
            Ok((Event::End, _)) => return,
            Ok((Event::Failed(failure), _)) => Err(failure.into()),
            Ok(_) => Err(super::unexpected()),
            Err(error) => Err(FabricError::Unreachable(error)),
        };
        let last = piece.is_err();
        if sender.send(piece).await.is_err() || last {
            return;
        }
    }
}

/// A connection that is made again whenever it breaks.
#[derive(Debug)]
struct Link {
    dialer: Arc<Dialer>,
    connection: Option<Connection>,
    backoff: Backoff,
}

/// What comes over a [`Link`].
enum Step {
    /// A new connection.
    Connected {
        /// Of the store.
        incarnation: u64,
    },
    /// An event and its body.
    Event(Event, Bytes),
}

impl Link {
    fn new(dialer: Arc<Dialer>) -> Self {
        Self { dialer, connection: None, backoff: Backoff::new() }
    }

    /// Waits for the next step. A new connection is made for `purpose`.
    async fn next(&mut self, purpose: &Purpose) -> Step {
        loop {
            if let Some(connection) = &mut self.connection {
                let event = wire::next(connection).await;
                match event.and_then(|frame| Ok((frame.parse()?, frame.body))) {
                    Ok((event, body)) => {
                        self.backoff = Backoff::new();
                        return Step::Event(event, body);
                    }
                    Err(error) => {
                        tracing::debug!(%error, ?purpose, "a watch has lost the fabric");
                        self.connection = None;
                    }
                }
            } else {
                match self.dialer.dial(purpose).await {
                    Ok((connection, incarnation)) => {
                        self.connection = Some(connection);
                        return Step::Connected { incarnation };
                    }
                    Err(error) => {
                        let why = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::debug!(%error, why, ?purpose, "a watch can't reach the fabric");
                    }
                }
            }
            self.backoff.pause().await;
        }
    }

    /// Gives up a connection over which came what makes no sense.
    async fn hang_up(&mut self) {
        tracing::warn!("the fabric's server sent what makes no sense: connecting again");
        self.connection = None;
        self.backoff.pause().await;
    }
}
