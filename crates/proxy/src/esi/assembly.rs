//! The work on one page: segments in their order, what they include fetched ahead.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, Response, StatusCode, Uri};
use http_body::Body;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::fetch::{Fetch, Fragment};
use super::parser::{Include, Malformed, Parser, Segment, Try};
use super::sharing::Sharing;
use super::url::{self, Origin, Refused};
use super::{Config, headers};
use crate::body::BodyError;
use crate::encode::{Budget, Coded, Coding, DecodeLimits, Decoded};
use crate::fields::members;

/// How much of a template's text is read ahead, in bytes.
const TEXT_AHEAD: usize = 64 << 10;

/// Why a page can't be put together, or one of its pieces can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A template's markup is malformed.
    #[error("{url}")]
    Malformed {
        /// The path and query of the template.
        url: String,
        /// What is wrong, and where.
        #[source]
        source: Malformed,
    },
    /// A piece's URL is refused.
    #[error("can't include {src:?}")]
    Refused {
        /// The URL as the template has it.
        src: String,
        /// Why.
        #[source]
        source: Refused,
    },
    /// There is no response for a piece, or its body broke off.
    #[error("{url} can't be had")]
    Broken {
        /// The URL of the piece.
        url: String,
        /// Why.
        #[source]
        source: BodyError,
    },
    /// A piece was answered with a status that is no success.
    #[error("{url} was answered with {status}")]
    Status {
        /// The URL of the piece.
        url: String,
        /// Its status.
        status: StatusCode,
    },
    /// A piece has a content coding that can't be decoded.
    #[error("{url} has a content coding that is not supported")]
    Coding {
        /// The URL of the piece.
        url: String,
    },
    /// A piece did not come in time.
    #[error("{url} did not come in time")]
    Late {
        /// The URL of the piece.
        url: String,
    },
    /// Pieces include others too deeply, as when one includes itself.
    #[error("{url} is included too deeply")]
    TooDeep {
        /// The URL of the piece.
        url: String,
    },
    /// A piece that has to be kept until it is whole is too large for that.
    #[error("a piece that something else could take the place of is too large")]
    NotKept,
    /// The page includes too many pieces.
    #[error("the page includes too many pieces")]
    TooMany,
    /// The page is too large.
    #[error("the page is too large")]
    TooLarge,
    /// The page took too long.
    #[error("the page took too long")]
    Timeout,
    /// Nobody reads it any more.
    #[error("the client has left")]
    Left,
    /// What puts it together has panicked.
    #[error("the page was lost")]
    Lost,
}

impl Failure {
    /// Whether nothing can take the place of what failed: the page itself is at its limits.
    fn is_final(&self) -> bool {
        matches!(self, Self::TooMany | Self::TooLarge | Self::Timeout | Self::Left | Self::Lost)
    }
}

/// What all parts of one page share.
pub(super) struct Shared<F> {
    pub(super) fetch: F,
    pub(super) config: Arc<Config>,
    pub(super) budget: Budget,
    pub(super) origin: Origin,
    /// The client's headers.
    pub(super) client: HeaderMap,
    pub(super) sharing: Mutex<Sharing>,
    includes: AtomicU32,
    bytes: AtomicU64,
}

impl<F> Shared<F> {
    pub(super) fn new(
        fetch: F,
        config: Arc<Config>,
        budget: Budget,
        origin: Origin,
        client: HeaderMap,
        sharing: Sharing,
    ) -> Self {
        let (includes, bytes) = (AtomicU32::new(0), AtomicU64::new(0));
        let sharing = Mutex::new(sharing);
        Self { fetch, config, budget, origin, client, sharing, includes, bytes }
    }

    pub(super) fn share(&self, with: &Sharing) {
        let mut sharing = self.sharing.lock().unwrap_or_else(PoisonError::into_inner);
        *sharing = sharing.clone().and(with);
    }

    fn count(&self, bytes: usize) -> Result<(), Failure> {
        let bytes = bytes as u64;
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.config.max_bytes {
            return Err(Failure::TooLarge);
        }
        Ok(())
    }
}

/// Where what is put together goes.
pub(super) enum Out<'a> {
    /// To the client.
    Client(&'a mpsc::Sender<Bytes>),
    /// Nowhere until it is whole.
    Kept { chunks: &'a mut Vec<Bytes>, left: &'a mut usize },
}

impl Out<'_> {
    async fn send(&mut self, bytes: Bytes) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Ok(());
        }
        match self {
            Self::Client(sender) => sender.send(bytes).await.map_err(|_| Failure::Left),
            Self::Kept { chunks, left } => {
                **left = left.checked_sub(bytes.len()).ok_or(Failure::NotKept)?;
                chunks.push(bytes);
                Ok(())
            }
        }
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A response to be put into the page.
pub(super) struct Opened<B> {
    pub(super) url: Uri,
    pub(super) body: Coded<B>,
    pub(super) is_template: bool,
}

/// A segment on its way.
enum Slot<F: Fetch> {
    Text(Bytes),
    Waiting(Boxed<'static, Result<Resolved<F>, Failure>>),
    Ready(Result<Resolved<F>, Failure>),
}

/// A segment that is there.
enum Resolved<F: Fetch> {
    /// Whole.
    Kept(Vec<Bytes>),
    /// Its head.
    Open(Opened<F::Body>),
}

/// A template that is read, and its segments that are awaited, ahead of what is sent.
pub(super) struct Ahead<F: Fetch> {
    shared: Arc<Shared<F>>,
    url: Arc<Uri>,
    /// How deep what it includes is.
    depth: u32,
    /// Whether what it includes must be there whole, since something else may take its place.
    in_attempt: bool,
    /// What is not read yet, with its parser.
    source: Option<(Coded<F::Body>, Parser)>,
    slots: VecDeque<Slot<F>>,
    /// Bytes of text among the slots.
    text: usize,
    /// How many slots are something else.
    pieces: usize,
}

impl<F: Fetch> Ahead<F> {
    pub(super) fn new(shared: &Arc<Shared<F>>, depth: u32, opened: Opened<F::Body>) -> Self {
        let parser = Parser::new(shared.config.max_markup);
        Self {
            shared: Arc::clone(shared),
            url: Arc::new(opened.url),
            depth,
            in_attempt: false,
            source: Some((opened.body, parser)),
            slots: VecDeque::new(),
            text: 0,
            pieces: 0,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        self.poll_slots(cx);
        while self.pieces < self.shared.config.ahead.max(1) && self.text < TEXT_AHEAD {
            let Some((body, _)) = &mut self.source else { break };
            let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else { break };
            match self.came(frame.map(|frame| frame.map(http_body::Frame::into_data))) {
                Ok(segments) => segments.into_iter().for_each(|segment| self.add(segment)),
                Err(failure) => {
                    self.source = None;
                    self.slots.push_back(Slot::Ready(Err(failure)));
                }
            }
            self.poll_slots(cx);
        }
    }

    /// Takes in what came of the template; trailers are left out.
    fn came<E>(
        &mut self,
        frame: Option<Result<Result<Bytes, E>, BodyError>>,
    ) -> Result<Vec<Segment>, Failure> {
        let url = || self.url.to_string();
        let malformed = |source| Failure::Malformed { url: url(), source };
        match frame {
            Some(Ok(Ok(data))) => match &mut self.source {
                Some((_, parser)) => parser.push(data).map_err(malformed),
                None => Ok(Vec::new()),
            },
            Some(Ok(Err(_))) => Ok(Vec::new()),
            Some(Err(source)) => Err(Failure::Broken { url: url(), source }),
            None => match self.source.take() {
                Some((_, parser)) => parser.finish().map_err(malformed),
                None => Ok(Vec::new()),
            },
        }
    }

    fn add(&mut self, segment: Segment) {
        let (shared, url, depth) = (Arc::clone(&self.shared), Arc::clone(&self.url), self.depth);
        let slot = match segment {
            Segment::Text(text) => {
                self.text += text.len();
                Slot::Text(text)
            }
            Segment::Include(include) => {
                let in_attempt = self.in_attempt;
                Slot::Waiting(Box::pin(included(shared, url, depth, include, in_attempt)))
            }
            Segment::Try(one) => Slot::Waiting(Box::pin(tried(shared, url, depth, one))),
        };
        if matches!(slot, Slot::Waiting(_)) {
            self.pieces += 1;
        }
        self.slots.push_back(slot);
    }

    /// Lets the pieces that are first in line get on. Those that are there count, too: they take
    /// memory or a connection until it is their turn.
    fn poll_slots(&mut self, cx: &mut Context<'_>) {
        let pieces = self.slots.iter_mut().filter(|slot| !matches!(slot, Slot::Text(_)));
        for slot in pieces.take(self.shared.config.ahead.max(1)) {
            if let Slot::Waiting(future) = slot
                && let Poll::Ready(resolved) = future.as_mut().poll(cx)
            {
                *slot = Slot::Ready(resolved);
            }
        }
    }

    /// The next segment, when it is there.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Slot<F>>> {
        self.poll(cx);
        match self.slots.front() {
            None if self.source.is_none() => return Poll::Ready(None),
            None | Some(Slot::Waiting(_)) => return Poll::Pending,
            Some(Slot::Text(text)) => self.text -= text.len(),
            Some(Slot::Ready(_)) => self.pieces = self.pieces.saturating_sub(1),
        }
        Poll::Ready(self.slots.pop_front())
    }

    /// Does something and reads ahead meanwhile.
    async fn beside<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.poll(cx);
            future.as_mut().poll(cx)
        })
        .await
    }

    /// Puts everything together.
    pub(super) async fn render(mut self, out: &mut Out<'_>) -> Result<(), Failure> {
        while let Some(slot) = poll_fn(|cx| self.poll_next(cx)).await {
            match slot {
                Slot::Text(text) => {
                    self.shared.count(text.len())?;
                    self.beside(out.send(text)).await?;
                }
                Slot::Ready(resolved) => match resolved? {
                    Resolved::Kept(chunks) => {
                        for chunk in chunks {
                            self.beside(out.send(chunk)).await?;
                        }
                    }
                    Resolved::Open(opened) => {
                        let shared = Arc::clone(&self.shared);
                        let depth = self.depth;
                        self.beside(pour(shared, depth, opened, out)).await?;
                    }
                },
                // Those are not given out.
                Slot::Waiting(_) => {}
            }
        }
        Ok(())
    }
}

/// Puts a response into the page.
fn pour<'a, F: Fetch>(
    shared: Arc<Shared<F>>,
    depth: u32,
    mut opened: Opened<F::Body>,
    out: &'a mut Out<'_>,
) -> Boxed<'a, Result<(), Failure>> {
    Box::pin(async move {
        if opened.is_template {
            return Ahead::new(&shared, depth + 1, opened).render(out).await;
        }
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut opened.body).poll_frame(cx)).await {
            let broken = |source| Failure::Broken { url: opened.url.to_string(), source };
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            shared.count(data.len())?;
            out.send(data).await?;
        }
        Ok(())
    })
}

/// Puts segments together that are kept until they are whole.
async fn kept<F: Fetch>(
    shared: &Arc<Shared<F>>,
    url: &Arc<Uri>,
    depth: u32,
    segments: Vec<Segment>,
    in_attempt: bool,
) -> Result<Vec<Bytes>, Failure> {
    let mut ahead = Ahead {
        shared: Arc::clone(shared),
        url: Arc::clone(url),
        depth,
        in_attempt,
        source: None,
        slots: VecDeque::new(),
        text: 0,
        pieces: 0,
    };
    segments.into_iter().for_each(|segment| ahead.add(segment));
    let (mut chunks, mut left) = (Vec::new(), shared.config.max_kept);
    let mut out = Out::Kept { chunks: &mut chunks, left: &mut left };
    let render: Boxed<'_, _> = Box::pin(ahead.render(&mut out));
    render.await?;
    Ok(chunks)
}

async fn tried<F: Fetch>(
    shared: Arc<Shared<F>>,
    url: Arc<Uri>,
    depth: u32,
    one: Try,
) -> Result<Resolved<F>, Failure> {
    match kept(&shared, &url, depth, one.attempt, true).await {
        Ok(chunks) => return Ok(Resolved::Kept(chunks)),
        Err(failure) if failure.is_final() => return Err(failure),
        Err(failure) => shared.degraded(&failure),
    }
    kept(&shared, &url, depth, one.except, false).await.map(Resolved::Kept)
}

async fn included<F: Fetch>(
    shared: Arc<Shared<F>>,
    url: Arc<Uri>,
    depth: u32,
    include: Include,
    in_attempt: bool,
) -> Result<Resolved<F>, Failure> {
    if include.alt.is_none() && !include.or_continue && !in_attempt {
        let opened = timeout(shared.config.piece_timeout, open(&shared, &url, depth, &include.src));
        let late = |_| Failure::Late { url: include.src.clone() };
        return opened.await.map_err(late)?.map(Resolved::Open);
    }
    let sources = [Some(include.src), include.alt];
    let mut failed = None;
    for src in sources.into_iter().flatten() {
        match whole(&shared, &url, depth, &src).await {
            Ok(chunks) => return Ok(Resolved::Kept(chunks)),
            Err(failure) if failure.is_final() => return Err(failure),
            Err(failure) => {
                shared.degraded(&failure);
                failed = Some(failure);
            }
        }
    }
    match failed {
        Some(failure) if !include.or_continue => Err(failure),
        _ => Ok(Resolved::Kept(Vec::new())),
    }
}

/// A piece, kept until it is whole.
async fn whole<F: Fetch>(
    shared: &Arc<Shared<F>>,
    url: &Uri,
    depth: u32,
    src: &str,
) -> Result<Vec<Bytes>, Failure> {
    let (mut chunks, mut left) = (Vec::new(), shared.config.max_kept);
    let work = async {
        let opened = open(shared, url, depth, src).await?;
        let mut out = Out::Kept { chunks: &mut chunks, left: &mut left };
        pour(Arc::clone(shared), depth, opened, &mut out).await
    };
    let late = |_| Failure::Late { url: src.to_owned() };
    timeout(shared.config.piece_timeout, work).await.map_err(late)??;
    Ok(chunks)
}

/// Fetches the head of a piece.
async fn open<F: Fetch>(
    shared: &Arc<Shared<F>>,
    base: &Uri,
    depth: u32,
    src: &str,
) -> Result<Opened<F::Body>, Failure> {
    let config = &shared.config;
    if depth > config.max_depth {
        return Err(Failure::TooDeep { url: src.to_owned() });
    }
    if shared.includes.fetch_add(1, Ordering::Relaxed) >= config.max_includes {
        return Err(Failure::TooMany);
    }
    let place = url::resolve(&shared.origin, &config.hosts, base, src)
        .map_err(|source| Failure::Refused { src: src.to_owned(), source })?;
    let headers = headers::for_piece(&shared.client, place.is_own);
    let fragment = Fragment { uri: place.uri.clone(), is_own: place.is_own, headers };
    let name = || place.uri.to_string();
    let response = shared
        .fetch
        .fetch(fragment)
        .await
        .map_err(|source| Failure::Broken { url: name(), source })?;
    let status = response.status();
    if !status.is_success() || status == StatusCode::PARTIAL_CONTENT {
        return Err(Failure::Status { url: name(), status });
    }
    shared.share(&Sharing::of(response.headers()));
    let is_template = place.is_own && headers::is_template(status, response.headers());
    let body = decoded(&shared.budget, response).ok_or_else(|| Failure::Coding { url: name() })?;
    Ok(Opened { url: place.uri, body, is_template })
}

/// A response's body without its content coding.
pub(super) fn decoded<B>(budget: &Budget, response: Response<B>) -> Option<Coded<B>>
where
    B: Body<Data = Bytes, Error: Into<BodyError>> + Unpin,
{
    let mut codings = members(response.headers(), &CONTENT_ENCODING);
    let coding = match (codings.next(), codings.next()) {
        (None, _) => None,
        (Some(name), None) => Some(Coding::named(name)?),
        _ => return None,
    };
    drop(codings);
    let Some(coding) = coding else { return Some(Coded::Plain(response.into_body())) };
    let memory = budget.decoder(coding)?;
    let body = Decoded::new(response.into_body(), memory, DecodeLimits::default()).ok()?;
    Some(Coded::Decoded(Box::new(body)))
}

impl<F> Shared<F> {
    /// Something takes the place of what was to be here: nobody else is to see that.
    fn degraded(&self, failure: &Failure) {
        self.share(&Sharing::none());
        tracing::debug!(error = %selvedge_telemetry::Chain(failure), "a page goes without a piece");
    }
}
