//! What a browser must and must not do: security headers, the `Host` and `Origin` of requests, and
//! the session's cookie.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, HeaderName, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::Console;
use super::access::SESSION_LIFE;

/// Everything comes from here, nothing is inline, and nobody may frame a page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Headers of every answer. The referrer is kept within the console: with `no-referrer`, browsers
/// would send `Origin: null` with its own forms.
const HEADERS: [(HeaderName, &str); 7] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    ),
];

/// By which names and how control is reached.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    /// Names and addresses, without a port: a tunnel has another one.
    pub(crate) names: Vec<String>,
    /// The port that control listens on.
    pub(crate) port: u16,
    /// Whether it speaks TLS.
    pub(crate) secure: bool,
}

impl Reach {
    /// Whether a request with this `Host` was meant for this console. A page of a foreign site whose
    /// name was made to point here (DNS rebinding) is told by it.
    fn knows(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
            None => host.split(':').next().unwrap_or_default(),
        };
        let loopback = name == "localhost"
            || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
            || name.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback());
        loopback || self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// The cookie's name. Browsers don't tell ports apart, so that two boxes need two names.
    fn cookie(&self) -> String {
        let prefix = if self.secure { "__Host-" } else { "" };
        format!("{prefix}selvedge-console-{}", self.port)
    }

    /// The session that a request shows.
    pub(crate) fn session(&self, headers: &HeaderMap) -> Option<String> {
        let name = self.cookie();
        headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(its, _)| *its == name)
            .map(|(_, value)| value.to_owned())
    }

    /// A cookie for a session; an empty one is taken away.
    pub(crate) fn set_cookie(&self, session: &str) -> Option<HeaderValue> {
        let life = if session.is_empty() { 0 } else { SESSION_LIFE.as_secs() };
        // The prefix asks for the whole site; without it, less will do.
        let rest = if self.secure { "Path=/; Secure" } else { "Path=/console" };
        let cookie = format!(
            "{}={session}; {rest}; Max-Age={life}; HttpOnly; SameSite=Strict",
            self.cookie()
        );
        HeaderValue::from_str(&cookie).ok()
    }
}

/// The middleware of every path of the console.
pub(crate) async fn guard(
    State(console): State<Console>,
    request: Request,
    next: Next,
) -> Response {
    let reach = &console.reach();
    let host = text(request.headers(), &HOST);
    let mut response = if !host.as_deref().is_some_and(|host| reach.knows(host)) {
        refuse(
            StatusCode::MISDIRECTED_REQUEST,
            "The console does not answer by this name. Use the address that control listens on.\n",
        )
    } else if !matches!(*request.method(), Method::GET | Method::HEAD)
        && !is_own(reach, host.as_deref(), text(request.headers(), &ORIGIN).as_deref())
    {
        refuse(StatusCode::FORBIDDEN, "This request came from another page than the console's.\n")
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether `origin` is the console at `host`.
fn is_own(reach: &Reach, host: Option<&str>, origin: Option<&str>) -> bool {
    let scheme = if reach.secure { "https" } else { "http" };
    match (host, origin) {
        (Some(host), Some(origin)) => origin.eq_ignore_ascii_case(&format!("{scheme}://{host}")),
        _ => false,
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn refuse(status: StatusCode, words: &'static str) -> Response {
    (status, words).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(secure: bool) -> Reach {
        Reach { names: vec!["edge-1".to_owned(), "10.0.0.1".to_owned()], port: 7070, secure }
    }

    #[test]
    fn foreign_names_are_told() {
        let reach = reach(false);
        for host in
            ["127.0.0.1:7070", "127.0.0.1:9", "localhost", "[::1]:7070", "EDGE-1:7070", "10.0.0.1"]
        {
            assert!(reach.knows(host), "{host}");
        }
        for host in
            ["", "evil.test:7070", "127.0.0.1.evil.test", "[::2]", "10.0.0.2", "localhost.evil"]
        {
            assert!(!reach.knows(host), "{host}");
        }
    }

    #[test]
    fn only_its_own_pages_may_post() {
        let (reach, host) = (reach(false), Some("127.0.0.1:7070"));
        assert!(is_own(&reach, host, Some("http://127.0.0.1:7070")));
        for origin in
            [None, Some("null"), Some("http://127.0.0.1:8080"), Some("https://127.0.0.1:7070")]
        {
            assert!(!is_own(&reach, host, origin), "{origin:?}");
        }
    }

    #[test]
    fn the_cookie_is_as_narrow_as_can_be() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=b; selvedge-console-7071=other"));
        assert_eq!(reach(false).session(&headers), None);
        headers.append(COOKIE, HeaderValue::from_static("c=d;selvedge-console-7070=mine"));
        assert_eq!(reach(false).session(&headers).as_deref(), Some("mine"));
        let plain = reach(false).set_cookie("s").unwrap();
        assert_eq!(
            plain,
            "selvedge-console-7070=s; Path=/console; Max-Age=43200; HttpOnly; SameSite=Strict"
        );
        let secure = reach(true).set_cookie("").unwrap();
        let want =
            "__Host-selvedge-console-7070=; Path=/; Secure; Max-Age=0; HttpOnly; SameSite=Strict";
        assert_eq!(secure, want);
    }
}
