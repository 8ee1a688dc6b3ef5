//! Who asks, as far as an app has declared it.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use selvedge_cache::key::Key;

use super::{Config, NotCacheable};
use crate::pins;

/// Something in a request that its answer depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// All lines of a header.
    Header(HeaderName),
    /// All cookies of that name.
    Cookie(String),
}

/// The values of what is declared, one component for each declaration. Our own cookie, which says what
/// release a client has seen, is none of the app's.
pub(super) fn of(config: &Config, headers: &HeaderMap) -> Result<Vec<Vec<u8>>, NotCacheable> {
    let mut seen = Cow::Borrowed(headers);
    if headers.contains_key(COOKIE) {
        pins::strip(seen.to_mut());
    }
    let headers = seen.as_ref();
    let declares = |name: &HeaderName| {
        config.identity.iter().any(|one| matches!(one, Identity::Header(header) if header == name))
    };
    if headers.contains_key(AUTHORIZATION) && !declares(&AUTHORIZATION) {
        return Err(NotCacheable::Undeclared);
    }
    if !config.ignore_other_cookies && !declares(&COOKIE) && has_other_cookies(config, headers) {
        return Err(NotCacheable::Undeclared);
    }
    let component = |one: &Identity| {
        let mut values = Key::new();
        match one {
            Identity::Header(name) => {
                headers.get_all(name).iter().for_each(|line| values.push(line.as_bytes()));
            }
            Identity::Cookie(name) => cookies(headers)
                .filter(|(own, _)| *own == name.as_bytes())
                .for_each(|(_, value)| values.push(value)),
        }
        values.as_bytes().to_vec()
    };
    Ok(config.identity.iter().map(component).collect())
}

fn has_other_cookies(config: &Config, headers: &HeaderMap) -> bool {
    let declared = |name: &[u8]| {
        let is = |one: &Identity| matches!(one, Identity::Cookie(own) if own.as_bytes() == name);
        config.identity.iter().any(is)
    };
    cookies(headers).any(|(name, _)| !declared(name))
}

/// Names and values of cookies in their order (RFC 6265, section 4.2.1). What has no `=` is a
/// nameless one.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = headers.get_all(COOKIE).into_iter().map(HeaderValue::as_bytes);
    let pairs = lines.flat_map(|line| line.split(|&byte| byte == b';')).map(<[u8]>::trim_ascii);
    pairs.filter(|pair| !pair.is_empty()).map(|pair| {
        match pair.iter().position(|&byte| byte == b'=') {
            Some(at) => {
                let (name, value) = pair.split_at(at);
                (name, value.get(1..).unwrap_or_default())
            }
            None => (&[][..], pair),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_nobody() {
        let cookie =
            |value: &'static str| HeaderMap::from_iter([(COOKIE, HeaderValue::from_static(value))]);
        let all = Config { identity: vec![Identity::Header(COOKIE)], ..Config::default() };
        let none = Config::default();
        assert_eq!(of(&none, &cookie("selvedge-pin=1.2.3")).unwrap(), Vec::<Vec<u8>>::new());
        assert!(of(&none, &cookie("selvedge-pin=1.2.3; a=b")).is_err());
        let [one, other] = ["selvedge-pin=1; a=b", "a=b; selvedge-pin=2"].map(cookie);
        assert_eq!(of(&all, &one).unwrap(), of(&all, &other).unwrap());
        assert_ne!(of(&all, &one).unwrap(), of(&all, &cookie("a=c")).unwrap());
    }
}
