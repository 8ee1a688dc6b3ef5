//! The answer of a CGI program (RFC 3875, section 6): a header block, then the body.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// The longest header block taken, in bytes.
pub(super) const MAX_HEAD: usize = 16 << 10;

/// Finds the end of the header block in what has come so far: where it ends, and where the body
/// begins.
pub(super) fn head_end(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut start = 0;
    while let Some(offset) = bytes.get(start..)?.iter().position(|b| *b == b'\n') {
        let line = bytes.get(start..start + offset)?;
        if line.is_empty() || line == b"\r" {
            return Some((start, start + offset + 1));
        }
        start += offset + 1;
    }
    None
}

/// Reads a header block. `None` when it is none.
pub(super) fn parse_head(head: &[u8]) -> Option<(StatusCode, HeaderMap)> {
    let mut status = StatusCode::OK;
    let mut headers = HeaderMap::new();
    for line in head.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let colon = line.iter().position(|b| *b == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        let value = value.get(1..)?.trim_ascii();
        if name.eq_ignore_ascii_case(b"status") {
            status = StatusCode::from_bytes(value.get(..3)?).ok()?;
        } else {
            let name = HeaderName::from_bytes(name).ok()?;
            // The server frames the body itself.
            if name != http::header::CONTENT_LENGTH && name != http::header::TRANSFER_ENCODING {
                headers.append(name, HeaderValue::from_bytes(value).ok()?);
            }
        }
    }
    Some((status, headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_and_read() {
        let text =
            b"Status: 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nbody";
        let (end, body) = head_end(text).unwrap();
        assert_eq!(&text[body..], b"body");
        let (status, headers) = parse_head(&text[..end]).unwrap();
        assert_eq!(status, 404);
        assert_eq!(headers.len(), 1);
        assert_eq!(head_end(b"A: b\r\n"), None);
        assert_eq!(head_end(b"A: b\n\nx"), Some((5, 6)));
        assert!(parse_head(b"no colon\n").is_none());
        assert!(parse_head(b"Status: x\n").is_none());
    }
}
