//! How pins travel: the cookie `selvedge-pin` for browsers, the header of the same name for
//! clients that echo it. What a pin is and how it is signed is `selvedge_model::pin`.

use http::header::{CACHE_CONTROL, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use selvedge_model::pin::{Pin, PinAuthority};

use crate::AppView;

/// The header, also the cookie's name.
pub(crate) const PIN: HeaderName = HeaderName::from_static("selvedge-pin");
/// How many candidates of one request are verified: cookies of the same name can be many.
const CANDIDATES: usize = 8;
/// How long a browser keeps the cookie, in seconds: 30 days. Afterwards the client is new, and
/// every site has long been past the epoch.
const MAX_AGE_S: u32 = 30 * 24 * 3600;

/// The newest pin of the request that verifies for the app.
pub(crate) fn read(headers: &HeaderMap, app: &AppView, authority: &PinAuthority) -> Option<Pin> {
    let echoed = headers.get_all(PIN).iter().filter_map(|value| value.to_str().ok());
    let cookies = cookie_pairs(headers).filter_map(pin_of);
    echoed
        .chain(cookies)
        .take(CANDIDATES)
        .filter_map(|text| authority.verify(&app.app, &app.environment, text))
        .max_by_key(|pin| pin.epoch)
}

/// Takes the pin out of the cookies that the workload sees, and joins the others in one header
/// (RFC 9113, section 8.2.3).
pub(crate) fn strip(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if lines.next().is_none() {
        return;
    }
    let single = lines.next().is_none();
    if single && !cookie_pairs(headers).any(|pair| pin_of(pair).is_some()) {
        return;
    }
    let mut rest = Vec::new();
    for line in headers.get_all(COOKIE) {
        for pair in line.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
            let is_pin = std::str::from_utf8(pair).ok().and_then(pin_of).is_some();
            if !pair.is_empty() && !is_pin {
                if !rest.is_empty() {
                    rest.extend_from_slice(b"; ");
                }
                rest.extend_from_slice(pair);
            }
        }
    }
    headers.remove(COOKIE);
    if !rest.is_empty()
        && let Ok(value) = HeaderValue::from_bytes(&rest)
    {
        headers.insert(COOKIE, value);
    }
}

/// Gives the client its pin. The answer is then for this client only, so caches that are shared
/// must not keep it.
pub(crate) fn set(headers: &mut HeaderMap, text: &str, secure: bool) {
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!(
        "{}={text}; Path=/; Max-Age={MAX_AGE_S}; HttpOnly; SameSite=Lax{secure}",
        PIN.as_str()
    );
    if let (Ok(pin), Ok(cookie)) = (HeaderValue::from_str(text), HeaderValue::from_str(&cookie)) {
        headers.insert(PIN, pin);
        headers.append(SET_COOKIE, cookie);
        make_private(headers);
    }
}

/// Withdraws leave to store the answer from shared caches (RFC 9111, section 5.2.2).
fn make_private(headers: &mut HeaderMap) {
    let mut directives = Vec::new();
    for line in headers.get_all(CACHE_CONTROL) {
        let line = line.to_str().unwrap_or_default();
        for directive in line.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let name = directive.split('=').next().unwrap_or_default().trim();
            if name.eq_ignore_ascii_case("no-store") {
                return;
            }
            let shared = ["public", "private", "s-maxage", "proxy-revalidate"];
            if !shared.iter().any(|other| name.eq_ignore_ascii_case(other)) {
                directives.push(directive);
            }
        }
    }
    directives.insert(0, "private");
    if let Ok(value) = HeaderValue::from_str(&directives.join(", ")) {
        headers.insert(CACHE_CONTROL, value);
    }
}

fn cookie_pairs(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| std::str::from_utf8(pair.trim_ascii()).ok())
}

fn pin_of(pair: &str) -> Option<&str> {
    pair.strip_prefix(PIN.as_str())?.strip_prefix('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (COOKIE, line.parse().unwrap())).collect()
    }

    #[test]
    fn workloads_see_every_cookie_but_the_pin() {
        for (lines, left) in [
            (&["a=1; selvedge-pin=x; b=2"][..], Some("a=1; b=2")),
            (&["selvedge-pin=x"], None),
            (&["selvedge-pin=x; selvedge-pin=y"], None),
            (&["a=1", "selvedge-pin=x", "b=2;c=3"], Some("a=1; b=2; c=3")),
            (&["a=1;  b=\"2\"; selvedge-pinx=3"], Some("a=1;  b=\"2\"; selvedge-pinx=3")),
            (&[], None),
        ] {
            let mut headers = cookies(lines);
            strip(&mut headers);
            let values: Vec<_> = headers.get_all(COOKIE).iter().collect();
            assert_eq!(values, left.as_slice(), "{lines:?}");
        }
    }

    #[test]
    fn an_answer_that_sets_a_pin_is_private() {
        for (before, after) in [
            (&[][..], "private"),
            (&["public, max-age=60"], "private, max-age=60"),
            (&["s-maxage=9, max-age=60", "public"], "private, max-age=60"),
            (&["no-store"], "no-store"),
            (&["private"], "private"),
        ] {
            let mut headers: HeaderMap =
                before.iter().map(|line| (CACHE_CONTROL, line.parse().unwrap())).collect();
            set(&mut headers, "1.2.3.4.x", true);
            let values: Vec<_> = headers.get_all(CACHE_CONTROL).iter().collect();
            assert_eq!(values, [after], "{before:?}");
            let cookie = headers[SET_COOKIE].to_str().unwrap();
            assert!(cookie.starts_with("selvedge-pin=1.2.3.4.x; Path=/;"), "{cookie}");
            assert!(cookie.contains("HttpOnly") && cookie.ends_with("; Secure"), "{cookie}");
            assert!(!cookie.contains("Domain"), "{cookie}");
        }
    }
}
