//! A request that goes out for the cache, and what becomes of its response.
//!
//! It runs as a task of its own: whoever asked first may leave, and what comes is stored all the same.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::header::{CONTENT_LENGTH, DATE, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use selvedge_cache::disk::Writer;
use selvedge_cache::key::Key;
use selvedge_cache::object::{Body, Object};
use selvedge_cache::policy::{
    self, Failure, Freshness, NoStore, Times, Vary, freshen, storable, trim,
};
use selvedge_cache::purge::{Tags, TagsError, Ticket};
use selvedge_cache::status::{CacheStatus, Forwarded};
use tokio_util::sync::CancellationToken;

use super::fills::{Coming, Lead, Outcome};
use super::lookup::{Asking, queries_at, variant_key};
use super::serve::measured;
use super::shelf::{About, Entry, What};
use super::stream::{Broken, Stream, StreamBody};
use crate::body::{Received, RequestBody};
use crate::upstream::{InFlight, Upstream, UpstreamError, WorkloadBody};
use crate::{forward, graphql};

/// How long an answer that nobody waits for may take to begin.
const LINGER: Duration = Duration::from_secs(5);
/// How long it is remembered that a response was not to be shared, in milliseconds.
const PASS_MS: u64 = 10_000;

/// A request that goes out.
pub(crate) struct Fetch {
    pub(crate) lead: Lead,
    pub(crate) asking: Asking,
    /// What is asked for.
    pub(crate) about: Arc<About>,
    /// Scheme and authority.
    pub(crate) origin: String,
    /// The client's own head: what is stored depends on it.
    pub(crate) head: Parts,
    /// What is sent.
    pub(crate) request: Request<RequestBody>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) in_flight: InFlight,
    /// What is stored and was asked for.
    pub(crate) stored: Option<Arc<Object>>,
    /// Why it goes out.
    pub(crate) reason: Forwarded,
    /// Cancelled when who asked has left.
    pub(crate) left: CancellationToken,
}

/// What a request that went out brought, for who asked.
pub(crate) enum Fetched {
    /// A response that is theirs alone.
    Alone(Response<WorkloadBody>, CacheStatus),
    /// A response on its way to the cache: its head as it came, and a reader of its body.
    Coming(Response<StreamBody>, CacheStatus),
    /// What is stored is good still.
    Confirmed(Arc<Object>, CacheStatus),
    /// Nobody could say whether what is stored is good still, and it may be used then.
    Stale(Arc<Object>, CacheStatus),
}

impl Fetch {
    /// Sends the request, and has the response stored if it may be.
    pub(crate) async fn run(self) -> Result<Fetched, UpstreamError> {
        let Self { lead, asking, about, origin, head, request, .. } = self;
        let (upstream, in_flight) = (self.upstream, self.in_flight);
        let (stored, reason, left) = (self.stored, self.reason, self.left);
        let cache = Arc::clone(&lead.cache);
        let received = Received::default();
        // Before anything is asked: what is purged from now on purges what comes of this.
        let ticket = cache.shelf.purger.ticket();
        let asked_ms = cache.now_ms();
        let result = tokio::select! {
            result = upstream.send(in_flight, request, &received, false) => result,
            () = unwanted(&lead, &left) => return Err(UpstreamError::ResponseTimeout),
        };
        let times = Times { asked_ms, received_ms: cache.now_ms() };
        let answer = Answered { lead, asking, about, origin, ticket, head, stored, reason, times };
        match result {
            Ok(response) => Ok(answer.came(response)),
            Err(error) => answer.failed(error),
        }
    }
}

/// Ready when who asked has left, and nobody else has come to wait for the answer since: what does
/// not come soon must not hold the workload for nobody.
async fn unwanted(lead: &Lead, left: &CancellationToken) {
    left.cancelled().await;
    loop {
        tokio::time::sleep(LINGER).await;
        if !lead.is_awaited() {
            return;
        }
    }
}

/// The request fields that a response depends on, and the key of the variant that it is.
type Variant = (Box<[HeaderName]>, Key);

/// A request whose answer is there.
pub(super) struct Answered {
    pub(super) lead: Lead,
    pub(super) asking: Asking,
    pub(super) about: Arc<About>,
    pub(super) origin: String,
    pub(super) ticket: Ticket,
    pub(super) head: Parts,
    pub(super) stored: Option<Arc<Object>>,
    pub(super) reason: Forwarded,
    pub(super) times: Times,
}

impl Answered {
    fn status(&self, status: Option<StatusCode>, detail: Option<&'static str>) -> CacheStatus {
        let (reason, collapsed) = (self.reason, false);
        CacheStatus::Forwarded { reason, status, stored: false, collapsed, detail }
    }

    fn failed(self, error: UpstreamError) -> Result<Fetched, UpstreamError> {
        match self.in_spite_of(Failure::Unreachable) {
            Some(object) => Ok(Fetched::Stale(object, self.status(None, None))),
            None => Err(error),
        }
    }

    /// What is stored, if it may be used although asking failed.
    fn in_spite_of(&self, failure: Failure) -> Option<Arc<Object>> {
        let (object, cache) = (self.stored.as_ref()?, &self.lead.cache);
        let now_ms = self.times.received_ms;
        let freshness = &object.freshness;
        let may = self.asking.wish.reuse_on_failure(&cache.policy, freshness, failure, now_ms);
        may.then(|| Arc::clone(object))
    }

    pub(super) fn came(self, mut response: Response<WorkloadBody>) -> Fetched {
        let length = announced(&response);
        // The version is the connection's: one of HTTP/1.0 must not end the client's.
        *response.version_mut() = http::Version::HTTP_11;
        forward::to_client(response.headers_mut(), forward::takes_trailers(&self.head));
        dated(response.headers_mut(), self.times);
        let status = response.status();
        if let Some(object) = self.stored.clone()
            && status == StatusCode::NOT_MODIFIED
        {
            return self.confirmed(&object, response.into_parts().0.headers);
        }
        if matches!(status.as_u16(), 500 | 502 | 503 | 504)
            && let Some(object) = self.in_spite_of(Failure::Status)
        {
            return Fetched::Stale(object, self.status(Some(status), None));
        }
        let cache = &self.lead.cache;
        let mut decided =
            storable(&cache.policy, &self.head, status, response.headers(), self.times);
        if self.asking.is_query && !graphql::may_store(status, response.headers()) {
            decided = Err(NoStore::Status);
        }
        let largest = cache.max_object.max(cache.shelf.max_on_disk);
        let too_large = length.is_some_and(|length| length > largest);
        match decided {
            Ok(freshness) if !too_large && !self.lead.is_void() => {
                match self.tags(response.headers()) {
                    Ok(tags) => self.coming(response, freshness, tags, length),
                    // A purge would miss it.
                    Err(_) => self.alone(response, None),
                }
            }
            decided => self.alone(response, decided.err()),
        }
    }

    /// A response that is for who asked alone.
    fn alone(self, response: Response<WorkloadBody>, why: Option<NoStore>) -> Fetched {
        let cache = &self.lead.cache;
        // What is stored stays good for others if only this request was special.
        // An error that this request has earned says nothing of others: else a bad request now and then
        // would keep a page out of the cache.
        let is_missing = matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::GONE);
        let is_earned = response.status().is_client_error() && !is_missing;
        let is_special =
            why == Some(NoStore::Authorization) || self.asking.wish.no_store() || is_earned;
        if self.stored.is_none() && !is_special {
            let what = What::Pass(self.times.received_ms + PASS_MS);
            let (about, stamp) = (Arc::clone(&self.about), self.ticket.stamp());
            cache.shelf.put(self.asking.key(), Entry::new(what, about, Tags::default(), stamp));
        }
        self.lead.over(Outcome::Alone);
        let status = self.status(None, Some(why.map_or("too-large", NoStore::as_str)));
        Fetched::Alone(response, status)
    }

    /// What is stored was said to be good still (RFC 9111, section 4.3.4).
    pub(super) fn confirmed(self, object: &Object, confirmed: HeaderMap) -> Fetched {
        let cache = &self.lead.cache;
        let age = confirmed.get(http::header::AGE).cloned();
        let mut headers = freshen(&object.headers, &confirmed);
        trim(&cache.policy, &mut headers);
        let mut dated = headers.clone();
        dated.extend(age.map(|age| (http::header::AGE, age)));
        let decided = storable(&cache.policy, &self.head, object.status, &dated, self.times);
        let tags = self.tags(&headers);
        let keep = decided.is_ok() && tags.is_ok() && !self.lead.is_void();
        let object = Arc::new(Object {
            status: object.status,
            headers,
            body: object.body.clone(),
            freshness: decided.unwrap_or_else(|_| {
                let (policy, status) = (&cache.policy, object.status);
                policy::freshness(policy, &self.head, status, &dated, self.times)
            }),
        });
        match keep {
            true => {
                let what = What::Object(Arc::clone(&object));
                let (about, stamp) = (Arc::clone(&self.about), self.ticket.stamp());
                let entry = Entry::new(what, about, tags.unwrap_or_default(), stamp);
                // It may depend on more than it did.
                let (key, _) = self.place(&object.headers);
                // What is on disk stays where it is, and comes to another place when it is asked for
                // again.
                let before = self.asking.key();
                if object.body.on_disk().is_none() || key == *before {
                    cache.shelf.put_again(&key, entry);
                    // Nobody finds it among other variants any more, and a body in two places counts
                    // only once with its codings.
                    if key != *before && *before != self.asking.primary {
                        cache.shelf.remove(before);
                    }
                }
            }
            false => cache.shelf.remove(self.asking.key()),
        }
        self.lead.over(Outcome::Stored);
        let status = CacheStatus::Forwarded {
            reason: self.reason,
            status: Some(StatusCode::NOT_MODIFIED),
            stored: keep,
            collapsed: false,
            detail: None,
        };
        Fetched::Confirmed(object, status)
    }

    /// What purges go by.
    pub(super) fn tags(&self, headers: &HeaderMap) -> Result<Tags, TagsError> {
        let mut tags = Tags::of(headers)?;
        tags.add_groups(headers, &self.origin)?;
        if self.asking.is_query {
            tags.add(&queries_at(&self.origin, self.head.uri.path()))?;
        }
        Ok(tags)
    }

    /// Where a response with these fields is stored, with what it depends on.
    fn place(&self, headers: &HeaderMap) -> (Key, Option<Variant>) {
        let Vary::On(names) = Vary::of(headers) else { return (self.asking.primary.clone(), None) };
        let stamp = self.ticket.stamp();
        let variants = self.lead.cache.shelf.variants(&self.about, names.clone(), stamp);
        let key = variant_key(&self.asking.primary, &variants, &self.head.headers);
        (key.clone(), Some((names, key)))
    }

    /// A response that may be stored: it goes to the cache and to who asked at once.
    fn coming(
        self,
        response: Response<WorkloadBody>,
        freshness: Freshness,
        tags: Tags,
        length: Option<u64>,
    ) -> Fetched {
        let cache = Arc::clone(&self.lead.cache);
        let (key, variant) = self.place(response.headers());
        let (head, body) = response.into_parts();
        let mut headers = head.headers.clone();
        trim(&cache.policy, &mut headers);
        let status = head.status;
        let shareable = freshness.remaining_ms(self.times.received_ms) > 0 && !freshness.must_ask();
        let writer = cache.shelf.writer(&key, self.ticket.generation());
        if writer.is_none() && length.is_some_and(|length| length > cache.max_object) {
            return self.alone(Response::from_parts(head, body), None);
        }
        let object = Object { status, headers, body: Body::default(), freshness };
        let stream = Arc::new(Stream::default());
        let coming = Arc::new(Coming { head: object, variant, stream: Arc::clone(&stream) });
        match shareable {
            true => self.lead.coming(Arc::clone(&coming)),
            false => self.lead.over(Outcome::Alone),
        }
        let Some(reader) = stream.reader() else {
            // A stream that has just begun keeps everything.
            return Fetched::Alone(Response::from_parts(head, body), self.status(None, None));
        };
        let status = CacheStatus::Forwarded {
            reason: self.reason,
            status: None,
            stored: true,
            collapsed: false,
            detail: None,
        };
        let Self { lead, about, ticket, asking, .. } = self;
        let is_query = asking.is_query;
        let filling =
            Filling { lead, key, about, tags, ticket, coming, writer, is_query, gathered: 0 };
        tokio::spawn(filling.run(body));
        Fetched::Coming(Response::from_parts(head, reader), status)
    }
}

/// A response without a date gets that of its coming (RFC 9110, section 6.6.1).
pub(super) fn dated(headers: &mut HeaderMap, times: Times) {
    if !headers.contains_key(DATE) {
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(times.received_ms));
        headers.extend(HeaderValue::try_from(date).map(|date| (DATE, date)));
    }
}

/// How long a response says it is.
fn announced(response: &Response<WorkloadBody>) -> Option<u64> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A body on its way into the cache.
struct Filling {
    lead: Lead,
    key: Key,
    about: Arc<About>,
    tags: Tags,
    ticket: Ticket,
    coming: Arc<Coming>,
    /// To the disk, if that takes it.
    writer: Option<Writer>,
    /// It is stored only if it is an answer without errors.
    is_query: bool,
    /// Bytes that are counted as gathered.
    gathered: u64,
}

impl Filling {
    async fn run(mut self, mut body: WorkloadBody) {
        let stream = Arc::clone(&self.coming.stream);
        let mut size = 0u64;
        loop {
            if !poll_fn(|cx| stream.poll_room(cx)).await && self.writer.is_none() {
                // Nobody reads what is not kept.
                return;
            }
            match poll_fn(|cx| body.poll_frame(cx)).await {
                Some(Ok(frame)) => {
                    // Trailers are not stored (RFC 9111, section 3.1), and so not shared.
                    let Ok(chunk) = frame.into_data() else { continue };
                    size += chunk.len() as u64;
                    self.write(&chunk);
                    self.count(size, chunk.len() as u64);
                    stream.push(chunk);
                }
                Some(Err(_)) => return stream.end(Err(Broken)),
                None => break,
            }
        }
        self.store(size);
        stream.end(Ok(()));
    }

    /// Gives what came to the disk, for as long as that takes it.
    fn write(&mut self, chunk: &bytes::Bytes) {
        let Some(writer) = &mut self.writer else { return };
        let largest = self.lead.cache.shelf.max_on_disk;
        let taken = writer.size() + chunk.len() as u64 <= largest && writer.push(chunk.clone());
        if !taken {
            self.writer = None;
            if self.gathered == u64::MAX {
                self.lead.over(Outcome::Alone);
            }
        }
    }

    /// Counts what came, and gives up keeping in memory what is too large.
    fn count(&mut self, size: u64, bytes: u64) {
        let cache = &self.lead.cache;
        if self.gathered == u64::MAX {
            return;
        }
        let fits = cache.fills.gather(bytes) && size <= cache.max_object;
        self.gathered += bytes;
        if !fits {
            cache.fills.release(self.gathered);
            self.gathered = u64::MAX;
            if self.is_query {
                // Whether it may be stored shows when it is whole.
                self.writer = None;
            }
            // Those who ask while it goes to disk go out for themselves, and leave it to that.
            if self.writer.is_none() {
                self.lead.over(Outcome::Alone);
            }
            self.coming.stream.window();
        }
    }

    fn store(&mut self, size: u64) {
        let (chunks, writer) = (self.coming.stream.whole(), self.writer.take());
        let is_good =
            !self.is_query || chunks.as_ref().is_some_and(|chunks| is_good_answer(chunks));
        if self.lead.is_void() || !is_good {
            return;
        }
        let head = &self.coming.head;
        let is_whole = chunks.is_some();
        let body = chunks.map(|chunks| Body::gather(&chunks)).unwrap_or_default();
        let mut headers = head.headers.clone();
        measured(&mut headers, head.status, size);
        let object =
            Object { status: head.status, headers, body, freshness: head.freshness.clone() };
        let what = What::Object(Arc::new(object));
        let (about, tags, stamp) =
            (Arc::clone(&self.about), self.tags.clone(), self.ticket.stamp());
        let entry = Entry::new(what, about, tags, stamp);
        let shelf = &self.lead.cache.shelf;
        match writer {
            writer if is_whole => shelf.put_both(&self.key, entry, writer),
            Some(writer) => shelf.put_on_disk(&self.key, &entry, writer),
            None => return,
        }
        if self.lead.is_void() {
            // It became so while it was stored.
            shelf.remove(&self.key);
        }
    }
}

/// Whether a GraphQL answer is whole and has no errors.
fn is_good_answer(chunks: &[bytes::Bytes]) -> bool {
    let mut answer = graphql::Answer::default();
    chunks.iter().for_each(|chunk| answer.read(chunk));
    answer.is_good()
}

impl Drop for Filling {
    fn drop(&mut self) {
        if self.gathered != u64::MAX {
            self.lead.cache.fills.release(self.gathered);
        }
        // Whoever still reads must not wait for ever; a body that has ended has ended.
        self.coming.stream.end_if_open();
    }
}

impl Coming {
    /// For somebody else who asked for the same: the response, if it is theirs too.
    pub(crate) fn share(
        &self,
        asking: &Asking,
        head: &Parts,
        now_ms: u64,
    ) -> Option<Response<StreamBody>> {
        if let Some((names, key)) = &self.variant {
            let mine = selvedge_cache::policy::variant(&asking.primary, names, &head.headers);
            if !key.as_bytes().starts_with(mine.as_bytes()) {
                return None;
            }
        }
        let reader = self.stream.reader()?;
        let mut response = Response::new(reader);
        *response.status_mut() = self.head.status;
        *response.headers_mut() = self.head.headers.clone();
        let age = HeaderValue::from(self.head.freshness.age_s(now_ms));
        response.headers_mut().insert(http::header::AGE, age);
        Some(response)
    }
}
