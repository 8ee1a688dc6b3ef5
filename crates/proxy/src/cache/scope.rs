//! Whose responses a stored response is among, and what of a URL tells it from others.

use std::borrow::Cow;

use selvedge_cache::key::Key;

/// What a route's stored responses are kept apart by, and how its URLs are told apart.
#[derive(Debug, Clone)]
pub struct CacheScope {
    app: Vec<u8>,
    base: Key,
    query: QueryRules,
}

/// What of a query tells one response from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryRules {
    /// Parameters are the same in any order.
    pub sort: bool,
    /// Only these parameters count; none: all do.
    pub keep: Option<Vec<String>>,
    /// These parameters don't count.
    pub drop: Vec<String>,
}

impl CacheScope {
    /// `app` is whose they are, for purges; `components` name all that shapes the service's answers,
    /// such as the digest of its artifact and environment: what differs in one of them shares
    /// nothing.
    pub fn new(app: &[u8], components: &[&[u8]], query: QueryRules) -> Self {
        let mut base = Key::new();
        base.push(app);
        for component in components {
            base.push(component);
        }
        Self { app: app.to_vec(), base, query }
    }

    /// Whose stored responses they are.
    pub(crate) fn app(&self) -> &[u8] {
        &self.app
    }

    /// The key of what a request asks for: `target` is path and query as they are sent on.
    pub(crate) fn key(&self, scheme: &str, authority: &[u8], target: &str) -> Key {
        let scheme = scheme.as_bytes();
        match target.split_once('?') {
            Some((path, query)) => {
                let query = self.query.apply(query);
                self.base.with([scheme, authority, path.as_bytes(), query.as_bytes()])
            }
            None => self.base.with([scheme, authority, target.as_bytes()]),
        }
    }
}

impl QueryRules {
    fn apply<'a>(&self, query: &'a str) -> Cow<'a, str> {
        if *self == Self::default() {
            return query.into();
        }
        let mut parameters: Vec<&str> = query.split('&').filter(|it| self.counts(it)).collect();
        if self.sort {
            // By name only: the order of a name's values may mean something.
            parameters.sort_by_key(|parameter| parameter.split('=').next());
        }
        parameters.join("&").into()
    }

    /// Whether a parameter tells responses apart. It is sent on in any case: one that an app may take
    /// for another, by its escapes, brackets or case or since the app ends parameters at `;` too, always
    /// counts, or whoever sends it chose what others get.
    fn counts(&self, parameter: &str) -> bool {
        let name = parameter.split('=').next().unwrap_or_default();
        let is = |known: &String| known.eq_ignore_ascii_case(name);
        let is_plain =
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
                && !parameter.contains(';');
        let kept = self.keep.as_ref().is_none_or(|keep| !is_plain || keep.iter().any(is));
        kept && (parameter.contains(';') || !self.drop.iter().any(|it| it == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_told_apart_by_rule() {
        let rules = |sort, keep: Option<&[&str]>, drop: &[&str]| QueryRules {
            sort,
            keep: keep.map(|keep| keep.iter().map(ToString::to_string).collect()),
            drop: drop.iter().map(ToString::to_string).collect(),
        };
        for (rules, query, expected) in [
            (rules(false, None, &[]), "b=2&a=1&b=1", "b=2&a=1&b=1"),
            (rules(true, None, &[]), "b=2&a=1&b=1", "a=1&b=2&b=1"),
            (rules(false, Some(&["a"]), &[]), "b=2&a=1&utm=3", "a=1"),
            (rules(false, None, &["utm"]), "b=2&utm=3&utm&a", "b=2&a"),
            (rules(false, Some(&["a"]), &["a"]), "a=1", ""),
            // What an app may take for `a`, or find `a` in.
            (
                rules(false, Some(&["a"]), &[]),
                "%61=1&a[]=2&A=3&+a=4&b=5;a=6",
                "%61=1&a[]=2&A=3&+a=4&b=5;a=6",
            ),
            (
                rules(false, None, &["utm"]),
                "utm=1;a=2&%75tm=3&UTM=4&utm=5",
                "utm=1;a=2&%75tm=3&UTM=4",
            ),
        ] {
            assert_eq!(rules.apply(query), expected, "{rules:?} {query}");
        }
    }

    #[test]
    fn what_differs_has_another_key() {
        let scope = CacheScope::new(b"shop", &[b"1"], QueryRules::default());
        let other = CacheScope::new(b"sho", &[b"p1"], QueryRules::default());
        let key = scope.key("http", b"a.test", "/x?y");
        assert_ne!(key, other.key("http", b"a.test", "/x?y"));
        assert_ne!(key, scope.key("https", b"a.test", "/x?y"));
        assert_ne!(key, scope.key("http", b"b.test", "/x?y"));
        assert_ne!(key, scope.key("http", b"a.test", "/x"));
        assert_ne!(scope.key("http", b"a.test", "/x"), scope.key("http", b"a.test", "/x?"));
    }
}
