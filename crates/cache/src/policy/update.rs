//! Stored header fields: what is kept of a response, and what a 304 changes (RFC 9111, sections
//! 3.1, 3.2 and 4.3.4).

use http::header::{
    AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName,
    HeaderValue, LAST_MODIFIED, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

use super::Policy;
use crate::fields::control::ResponseControl;
use crate::fields::list::members;
use crate::fields::targeted;

/// Fields that are about a connection or for a proxy, and of one message.
const NOT_KEPT: [HeaderName; 10] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authentication-info"),
    HeaderName::from_static("proxy-connection"),
];

/// What describes the stored body, which a 304 does not bring: its own values stay.
const OF_THE_BODY: [HeaderName; 5] =
    [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName::from_static("content-md5")];

/// Removes what is not stored. `age` is dealt with, and made anew for each answer. What stays is
/// copied: a value as it comes is a part of the whole buffer that it came in, and would keep that.
pub fn trim(policy: &Policy, headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> =
        members(headers, &CONNECTION).filter_map(|name| name.parse().ok()).collect();
    for name in nominated.iter().chain(&NOT_KEPT) {
        headers.remove(name);
    }
    let control = targeted::control(headers, &policy.device);
    for name in control.unwrap_or_else(|| ResponseControl::of(headers)).not_reusable {
        headers.remove(name);
    }
    headers.remove(AGE);
    for value in headers.values_mut() {
        if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
            *value = copy;
        }
    }
}

/// The stored fields after a 304 that confirmed them, to be trimmed: it may say of a stored field
/// that it is not to be.
pub fn freshen(stored: &HeaderMap, confirmed: &HeaderMap) -> HeaderMap {
    let mut headers = stored.clone();
    for name in confirmed.keys().filter(|name| !OF_THE_BODY.contains(name)) {
        headers.remove(name);
        for value in confirmed.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    headers
}

/// Whether a response to HEAD is about what is stored: what it says of itself is the same (RFC 9111,
/// section 4.3.5).
pub fn is_still(stored: &HeaderMap, headers: &HeaderMap) -> bool {
    let described = [ETAG, LAST_MODIFIED, CONTENT_LENGTH];
    let same = |name: &HeaderName| headers.get(name).is_none_or(|it| stored.get(name) == Some(it));
    described.iter().all(same)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_is_of_one_message_is_not_kept() {
        let mut kept = headers(&[
            ("connection", "a, b"),
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("d", "4"),
            ("cache-control", "max-age=1, no-cache=\"d\""),
            ("age", "5"),
            ("keep-alive", "6"),
            ("te", "7"),
            ("set-cookie", "8"),
        ]);
        trim(&Policy::default(), &mut kept);
        let mut names: Vec<_> = kept.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["c", "cache-control", "set-cookie"]);
    }

    #[test]
    fn head_is_about_what_is_stored_or_not() {
        let stored = headers(&[("etag", "\"x\""), ("content-length", "3"), ("a", "1")]);
        for (name, value, expected) in [
            ("etag", "\"x\"", true),
            ("etag", "\"y\"", false),
            ("content-length", "4", false),
            ("last-modified", "x", false),
            ("a", "2", true),
        ] {
            assert_eq!(is_still(&stored, &headers(&[(name, value)])), expected, "{name}: {value}");
        }
    }

    #[test]
    fn what_is_kept_keeps_no_buffer() {
        let buffer = Bytes::from(vec![b'x'; 8192]);
        let value = HeaderValue::from_maybe_shared(buffer.slice(10..20)).unwrap();
        let mut kept = HeaderMap::from_iter([(ETAG, value)]);
        assert!(!buffer.is_unique());
        trim(&Policy::default(), &mut kept);
        assert!(buffer.is_unique() && kept[ETAG] == "xxxxxxxxxx");
    }

    #[test]
    fn a_304_replaces_all_but_what_is_of_the_body() {
        let stored = headers(&[("a", "1"), ("a", "2"), ("b", "3"), ("etag", "\"x\"")]);
        let confirmed = headers(&[("a", "4"), ("etag", "\"y\""), ("content-length", "9")]);
        let fresh = freshen(&stored, &confirmed);
        assert_eq!(fresh, headers(&[("a", "4"), ("b", "3"), ("etag", "\"x\"")]));
    }
}
