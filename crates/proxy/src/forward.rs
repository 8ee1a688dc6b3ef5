//! Headers between client and workload: what belongs to one connection stays there, and what a
//! workload is told of the client comes from us alone.

use std::net::SocketAddr;

use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, DATE, EXPECT, EXPIRES, FORWARDED, HOST, LOCATION, MAX_FORWARDS, PRAGMA,
    PROXY_AUTHENTICATE, RANGE, RETRY_AFTER, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    VARY, VIA, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use selvedge_model::fields::is_forgeable;
use smallvec::SmallVec;

use crate::authority::Authority;

/// How many fields of ours there are about.
const ADDED: usize = 8;
/// How we note in `via` that a request has passed.
const OUR_HOP: &str = "1.1 selvedge";
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Fields that frame, route, authenticate or control a message, and so can't come after it (RFC
/// 9110, section 6.5.1).
const NO_TRAILERS: [HeaderName; 28] = [
    AGE,
    AUTHORIZATION,
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    COOKIE,
    DATE,
    EXPECT,
    EXPIRES,
    FORWARDED,
    HOST,
    KEEP_ALIVE,
    LOCATION,
    MAX_FORWARDS,
    PRAGMA,
    RANGE,
    RETRY_AFTER,
    SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    VARY,
    VIA,
    WWW_AUTHENTICATE,
];
/// What begins so can't come after a message either: conditions, what proxies say to each other,
/// and our own.
const NO_TRAILER_PREFIXES: [&str; 3] = ["if-", "proxy-", "selvedge-"];

/// Removes what concerns only the connection that a message came by (RFC 9110, section 7.6.1).
/// With them goes any upgrade; who allows one puts it back.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // To look at each that is there is less than to look for each that may be.
    let concerns_us = |name: &&HeaderName| is_hop_by_hop(name) || *name == PROXY_AUTHENTICATE;
    let found: SmallVec<[HeaderName; 4]> = headers.keys().filter(concerns_us).cloned().collect();
    for name in nominated(headers).iter().chain(&found) {
        headers.remove(name);
    }
}

/// Whether a field concerns the connection of a message, whatever that says.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade"
    )
}

/// Removes what a request says to concern only its connection, beside what that itself is used for.
/// This has to come before anything is looked up by its fields, or added to them: a field that the
/// workload does not see must not tell one response from another, and ours are not the client's to
/// name.
pub(crate) fn remove_nominated(headers: &mut HeaderMap) {
    for name in nominated(headers) {
        if name != TE && name != UPGRADE {
            headers.remove(name);
        }
    }
}

/// What a message says to concern only its connection.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        // Most say no more than these, and mean no fields by them.
        .filter(|name| !["keep-alive", "close"].contains(name))
        .filter_map(|name| name.parse().ok())
        // A message must not be able to have its host or framing removed.
        .filter(|name| name != HOST && name != CONTENT_LENGTH)
        .collect()
}

/// How many of our own proxies a request has passed, as they have noted (RFC 9110, section 7.6.3).
pub(crate) fn hops(headers: &HeaderMap) -> usize {
    let lines = headers.get_all(VIA).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter(|hop| hop.trim() == OUR_HOP).count()
}

/// Whether a client takes trailers: with HTTP/2 and later it can't but read them, before it has to
/// say so (RFC 9110, section 6.5.1).
pub(crate) fn takes_trailers(head: &Parts) -> bool {
    head.version > Version::HTTP_11
        || (head.version == Version::HTTP_11 && asks_for_trailers(&head.headers))
}

fn asks_for_trailers(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(TE).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// Makes trailers those that go on: without what may only stand in a head. False when they are
/// larger than `max_bytes`.
pub(crate) fn trailers(trailers: &mut HeaderMap, max_bytes: usize) -> bool {
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    if trailers.iter().map(size).sum::<usize>() > max_bytes {
        return false;
    }
    let misplaced = |name: &&HeaderName| {
        NO_TRAILERS.contains(name)
            || is_forgeable(name.as_str())
            || NO_TRAILER_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
    };
    let misplaced: Vec<HeaderName> = trailers.keys().filter(misplaced).cloned().collect();
    for name in misplaced {
        trailers.remove(name);
    }
    true
}

/// An address as it is told of; lacking the marks of `forwarded`.
pub(crate) fn node(address: SocketAddr) -> HeaderValue {
    // An address has nothing that a header can't.
    HeaderValue::try_from(address.ip().to_canonical().to_string())
        .unwrap_or(HeaderValue::from_static("unknown"))
}

/// Of a client's headers, without what it has nominated ([`remove_nominated`]), those that the workload
/// sees, with what it is told of the client, whose [`node`] is given.
pub(crate) fn to_workload(
    sent: &HeaderMap,
    authority: &Authority,
    node: HeaderValue,
    scheme: &'static str,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(sent.keys_len() + ADDED);
    for (name, value) in sent {
        if !stays_here(name) {
            headers.append(name, value.clone());
        }
    }
    if asks_for_trailers(sent) {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let host = authority.as_header().clone();
    let (address, shown) = (node.to_str().unwrap_or_default(), host.to_str().unwrap_or_default());
    let (open, close) = if address.contains(':') { ("\"[", "]\"") } else { ("", "") };
    let forwarded = ["for=", open, address, close, ";host=\"", shown, "\";proto=", scheme].concat();
    if let Ok(forwarded) = HeaderValue::try_from(forwarded) {
        headers.insert(FORWARDED, forwarded);
    }
    headers.insert(X_FORWARDED_FOR, node);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    headers.insert(X_FORWARDED_HOST, host.clone());
    headers.insert(HOST, host);
    headers.append(VIA, HeaderValue::from_static(OUR_HOP));
    headers
}

/// Whether a client's field is not for the workload, or is said to it by us: what concerns the
/// client's connection, which has dealt with the expectation, what is for us alone, and what would be
/// taken for our word.
fn stays_here(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || is_forgeable(name.as_str())
        || matches!(
            name.as_str(),
            "expect"
                | "proxy-authorization"
                | "selvedge-pin"
                | "selvedge-probe"
                | "host"
                | "forwarded"
        )
}

/// Makes a workload's headers those that the client sees; which trailers follow is said only to a
/// client that takes them. A length counts only when it is the one that the body was read by: a chunked
/// body overrides it, and repeated ones say the same, as was checked where they were read (RFC 9112,
/// section 6.3).
pub(crate) fn to_client(headers: &mut HeaderMap, takes_trailers: bool) {
    if !takes_trailers {
        headers.remove(TRAILER);
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let first = lengths.next().and_then(|length| length.to_str().ok());
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    } else if let Some(list) = first
        && (lengths.next().is_some() || list.contains(','))
    {
        let length = list.split(',').next().and_then(|length| length.trim().parse::<u64>().ok());
        headers.remove(CONTENT_LENGTH);
        headers.extend(length.map(|length| (CONTENT_LENGTH, length.into())));
    }
    remove_hop_by_hop(headers);
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn forwarded(peer: &str, extra: &[(&str, &str)]) -> HeaderMap {
        let mut request = Request::builder().uri("/").header(HOST, "Shop.test:8443");
        for (name, value) in extra {
            request = request.header(*name, *value);
        }
        let mut head = request.body(()).unwrap().into_parts().0;
        let authority = Authority::of(&head).unwrap();
        remove_nominated(&mut head.headers);
        to_workload(&head.headers, &authority, node(peer.parse().unwrap()), "https")
    }

    #[test]
    fn the_workload_is_told_our_word_only() {
        let headers = forwarded(
            "[::ffff:192.0.2.1]:5000",
            &[
                ("x-forwarded-for", "203.0.113.9"),
                ("x-forwarded-proto", "gopher"),
                ("forwarded", "for=evil"),
                ("x-real-ip", "203.0.113.9"),
                ("proxy", "http://evil"),
                ("x_forwarded_for", "203.0.113.9"),
                ("X-Forwarded_For", "203.0.113.9"),
                ("x_real_ip", "203.0.113.9"),
                ("x-forwarded-user", "root"),
                ("x-original-url", "/admin"),
                ("x-rewrite-url", "/admin"),
                ("true-client-ip", "203.0.113.9"),
                ("x-forwardedness", "kept"),
                ("accept", "text/html"),
            ],
        );
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-host"], "Shop.test:8443");
        assert_eq!(headers["forwarded"], "for=192.0.2.1;host=\"Shop.test:8443\";proto=https");
        assert_eq!(headers[HOST], "Shop.test:8443");
        assert_eq!(headers["accept"], "text/html");
        assert_eq!(headers["x-forwardedness"], "kept");
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let ours = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
        let kept = ["accept", "forwarded", "host", "via"];
        assert_eq!(names, [&kept[..], &ours, &["x-forwardedness"]].concat());
        let headers = forwarded("[2001:db8::1]:5000", &[]);
        assert!(headers["forwarded"].to_str().unwrap().starts_with("for=\"[2001:db8::1]\";"));
    }

    #[test]
    fn a_response_has_one_length_or_none() {
        for (sent, expected) in [
            (&[("content-length", "5")][..], Some("5")),
            (&[("content-length", "5"), ("content-length", "5")], Some("5")),
            (&[("content-length", "5, 5")], Some("5")),
            (&[("content-length", "5"), ("transfer-encoding", "chunked")], None),
            (&[], None),
        ] {
            let pair = |(name, value): &(&str, &str)| {
                (HeaderName::try_from(*name).unwrap(), value.parse::<HeaderValue>().unwrap())
            };
            let mut headers: HeaderMap = sent.iter().map(pair).collect();
            to_client(&mut headers, false);
            let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
            assert_eq!(lengths, expected.as_slice(), "{sent:?}");
        }
    }

    #[test]
    fn what_concerns_a_connection_stays_there() {
        let headers = forwarded(
            "192.0.2.1:1",
            &[
                ("connection", "keep-alive, X-Secret"),
                ("connection", "host, content-length, te, upgrade"),
                ("selvedge-pin", "1"),
                ("selvedge-probe", "1"),
                ("proxy-authorization", "Basic eA=="),
                ("x-secret", "1"),
                ("keep-alive", "timeout=5"),
                ("te", "gzip, trailers;q=0.5, trailers"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "websocket"),
                ("expect", "100-continue"),
                ("content-length", "3"),
            ],
        );
        for gone in [
            "connection",
            "x-secret",
            "keep-alive",
            "transfer-encoding",
            "upgrade",
            "expect",
            "proxy-authorization",
            crate::pins::PIN.as_str(),
            crate::probe::PROBE.as_str(),
        ] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        // Nothing but the wish for trailers, which we pass on.
        assert_eq!(headers.get_all(TE).iter().collect::<Vec<_>>(), ["trailers"]);
        assert!(!forwarded("192.0.2.1:1", &[("te", "gzip")]).contains_key(TE));
        assert_eq!(headers["content-length"], "3");
        assert_eq!(headers[HOST], "Shop.test:8443");
    }

    #[test]
    fn trailers_are_bounded_and_say_nothing_that_belongs_in_a_head() {
        let pairs = [
            ("grpc-status", "0"),
            ("content-digest", "sha-256=:AA==:"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("host", "evil"),
            ("authorization", "Basic eA=="),
            ("set-cookie", "a=b"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-real-ip", "203.0.113.9"),
            ("if-match", "*"),
            ("selvedge-pin", "forged"),
        ];
        let all = || -> HeaderMap {
            let pair =
                |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
            pairs.into_iter().map(pair).collect()
        };
        let size = pairs.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let mut passed = all();
        assert!(trailers(&mut passed, size));
        let names: Vec<&str> = passed.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["grpc-status", "content-digest"]);
        assert!(!trailers(&mut all(), size - 1));
    }
}
