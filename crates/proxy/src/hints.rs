//! Early hints (RFC 8297): what a browser may fetch while the app still thinks.
//!
//! A connection that can send them puts a [`Hints`] into the extensions of a request. It goes along
//! with the request to the upstream, whose hints it takes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use http::header::{CONTENT_SECURITY_POLICY, LINK};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode};

/// How a browser says that it fetches a page. Other fetches of browsers make no use of hints.
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
/// What may stand in a hint: browsers look at nothing else, and the rest is the response's.
const FIELDS: [HeaderName; 2] = [LINK, CONTENT_SECURITY_POLICY];
/// Hints of one response that are taken.
const MOST: usize = 8;
/// Bytes of them together.
const MAX_BYTES: usize = 16 << 10;

/// The hints for one request, between its upstream and its client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hints(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<HeaderMap>,
    taken: usize,
    bytes: usize,
    waker: Option<Waker>,
}

impl Hints {
    /// For a request that may make use of them.
    pub(crate) fn of(head: &Parts) -> Option<Self> {
        let mode = head.headers.get(SEC_FETCH_MODE);
        let reads = head.method == Method::GET || head.method == Method::HEAD;
        (reads && mode.is_none_or(|mode| mode == "navigate")).then(Self::default)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what came before a response. What is too much is left out, as nobody waits for a hint.
    pub(crate) fn take(&self, status: StatusCode, headers: &HeaderMap) {
        if status != StatusCode::EARLY_HINTS {
            return;
        }
        let hints: HeaderMap = headers
            .iter()
            .filter(|(name, _)| FIELDS.contains(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let bytes: usize =
            hints.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let mut queue = self.queue();
        if hints.is_empty() || queue.taken == MOST || queue.bytes + bytes > MAX_BYTES {
            return;
        }
        queue.taken += 1;
        queue.bytes += bytes;
        queue.waiting.push_back(hints);
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// The next hint for the client.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<HeaderMap> {
        let mut queue = self.queue();
        match queue.waiting.pop_front() {
            Some(hints) => Poll::Ready(hints),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::SET_COOKIE;

    use super::*;

    #[tokio::test]
    async fn hints_are_few_and_say_little() {
        let hints = Hints::default();
        let next = async || futures_util::poll!(std::future::poll_fn(|cx| hints.poll(cx)));
        let mut headers = HeaderMap::new();
        headers.insert(SET_COOKIE, HeaderValue::from_static("a=b"));
        hints.take(StatusCode::EARLY_HINTS, &headers);
        headers.append(LINK, HeaderValue::from_static("</a.css>; rel=preload; as=style"));
        headers.append(LINK, HeaderValue::from_static("</b.js>; rel=preload; as=script"));
        hints.take(StatusCode::PROCESSING, &headers);
        assert!(next().await.is_pending());
        for _ in 0..20 {
            hints.take(StatusCode::EARLY_HINTS, &headers);
        }
        for _ in 0..MOST {
            let Poll::Ready(hint) = next().await else { panic!("a hint was taken") };
            assert_eq!((hint.len(), hint.get_all(LINK).iter().count()), (2, 2));
        }
        assert!(next().await.is_pending());
        let long = HeaderValue::try_from("x".repeat(MAX_BYTES)).unwrap();
        let hints = Hints::default();
        hints.take(StatusCode::EARLY_HINTS, &HeaderMap::from_iter([(LINK, long)]));
        assert!(futures_util::poll!(std::future::poll_fn(|cx| hints.poll(cx))).is_pending());
    }
}
