//! What may be stored (RFC 9111, section 3).

use http::header::{AUTHORIZATION, COOKIE, ETAG, EXPIRES, HeaderMap, LAST_MODIFIED, SET_COOKIE};
use http::request::Parts;
use http::{Method, StatusCode};

use super::vary::Vary;
use super::{Freshness, Policy, Times};
use crate::fields::control::{RequestControl, ResponseControl};
use crate::fields::targeted;

/// Why a response is not stored: the words are those of `cache-status`' `detail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoStore {
    /// The method's responses are for who asked.
    Method,
    /// The status is not final, not understood, or never reused.
    Status,
    /// The request or the response says so.
    NoStore,
    /// The response is for one user.
    Private,
    /// The request was authenticated, and the response does not say that it is for others.
    Authorization,
    /// The response depends on more than the request.
    VaryAny,
    /// Nothing says for how long it would be good, nor how to ask for that.
    Lifetime,
}

impl NoStore {
    /// A token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Status => "status",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::VaryAny => "vary",
            Self::Lifetime => "no-lifetime",
        }
    }
}

/// Whether a request may be answered from storage.
pub fn is_lookup(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// Decides whether a response may be stored, and what its use is bound to. One to POST has to pass
/// [`super::is_what_get_gets`], too.
///
/// # Errors
/// Why not.
pub fn storable(
    policy: &Policy,
    request: &Parts,
    status: StatusCode,
    headers: &HeaderMap,
    times: Times,
) -> Result<Freshness, NoStore> {
    let targeted = targeted::control(headers, &policy.device);
    let is_targeted = targeted.is_some();
    let control = targeted.unwrap_or_else(|| ResponseControl::of(headers));
    let explicit = control.s_maxage.is_some()
        || control.max_age.is_some()
        || (!is_targeted && headers.contains_key(EXPIRES));
    let for_get = request.method == Method::GET || (request.method == Method::POST && explicit);
    if !for_get {
        return Err(NoStore::Method);
    }
    let not_final = status.is_informational()
        || status == StatusCode::NOT_MODIFIED
        || status == StatusCode::PARTIAL_CONTENT;
    if not_final || (control.must_understand && !is_understood(status)) {
        return Err(NoStore::Status);
    }
    let no_store = control.no_store && !control.must_understand;
    if no_store || RequestControl::of(&request.headers).no_store {
        return Err(NoStore::NoStore);
    }
    if control.private {
        return Err(NoStore::Private);
    }
    let for_all = control.public || control.must_revalidate || control.s_maxage.is_some();
    if request.headers.contains_key(AUTHORIZATION) && !for_all {
        return Err(NoStore::Authorization);
    }
    if Vary::of(headers) == Vary::Any {
        return Err(NoStore::VaryAny);
    }
    let may_guess = may_guess(&control, request, status, headers);
    let freshness = Freshness::of(policy, &control, is_targeted, headers, times, may_guess);
    let useful =
        explicit || freshness.lifetime_ms > 0 || (may_guess && can_be_asked(&control, headers));
    if useful { Ok(freshness) } else { Err(NoStore::Lifetime) }
}

/// For how long a response is good, whether or not it may be stored.
pub fn freshness(
    policy: &Policy,
    request: &Parts,
    status: StatusCode,
    headers: &HeaderMap,
    times: Times,
) -> Freshness {
    let targeted = targeted::control(headers, &policy.device);
    let is_targeted = targeted.is_some();
    let control = targeted.unwrap_or_else(|| ResponseControl::of(headers));
    let may_guess = may_guess(&control, request, status, headers);
    Freshness::of(policy, &control, is_targeted, headers, times, may_guess)
}

/// Whether a lifetime may be guessed. Sessions have cookies, and one must not be shared by that.
fn may_guess(
    control: &ResponseControl,
    request: &Parts,
    status: StatusCode,
    headers: &HeaderMap,
) -> bool {
    (control.public || is_heuristic(status)) && !is_personal(request, headers)
}

/// Whether somebody has a session.
fn is_personal(request: &Parts, headers: &HeaderMap) -> bool {
    headers.contains_key(SET_COOKIE) || request.headers.contains_key(COOKIE)
}

/// Whether there is something to ask by whether it is still good.
fn can_be_asked(control: &ResponseControl, headers: &HeaderMap) -> bool {
    let has = |name| headers.contains_key(&name) && !control.not_reusable.contains(&name);
    has(ETAG) || has(LAST_MODIFIED)
}

/// Statuses whose responses may be reused by a guessed lifetime (RFC 9110, section 15.1).
fn is_heuristic(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Statuses whose caching this cache knows all about.
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203
            | 204
            | 300..=303
            | 307
            | 308
            | 400
            | 401
            | 403..=405
            | 410
            | 414
            | 421
            | 451
            | 500..=504
    )
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, Request};

    use super::*;

    const NOW: u64 = 1_000_000_000_000;

    fn decide(request: &str, status: u16, response: &str) -> Result<i64, NoStore> {
        let mut words = request.split('\n');
        let (method, uri) = words.next().unwrap().split_once(' ').unwrap();
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        let mut head = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0;
        head.headers = words.map(pair).collect();
        let headers = response.lines().map(pair).collect();
        let times = Times { asked_ms: NOW, received_ms: NOW };
        let status = StatusCode::from_u16(status).unwrap();
        storable(&Policy::default(), &head, status, &headers, times)
            .map(|freshness| freshness.lifetime_ms / 1000)
    }

    #[test]
    fn what_is_stored() {
        use NoStore as No;
        for (request, status, response, expected) in [
            ("GET /", 200, "cache-control: max-age=60", Ok(60)),
            ("GET /", 599, "cache-control: max-age=60", Ok(60)),
            ("GET /", 599, "cache-control: max-age=60, must-understand", Err(No::Status)),
            ("GET /", 200, "cache-control: max-age=60, must-understand, no-store", Ok(60)),
            ("GET /", 200, "cache-control: max-age=60, no-store", Err(No::NoStore)),
            ("GET /\ncache-control: no-store", 200, "cache-control: max-age=60", Err(No::NoStore)),
            ("GET /", 200, "cache-control: max-age=60, private", Err(No::Private)),
            ("GET /", 200, "cache-control: max-age=60, private=\"a\"", Ok(60)),
            ("GET /", 200, "cache-control: max-age=60\nvary: a, *", Err(No::VaryAny)),
            ("GET /\nauthorization: x", 200, "cache-control: max-age=60", Err(No::Authorization)),
            ("GET /\nauthorization: x", 200, "cache-control: max-age=60, public", Ok(60)),
            ("GET /\nauthorization: x", 200, "cache-control: s-maxage=60", Ok(60)),
            ("GET /", 206, "cache-control: max-age=60", Err(No::Status)),
            ("GET /", 304, "cache-control: max-age=60", Err(No::Status)),
            ("HEAD /", 200, "cache-control: max-age=60", Err(No::Method)),
            ("POST /a", 200, "cache-control: max-age=60", Ok(60)),
            ("POST /a", 200, "etag: \"b\"", Err(No::Method)),
            ("GET /", 200, "a: b", Err(No::Lifetime)),
            ("GET /", 200, "etag: \"b\"", Ok(0)),
            ("GET /", 201, "etag: \"b\"", Err(No::Lifetime)),
            ("GET /", 200, "cache-control: no-cache\netag: \"b\"", Ok(0)),
            ("GET /", 200, "cdn-cache-control: max-age=9\ncache-control: no-store", Ok(9)),
            (
                "GET /",
                200,
                "cdn-cache-control: no-store\ncache-control: max-age=9",
                Err(No::NoStore),
            ),
        ] {
            assert_eq!(decide(request, status, response), expected, "{request:?} {response:?}");
        }
    }

    #[test]
    fn a_guessed_lifetime_shares_no_session() {
        let old = "last-modified: Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(decide("GET /", 200, old), Ok(86_400));
        assert_eq!(decide("GET /\ncookie: a=b", 200, old), Err(NoStore::Lifetime));
        let response = format!("{old}\nset-cookie: a=b");
        assert_eq!(decide("GET /", 200, &response), Err(NoStore::Lifetime));
        let response = "cache-control: max-age=60\nset-cookie: a=b";
        assert_eq!(decide("GET /\ncookie: a=b", 200, response), Ok(60));
        assert_eq!(decide("GET /", 403, old), Err(NoStore::Lifetime));
        assert_eq!(decide("GET /", 403, &format!("{old}\ncache-control: public")), Ok(86_400));
    }
}
