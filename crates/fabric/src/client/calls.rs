//! Calls and their answers, over one connection that is made again whenever it breaks.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Options;
use super::dial::{Backoff, Dialer};
use crate::FabricError;
use crate::wire::{self, Answer, Call, Connection, Frame, Purpose, Request, Response};

/// How many calls may wait to be sent.
const QUEUE: usize = 256;

/// An answer's parts, each with its body.
type Parts = Vec<(Answer, Bytes)>;

/// A call on its way. Dropping it tells the caller that the connection was lost.
#[derive(Debug)]
struct Ask {
    call: Call,
    body: Bytes,
    answer: oneshot::Sender<Parts>,
}

/// Whether there is a connection; if not, why not.
#[derive(Debug, Clone)]
enum State {
    Connected,
    Away(Option<String>),
}

/// The caller's side.
#[derive(Debug)]
pub(super) struct Calls {
    asks: mpsc::Sender<Ask>,
    state: watch::Receiver<State>,
    options: Options,
}

impl Calls {
    pub(super) fn start(dialer: Arc<Dialer>, options: Options, token: CancellationToken) -> Self {
        let (asks, queue) = mpsc::channel(QUEUE);
        let (sender, state) = watch::channel(State::Away(None));
        tokio::spawn(async move {
            tokio::select! {
                () = keep_connected(&dialer, queue, &sender) => {}
                () = token.cancelled() => {}
            }
        });
        Self { asks, state, options }
    }

    /// Waits for a connection, but not for long.
    pub(super) async fn connected(&self) -> Result<(), FabricError> {
        let mut state = self.state.clone();
        let wait = state.wait_for(|state| matches!(state, State::Connected));
        if let Ok(Ok(_)) = tokio::time::timeout(self.options.connect_within, wait).await {
            return Ok(());
        }
        let why = match &*self.state.borrow() {
            State::Away(Some(why)) => why.clone(),
            _ => "there is no connection".to_owned(),
        };
        Err(FabricError::Unreachable(io::Error::new(io::ErrorKind::NotConnected, why)))
    }

    /// Asks, and waits for all parts of the answer.
    pub(super) async fn ask(&self, call: Call, body: Bytes) -> Result<Parts, FabricError> {
        self.connected().await?;
        let lost = || io::Error::new(io::ErrorKind::ConnectionReset, "the connection was lost");
        let (answer, parts) = oneshot::channel();
        let ask = async {
            self.asks.send(Ask { call, body, answer }).await.map_err(|_| lost())?;
            parts.await.map_err(|_| lost())
        };
        match tokio::time::timeout(self.options.answer_within, ask).await {
            Ok(result) => result.map_err(FabricError::Unreachable),
            Err(elapsed) => Err(FabricError::Unreachable(elapsed.into())),
        }
    }
}

async fn keep_connected(
    dialer: &Dialer,
    mut asks: mpsc::Receiver<Ask>,
    state: &watch::Sender<State>,
) {
    let mut backoff = Backoff::new();
    loop {
        let why = match dialer.dial(&Purpose::Calls).await {
            Ok((connection, _)) => {
                backoff = Backoff::new();
                state.send_replace(State::Connected);
                match converse(connection, &mut asks).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::debug!(%error, "the connection to the fabric is lost");
                        error.to_string()
                    }
                }
            }
            Err(error) => {
                let why = std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), ToString::to_string);
                tracing::debug!(error = why, "the fabric can't be reached");
                why
            }
        };
        state.send_replace(State::Away(Some(why)));
        // These were asked of the connection that is lost.
        while asks.try_recv().is_ok() {}
        backoff.pause().await;
    }
}

struct Pending {
    parts: Parts,
    answer: oneshot::Sender<Parts>,
}

/// Sends and receives until the connection breaks or nobody can ask anymore.
async fn converse(connection: Connection, asks: &mut mpsc::Receiver<Ask>) -> io::Result<()> {
    let (mut sink, mut stream) = connection.split();
    let pending: Mutex<HashMap<u64, Pending>> = Mutex::new(HashMap::new());
    let lock = || pending.lock().unwrap_or_else(PoisonError::into_inner);
    let write = async {
        let mut next_id = 0;
        while let Some(ask) = asks.recv().await {
            let mut next = Some(ask);
            while let Some(Ask { call, body, answer }) = next {
                next_id += 1;
                let frame = Frame::new(&Request { id: next_id, call }, body)?;
                lock().insert(next_id, Pending { parts: Vec::new(), answer });
                sink.feed(frame).await?;
                next = asks.try_recv().ok();
            }
            sink.flush().await?;
        }
        Ok(())
    };
    // Both at once: if writing had to wait for reading, two full sockets would wait for each other.
    let read = async {
        loop {
            let frame = wire::next(&mut stream).await?;
            let Response { id, last, answer } = frame.parse()?;
            let mut pending = lock();
            let Some(waiting) = pending.get_mut(&id) else { continue };
            waiting.parts.push((answer, frame.body));
            if last && let Some(done) = pending.remove(&id) {
                // Whoever asked may have given up.
                let _ = done.answer.send(done.parts);
            }
        }
    };
    tokio::select! {
        result = write => result,
        result = read => result,
    }
}
