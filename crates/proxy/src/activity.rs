//! Watching a client's connection for slowness that hyper does not bound.
//!
//! The stream, the requests and the bodies of a connection note here when something moves. Who has
//! the connection in its roster looks every now and then whether too little did, and says what the
//! connection is to do, so that a connection needs no timer of its own.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::Limits;

/// Up to how many bytes are copied to be written by one plain call, which costs the system less than
/// to take them from several places.
const SMALL: usize = 2048;

/// What happened last on a connection. Times are milliseconds since its start, plus one; zero
/// means "not now".
#[derive(Debug)]
pub(crate) struct Activity {
    start: Instant,
    /// HTTP/2: bytes that arrive while no request is under way need not be a head, so that there
    /// only the idle timeout bounds one.
    multiplexed: AtomicBool,
    /// Requests under way, bodies included.
    busy: AtomicU32,
    /// Response bodies whose last chunk has not been asked past.
    handed_out: AtomicU32,
    last_move: AtomicU64,
    /// First byte of a head that is not whole yet. HTTP/1 only.
    head_began: AtomicU64,
    write_blocked: AtomicU64,
    last_chunk: AtomicU64,
    /// Whether a request has ever begun.
    asked: AtomicBool,
    order: AtomicU8,
    /// Wakes the connection's task, which stays the same.
    waker: OnceLock<Waker>,
}

/// What a connection is told. A later one is never taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Order {
    /// Go on.
    Stay,
    /// Finish what is under way. One that has just come has its first request answered.
    Finish,
    /// Finish what is under way; if there is nothing, that is it.
    Leave,
    /// End now.
    Close,
}

/// What is to happen with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing; look again after this.
    LookAgain(Duration),
    /// Nothing has been asked for too long.
    Idle,
    /// A head takes too long.
    SlowHead,
    /// The client does not take what it asked for.
    NotReading,
}

impl Activity {
    pub(crate) fn new(multiplexed: bool) -> Self {
        Self {
            start: Instant::now(),
            multiplexed: AtomicBool::new(multiplexed),
            busy: AtomicU32::new(0),
            handed_out: AtomicU32::new(0),
            last_move: AtomicU64::new(1),
            // A connection that says nothing is one whose head takes long.
            head_began: AtomicU64::new(1),
            write_blocked: AtomicU64::new(0),
            last_chunk: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            order: AtomicU8::new(Order::Stay as u8),
            waker: OnceLock::new(),
        }
    }

    /// Tells the connection what to do.
    pub(crate) fn order(&self, order: Order) {
        if self.order.fetch_max(order as u8, Ordering::AcqRel) < order as u8
            && let Some(waker) = self.waker.get()
        {
            waker.wake_by_ref();
        }
    }

    /// What the connection is to do. Its task asks, always the same, and is woken on change.
    pub(crate) fn ordered(&self, cx: &Context<'_>) -> Order {
        self.waker.get_or_init(|| cx.waker().clone());
        match self.order.load(Ordering::Acquire) {
            order if order == Order::Stay as u8 => Order::Stay,
            order if order == Order::Finish as u8 => match self.asked.load(Ordering::Relaxed) {
                true => Order::Leave,
                false => Order::Stay,
            },
            order if order == Order::Leave as u8 => Order::Leave,
            _ => Order::Close,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// A request's head is whole.
    pub(crate) fn begin(self: &Arc<Self>, version: Version) -> Busy {
        if version >= Version::HTTP_2 {
            self.multiplexed.store(true, Ordering::Relaxed);
        }
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.asked.store(true, Ordering::Relaxed);
        self.head_began.store(0, Ordering::Relaxed);
        Busy { activity: Arc::clone(self), handed_out: false }
    }

    fn read(&self) {
        if self.busy.load(Ordering::Relaxed) == 0 && self.head_began.load(Ordering::Relaxed) == 0 {
            self.head_began.store(self.now(), Ordering::Relaxed);
        }
    }

    fn wrote(&self) {
        self.write_blocked.store(0, Ordering::Relaxed);
        self.last_move.store(self.now(), Ordering::Relaxed);
    }

    fn blocked(&self) {
        if self.write_blocked.load(Ordering::Relaxed) == 0 {
            self.write_blocked.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Judges the connection.
    pub(crate) fn judge(&self, limits: &Limits) -> Verdict {
        let now = self.now();
        // Looking this often catches what begins meanwhile in at most twice its time.
        let mut next =
            limits.idle_timeout.min(limits.header_timeout).min(limits.client_stall_timeout);
        let mut check = |since: u64, timeout: Duration| {
            let passed = Duration::from_millis(now.saturating_sub(since));
            if since != 0 {
                next = next.min(timeout.saturating_sub(passed));
            }
            since != 0 && passed >= timeout
        };
        if check(self.write_blocked.load(Ordering::Relaxed), limits.client_stall_timeout) {
            return Verdict::NotReading;
        }
        if self.handed_out.load(Ordering::Relaxed) > 0
            && check(self.last_chunk.load(Ordering::Relaxed), limits.client_stall_timeout)
        {
            return Verdict::NotReading;
        }
        if self.busy.load(Ordering::Relaxed) == 0 {
            let head_began = self.head_began.load(Ordering::Relaxed);
            let multiplexed = self.multiplexed.load(Ordering::Relaxed);
            if !multiplexed && check(head_began, limits.header_timeout) {
                return Verdict::SlowHead;
            }
            if check(self.last_move.load(Ordering::Relaxed), limits.idle_timeout) {
                return Verdict::Idle;
            }
        }
        Verdict::LookAgain(next.max(Duration::from_millis(1)))
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Busy {
    activity: Arc<Activity>,
    handed_out: bool,
}

impl Busy {
    /// The connection asks for more of the body.
    pub(crate) fn asked(&mut self) {
        if std::mem::take(&mut self.handed_out) {
            self.activity.handed_out.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The connection got a chunk of the body.
    pub(crate) fn handed(&mut self) {
        // Without other streams between, what is not taken blocks the writing.
        if !self.activity.multiplexed.load(Ordering::Relaxed) {
            return;
        }
        self.activity.last_chunk.store(self.activity.now(), Ordering::Relaxed);
        if !std::mem::replace(&mut self.handed_out, true) {
            self.activity.handed_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.asked();
        self.activity.last_move.store(self.activity.now(), Ordering::Relaxed);
        self.activity.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client's stream that notes what moves.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    pub(crate) stream: S,
    pub(crate) activity: Arc<Activity>,
}

impl<S> Watched<S> {
    fn note(&self, result: &Poll<std::io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(written)) if *written > 0 => self.activity.wrote(),
            Poll::Pending => self.activity.blocked(),
            Poll::Ready(_) => {}
        }
    }
}

/// What is written in pieces, in one if it is small.
fn gather<'a>(slices: &[IoSlice<'_>], room: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut end = 0;
    for slice in slices {
        room.get_mut(end..end + slice.len())?.copy_from_slice(slice);
        end += slice.len();
    }
    room.get(..end)
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if result.is_ready() && buffer.filled().len() > before {
            self.activity.read();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let mut small = [0; SMALL];
        let result = match gather(slices, &mut small) {
            Some(bytes) => Pin::new(&mut self.stream).poll_write(cx, bytes),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, slices),
        };
        self.note(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        match result {
            Poll::Pending => self.activity.blocked(),
            Poll::Ready(_) => self.activity.write_blocked.store(0, Ordering::Relaxed),
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits {
            header_timeout: 10 * SECOND,
            idle_timeout: 60 * SECOND,
            client_stall_timeout: 30 * SECOND,
            ..Limits::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_must_come_in_time() {
        let activity = Arc::new(Activity::new(false));
        assert_eq!(activity.judge(&limits()), Verdict::LookAgain(10 * SECOND));
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(activity.judge(&limits()), Verdict::SlowHead);
        drop(activity.begin(Version::HTTP_11));
        assert_eq!(activity.judge(&limits()), Verdict::LookAgain(10 * SECOND));
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(activity.judge(&limits()), Verdict::LookAgain(10 * SECOND));
        activity.read();
        tokio::time::advance(9 * SECOND).await;
        assert_eq!(activity.judge(&limits()), Verdict::LookAgain(SECOND));
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.judge(&limits()), Verdict::SlowHead);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_between_http2_requests_are_no_head() {
        for activity in [Activity::new(true), Activity::new(false)] {
            let activity = Arc::new(activity);
            drop(activity.begin(Version::HTTP_2));
            activity.read();
            tokio::time::advance(50 * SECOND).await;
            assert_eq!(activity.judge(&limits()), Verdict::LookAgain(10 * SECOND));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_connections_without_requests_are_idle() {
        let activity = Arc::new(Activity::new(false));
        let busy = activity.begin(Version::HTTP_11);
        tokio::time::advance(3600 * SECOND).await;
        assert!(matches!(activity.judge(&limits()), Verdict::LookAgain(_)));
        drop(busy);
        tokio::time::advance(59 * SECOND).await;
        assert_eq!(activity.judge(&limits()), Verdict::LookAgain(SECOND));
        activity.wrote();
        tokio::time::advance(60 * SECOND).await;
        assert_eq!(activity.judge(&limits()), Verdict::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_must_take_what_it_asked_for() {
        let activity = Arc::new(Activity::new(false));
        let mut busy = activity.begin(Version::HTTP_2);
        busy.handed();
        tokio::time::advance(29 * SECOND).await;
        assert_eq!(activity.judge(&limits()), Verdict::LookAgain(SECOND));
        busy.asked();
        tokio::time::advance(29 * SECOND).await;
        assert!(matches!(activity.judge(&limits()), Verdict::LookAgain(_)));
        busy.handed();
        tokio::time::advance(30 * SECOND).await;
        assert_eq!(activity.judge(&limits()), Verdict::NotReading);
        drop(busy);
        activity.blocked();
        tokio::time::advance(30 * SECOND).await;
        assert_eq!(activity.judge(&limits()), Verdict::NotReading);
    }
}
