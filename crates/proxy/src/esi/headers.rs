//! Heads of templates, of requests for pieces, and of pages.

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION,
    CONTENT_ENCODING, CONTENT_LENGTH, COOKIE, ETAG, EXPECT, EXPIRES, HOST, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, PRAGMA, RANGE,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::fields::members;

/// What we can do, said to servers (W3C Edge Architecture 1.0).
pub(crate) const SURROGATE_CAPABILITY: HeaderName = HeaderName::from_static("surrogate-capability");
const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
const CAPABILITY: HeaderValue = HeaderValue::from_static("selvedge=\"Surrogate/1.0 ESI/1.0\"");

/// Conditions and ranges: they mean the page, which nobody has yet.
const CONDITIONS: [HeaderName; 6] =
    [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE];

/// What of a client's request is not said to those who give the pieces: what is about its own body
/// and connection.
const NOT_FOR_PIECES: [HeaderName; 14] = [
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    EXPECT,
    HeaderName::from_static("content-language"),
    HeaderName::from_static("content-type"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What a template says of itself that is not true of the page.
const OF_TEMPLATE: [HeaderName; 14] = [
    ACCEPT_RANGES,
    AGE,
    CACHE_CONTROL,
    CDN_CACHE_CONTROL,
    CONTENT_LENGTH,
    ETAG,
    EXPIRES,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
    LAST_MODIFIED,
    PRAGMA,
    SURROGATE_CONTROL,
];

/// Makes a request one for a template: it says what we can do, asks for the body plain, and has no
/// conditions and ranges. To be done before the cache sees it.
pub fn ask(headers: &mut HeaderMap) {
    headers.remove(ACCEPT_ENCODING);
    for name in CONDITIONS {
        headers.remove(name);
    }
    headers.append(SURROGATE_CAPABILITY, CAPABILITY);
}

/// Whether a response says that it has markup: `surrogate-control: content="ESI/1.0"`.
pub fn is_template(status: StatusCode, headers: &HeaderMap) -> bool {
    let says = |member: &[u8]| {
        let Some((name, value)) =
            std::str::from_utf8(member).ok().and_then(|it| it.split_once('='))
        else {
            return false;
        };
        name.trim().eq_ignore_ascii_case("content")
            && value.trim().trim_matches('"').split_ascii_whitespace().any(|it| it == "ESI/1.0")
    };
    status != StatusCode::PARTIAL_CONTENT
        && !status.is_informational()
        && members(headers, &SURROGATE_CONTROL).any(says)
}

/// The headers of a request for a piece.
pub(super) fn for_piece(client: &HeaderMap, is_own: bool) -> HeaderMap {
    let mut headers = client.clone();
    for name in NOT_FOR_PIECES {
        headers.remove(name);
    }
    headers.remove(SURROGATE_CAPABILITY);
    ask(&mut headers);
    if !is_own {
        headers.remove(AUTHORIZATION);
        headers.remove(COOKIE);
        headers.remove(HOST);
    }
    headers
}

/// Makes a template's head that of a page whose pieces are not known: for nobody else and not to be
/// kept. So it is of the answer to a `HEAD`.
pub fn page_head(headers: &mut HeaderMap) {
    for name in OF_TEMPLATE {
        headers.remove(name);
    }
    headers.remove(CONTENT_ENCODING);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
}

/// A cookie makes a response somebody's.
pub(super) fn sets_cookies(headers: &HeaderMap) -> bool {
    headers.contains_key(SET_COOKIE)
}
