//! Cache control aimed at caches like this one: `cdn-cache-control` (RFC 9213), and
//! `surrogate-control` (W3C Edge Architecture 1.0), which came before it.

use http::HeaderMap;
use http::header::HeaderName;
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::control::ResponseControl;
use super::list::members;

pub(crate) const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
pub(crate) const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// What is aimed at this cache and replaces `cache-control` and `expires`; none where nothing is, or
/// nothing that can be read. `device` is what `surrogate-control` calls us.
pub(crate) fn control(headers: &HeaderMap, device: &str) -> Option<ResponseControl> {
    cdn(headers).or_else(|| surrogate(headers, device))
}

/// A field that is not a Structured Field, or whose directives have the wrong type, is ignored
/// (RFC 9213, section 2.1).
fn cdn(headers: &HeaderMap) -> Option<ResponseControl> {
    let lines: Vec<&str> = headers
        .get_all(CDN_CACHE_CONTROL)
        .iter()
        .map(|line| line.to_str().ok())
        .collect::<Option<_>>()?;
    if lines.is_empty() {
        return None;
    }
    let dictionary: Dictionary = Parser::new(&lines.join(",")).parse().ok()?;
    let mut control = ResponseControl::default();
    for (name, entry) in &dictionary {
        let name = name.as_str();
        let ListEntry::Item(item) = entry else { continue };
        match &item.bare_item {
            BareItem::Boolean(true) => control.directive(name, None),
            BareItem::Integer(number) => {
                control.directive(name, Some(&i64::from(*number).to_string()));
            }
            BareItem::String(text) if is_listing(name) => {
                control.directive(name, Some(text.as_str()));
            }
            // A lifetime of another type would be one that is none; the field is not for us.
            _ if is_lifetime(name) => return None,
            _ => {}
        }
    }
    (!dictionary.is_empty()).then_some(control)
}

fn is_listing(name: &str) -> bool {
    matches!(name, "no-cache" | "private")
}

fn is_lifetime(name: &str) -> bool {
    matches!(name, "max-age" | "s-maxage")
}

/// Directives may be aimed at one device by a parameter: `max-age=60;edge`.
fn surrogate(headers: &HeaderMap, device: &str) -> Option<ResponseControl> {
    let mut control = None;
    for member in members(headers, &SURROGATE_CONTROL) {
        let (directive, target) = match member.split_once(';') {
            Some((directive, target)) => (directive.trim(), Some(target.trim())),
            None => (member, None),
        };
        if target.is_some_and(|target| target != device) {
            continue;
        }
        let (name, argument) = match directive.split_once('=') {
            Some((name, argument)) => (name, Some(argument)),
            None => (directive, None),
        };
        // `content` names what is in the body, and says nothing of caching. `max-age` may have the
        // time that it may be used stale after a plus.
        if name.eq_ignore_ascii_case("content") {
            continue;
        }
        let control = control.get_or_insert_with(ResponseControl::default);
        match argument.and_then(|argument| argument.split_once('+')) {
            Some((fresh, stale)) => {
                control.directive(name, Some(fresh));
                control.directive("stale-while-revalidate", Some(stale));
            }
            None => control.directive(name, argument),
        }
    }
    control
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(name: HeaderName, line: &'static str) -> Option<ResponseControl> {
        control(&HeaderMap::from_iter([(name, HeaderValue::from_static(line))]), "edge")
    }

    #[test]
    fn cdn_cache_control_is_a_structured_field() {
        let max_age = |line| read(CDN_CACHE_CONTROL, line).map(|control| control.max_age);
        for (line, expected) in [
            ("max-age=3600", Some(Some(3600))),
            ("foobar, max-age=3600", Some(Some(3600))),
            ("max-age=2147483649", Some(Some(super::super::MAX_DELTA))),
            ("max-age=10000, &&&&&", None),
            ("max-age=\"10000\"", None),
            ("max-age=-1", Some(Some(0))),
            ("foo", Some(None)),
            ("", None),
        ] {
            assert_eq!(max_age(line), expected, "{line}");
        }
        assert!(read(CDN_CACHE_CONTROL, "no-store").unwrap().no_store);
        assert!(!read(CDN_CACHE_CONTROL, "no-store=?0, max-age=1").unwrap().no_store);
        assert_eq!(read(CDN_CACHE_CONTROL, "private=\"a\"").unwrap().not_reusable, ["a"]);
    }

    #[test]
    fn surrogate_control_may_be_for_others() {
        let max_age = |line| read(SURROGATE_CONTROL, line).and_then(|control| control.max_age);
        for (line, expected) in [
            ("max-age=3600", Some(3600)),
            ("max-age=3600;edge", Some(3600)),
            ("max-age=3600;not-for-you", None),
            ("max-age=1;other, max-age=5", Some(5)),
            ("content=\"ESI/1.0\"", None),
        ] {
            assert_eq!(max_age(line), expected, "{line}");
        }
        let control = read(SURROGATE_CONTROL, "max-age=60+30, content=\"ESI/1.0\"").unwrap();
        assert_eq!((control.max_age, control.stale_while_revalidate), (Some(60), Some(30)));
        assert!(read(SURROGATE_CONTROL, "content=\"ESI/1.0\"").is_none());
    }
}
