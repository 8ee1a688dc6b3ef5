//! Stored bodies compressed once, for all who are to have them so.
//!
//! What is compressed hangs on the body that it was made of, and is found by way of that alone. So
//! whatever ends a body (a purge, another response, want of room) ends this too, and a response that
//! was confirmed keeps both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use bytes::Bytes;
use selvedge_cache::key::Key;
use selvedge_cache::object::{Body, Encoded};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::fills::Join;
use super::shelf::{Shelf, What};
use super::{Cache, Outcome};
use crate::encode::{Budget, Coding, Effort, Encoder};

/// The largest body that is compressed to be kept. It comes when all of it is done, and a client
/// should not have to wait for longer than a large page takes.
const LARGEST: u64 = 4 << 20;
/// A body in all codings takes at most this many times its room.
const FORMS: u64 = 4;
/// How long a request waits for that. It is compressed for it as it is sent then.
const PATIENCE: Duration = Duration::from_secs(5);
/// In the key of what is under way; no field of a request can hold it.
const UNDER_WAY: &[u8] = b"\0encoded";

/// What is compressed at a time, and was so far.
#[derive(Debug)]
pub(super) struct Encoders {
    free: Arc<Semaphore>,
    largest: u64,
    made: AtomicU64,
}

impl Encoders {
    /// For a store of bodies up to `max_object` bytes. Half the machine's processors at most are busy
    /// with this, since requests need them too.
    pub(super) fn new(max_object: u64) -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self {
            free: Arc::new(Semaphore::new(processors.div_ceil(2))),
            largest: LARGEST.min(max_object / FORMS),
            made: AtomicU64::new(0),
        }
    }

    /// Bodies that were compressed since the start.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}

impl Cache {
    /// Whether a stored body may be kept in codings.
    pub(crate) fn may_encode(&self, body: &Body) -> bool {
        body.on_disk().is_none() && body.size() <= self.encoders.largest
    }

    /// Has the body of what is stored at a key compressed and kept, by one for all who want it so.
    /// Ready when that is done, or is not to be waited for.
    pub(crate) async fn encode(
        self: Arc<Self>,
        key: Key,
        body: Body,
        coding: Coding,
        budget: Budget,
    ) {
        let mut under_way = key.clone();
        under_way.push(UNDER_WAY);
        under_way.push(coding.name().as_bytes());
        let lead = match self.join(&under_way) {
            Join::Lead(lead) => lead,
            Join::Follow(mut waiting) => {
                let known = waiting.wait_for(|it| !matches!(it, Outcome::Waiting));
                let _ = timeout(PATIENCE, known).await;
                return;
            }
        };
        let room = budget.stored(coding, body.size());
        let (Some(room), Ok(turn)) = (room, Arc::clone(&self.encoders.free).try_acquire_owned())
        else {
            return;
        };
        // On another thread: whoever asked may leave, and others of this thread go on.
        let encoding = spawn_blocking(move || {
            if let Some(encoded) = encoded(&body, coding) {
                self.encoders.made.fetch_add(1, Ordering::Relaxed);
                self.shelf.keep(&key, &body, coding, encoded);
            }
            drop((room, turn));
            lead.over(Outcome::Stored);
        });
        let _ = timeout(PATIENCE, encoding).await;
    }
}

impl Shelf {
    /// Keeps a body in a coding, if it is stored at a key still.
    fn keep(&self, key: &Key, body: &Body, coding: Coding, encoded: Encoded) {
        let Some(entry) = self.memory.peek(key.as_bytes()) else { return };
        if let What::Object(object) = entry.what()
            && object.body.is(body)
        {
            body.keep(coding.name(), encoded);
            self.memory.resize(key.as_bytes());
        }
    }
}

/// A body compressed; nothing if there is no memory for that.
fn encoded(body: &Body, coding: Coding) -> Option<Encoded> {
    let mut encoder = Encoder::new(coding, Effort::Store).ok()?;
    for piece in body.pieces() {
        encoder.write(piece).ok()?;
        if encoder.ready() as u64 >= body.size() {
            return Some(Encoded::NoShorter);
        }
    }
    encoder.finish().ok()?;
    let encoded: Bytes = encoder.take();
    Some(match (encoded.len() as u64) < body.size() {
        true => Encoded::Shorter(Body::gather(&[encoded])),
        false => Encoded::NoShorter,
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use selvedge_cache::policy::{Policy, Times, freshness};
    use selvedge_cache::purge::Tags;
    use selvedge_cache::store::{Cost as _, Memory};

    use super::super::shelf::{About, Entry};
    use super::super::{CacheScope, QueryRules};
    use super::*;

    const NOW: Times = Times { asked_ms: 0, received_ms: 0 };

    /// An entry with a body, as it is stored at `/`.
    fn entry(shelf: &Shelf, body: Body) -> (Key, Entry) {
        let scope = CacheScope::new(b"app", &[], QueryRules::default());
        let key = scope.key("http", b"a.test", "/");
        let (head, ()) = http::Request::new(()).into_parts();
        let (status, headers) = (StatusCode::OK, HeaderMap::new());
        let freshness = freshness(&Policy::default(), &head, status, &headers, NOW);
        let object = selvedge_cache::object::Object { status, headers, body, freshness };
        let about = About::new(&scope, key.clone(), "a.test", "/");
        let stamp = shelf.purger.ticket().stamp();
        (key, Entry::new(What::Object(Arc::new(object)), about, Tags::default(), stamp))
    }

    fn body() -> Body {
        Body::gather(&[Bytes::from("some text ".repeat(500))])
    }

    /// Everything that is stored, and nothing else, is counted.
    fn assert_counted(shelf: &Shelf, key: &Key) {
        let entry = shelf.memory.peek(key.as_bytes());
        let own = |entry: Entry| entry.bytes() + key.as_bytes().len() + Memory::<Entry>::OVERHEAD;
        assert_eq!(shelf.memory.bytes(), entry.map_or(0, own));
    }

    #[test]
    fn what_is_kept_is_counted_with_what_is_stored() {
        let shelf = Shelf::new(1 << 20, 1 << 18, None);
        let body = body();
        let (key, stored) = entry(&shelf, body.clone());
        shelf.put(&key, stored);
        assert_counted(&shelf, &key);
        let before = shelf.memory.bytes();
        for coding in Coding::ALL {
            shelf.keep(&key, &body, coding, encoded(&body, coding).unwrap());
            assert_counted(&shelf, &key);
        }
        assert!(shelf.memory.bytes() > before);
        // It is confirmed: another entry with the same body.
        shelf.put_again(&key, entry(&shelf, body).1);
        assert_counted(&shelf, &key);
        // It is replaced.
        let other = self::body();
        shelf.put(&key, entry(&shelf, other.clone()).1);
        assert_eq!(shelf.memory.bytes(), before);
        assert!(other.encoded("gzip").is_none());
        shelf.remove(&key);
        assert_eq!(shelf.memory.bytes(), 0);
    }

    #[test]
    fn what_is_stored_no_more_keeps_nothing() {
        let shelf = Shelf::new(1 << 20, 1 << 18, None);
        let (old, new) = (body(), body());
        let (key, stored) = entry(&shelf, new.clone());
        shelf.keep(&key, &old, Coding::Gzip, Encoded::NoShorter);
        shelf.put(&key, stored);
        shelf.keep(&key, &old, Coding::Gzip, Encoded::NoShorter);
        assert!(old.encoded("gzip").is_none() && new.encoded("gzip").is_none());
        assert_counted(&shelf, &key);
    }

    #[test]
    fn what_does_not_shrink_is_known() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..3 << 20).map(|_| next()).collect();
        let noise = Body::gather(&[noise.into()]);
        let text = body();
        for coding in Coding::ALL {
            assert!(matches!(encoded(&noise, coding), Some(Encoded::NoShorter)), "{coding:?}");
            let Some(Encoded::Shorter(short)) = encoded(&text, coding) else {
                panic!("{coding:?}")
            };
            assert!(short.size() < text.size() / 10, "{coding:?}");
        }
    }
}
