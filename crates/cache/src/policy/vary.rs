//! Which request fields a stored response depends on (RFC 9111, section 4.1).

use http::header::{
    ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE, HeaderMap, HeaderName, USER_AGENT,
    VARY,
};

use crate::fields::list::members;
use crate::key::Key;

/// What `vary` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vary {
    /// Nothing.
    Nothing,
    /// On what can't be known: the response answers no other request.
    Any,
    /// These fields, in order, none twice.
    On(Box<[HeaderName]>),
}

impl Vary {
    /// Reads a response's `vary`. A member that is no field name can't be honoured, and so is
    /// taken for `*`.
    pub fn of(headers: &HeaderMap) -> Self {
        if !headers.contains_key(VARY) {
            return Self::Nothing;
        }
        if headers.get_all(VARY).iter().any(|line| line.to_str().is_err()) {
            return Self::Any;
        }
        let mut names = Vec::new();
        for member in members(headers, &VARY) {
            match member.parse::<HeaderName>() {
                Ok(name) if member != "*" => names.push(name),
                _ => return Self::Any,
            }
        }
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        if names.is_empty() { Self::Nothing } else { Self::On(names.into()) }
    }
}

/// The key of the variant that a request selects, under the key of what it asks for.
pub fn variant(primary: &Key, names: &[HeaderName], request: &HeaderMap) -> Key {
    let mut key = primary.clone();
    for name in names {
        key.push(name.as_str().as_bytes());
        key.push(&normal(request, name));
    }
    key
}

/// A field's value as it is compared: nothing if it is missing. Lines are joined, and spaces around
/// commas left out where the field is a list.
fn normal(request: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    let mut value = Vec::new();
    if !request.contains_key(name) {
        return value;
    }
    value.push(b'=');
    let is_text = [COOKIE, AUTHORIZATION, USER_AGENT].contains(name);
    let readable = request.get_all(name).iter().all(|line| line.to_str().is_ok());
    if is_text || !readable {
        for line in request.get_all(name) {
            value.extend_from_slice(&(line.len() as u64).to_le_bytes());
            value.extend_from_slice(line.as_bytes());
        }
        return value;
    }
    for (at, member) in members(request, name).enumerate() {
        if at > 0 {
            value.push(b',');
        }
        value.extend_from_slice(member.as_bytes());
    }
    // Tags of languages and codings have no case.
    if *name == ACCEPT_LANGUAGE || *name == ACCEPT_ENCODING {
        value.make_ascii_lowercase();
        value.retain(|byte| *byte != b' ');
    }
    value
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn vary_is_a_list() {
        let names = |lines: &[&'static str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
            Vary::of(&headers(&lines))
        };
        for lines in
            [&["*"][..], &["*, *"], &["a", "*"], &[", *"], &["*, foo"], &["foo, *"], &["a b"]]
        {
            assert_eq!(names(lines), Vary::Any, "{lines:?}");
        }
        assert_eq!(names(&[]), Vary::Nothing);
        assert_eq!(names(&[""]), Vary::Nothing);
        let expected = [HeaderName::from_static("a"), HeaderName::from_static("b")];
        assert_eq!(names(&["B, a", "A"]), Vary::On(expected.into()));
    }

    #[test]
    fn variants_differ_where_requests_do() {
        let key = |name: &'static str, values: &[&'static str]| {
            let lines: Vec<_> = values.iter().map(|value| (name, *value)).collect();
            variant(&Key::new(), &[HeaderName::from_static(name)], &headers(&lines))
        };
        assert_eq!(key("foo", &["1, 2"]), key("foo", &["1", "2"]));
        assert_eq!(key("foo", &["1, 2"]), key("foo", &["1,2 "]));
        assert_ne!(key("foo", &["1, 2"]), key("foo", &["2, 1"]));
        assert_ne!(key("foo", &["a"]), key("foo", &["A"]));
        assert_ne!(key("foo", &[]), key("foo", &[""]));
        assert_eq!(
            key("accept-language", &["en, DE;q=0.5"]),
            key("accept-language", &["EN,de; q=0.5"])
        );
        assert_ne!(key("cookie", &["a=1, b"]), key("cookie", &["a=1,b"]));
    }
}
