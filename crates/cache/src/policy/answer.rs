//! Conditions and ranges of a request against a stored response (RFC 9110, sections 13 and 14; RFC
//! 9111, section 4.3).

use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{Method, StatusCode};

use crate::fields::range::{Ranges, Span, ranges};
use crate::fields::{self, date_ms, first};
use crate::list;

/// How a stored response answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// As it is.
    Whole,
    /// With 304: the client has it.
    NotModified,
    /// With 206: these parts of the body, at least one.
    Parts(Vec<Span>),
    /// With 416: the body has no such part.
    Unsatisfiable,
}

/// Whether a request has conditions that only the origin can judge, so that no stored response may
/// answer it (RFC 9111, section 4.3.2).
pub fn is_for_origin(headers: &HeaderMap) -> bool {
    headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE)
}

/// Judges a request's conditions and ranges. `size` is the stored body's in bytes.
pub fn answer(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    stored: &HeaderMap,
    size: u64,
) -> Answer {
    // Most requests have none of them.
    let conditional = request.contains_key(IF_NONE_MATCH)
        || request.contains_key(IF_MODIFIED_SINCE)
        || request.contains_key(RANGE);
    if !conditional || !status.is_success() {
        return Answer::Whole;
    }
    if has_it(request, stored) {
        return Answer::NotModified;
    }
    let whole =
        method != Method::GET || status != StatusCode::OK || !may_be_in_parts(request, stored);
    match first(request, &RANGE) {
        Some(text) if !whole && request.get_all(RANGE).iter().count() == 1 => {
            match ranges(text, size) {
                Ranges::Whole => Answer::Whole,
                Ranges::Parts(parts) => Answer::Parts(parts),
                Ranges::Unsatisfiable => Answer::Unsatisfiable,
            }
        }
        _ => Answer::Whole,
    }
}

/// Whether the client has what is stored (RFC 9110, section 13.2.2).
fn has_it(request: &HeaderMap, stored: &HeaderMap) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        let etag = stored.get(ETAG).map(|etag| opaque(etag.as_bytes()));
        return list::tags(request, &IF_NONE_MATCH)
            .any(|tag| tag == b"*" || etag.is_some_and(|etag| opaque(tag) == etag));
    }
    let Some(since) = first(request, &IF_MODIFIED_SINCE).and_then(date_ms) else { return false };
    // Without a date of its change, that of the response stands for it.
    let changed = fields::last_modified(stored).or_else(|| fields::date(stored));
    changed.is_some_and(|changed| changed <= since)
}

/// Weak comparison (RFC 9110, section 8.8.3.2).
fn opaque(tag: &[u8]) -> &[u8] {
    let tag = tag.trim_ascii();
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Judges `if-range` (RFC 9110, section 13.1.5).
fn may_be_in_parts(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let Some(condition) = request.get(IF_RANGE) else { return true };
    let Ok(condition) = condition.to_str() else { return false };
    let condition = condition.trim();
    if condition.ends_with('"') {
        return !condition.starts_with("W/")
            && first(stored, &ETAG).is_some_and(|etag| etag.trim() == condition);
    }
    // A date is strong only if nothing can have changed within its second.
    let (Some(asked), Some(changed)) = (date_ms(condition), fields::last_modified(stored)) else {
        return false;
    };
    let strong = fields::date(stored).is_some_and(|date| date >= changed.saturating_add(1000));
    asked == changed && strong
}

/// The fields to ask with whether a stored response is still good (RFC 9111, section 4.3.1).
pub fn validators(stored: &HeaderMap) -> impl Iterator<Item = (HeaderName, &HeaderValue)> {
    let pairs = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)];
    pairs.into_iter().filter_map(|(have, ask)| Some((ask, stored.get(have)?)))
}

/// Makes stored fields those of a 304 (RFC 9110, section 15.4.5).
pub fn not_modified(headers: &mut HeaderMap) {
    for name in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE] {
        headers.remove(name);
    }
    if headers.contains_key(ETAG) {
        headers.remove(LAST_MODIFIED);
    }
}

/// What `content-range` says of a part.
pub fn partial(span: Span, size: u64) -> String {
    format!("bytes {}-{}/{size}", span.start, span.end.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 09:49:37 GMT";

    fn headers(text: &str) -> HeaderMap {
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        text.lines().map(pair).collect()
    }

    fn judge(request: &str, stored: &str) -> Answer {
        answer(&Method::GET, &headers(request), StatusCode::OK, &headers(stored), 10)
    }

    #[test]
    fn conditions() {
        let stored = format!("etag: \"a\"\nlast-modified: {THEN}\ndate: {LATER}");
        let weak = "etag: W/\"a\"";
        let dated = format!("date: {THEN}");
        for (request, stored, expected) in [
            ("if-none-match: \"a\"", stored.as_str(), true),
            ("if-none-match: W/\"a\"", &stored, true),
            ("if-none-match: \"b\", \"a\"", &stored, true),
            ("if-none-match: \"a,b\"", &stored, false),
            ("if-none-match: *", &stored, true),
            ("if-none-match: \"a\"", weak, true),
            (&format!("if-none-match: \"b\"\nif-modified-since: {LATER}"), &stored, false),
            (&format!("if-modified-since: {THEN}"), &stored, true),
            (&format!("if-modified-since: {LATER}"), &stored, true),
            ("if-modified-since: yesterday", &stored, false),
            (&format!("if-modified-since: {THEN}"), &dated, true),
            (&format!("if-modified-since: {THEN}"), weak, false),
        ] {
            assert_eq!(judge(request, stored) == Answer::NotModified, expected, "{request}");
        }
    }

    #[test]
    fn parts() {
        let stored = format!("etag: \"a\"\nlast-modified: {THEN}\ndate: {LATER}");
        let same = format!("last-modified: {THEN}\ndate: {THEN}");
        let part = Answer::Parts(vec![Span { start: 0, end: 2 }]);
        for (request, stored, is_part) in [
            ("range: bytes=0-1", stored.as_str(), true),
            ("range: bytes=0-1\nif-range: \"a\"", &stored, true),
            ("range: bytes=0-1\nif-range: \"b\"", &stored, false),
            ("range: bytes=0-1\nif-range: W/\"a\"", &stored, false),
            (&format!("range: bytes=0-1\nif-range: {THEN}"), &stored, true),
            (&format!("range: bytes=0-1\nif-range: {LATER}"), &stored, false),
            (&format!("range: bytes=0-1\nif-range: {THEN}"), &same, false),
        ] {
            let expected = if is_part { &part } else { &Answer::Whole };
            assert_eq!(&judge(request, stored), expected, "{request}");
        }
        assert_eq!(judge("range: bytes=10-", &stored), Answer::Unsatisfiable);
        let head =
            answer(&Method::HEAD, &headers("range: bytes=0-1"), StatusCode::OK, &headers(""), 9);
        assert_eq!(head, Answer::Whole);
    }

    #[test]
    fn asking_again() {
        let stored = headers(&format!("etag: \"a\"\nlast-modified: {THEN}"));
        let asked: Vec<_> = validators(&stored).map(|(name, _)| name).collect();
        assert_eq!(asked, [IF_NONE_MATCH, IF_MODIFIED_SINCE]);
        assert_eq!(partial(Span { start: 0, end: 5 }, 10), "bytes 0-4/10");
    }
}
