//! Heads of HTTP/1.1: a request's as it is sent, and a response's as it is read (RFC 9112).

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use http::header::{TRANSFER_ENCODING, UPGRADE};
use http::{Method, StatusCode, Uri};
use httparse::{Header, ParserConfig, Status};
use smallvec::SmallVec;

use super::Http1Error;
use super::chunked::Chunked;

/// The most fields of a response, and of its trailers.
const MAX_FIELDS: usize = 128;

/// What changes a body: the registers of transfer and content codings (IANA), and what was in use
/// without being registered.
const CODINGS: [&[u8]; 16] = [
    b"aes128gcm",
    b"br",
    b"brotli",
    b"bzip2",
    b"compress",
    b"dcb",
    b"dcz",
    b"deflate",
    b"exi",
    b"gzip",
    b"lzma",
    b"pack200-gzip",
    b"sdch",
    b"xz",
    b"zlib",
    b"zstd",
];

/// How the end of a response's body is known (RFC 9112, section 6.3).
#[derive(Debug)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    Chunked(Chunked),
    /// When the connection closes.
    Close,
}

/// A response's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// The connection may carry another request when the body has ended.
    pub(super) persists: bool,
}

/// Writes a request's head.
pub(super) fn write(to: &mut BytesMut, method: &Method, uri: &Uri, headers: &HeaderMap) {
    let target = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    to.reserve(method.as_str().len() + target.len() + 16 + fields.sum::<usize>());
    // `http://host?query` has no path (RFC 9112, section 3.2.1).
    let root = if target.starts_with('?') { "/" } else { "" };
    for part in [method.as_str(), " ", root, target, " HTTP/1.1\r\n"] {
        to.extend_from_slice(part.as_bytes());
    }
    // The host comes first, for servers that look for it before anything else.
    let host = headers.get(HOST).map(|host| (&HOST, host));
    let others = headers.iter().filter(|(name, _)| *name != HOST);
    for (name, value) in host.into_iter().chain(others) {
        to.extend_from_slice(name.as_str().as_bytes());
        to.extend_from_slice(b": ");
        to.extend_from_slice(value.as_bytes());
        to.extend_from_slice(b"\r\n");
    }
    to.extend_from_slice(b"\r\n");
}

/// Takes a response's head out of what has come; none if more has to come first.
pub(super) fn read(
    from: &mut BytesMut,
    method: &Method,
    max_bytes: usize,
) -> Result<Option<Head>, Http1Error> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        from,
        &mut fields,
    );
    let length = match parsed.map_err(Http1Error::Head)? {
        Status::Complete(length) if length > max_bytes => return Err(Http1Error::HeadTooLarge),
        Status::Complete(length) => length,
        Status::Partial if from.len() > max_bytes => return Err(Http1Error::HeadTooLarge),
        Status::Partial => return Ok(None),
    };
    let places = Places::of(from, response.headers);
    let (version, code) = (response.version, response.code);
    let status = StatusCode::from_u16(code.unwrap_or_default()).map_err(|_| Http1Error::Status)?;
    let mut headers = places.fields(&from.split_to(length).freeze())?;
    // Who says two ways how a body ends may mean the other one (RFC 9112, section 6.3).
    let said_once =
        !(headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH));
    let framing = framing(version, status, method, &mut headers)?;
    let persists = version == Some(1)
        && said_once
        && status != StatusCode::SWITCHING_PROTOCOLS
        && !(status == StatusCode::NO_CONTENT && announces_body(&headers))
        && !matches!(framing, Framing::Close)
        && !has_token(&headers, &CONNECTION, "close");
    Ok(Some(Head { status, headers, framing, persists }))
}

/// The fields at the beginning of what has come, up to the empty line behind them, and their bytes.
pub(super) fn fields(from: &mut BytesMut) -> Result<Option<(HeaderMap, usize)>, Http1Error> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let Status::Complete((length, fields)) =
        httparse::parse_headers(from, &mut fields).map_err(Http1Error::Head)?
    else {
        return Ok(None);
    };
    let places = Places::of(from, fields);
    let block = from.split_to(length).freeze();
    // What reads them takes a bare LF for the end of a line.
    let is_bare = |at: usize| at == 0 || block.get(at - 1) != Some(&b'\r');
    if memchr::memchr_iter(b'\n', &block).any(is_bare) {
        return Err(Http1Error::Chunk);
    }
    Ok(Some((places.fields(&block)?, length)))
}

/// Where in a buffer the names and values of fields are: so that values can share the buffer, which
/// has to be cut first. Few responses have more fields than find room here.
struct Places(SmallVec<[(u32, u32, u32, u32); 24]>);

impl Places {
    fn of(buffer: &[u8], fields: &[Header<'_>]) -> Self {
        let start = buffer.as_ptr() as usize;
        let place = |part: &[u8]| {
            let at = (part.as_ptr() as usize).wrapping_sub(start);
            let at = u32::try_from(at).unwrap_or_default();
            (at, at + u32::try_from(part.len()).unwrap_or_default())
        };
        let places = fields.iter().map(|field| {
            let (name, value) = (place(field.name.as_bytes()), place(field.value));
            (name.0, name.1, value.0, value.1)
        });
        Self(places.collect())
    }

    fn fields(&self, bytes: &Bytes) -> Result<HeaderMap, Http1Error> {
        let mut headers = HeaderMap::with_capacity(self.0.len());
        for (name_start, name_end, start, end) in &self.0 {
            let name = bytes.get(*name_start as usize..*name_end as usize).unwrap_or_default();
            let name = HeaderName::from_bytes(name).map_err(|_| Http1Error::Field)?;
            let value = match start == end {
                true => Bytes::new(),
                false => bytes.slice(*start as usize..*end as usize),
            };
            let value = HeaderValue::from_maybe_shared(value).map_err(|_| Http1Error::Field)?;
            headers.append(name, value);
        }
        Ok(headers)
    }
}

/// How the body ends (RFC 9112, section 6.3). Of two ways, one is left in the fields.
fn framing(
    version: Option<u8>,
    status: StatusCode,
    method: &Method,
    headers: &mut HeaderMap,
) -> Result<Framing, Http1Error> {
    let length = length(headers)?;
    let no_body = matches!(status.as_u16(), 100..200 | 204 | 304);
    if no_body || *method == Method::HEAD {
        return Ok(Framing::Length(0));
    }
    let lines = headers.get_all(TRANSFER_ENCODING).iter();
    let mut codings = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let Some(coding) = codings.next().map(<[u8]>::trim_ascii) else {
        return Ok(length.map_or(Framing::Close, Framing::Length));
    };
    // One alone, and HTTP/1.0 knows none.
    if codings.next().is_some() || version != Some(1) {
        return Err(Http1Error::Coding);
    }
    if coding.eq_ignore_ascii_case(b"chunked") {
        headers.remove(CONTENT_LENGTH);
        return Ok(Framing::Chunked(Chunked::Line));
    }
    match length.is_none() && changes_nothing(coding) {
        true => Ok(Framing::Close),
        false => Err(Http1Error::Coding),
    }
}

/// Whether a coding leaves a body as it is: `identity`, or a name that nobody has given to a coding.
/// None was asked for, so that one which does not is refused: clients would not be told of it.
fn changes_nothing(coding: &[u8]) -> bool {
    let coding = coding.to_ascii_lowercase();
    let name = coding.strip_prefix(b"x-").unwrap_or(&coding);
    let is_name = !name.is_empty()
        && name.iter().all(|byte| b"-_".contains(byte) || byte.is_ascii_alphanumeric());
    // Some servers would read it as chunked.
    let like_chunked = memchr::memmem::find(name, b"chunk").is_some();
    is_name && !like_chunked && !CODINGS.contains(&name)
}

/// The length that a response announces, which may be said again but not otherwise.
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, Http1Error> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lines.next() else { return Ok(None) };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten().ok_or(Http1Error::Length)
    };
    let text =
        |line: &HeaderValue| line.to_str().map(str::to_owned).map_err(|_| Http1Error::Length);
    let said = text(first)?;
    let is_lone = lines.next().is_none() && !said.contains(',');
    if is_lone {
        return number(&said).map(Some);
    }
    let mut length = None;
    for line in headers.get_all(CONTENT_LENGTH) {
        for part in text(line)?.split(',') {
            let part = number(part.trim())?;
            if *length.get_or_insert(part) != part {
                return Err(Http1Error::Length);
            }
        }
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    Ok(length)
}

/// Whether a body is spoken of, which may come although there is to be none.
fn announces_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|it| it.trim().eq_ignore_ascii_case(token))
}

/// Whether a response to a request that asked for it switches protocols (RFC 9110, section 15.2.2).
pub(super) fn switches(status: StatusCode, asked: &HeaderMap) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS && asked.contains_key(UPGRADE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, method: &Method) -> Result<Option<(Head, String)>, Http1Error> {
        let mut from = BytesMut::from(text);
        let head = read(&mut from, method, 500)?;
        Ok(head.map(|head| (head, String::from_utf8(from.to_vec()).unwrap())))
    }

    #[test]
    fn how_a_body_ends() {
        for (status, headers, method, expected) in [
            ("200", "content-length: 3\r\n", Method::GET, "Length(3) true"),
            ("200", "content-length: 3\r\n", Method::HEAD, "Length(0) true"),
            ("304", "content-length: 3\r\n", Method::GET, "Length(0) true"),
            ("204", "", Method::GET, "Length(0) true"),
            ("204", "content-length: 5\r\n", Method::GET, "Length(0) false"),
            ("103", "", Method::GET, "Length(0) true"),
            ("200", "", Method::GET, "Close false"),
            ("200", "transfer-encoding: Chunked\r\n", Method::GET, "Chunked(Line) true"),
            ("200", "transfer-encoding: Identity\r\n", Method::GET, "Close false"),
            ("200", "transfer-encoding: unheard-of\r\n", Method::GET, "Close false"),
            ("200", "transfer-encoding: gzip\r\n", Method::HEAD, "Length(0) true"),
            (
                "200",
                "content-length: 3\r\ntransfer-encoding: chunked\r\n",
                Method::GET,
                "Chunked(Line) false",
            ),
            (
                "200",
                "connection: x, Close\r\ncontent-length: 0\r\n",
                Method::GET,
                "Length(0) false",
            ),
            ("200", "content-length: 3\r\ncontent-length: 3,3\r\n", Method::GET, "Length(3) true"),
        ] {
            let text = format!("HTTP/1.1 {status} Fine\r\n{headers}\r\nrest");
            let (head, rest) = parse(&text, &method).unwrap().unwrap();
            assert_eq!(format!("{:?} {}", head.framing, head.persists), expected, "{headers}");
            assert_eq!((head.status.as_str(), rest.as_str()), (status, "rest"));
            assert!(head.headers.get_all(CONTENT_LENGTH).iter().count() < 2, "{headers}");
        }
        let (head, _) =
            parse("HTTP/1.0 200\r\ncontent-length: 1\r\n\r\n", &Method::GET).unwrap().unwrap();
        assert!(!head.persists);
    }

    #[test]
    fn heads_that_are_none() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3, 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: X-GZip\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: zstd\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked;q=1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: \"chunked\"\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: , chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding:\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: identity, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: identity\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert!(parse(text, &Method::GET).is_err(), "{text:?}");
        }
        assert!(parse("HTTP/1.1 200 OK\r\na: b\r\n", &Method::GET).unwrap().is_none());
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(500));
        assert!(matches!(parse(&long, &Method::GET), Err(Http1Error::HeadTooLarge)));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a:b\r\n".repeat(MAX_FIELDS + 1));
        assert!(parse(&many, &Method::GET).is_err());
    }

    #[test]
    fn requests_as_they_are_sent() {
        let headers = [("accept", "*/*"), ("host", "a.test"), ("x", "")]
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut to = BytesMut::new();
        let uri = "/a?b".parse().unwrap();
        write(&mut to, &Method::GET, &uri, &HeaderMap::from_iter(headers));
        let expected = "GET /a?b HTTP/1.1\r\nhost: a.test\r\naccept: */*\r\nx: \r\n\r\n";
        assert_eq!(std::str::from_utf8(&to).unwrap(), expected);
        to.clear();
        let uri = "http://a.test?b".parse().unwrap();
        write(&mut to, &Method::GET, &uri, &HeaderMap::new());
        assert_eq!(&to[..], b"GET /?b HTTP/1.1\r\n\r\n");
    }
}
