//! A response's body on its way to several at once.
//!
//! While it may still be stored, all of it is kept, and who comes late begins at its start. Once it
//! is too large for that, nobody new is let in, what all have read is let go, and the slowest reader
//! sets the pace.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use selvedge_cache::Span;

/// Bytes that may wait for the slowest reader once not everything is kept.
const WINDOW: u64 = 256 << 10;

/// The response ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response ended early")]
pub(crate) struct Broken;

/// A body that one writes and several read.
#[derive(Debug, Default)]
pub(super) struct Stream {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    /// How many chunks were let go before the first that is still here.
    gone: usize,
    waiting: u64,
    /// Not all is kept any more.
    windowed: bool,
    done: Option<Result<(), Broken>>,
    readers: Vec<Option<Reader>>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct Reader {
    next: usize,
    waker: Option<Waker>,
}

impl State {
    fn wake_readers(&mut self) -> Vec<Waker> {
        self.readers.iter_mut().flatten().filter_map(|reader| reader.waker.take()).collect()
    }

    /// Lets go of what every reader has had.
    fn trim(&mut self) {
        if !self.windowed {
            return;
        }
        let last = self.gone + self.chunks.len();
        let slowest = self.readers.iter().flatten().map(|reader| reader.next).min();
        while self.gone < slowest.unwrap_or(last) {
            let Some(chunk) = self.chunks.pop_front() else { break };
            self.waiting -= chunk.len() as u64;
            self.gone += 1;
        }
    }
}

impl Stream {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody who reads from the start; none once that is gone.
    pub(super) fn reader(self: &Arc<Self>) -> Option<StreamBody> {
        let mut state = self.state();
        if state.windowed {
            return None;
        }
        let reader = Some(Reader { next: 0, waker: None });
        let free = state.readers.iter().position(Option::is_none);
        let index = match free {
            Some(index) => {
                if let Some(slot) = state.readers.get_mut(index) {
                    *slot = reader;
                }
                index
            }
            None => {
                state.readers.push(reader);
                state.readers.len() - 1
            }
        };
        drop(state);
        Some(StreamBody { stream: Arc::clone(self), index, skip: 0, left: u64::MAX, at_end: false })
    }

    /// Adds what came next.
    pub(super) fn push(&self, chunk: Bytes) {
        let mut state = self.state();
        state.waiting += chunk.len() as u64;
        state.chunks.push_back(chunk);
        let wakers = state.wake_readers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Nothing more comes.
    pub(super) fn end(&self, result: Result<(), Broken>) {
        let mut state = self.state();
        state.done = Some(result);
        let wakers = state.wake_readers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Nothing more comes although it was not at its end, if nobody has said how it ended.
    pub(super) fn end_if_open(&self) {
        if self.state().done.is_none() {
            self.end(Err(Broken));
        }
    }

    /// Stops keeping everything.
    pub(super) fn window(&self) {
        let mut state = self.state();
        state.windowed = true;
        state.trim();
    }

    /// Everything that came, if all of it was kept.
    pub(super) fn whole(&self) -> Option<Vec<Bytes>> {
        let state = self.state();
        (!state.windowed).then(|| state.chunks.iter().cloned().collect())
    }

    /// Ready when there is room for more: true, or false when nobody reads any more.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.state();
        if !state.windowed {
            return Poll::Ready(true);
        }
        if state.readers.iter().all(Option::is_none) {
            return Poll::Ready(false);
        }
        if state.waiting <= WINDOW {
            return Poll::Ready(true);
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// What one reader reads.
#[derive(Debug)]
pub(crate) struct StreamBody {
    stream: Arc<Stream>,
    index: usize,
    /// Bytes that are not wanted before those that are.
    skip: u64,
    /// Bytes that are wanted at most.
    left: u64,
    at_end: bool,
}

impl StreamBody {
    /// Only this part.
    pub(crate) fn part(self, span: Span) -> Self {
        let mut part = self;
        (part.skip, part.left) = (span.start, span.bytes());
        part
    }

    /// The next chunk.
    pub(crate) fn poll_data(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        loop {
            if self.left == 0 {
                self.at_end = true;
                return Poll::Ready(None);
            }
            let mut chunk = match ready!(self.poll_chunk(cx)) {
                Some(Ok(chunk)) => chunk,
                other => return Poll::Ready(other),
            };
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
            self.skip -= skipped as u64;
            chunk.advance(skipped);
            chunk.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            if !chunk.is_empty() {
                if self.left != u64::MAX {
                    self.left -= chunk.len() as u64;
                }
                return Poll::Ready(Some(Ok(chunk)));
            }
        }
    }

    fn poll_chunk(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let mut guard = self.stream.state();
        let state = &mut *guard;
        let Some(Some(reader)) = state.readers.get_mut(self.index) else {
            return Poll::Ready(None);
        };
        if let Some(chunk) = state.chunks.get(reader.next - state.gone).cloned() {
            reader.next += 1;
            state.trim();
            let writer = state.writer.take_if(|_| state.waiting <= WINDOW);
            drop(guard);
            if let Some(writer) = writer {
                writer.wake();
            }
            return Poll::Ready(Some(Ok(chunk)));
        }
        match state.done {
            Some(Ok(())) => {
                self.at_end = true;
                Poll::Ready(None)
            }
            Some(Err(broken)) => Poll::Ready(Some(Err(broken))),
            None => {
                reader.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether everything has been read.
    pub(crate) fn is_end_stream(&self) -> bool {
        if self.at_end || self.left == 0 {
            return true;
        }
        let state = self.stream.state();
        let next = state.readers.get(self.index).and_then(|reader| Some(reader.as_ref()?.next));
        state.done == Some(Ok(())) && next == Some(state.gone + state.chunks.len())
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let mut state = self.stream.state();
        if let Some(reader) = state.readers.get_mut(self.index) {
            *reader = None;
        }
        state.trim();
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn chunk(bytes: usize) -> Bytes {
        Bytes::from(vec![7; bytes])
    }

    async fn next(body: &mut StreamBody) -> Option<Result<Bytes, Broken>> {
        poll_fn(|cx| body.poll_data(cx)).await
    }

    #[tokio::test]
    async fn all_read_everything_while_it_is_kept() {
        let stream = Arc::new(Stream::default());
        let mut early = stream.reader().unwrap();
        assert!(futures_util::poll!(Box::pin(next(&mut early))).is_pending());
        stream.push(chunk(3));
        stream.push(chunk(4));
        let mut late = stream.reader().unwrap();
        stream.end(Ok(()));
        for body in [&mut early, &mut late] {
            assert_eq!(next(body).await.unwrap().unwrap().len(), 3);
            assert!(!body.is_end_stream());
            assert_eq!(next(body).await.unwrap().unwrap().len(), 4);
            assert!(body.is_end_stream());
            assert_eq!(next(body).await, None);
        }
        assert_eq!(stream.whole().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn the_slowest_reader_sets_the_pace_of_what_is_not_kept() {
        let stream = Arc::new(Stream::default());
        let (mut fast, mut slow) = (stream.reader().unwrap(), stream.reader().unwrap());
        let room = || poll_fn(|cx| stream.poll_room(cx));
        stream.push(chunk(200 << 10));
        stream.push(chunk(200 << 10));
        assert_eq!(futures_util::poll!(Box::pin(room())), Poll::Ready(true));
        stream.window();
        assert!(stream.reader().is_none() && stream.whole().is_none());
        assert!(next(&mut fast).await.is_some() && next(&mut fast).await.is_some());
        assert!(futures_util::poll!(Box::pin(room())).is_pending());
        assert!(next(&mut slow).await.is_some());
        assert_eq!(futures_util::poll!(Box::pin(room())), Poll::Ready(true));
        drop((fast, slow));
        assert_eq!(futures_util::poll!(Box::pin(room())), Poll::Ready(false));
    }

    #[tokio::test]
    async fn what_breaks_is_no_end() {
        let stream = Arc::new(Stream::default());
        let mut body = stream.reader().unwrap();
        stream.push(chunk(1));
        stream.end(Err(Broken));
        assert!(next(&mut body).await.unwrap().is_ok());
        assert!(!body.is_end_stream());
        assert_eq!(next(&mut body).await, Some(Err(Broken)));
    }
}
