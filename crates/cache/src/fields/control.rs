//! `cache-control` of requests and responses (RFC 9111, section 5.2; RFC 5861).

use http::HeaderMap;
use http::header::{CACHE_CONTROL, HeaderName, PRAGMA};

use super::delta_seconds;
use super::list::{members, split, unquoted};

/// A directive's name and argument.
fn directive(member: &str) -> (&str, Option<&str>) {
    match member.split_once('=') {
        Some((name, argument)) => (name, Some(unquoted(argument))),
        None => (member, None),
    }
}

/// What a response says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResponseControl {
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    /// Fields that may not be reused without asking: `no-cache="…"` and `private="…"`.
    pub(crate) not_reusable: Vec<HeaderName>,
    pub(crate) private: bool,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    pub(crate) max_age: Option<u64>,
    pub(crate) s_maxage: Option<u64>,
    pub(crate) stale_while_revalidate: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
}

impl ResponseControl {
    /// Reads `cache-control`.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        for member in members(headers, &CACHE_CONTROL) {
            let (name, argument) = directive(member);
            control.directive(name, argument);
        }
        control
    }

    /// Takes one directive in. The first of several values counts; a lifetime that can't be read is
    /// none at all, and so stale (RFC 9111, section 4.2.1).
    pub(crate) fn directive(&mut self, name: &str, argument: Option<&str>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let seconds = || argument.and_then(delta_seconds);
        if is("max-age") {
            self.max_age.get_or_insert(seconds().unwrap_or(0));
        } else if is("s-maxage") {
            self.s_maxage.get_or_insert(seconds().unwrap_or(0));
        } else if is("no-cache") {
            self.fields(argument, |control| control.no_cache = true);
        } else if is("private") {
            self.fields(argument, |control| control.private = true);
        } else if is("stale-while-revalidate") {
            self.stale_while_revalidate = self.stale_while_revalidate.or(seconds());
        } else if is("stale-if-error") {
            self.stale_if_error = self.stale_if_error.or(seconds());
        } else if let Some(flag) = self.flag(name) {
            *flag = true;
        }
    }

    fn flag(&mut self, name: &str) -> Option<&mut bool> {
        let flags = [
            ("no-store", &mut self.no_store),
            ("public", &mut self.public),
            ("must-revalidate", &mut self.must_revalidate),
            ("proxy-revalidate", &mut self.proxy_revalidate),
            ("must-understand", &mut self.must_understand),
        ];
        flags.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, flag)| flag)
    }

    /// A directive that is about the whole response, or just about the fields it names.
    fn fields(&mut self, argument: Option<&str>, whole: impl FnOnce(&mut Self)) {
        let names = argument.map(|names| split(names).map(str::parse).collect::<Vec<_>>());
        match names {
            Some(names) if !names.is_empty() && names.iter().all(Result::is_ok) => {
                self.not_reusable.extend(names.into_iter().flatten());
            }
            // What can't be understood is taken for the stricter.
            _ => whole(self),
        }
    }
}

/// What a request asks of caches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RequestControl {
    pub(crate) no_cache: bool,
    pub(crate) no_store: bool,
    pub(crate) only_if_cached: bool,
    pub(crate) max_age: Option<u64>,
    pub(crate) min_fresh: Option<u64>,
    /// Without an argument any staleness will do.
    pub(crate) max_stale: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
}

impl RequestControl {
    /// Reads `cache-control`, or `pragma` where there is none (RFC 9111, section 5.4).
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        if !headers.contains_key(CACHE_CONTROL) {
            let mut pragmas = members(headers, &PRAGMA);
            control.no_cache = pragmas.any(|member| member.eq_ignore_ascii_case("no-cache"));
            return control;
        }
        for member in members(headers, &CACHE_CONTROL) {
            let (name, argument) = directive(member);
            control.directive(name, argument);
        }
        control
    }

    fn directive(&mut self, name: &str, argument: Option<&str>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let seconds = argument.and_then(delta_seconds);
        if is("no-cache") {
            self.no_cache = true;
        } else if is("no-store") {
            self.no_store = true;
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-age") {
            self.max_age = self.max_age.or(seconds);
        } else if is("min-fresh") {
            self.min_fresh = self.min_fresh.or(seconds);
        } else if is("stale-if-error") {
            self.stale_if_error = self.stale_if_error.or(seconds);
        } else if is("max-stale") {
            self.max_stale = match argument {
                None => Some(u64::MAX),
                Some(_) => self.max_stale.or(seconds),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (CACHE_CONTROL, HeaderValue::from_static(line))).collect()
    }

    #[test]
    fn responses_are_understood() {
        let read = |lines| ResponseControl::of(&headers(lines));
        let max_age = |seconds| ResponseControl { max_age: Some(seconds), ..Default::default() };
        for (lines, expected) in [
            (&["max-age=60"][..], max_age(60)),
            (&["MaX-aGe=\"60\""], max_age(60)),
            (&["max-age='60'"], max_age(0)),
            (&["max-age=60a"], max_age(0)),
            (&["max-age"], max_age(0)),
            (&["max-age=1, max-age=60"], max_age(1)),
            (&["max-age=60", "max-age=1"], max_age(60)),
            (&["extension=\"max-age=60\", max-age=1"], max_age(1)),
            (&["extension=\"max-age=60"], ResponseControl::default()),
            (&["max-age=99999999999"], max_age(super::super::MAX_DELTA)),
        ] {
            assert_eq!(read(lines), expected, "{lines:?}");
        }
        let control = read(&["No-Store, PRIVATE, no-cache, stale-if-error=5, stale-if-error=x"]);
        assert!(control.no_store && control.private && control.no_cache);
        assert_eq!(control.stale_if_error, Some(5));
        let control = read(&["no-cache=\"a, B\", private=\"c\""]);
        assert!(!control.no_cache && !control.private);
        assert_eq!(control.not_reusable, ["a", "b", "c"]);
        let control = read(&["no-cache=\"a b\", private=\"\""]);
        assert!(control.no_cache && control.private);
    }

    #[test]
    fn requests_are_understood() {
        let read = |lines| RequestControl::of(&headers(lines));
        assert_eq!(read(&["max-stale"]).max_stale, Some(u64::MAX));
        assert_eq!(read(&["max-stale=5"]).max_stale, Some(5));
        assert_eq!(read(&["max-stale=x"]).max_stale, None);
        assert_eq!(read(&["max-age=0, min-fresh=3"]).max_age, Some(0));
        assert!(read(&["only-if-cached"]).only_if_cached);
        let mut pragma = HeaderMap::from_iter([(PRAGMA, HeaderValue::from_static("No-Cache"))]);
        assert!(RequestControl::of(&pragma).no_cache);
        pragma.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
        assert!(!RequestControl::of(&pragma).no_cache);
    }
}
