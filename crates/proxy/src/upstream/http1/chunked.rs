//! The chunked transfer coding of a response (RFC 9112, section 7.1), strictly: what two programs
//! could read two ways ends the connection.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use super::Http1Error;
use super::head::fields;

/// The longest line that says how large a chunk is, extensions and all.
const MAX_LINE: usize = 4096;

/// How far a chunked body has been read.
#[derive(Debug)]
pub(super) enum Chunked {
    /// The line before a chunk is next.
    Line,
    /// Bytes of a chunk are left.
    Data(u64),
    /// What ends a chunk is next.
    End,
    /// The trailers are next.
    Trailers,
    Done,
}

/// A part of a body.
#[derive(Debug)]
pub(super) enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body has ended.
    End,
}

impl Chunked {
    /// Takes the next part out of what has come; none if more has to come first.
    pub(super) fn take(
        &mut self,
        from: &mut BytesMut,
        max_trailer_bytes: usize,
    ) -> Result<Option<Part>, Http1Error> {
        loop {
            match self {
                Self::Line => {
                    let Some(size) = line(from)? else { return Ok(None) };
                    *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                }
                Self::Data(left) => {
                    if from.is_empty() {
                        return Ok(None);
                    }
                    let length = from.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= length as u64;
                    if *left == 0 {
                        *self = Self::End;
                    }
                    return Ok(Some(Part::Data(from.split_to(length).freeze())));
                }
                Self::End => match from.get(..2) {
                    Some(b"\r\n") => {
                        from.advance(2);
                        *self = Self::Line;
                    }
                    None if from.first().is_none_or(|first| *first == b'\r') => return Ok(None),
                    _ => return Err(Http1Error::Chunk),
                },
                Self::Trailers => {
                    let Some(trailers) = trailers(from, max_trailer_bytes)? else {
                        return Ok(None);
                    };
                    *self = Self::Done;
                    if !trailers.is_empty() {
                        return Ok(Some(Part::Trailers(trailers)));
                    }
                }
                Self::Done => return Ok(Some(Part::End)),
            }
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }
}

/// The size that the next line says.
fn line(from: &mut BytesMut) -> Result<Option<u64>, Http1Error> {
    let within = from.get(..MAX_LINE).unwrap_or(from);
    let Some(end) = memchr::memchr(b'\n', within) else {
        return if from.len() < MAX_LINE { Ok(None) } else { Err(Http1Error::Chunk) };
    };
    let line = from.split_to(end + 1);
    let line = line.strip_suffix(b"\r\n").ok_or(Http1Error::Chunk)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    // RFC 9112, section 7.1.1: extensions are ignored, with space before them that should not be.
    let extension = extension.trim_ascii_start();
    let is_extension = extension.is_empty() || extension.starts_with(b";");
    if !is_extension || extension.iter().any(|byte| matches!(byte, b'\r' | 0)) {
        return Err(Http1Error::Chunk);
    }
    let size = std::str::from_utf8(size).map_err(|_| Http1Error::Chunk)?;
    u64::from_str_radix(size, 16).map(Some).map_err(|_| Http1Error::Chunk)
}

/// The trailers, once they are whole.
fn trailers(from: &mut BytesMut, max_bytes: usize) -> Result<Option<HeaderMap>, Http1Error> {
    match from.get(..2) {
        Some(b"\r\n") => {
            from.advance(2);
            return Ok(Some(HeaderMap::new()));
        }
        _ if from.first() == Some(&b'\n') => return Err(Http1Error::Chunk),
        Some(_) => {}
        None => return Ok(None),
    }
    match fields(from)? {
        Some((_, length)) if length > max_bytes => Err(Http1Error::TrailersTooLarge),
        Some((fields, _)) => Ok(Some(fields)),
        None if from.len() > max_bytes => Err(Http1Error::TrailersTooLarge),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body says, and what is left behind it, as it comes in pieces of `step` bytes.
    fn read(text: &str, step: usize) -> Result<(String, usize, String), Http1Error> {
        let (mut chunked, mut from) = (Chunked::Line, BytesMut::new());
        let (mut body, mut trailers) = (Vec::new(), 0);
        let mut pieces = text.as_bytes().chunks(step);
        loop {
            match chunked.take(&mut from, 100)? {
                Some(Part::Data(data)) => body.extend_from_slice(&data),
                Some(Part::Trailers(fields)) => trailers = fields.len(),
                Some(Part::End) => break,
                None => match pieces.next() {
                    Some(piece) => from.extend_from_slice(piece),
                    None => return Err(Http1Error::Closed),
                },
            }
        }
        pieces.for_each(|piece| from.extend_from_slice(piece));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ok((text(&body), trailers, text(&from)))
    }

    #[test]
    fn bodies_in_pieces_of_any_size() {
        for (text, body, trailers, rest) in [
            ("0\r\n\r\n", "", 0, ""),
            ("5\r\nhello\r\n0\r\n\r\nHTTP", "hello", 0, "HTTP"),
            ("2\r\nhe\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\n\r\n", "he0123456789", 0, ""),
            ("1 ;x\r\na\r\n0 \r\na: b\r\nc: d\r\n\r\n", "a", 2, ""),
        ] {
            for step in 1..=text.len() {
                let read = read(text, step).unwrap();
                assert_eq!(read, (body.into(), trailers, rest.into()), "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(MAX_LINE));
        let trailer = format!("0\r\na: {}\r\n\r\n", "x".repeat(100));
        for text in [
            "\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "-1\r\na\r\n0\r\n\r\n",
            "+1\r\na\r\n0\r\n\r\n",
            "0x1\r\na\r\n0\r\n\r\n",
            "1 1\r\na\r\n0\r\n\r\n",
            "1;a\rb\r\na\r\n0\r\n\r\n",
            "10000000000000000\r\na\r\n0\r\n\r\n",
            "0\r\na : b\r\n\r\n",
            "0\r\n a: b\r\n\r\n",
            "0\r\n\n",
            "0\r\na: b\n\n",
            "0\r\na: b\nc: d\r\n\r\n",
            &long,
            &trailer,
        ] {
            for step in [1, 7, text.len()] {
                let read = read(text, step);
                assert!(!matches!(read, Ok(_) | Err(Http1Error::Closed)), "{text:?}: {read:?}");
            }
        }
        assert!(matches!(read("5\r\nhel", 1), Err(Http1Error::Closed)));
    }
}
