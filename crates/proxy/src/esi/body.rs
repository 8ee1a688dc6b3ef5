//! A page as the client reads it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, ETAG};
use http::{HeaderMap, HeaderValue, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::assembly::{Ahead, Failure, Opened, Out, Shared, decoded};
use super::fetch::Fetch;
use super::sharing::Sharing;
use super::url::Origin;
use super::{Config, headers};
use crate::body::BodyError;
use crate::encode::Budget;

/// How many pieces of the page wait for the client. What is put together further ahead waits where
/// it comes from.
const QUEUED: usize = 2;

/// What a page is put together for.
pub struct Page<F> {
    /// The way to its pieces.
    pub fetch: F,
    /// Its limits.
    pub config: Arc<Config>,
    /// Memory to decode pieces that come encoded though we ask for plain ones.
    pub budget: Budget,
    /// Where the page is.
    pub origin: Origin,
    /// The page's path and query, as the client asked for them.
    pub uri: Uri,
    /// The headers of the client's request.
    pub client: HeaderMap,
}

/// A page that is put together while it is read. Dropping it gives up what is fetched for it.
pub struct Assembled {
    /// What was put together before the head went out.
    first: Option<Bytes>,
    coming: mpsc::Receiver<Bytes>,
    /// None once it has ended.
    work: Option<AbortOnDropHandle<Result<(), Failure>>>,
    failure: Option<Failure>,
    patience: Patience,
}

/// How long a client waits for pieces in all. The time in which it reads does not count.
struct Patience {
    left: Duration,
    since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let until = since + self.left;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        sleep.as_mut().poll(cx)
    }

    /// Something came.
    fn rest(&mut self) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
    }
}

impl Assembled {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if let Poll::Ready(bytes) = self.coming.poll_recv(cx)
            && let Some(bytes) = bytes
        {
            self.patience.rest();
            return Poll::Ready(Some(Ok(bytes)));
        }
        let Some(work) = &mut self.work else {
            return Poll::Ready(self.failure.take().map(Err));
        };
        // What it gave out comes first, though the end of the channel wakes us before its own.
        let result = match Pin::new(work).poll(cx) {
            Poll::Ready(result) => result.unwrap_or(Err(Failure::Lost)),
            Poll::Pending => {
                ready!(self.patience.poll(cx));
                Err(Failure::Timeout)
            }
        };
        self.work = None;
        self.failure = result.err();
        match self.coming.try_recv() {
            Ok(bytes) => Poll::Ready(Some(Ok(bytes))),
            Err(_) => Poll::Ready(self.failure.take().map(Err)),
        }
    }

    /// Reads up to so many bytes; true if that is all of it.
    async fn begin(&mut self, up_to: usize) -> Result<bool, Failure> {
        let mut first = BytesMut::new();
        loop {
            let Some(bytes) = poll_fn(|cx| self.poll_bytes(cx)).await.transpose()? else {
                self.first = Some(first.freeze()).filter(|first| !first.is_empty());
                return Ok(true);
            };
            if first.is_empty() && bytes.len() > up_to {
                self.first = Some(bytes);
                return Ok(false);
            }
            first.extend_from_slice(&bytes);
            if first.len() > up_to {
                self.first = Some(first.freeze());
                return Ok(false);
            }
        }
    }
}

/// Puts a page together from a template, the response to a `GET`. The answer is there when the page
/// begins, so that a page that can't even begin can be answered with an error. A page that fails
/// later breaks off.
///
/// # Errors
/// When the page fails before its first byte, or within [`Config::hold_back`].
pub async fn assemble<F: Fetch>(
    page: Page<F>,
    template: Response<F::Body>,
) -> Result<Response<Assembled>, Failure> {
    let Page { fetch, config, budget, origin, uri, client } = page;
    let sharing = Sharing::of(template.headers());
    let mut head = Response::new(());
    *head.status_mut() = template.status();
    *head.version_mut() = template.version();
    *head.headers_mut() = template.headers().clone();
    *head.extensions_mut() = template.extensions().clone();
    let Some(body) = decoded(&budget, template) else {
        return Err(Failure::Coding { url: uri.to_string() });
    };
    let (left, hold_back) = (config.page_timeout, config.hold_back);
    let shared = Arc::new(Shared::new(fetch, config, budget, origin, client, sharing));
    let (sender, coming) = mpsc::channel(QUEUED);
    let ahead = Ahead::new(&shared, 1, Opened { url: uri, body, is_template: true });
    // A task of its own: pieces come while the client reads others.
    let work = tokio::spawn(async move {
        let mut out = Out::Client(&sender);
        ahead.render(&mut out).await
    });
    let patience = Patience { left, since: None, sleep: None };
    let work = Some(AbortOnDropHandle::new(work));
    let mut page = Assembled { first: None, coming, work, failure: None, patience };
    let is_whole = page.begin(hold_back).await?;
    headers::page_head(head.headers_mut());
    if is_whole {
        whole(&page, &shared, head.headers_mut());
    }
    Ok(head.map(|()| page))
}

/// The head of a page that is there.
fn whole<F>(page: &Assembled, shared: &Shared<F>, headers: &mut HeaderMap) {
    let body = page.first.as_deref().unwrap_or_default();
    headers.insert(CONTENT_LENGTH, body.len().into());
    let digest = hex::encode(Sha256::digest(body).get(..16).unwrap_or_default());
    headers.extend(HeaderValue::try_from(format!("\"{digest}\"")).map(|tag| (ETAG, tag)));
    shared.sharing.lock().unwrap_or_else(PoisonError::into_inner).put(headers);
}

impl Body for Assembled {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.poll_bytes(cx).map(|bytes| bytes.map(|it| it.map(Frame::data).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none()
            && self.work.is_none()
            && self.failure.is_none()
            && self.coming.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.first {
            Some(first)
                if self.work.is_none() && self.coming.is_empty() && self.failure.is_none() =>
            {
                SizeHint::with_exact(first.len() as u64)
            }
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }
}
