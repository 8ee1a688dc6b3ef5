//! Bodies encoded and decoded as they pass.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::decoder::CHUNK;
use super::plan::DIGESTS;
use super::{DecodeLimits, Decoder, Effort, Encoder, Reservation};
use crate::body::BodyError;

/// How much is encoded at a time, so that one body does not hold up the others of its thread.
const SLICE: usize = 16 << 10;
/// How much of it in one poll.
const BUDGET: usize = 128 << 10;
/// From how much on encoded bytes go out though more is coming.
const ENOUGH: usize = 8 << 10;

/// A body, compressed. Whenever nothing more is there to compress, what was so far goes out, so
/// that a slow stream is not held back.
pub struct Encoded<B> {
    inner: B,
    /// What the inner body gave and is not yet compressed.
    rest: Bytes,
    /// Something was compressed and not flushed.
    held: bool,
    stage: Stage<Encoder>,
    _memory: Reservation,
}

/// How far a body is, with its coder while that is at work.
enum Stage<C> {
    Coding(Box<C>),
    Trailers(HeaderMap),
    Done,
}

impl<B> Encoded<B> {
    /// Compresses a body in the memory that was reserved for it.
    ///
    /// # Errors
    /// Gives the body back when there is no memory after all.
    pub fn new(inner: B, memory: Reservation) -> Result<Self, B> {
        let Ok(encoder) = Encoder::new(memory.coding(), Effort::Stream) else { return Err(inner) };
        let stage = Stage::Coding(Box::new(encoder));
        Ok(Self { inner, rest: Bytes::new(), held: false, stage, _memory: memory })
    }
}

impl<B> Encoded<B> {
    pub(super) fn inner(&self) -> &B {
        &self.inner
    }
}

impl<B> Decoded<B> {
    pub(super) fn inner(&self) -> &B {
        &self.inner
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl<B> Encoded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<Polled, BodyError> {
        let mut budget = BUDGET;
        loop {
            let encoder = match &mut self.stage {
                Stage::Coding(encoder) => encoder,
                Stage::Trailers(trailers) => {
                    let trailers = std::mem::take(trailers);
                    self.stage = Stage::Done;
                    return Ok(Poll::Ready(Some(Ok(Frame::trailers(trailers)))));
                }
                Stage::Done => return Ok(Poll::Ready(None)),
            };
            if !self.rest.is_empty() {
                if budget == 0 {
                    cx.waker().wake_by_ref();
                    return Ok(Poll::Pending);
                }
                let slice = self.rest.split_to(self.rest.len().min(SLICE));
                budget = budget.saturating_sub(slice.len());
                encoder.write(&slice)?;
                self.held = true;
                if encoder.ready() >= ENOUGH {
                    return Ok(data(encoder.take()));
                }
                continue;
            }
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Pending => {
                    if !std::mem::take(&mut self.held) {
                        return Ok(Poll::Pending);
                    }
                    encoder.flush()?;
                    return Ok(data(encoder.take()));
                }
                Poll::Ready(Some(frame)) => match frame.map_err(Into::into)?.into_data() {
                    Ok(bytes) => self.rest = bytes,
                    Err(frame) => return Ok(self.finish(frame.into_trailers().ok())?),
                },
                Poll::Ready(None) => return Ok(self.finish(None)?),
            }
        }
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> io::Result<Polled> {
        let last = trailers.map_or(Stage::Done, |trailers| Stage::Trailers(undigested(trailers)));
        let Stage::Coding(mut encoder) = std::mem::replace(&mut self.stage, last) else {
            return Ok(Poll::Ready(None));
        };
        encoder.finish()?;
        Ok(data(encoder.take()))
    }
}

fn data(bytes: Bytes) -> Polled {
    Poll::Ready(Some(Ok(Frame::data(bytes))))
}

/// Trailers without digests of bytes that are no more.
fn undigested(mut trailers: HeaderMap) -> HeaderMap {
    for name in DIGESTS {
        trailers.remove(name);
    }
    trailers
}

impl<B> Body for Encoded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        self.poll(cx).unwrap_or_else(|error| {
            self.stage = Stage::Done;
            Poll::Ready(Some(Err(error)))
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

/// A body, decompressed within limits.
pub struct Decoded<B> {
    inner: B,
    rest: Bytes,
    buffer: Box<[u8]>,
    stage: Stage<Decoder>,
    _memory: Reservation,
}

impl<B> Decoded<B> {
    /// Decompresses a body in the memory that was reserved for it.
    ///
    /// # Errors
    /// Gives the body back when there is no memory after all.
    pub fn new(inner: B, memory: Reservation, limits: DecodeLimits) -> Result<Self, B> {
        let Ok(decoder) = Decoder::new(memory.coding(), limits) else { return Err(inner) };
        let stage = Stage::Coding(Box::new(decoder));
        let buffer = vec![0; CHUNK].into_boxed_slice();
        Ok(Self { inner, rest: Bytes::new(), buffer, stage, _memory: memory })
    }
}

impl<B> Decoded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        loop {
            let decoder = match &mut self.stage {
                Stage::Coding(decoder) => decoder,
                Stage::Trailers(trailers) => {
                    let trailers = std::mem::take(trailers);
                    self.stage = Stage::Done;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Stage::Done => return Poll::Ready(None),
            };
            let written = decoder.step(&mut self.rest, &mut self.buffer)?;
            if written > 0 {
                let bytes = self.buffer.get(..written).unwrap_or_default();
                return data(Bytes::copy_from_slice(bytes));
            }
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(frame) => frame.map_err(Into::into)?.into_data(),
                None => {
                    decoder.finish()?;
                    self.stage = Stage::Done;
                    continue;
                }
            };
            match frame {
                Ok(bytes) => self.rest = bytes,
                Err(frame) => {
                    decoder.finish()?;
                    let trailers = frame.into_trailers().unwrap_or_default();
                    self.stage = Stage::Trailers(undigested(trailers));
                }
            }
        }
    }
}

impl<B> Body for Decoded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let polled = self.poll(cx);
        if let Poll::Ready(Some(Err(_))) = &polled {
            self.stage = Stage::Done;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}
