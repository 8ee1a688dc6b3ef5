//! Compression, piece by piece.

use std::io::{self, Write as _};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use zstd::zstd_safe::CParameter;

use super::Coding;

/// How much brotli gives out at a time, in bytes.
const BROTLI_BUFFER: usize = 4096;

/// How hard to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// For a response on its way: about as fast as it comes, in little memory (see
    /// [`super::Budget`]).
    Stream,
    /// For what is stored and served many times. For large bodies call it off the event loop.
    Store,
}

impl Effort {
    fn gzip(self) -> Compression {
        Compression::new(if self == Self::Stream { 5 } else { 8 })
    }

    /// The window is what an encoder looks back over, as a power of two in bytes. With it grows
    /// the memory of encoder and decoder.
    fn brotli(self) -> BrotliEncoderParams {
        let (quality, lgwin) = if self == Self::Stream { (4, 16) } else { (6, 18) };
        BrotliEncoderParams { quality, lgwin, ..BrotliEncoderParams::default() }
    }

    /// zstd's own tables for these levels are several times as large and gain one part in fifty.
    fn zstd(self) -> (i32, [CParameter; 3]) {
        let (level, tables) = if self == Self::Stream { (5, 16) } else { (12, 17) };
        let bounds =
            [CParameter::WindowLog(18), CParameter::HashLog(tables), CParameter::ChainLog(tables)];
        (level, bounds)
    }
}

/// Compresses what is written to it.
pub struct Encoder(Kind);

enum Kind {
    Gzip(GzEncoder<Vec<u8>>),
    // `None` once it is finished.
    Brotli(Option<Box<CompressorWriter<Vec<u8>>>>, Vec<u8>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// An encoder for one body.
    ///
    /// # Errors
    /// When zstd can't be set up, for want of memory.
    pub fn new(coding: Coding, effort: Effort) -> io::Result<Self> {
        let out = Vec::new();
        Ok(Self(match coding {
            Coding::Gzip => Kind::Gzip(GzEncoder::new(out, effort.gzip())),
            Coding::Brotli => {
                let writer = CompressorWriter::with_params(out, BROTLI_BUFFER, &effort.brotli());
                Kind::Brotli(Some(Box::new(writer)), Vec::new())
            }
            Coding::Zstd => {
                let (level, bounds) = effort.zstd();
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                for bound in bounds {
                    encoder.set_parameter(bound)?;
                }
                Kind::Zstd(encoder)
            }
        }))
    }

    /// Takes in a piece of the body.
    ///
    /// # Errors
    /// When the encoder has failed for want of memory.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Kind::Gzip(encoder) => encoder.write_all(piece),
            Kind::Brotli(Some(encoder), _) => encoder.write_all(piece),
            Kind::Brotli(None, _) => Err(io::ErrorKind::BrokenPipe.into()),
            Kind::Zstd(encoder) => encoder.write_all(piece),
        }
    }

    /// Makes everything written so far decodable by who has what [`Encoder::take`] gives.
    ///
    /// # Errors
    /// When the encoder has failed for want of memory.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Kind::Gzip(encoder) => encoder.flush(),
            Kind::Brotli(Some(encoder), _) => encoder.flush(),
            Kind::Brotli(None, _) => Ok(()),
            Kind::Zstd(encoder) => encoder.flush(),
        }
    }

    /// Ends the body. Nothing may be written after it.
    ///
    /// # Errors
    /// When the encoder has failed for want of memory.
    pub fn finish(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Kind::Gzip(encoder) => encoder.try_finish(),
            Kind::Brotli(encoder, out) => {
                if let Some(encoder) = encoder.take() {
                    *out = encoder.into_inner();
                }
                Ok(())
            }
            Kind::Zstd(encoder) => encoder.do_finish(),
        }
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match &mut self.0 {
            Kind::Gzip(encoder) => encoder.get_mut(),
            Kind::Brotli(Some(encoder), _) => encoder.get_mut(),
            Kind::Brotli(None, out) => out,
            Kind::Zstd(encoder) => encoder.get_mut(),
        }
    }

    /// How many bytes [`Encoder::take`] would give.
    pub fn ready(&mut self) -> usize {
        self.out().len()
    }

    /// The encoded bytes that are ready.
    pub fn take(&mut self) -> Bytes {
        std::mem::take(self.out()).into()
    }
}

/// Compresses a whole body. Compare lengths: what is random grows.
///
/// # Errors
/// When the encoder can't be set up, for want of memory.
pub fn compress(coding: Coding, effort: Effort, body: &[u8]) -> io::Result<Bytes> {
    let mut encoder = Encoder::new(coding, effort)?;
    encoder.write(body)?;
    encoder.finish()?;
    Ok(encoder.take())
}
