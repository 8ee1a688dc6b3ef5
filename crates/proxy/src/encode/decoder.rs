//! Decompression with limits: a few bytes can say that millions follow.

use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};
use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::Operation as _;
use zstd::zstd_safe::DParameter;

use super::Coding;

/// The largest window that a zstd decoder of the web has (RFC 9659), as a power of two in bytes.
const ZSTD_WINDOW_LOG: u32 = 23;
/// gzip's window.
const GZIP_WINDOW_LOG: u8 = 15;

/// How much a body may grow.
#[derive(Debug, Clone, Copy)]
pub struct DecodeLimits {
    /// The longest decoded body, in bytes.
    pub max_bytes: u64,
    /// How many times as long as what it was decoded from.
    pub max_ratio: u32,
    /// Up to this many bytes the ratio does not count: short texts shrink well.
    pub free_bytes: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, max_ratio: 200, free_bytes: 1 << 20 }
    }
}

/// Why a body can't be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not what its coding says, or something follows it.
    #[error("the body is no valid {}", .0.name())]
    Malformed(Coding),
    /// It ends in the middle.
    #[error("the {} body ends early", .0.name())]
    Truncated(Coding),
    /// It is longer than allowed, or grows more.
    #[error("the {} body decodes to more than allowed", .0.name())]
    TooLarge(Coding),
    /// No memory for the decoder.
    #[error("no memory for a {} decoder", .0.name())]
    Memory(Coding),
}

/// Decompresses a body step by step.
pub struct Decoder {
    kind: Kind,
    coding: Coding,
    limits: DecodeLimits,
    read: u64,
    written: u64,
    /// Between two members or frames, where a body may end. One without any bytes is empty.
    between: bool,
}

enum Kind {
    Gzip(Decompress),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
    Zstd(zstd::stream::raw::Decoder<'static>),
}

/// What a step did.
struct Step {
    read: usize,
    written: usize,
    ended: bool,
}

impl Decoder {
    /// A decoder for one body.
    ///
    /// # Errors
    /// [`DecodeError::Memory`].
    pub fn new(coding: Coding, limits: DecodeLimits) -> Result<Self, DecodeError> {
        let kind = match coding {
            Coding::Gzip => Kind::Gzip(Decompress::new_gzip(GZIP_WINDOW_LOG)),
            Coding::Brotli => {
                let alloc = StandardAlloc::default;
                Kind::Brotli(Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())))
            }
            Coding::Zstd => {
                let decoder = zstd::stream::raw::Decoder::new().and_then(|mut decoder| {
                    decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
                    Ok(decoder)
                });
                Kind::Zstd(decoder.map_err(|_| DecodeError::Memory(coding))?)
            }
        };
        Ok(Self { kind, coding, limits, read: 0, written: 0, between: true })
    }

    /// Decodes some of `input`, and takes it off. Gives how many bytes of `output` it filled;
    /// 0 with nothing left of `input` means that it needs more.
    ///
    /// # Errors
    /// When the body is malformed or grows too much.
    pub fn step(&mut self, input: &mut Bytes, output: &mut [u8]) -> Result<usize, DecodeError> {
        loop {
            if self.between && input.is_empty() {
                return Ok(0);
            }
            if self.between && self.read > 0 {
                self.next_member()?;
            }
            let step = match &mut self.kind {
                Kind::Gzip(decoder) => gzip(decoder, input, output),
                Kind::Brotli(state) => brotli(state, input, output),
                Kind::Zstd(decoder) => zstd(decoder, input, output),
            };
            let step = step.ok_or(DecodeError::Malformed(self.coding))?;
            self.between = step.ended;
            self.read += input.split_to(step.read.min(input.len())).len() as u64;
            self.written += step.written as u64;
            self.check()?;
            if step.written > 0 {
                return Ok(step.written);
            }
            if input.is_empty() && !step.ended {
                return Ok(0);
            }
            if step.read == 0 && !step.ended {
                // Neither forward nor at an end: it would stay so.
                return Err(DecodeError::Malformed(self.coding));
            }
        }
    }

    /// A gzip body may have several members (RFC 1952, section 2.2), a zstd body several frames
    /// (RFC 8878, section 3.1); the latter's decoder goes on by itself.
    fn next_member(&mut self) -> Result<(), DecodeError> {
        match &mut self.kind {
            Kind::Gzip(decoder) => *decoder = Decompress::new_gzip(GZIP_WINDOW_LOG),
            Kind::Brotli(_) => return Err(DecodeError::Malformed(self.coding)),
            Kind::Zstd(_) => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<(), DecodeError> {
        let DecodeLimits { max_bytes, max_ratio, free_bytes } = self.limits;
        let allowed = self.read.saturating_mul(max_ratio.into()).saturating_add(free_bytes);
        if self.written > max_bytes.min(allowed) {
            return Err(DecodeError::TooLarge(self.coding));
        }
        Ok(())
    }

    /// The body is over.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if it was not complete.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.between { Ok(()) } else { Err(DecodeError::Truncated(self.coding)) }
    }
}

fn gzip(decoder: &mut Decompress, input: &[u8], output: &mut [u8]) -> Option<Step> {
    let (read, written) = (decoder.total_in(), decoder.total_out());
    let status = decoder.decompress(input, output, FlushDecompress::None).ok()?;
    Some(Step {
        read: usize::try_from(decoder.total_in() - read).ok()?,
        written: usize::try_from(decoder.total_out() - written).ok()?,
        ended: status == Status::StreamEnd,
    })
}

fn brotli(
    state: &mut BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    input: &[u8],
    output: &mut [u8],
) -> Option<Step> {
    let (mut left, mut read, mut room, mut written, mut total) =
        (input.len(), 0, output.len(), 0, 0);
    let result = BrotliDecompressStream(
        &mut left,
        &mut read,
        input,
        &mut room,
        &mut written,
        output,
        &mut total,
        state,
    );
    let ended = match result {
        BrotliResult::ResultSuccess => true,
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => false,
        BrotliResult::ResultFailure => return None,
    };
    Some(Step { read, written, ended })
}

fn zstd(
    decoder: &mut zstd::stream::raw::Decoder<'static>,
    input: &[u8],
    output: &mut [u8],
) -> Option<Step> {
    let status = decoder.run_on_buffers(input, output).ok()?;
    let ended = status.remaining == 0;
    Some(Step { read: status.bytes_read, written: status.bytes_written, ended })
}

/// Decodes a whole body.
///
/// # Errors
/// When it is malformed, ends early or grows too much.
pub fn decompress(coding: Coding, limits: DecodeLimits, body: Bytes) -> Result<Bytes, DecodeError> {
    let mut decoder = Decoder::new(coding, limits)?;
    let (mut input, mut whole) = (body, Vec::new());
    let mut buffer = vec![0; CHUNK];
    loop {
        let written = decoder.step(&mut input, &mut buffer)?;
        whole.extend_from_slice(buffer.get(..written).unwrap_or_default());
        if written == 0 && input.is_empty() {
            decoder.finish()?;
            return Ok(whole.into());
        }
    }
}

/// How much is decoded at a time.
pub(super) const CHUNK: usize = 16 << 10;
