//! Answers from the index: conditional and range requests (RFC 9110, sections 13 and 14).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_MATCH, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, Take};
use tokio_util::io::poll_read_buf;

use super::{FileEntry, Found, StaticSite};

/// How much of a file is read at once.
const CHUNK: usize = 128 << 10;

/// What of a raw path is not left as it is in a `location`.
const PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`');

/// No content; for the proxy to explain.
#[derive(Debug)]
pub(crate) enum NoContent {
    /// Nothing there, or not asked for rightly; the headers say more.
    Refused(StatusCode, Vec<(HeaderName, HeaderValue)>),
    /// A file of the index can't be opened any more.
    Unreadable(io::Error),
}

type Answer = Result<Response<Content>, NoContent>;

impl From<io::Error> for NoContent {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// The content of an answer.
pub(crate) enum Content {
    Empty,
    Memory(Bytes),
    File(FileBody),
}

impl StaticSite {
    /// Answers a request for the normalised `path`. The file `fallback` answers for pages that are
    /// not there.
    ///
    /// A client that `asked` for a directory without the slash at its end is sent to the address
    /// with one, or the links of the page there would lead out of the directory. `asked` is the
    /// address as the client wrote it, `None` where the route names the path: then it is no
    /// address of a directory, and what is in `path` is answered.
    pub(crate) async fn answer(
        &self,
        method: &Method,
        path: &str,
        asked: Option<&Uri>,
        headers: &HeaderMap,
        fallback: Option<&str>,
    ) -> Answer {
        let found = self.find(path).or_else(|| {
            let fallback = fallback.filter(|_| is_page(path, headers))?;
            let (file, _) = self.find(&format!("/{fallback}"))?;
            Some((file, false))
        });
        if !matches!(*method, Method::GET | Method::HEAD) {
            let allow = (ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Err(NoContent::Refused(StatusCode::METHOD_NOT_ALLOWED, vec![allow]));
        }
        let without_slash = asked.filter(|asked| !asked.path().ends_with('/'));
        match (found, without_slash) {
            (Some((_, true)), Some(asked)) => Ok(to_directory(asked)),
            (Some((file, _)), _) => file.answer(method, headers).await,
            (None, _) => match &self.not_found {
                Some(page) => page.whole(StatusCode::NOT_FOUND, method).await,
                None => Err(NoContent::Refused(StatusCode::NOT_FOUND, Vec::new())),
            },
        }
    }

    /// The file for a path, and whether the path is a directory's.
    fn find(&self, path: &str) -> Option<(&FileEntry, bool)> {
        match self.names.get(path)? {
            Found::File(file) => Some((file, path.ends_with('/'))),
            Found::Directory => match self.names.get(format!("{path}/").as_str())? {
                Found::File(file) => Some((file, true)),
                Found::Directory => None,
            },
        }
    }
}

/// Whether a page is asked for rather than a part of one. A browser that goes to an address says
/// that it takes HTML; scripts, styles and images that are missing must not become a page, which
/// would fail far from the cause.
fn is_page(path: &str, headers: &HeaderMap) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    !last.contains('.') || all(headers, ACCEPT).is_some_and(|accept| accept.contains("text/html"))
}

fn to_directory(asked: &Uri) -> Response<Content> {
    // Two slashes at the front would make a host of what follows.
    let path = asked.path().trim_start_matches('/');
    let mut location = format!("/{}/", utf8_percent_encode(path, PATH));
    if let Some(query) = asked.query() {
        location.push('?');
        location.push_str(query);
    }
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    // A later release may put a file there, and browsers keep a plain 308 for ever.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

impl FileEntry {
    async fn answer(&self, method: &Method, headers: &HeaderMap) -> Answer {
        if let Some(tags) = all(headers, IF_MATCH)
            && !tags.split(',').any(|tag| self.is(tag) || tag.trim() == "*")
        {
            return Err(NoContent::Refused(StatusCode::PRECONDITION_FAILED, Vec::new()));
        }
        if let Some(tags) = all(headers, IF_NONE_MATCH) {
            let weak = |tag: &str| tag.trim().strip_prefix("W/").is_some_and(|tag| self.is(tag));
            if tags.split(',').any(|tag| self.is(tag) || weak(tag) || tag.trim() == "*") {
                let mut response = Response::new(Content::Empty);
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                self.describe(response.headers_mut());
                return Ok(response);
            }
        }
        match self.range(method, headers) {
            Range::Whole => self.whole(StatusCode::OK, method).await,
            Range::Part { first, last } => self.part(first, last).await,
            Range::Unsatisfiable => {
                let range = HeaderValue::try_from(format!("bytes */{}", self.size));
                let headers = range.into_iter().map(|range| (CONTENT_RANGE, range)).collect();
                Err(NoContent::Refused(StatusCode::RANGE_NOT_SATISFIABLE, headers))
            }
        }
    }

    /// Strong comparison with one member of a list.
    fn is(&self, tag: &str) -> bool {
        tag.trim().as_bytes() == self.etag.as_bytes()
    }

    fn describe(&self, headers: &mut HeaderMap) {
        headers.insert(ETAG, self.etag.clone());
        let control = HeaderValue::from_static("public, max-age=0, must-revalidate");
        headers.insert(CACHE_CONTROL, control);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }

    async fn whole(&self, status: StatusCode, method: &Method) -> Answer {
        let content = match &self.memory {
            _ if method == Method::HEAD => Content::Empty,
            Some(bytes) => Content::Memory(bytes.clone()),
            None => Content::File(FileBody::open(self, 0, self.size).await?),
        };
        let mut response = Response::new(content);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        self.describe(headers);
        headers.insert(CONTENT_TYPE, self.mime.clone());
        headers.insert(CONTENT_LENGTH, self.size.into());
        if status == StatusCode::OK {
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        } else {
            headers.remove(ETAG);
        }
        Ok(response)
    }

    async fn part(&self, first: u64, last: u64) -> Answer {
        let len = last - first + 1;
        let memory = self.memory.as_ref().and_then(|bytes| {
            let range = usize::try_from(first).ok()?..=usize::try_from(last).ok()?;
            bytes.get(range.clone()).map(|_| bytes.slice(range))
        });
        let content = match memory {
            Some(bytes) => Content::Memory(bytes),
            None => Content::File(FileBody::open(self, first, len).await?),
        };
        let mut response = Response::new(content);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let headers = response.headers_mut();
        self.describe(headers);
        headers.insert(CONTENT_TYPE, self.mime.clone());
        headers.insert(CONTENT_LENGTH, len.into());
        if let Ok(range) = HeaderValue::try_from(format!("bytes {first}-{last}/{}", self.size)) {
            headers.insert(CONTENT_RANGE, range);
        }
        Ok(response)
    }

    fn range(&self, method: &Method, headers: &HeaderMap) -> Range {
        let Some(text) = all(headers, RANGE).filter(|_| method == Method::GET) else {
            return Range::Whole;
        };
        // A date never matches: artifacts have no times.
        if let Some(tag) = all(headers, IF_RANGE)
            && !self.is(&tag)
        {
            return Range::Whole;
        }
        Range::parse(&text, self.size)
    }
}

/// A header's values as one list.
fn all(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let mut lines = headers.get_all(name).iter().peekable();
    lines.peek()?;
    Some(lines.filter_map(|line| line.to_str().ok()).collect::<Vec<_>>().join(","))
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part { first: u64, last: u64 },
    Unsatisfiable,
}

impl Range {
    /// Several ranges, other units and what is malformed get the whole (RFC 9110, section 14.2).
    fn parse(text: &str, size: u64) -> Self {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
        };
        let unit = text.get(..6).filter(|unit| unit.eq_ignore_ascii_case("bytes="));
        let Some((first, last)) =
            unit.and_then(|_| text.get(6..)).and_then(|range| range.trim().split_once('-'))
        else {
            return Self::Whole;
        };
        let (first, last) = (first.trim(), last.trim());
        match (number(first), number(last)) {
            (None, Some(suffix)) if first.is_empty() => match suffix.min(size) {
                0 => Self::Unsatisfiable,
                suffix => Self::Part { first: size - suffix, last: size - 1 },
            },
            (Some(start), None) if last.is_empty() => Self::between(start, u64::MAX, size),
            (Some(start), Some(end)) if start <= end => Self::between(start, end, size),
            _ => Self::Whole,
        }
    }

    fn between(first: u64, last: u64, size: u64) -> Self {
        if first < size {
            Self::Part { first, last: last.min(size - 1) }
        } else {
            Self::Unsatisfiable
        }
    }
}

/// A part of a file on its way.
pub(crate) struct FileBody {
    file: Take<File>,
}

impl FileBody {
    async fn open(entry: &FileEntry, first: u64, len: u64) -> io::Result<Self> {
        let mut file = File::open(&entry.path).await?;
        file.set_max_buf_size(CHUNK);
        if first > 0 {
            file.seek(io::SeekFrom::Start(first)).await?;
        }
        Ok(Self { file: file.take(len) })
    }

    /// Bytes still to come.
    pub(crate) fn remaining(&self) -> u64 {
        self.file.limit()
    }

    /// The next bytes. A file that ends early is an error: its length has been promised.
    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let remaining = self.remaining();
        if remaining == 0 {
            return Poll::Ready(None);
        }
        let capacity = usize::try_from(remaining).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = BytesMut::with_capacity(capacity);
        Poll::Ready(Some(match ready!(poll_read_buf(Pin::new(&mut self.file), cx, &mut chunk)) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(chunk.freeze()),
            Err(error) => Err(error),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |first, last| Range::Part { first, last };
        for (text, expected) in [
            ("bytes=0-4", part(0, 4)),
            ("Bytes= 2 - 3", part(2, 3)),
            ("bytes=5-", part(5, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-30", part(0, 9)),
            ("bytes=9-99999999999999999999999", part(9, 9)),
            ("bytes=10-", Range::Unsatisfiable),
            ("bytes=99999999999999999999999-", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=4-2", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("bytes=-", Range::Whole),
            ("bytes=a-b", Range::Whole),
            ("bytes=+1-2", Range::Whole),
            ("lines=0-1", Range::Whole),
            ("", Range::Whole),
        ] {
            assert_eq!(Range::parse(text, 10), expected, "{text}");
        }
        assert_eq!(Range::parse("bytes=-1", 0), Range::Unsatisfiable);
        assert_eq!(Range::parse("bytes=0-", 0), Range::Unsatisfiable);
    }
}
