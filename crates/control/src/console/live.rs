//! The stream that keeps an open page up to date: server-sent events (WHATWG HTML, section 9.2).
//!
//! It sends a section of the page whenever what it shows has changed, and nothing in between but
//! signs of life. Only the newest state is ever sent, so that a slow reader misses what is past
//! and costs no memory; one that does not read at all is dropped by the listener.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use selvedge_model::Digest;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::Console;
use super::page::View;
use super::tail::{Said, Tail};
use crate::now_ms;
use crate::world::World;

/// Streams at a time. A browser keeps one for each window that is to be seen.
pub(crate) const MAX_STREAMS: usize = 32;
/// The largest section that is sent, in bytes.
const MAX_SECTION: usize = 512 << 10;
/// After a change this is waited for more of them.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// While a push runs its times grow this often.
const TICK: Duration = Duration::from_secs(1);
/// Otherwise the page is looked at this often, for what time alone changes.
const REST: Duration = Duration::from_secs(10);
/// The planners are not asked more often than this for their reasons.
const WHY: Duration = Duration::from_secs(3);
/// A reader that has not taken an event for this long is given up.
const STUCK: Duration = Duration::from_secs(20);
/// A stream ends after this, and the browser asks for another.
const LIFE: Duration = Duration::from_secs(60 * 60);

/// The stream that tells a browser without a session to go where it gets one. A status would be
/// the same to it as a server that is down.
pub(crate) fn signed_out() -> Response {
    events(Body::from(event("signed-out", "")))
}

/// The stream of `view` for the holder of `session`.
pub(crate) fn stream(console: Console, view: View, session: String) -> Response {
    let Ok(permit) = Arc::clone(console.streams()).try_acquire_owned() else {
        let words = format!("{MAX_STREAMS} windows are open already\n");
        let mut response = (StatusCode::SERVICE_UNAVAILABLE, words).into_response();
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
        return response;
    };
    let (sender, receiver) = mpsc::channel(4);
    let world = console.world();
    let ask = view.ask(&world.borrow());
    let stream = Stream {
        tail: ask.map(|ask| Tail::follow(console.logs(), ask)),
        world,
        console,
        view,
        session,
        sent: HashMap::new(),
        asked_why: None,
        events: sender,
        _permit: permit,
    };
    tokio::spawn(stream.run());
    events(Body::from_stream(ReceiverStream::new(receiver)))
}

fn events(body: Body) -> Response {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

struct Stream {
    console: Console,
    world: watch::Receiver<World>,
    view: View,
    session: String,
    /// What the browser has of each section.
    sent: HashMap<&'static str, Digest>,
    asked_why: Option<Instant>,
    tail: Option<Tail>,
    events: mpsc::Sender<Result<Bytes, Infallible>>,
    _permit: OwnedSemaphorePermit,
}

/// Why a stream ends: the reader has gone, or is to go.
struct Over;

impl Stream {
    /// Ends with the reader, the session, the page's subject, or control.
    async fn run(mut self) {
        let end = Instant::now() + LIFE;
        if self.send(event("version", self.console.version())).await.is_err() {
            return;
        }
        while Instant::now() < end {
            if self.step().await.is_err() {
                return;
            }
        }
    }

    async fn step(&mut self) -> Result<(), Over> {
        if !self.console.access().is_open(&self.session, now_ms()) {
            self.send(event("signed-out", "")).await?;
            return Err(Over);
        }
        let (changes, busy) = self.look();
        match changes {
            None => {
                self.send(event("gone", "")).await?;
                return Err(Over);
            }
            Some(changes) if changes.is_empty() => self.send(Bytes::from_static(b":\n\n")).await?,
            Some(changes) => {
                for change in changes {
                    self.send(change).await?;
                }
            }
        }
        let events = self.events.clone();
        let rest = tokio::time::sleep(if busy { TICK } else { REST });
        tokio::pin!(rest);
        loop {
            tokio::select! {
                changed = self.world.changed() => {
                    changed.map_err(|_| Over)?;
                    break;
                }
                () = &mut rest => return Ok(()),
                () = events.closed() => return Err(Over),
                said = said(&mut self.tail) => match said {
                    Said::Section(html) => {
                        self.send(event("section", &html.into_string())).await?;
                    }
                    Said::Rows(html) => self.send(event("rows", &html.into_string())).await?,
                },
            }
        }
        tokio::time::sleep(DEBOUNCE).await;
        Ok(())
    }

    /// What differs from what the browser has, and whether a push is under way. `None`: what the
    /// page is about is no more.
    fn look(&mut self) -> (Option<Vec<Bytes>>, bool) {
        let now = Instant::now();
        let ask_why = self.asked_why.is_none_or(|asked| now.duration_since(asked) >= WHY);
        if ask_why {
            self.asked_why = Some(now);
        }
        let world = self.world.borrow_and_update();
        let busy =
            world.pushes.values().flat_map(|pushes| pushes.values()).any(|push| push.is_open());
        let Some(page) = self.view.page(&self.console.look(&world, ask_why)) else {
            return (None, busy);
        };
        drop(world);
        let mut changes = Vec::new();
        for section in page.sections {
            let html = section.html.into_string();
            let digest = Digest::of(html.as_bytes());
            if html.len() <= MAX_SECTION && self.sent.get(section.id) != Some(&digest) {
                self.sent.insert(section.id, digest);
                changes.push(event("section", &html));
            }
        }
        (Some(changes), busy)
    }

    fn send(&self, event: Bytes) -> impl Future<Output = Result<(), Over>> + Send + 'static {
        let events = self.events.clone();
        async move {
            match tokio::time::timeout(STUCK, events.send(Ok(event))).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(Over),
            }
        }
    }
}

async fn said(tail: &mut Option<Tail>) -> Said {
    match tail {
        Some(tail) => tail.next().await,
        None => std::future::pending().await,
    }
}

/// An event. Line ends of any kind part its data, so that none can start a field of its own.
fn event(name: &str, data: &str) -> Bytes {
    let mut text = format!("event: {name}\n");
    for line in data.split(['\n', '\r']) {
        let _ = writeln!(text, "data: {line}");
    }
    text.push('\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_can_be_nothing_else() {
        assert_eq!(
            event("a", "x\r\nevent: b\rdata"),
            "event: a\ndata: x\ndata: \ndata: event: b\ndata: data\n\n"
        );
    }
}
