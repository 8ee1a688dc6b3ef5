//! Groups of an origin's responses that are invalidated together (RFC 9875). To purges they are tags,
//! which no response can give itself in another way.

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, List, ListEntry, Parser};

use super::{Tags, TagsError};

/// The groups that a response is in.
pub const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");
/// The groups that a response to an unsafe request makes invalid.
pub const CACHE_GROUP_INVALIDATION: HeaderName =
    HeaderName::from_static("cache-group-invalidation");
/// Groups of a field. Caches are to take at least 32 (RFC 9875, section 2); a field with more than
/// this counts as one that can't be read.
const MOST: usize = 128;

impl Tags {
    /// Adds the groups that a response is in, which are its `origin`'s, and no other's.
    ///
    /// # Errors
    /// When they can't be kept.
    pub fn add_groups(&mut self, headers: &HeaderMap, origin: &str) -> Result<(), TagsError> {
        groups(headers, &CACHE_GROUPS, origin).iter().try_for_each(|tag| self.add(tag))
    }
}

/// The groups that a field names, as tags. A field that is no list of strings is ignored (RFC 9651,
/// section 4.2).
pub fn groups(headers: &HeaderMap, field: &HeaderName, origin: &str) -> Vec<Vec<u8>> {
    if !headers.contains_key(field) {
        return Vec::new();
    }
    named(headers, field)
        .unwrap_or_default()
        .iter()
        .map(|name| [b"\0group\0", origin.as_bytes(), b"\0", name.as_bytes()].concat())
        .collect()
}

fn named(headers: &HeaderMap, field: &HeaderName) -> Option<Vec<String>> {
    let lines: Option<Vec<&str>> =
        headers.get_all(field).iter().map(|line| line.to_str().ok()).collect();
    let list: List = Parser::new(&lines?.join(",")).parse().ok()?;
    if list.len() > MOST {
        return None;
    }
    let string = |entry: &ListEntry| match entry {
        ListEntry::Item(item) => match &item.bare_item {
            BareItem::String(text) => Some(text.as_str().to_owned()),
            _ => None,
        },
        ListEntry::InnerList(_) => None,
    };
    list.iter().map(string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> usize {
        let lines = lines.iter().map(|line| (CACHE_GROUPS, line.parse().unwrap()));
        groups(&lines.collect(), &CACHE_GROUPS, "http://a.test").len()
    }

    #[test]
    fn groups_are_a_list_of_strings() {
        for (lines, expected) in [
            (&[r#""a", "b c";x=1"#][..], 2),
            (&[r#""a""#, r#""b""#], 2),
            (&[r#""a", b"#], 0),
            (&[r#""a", ("b")"#], 0),
            (&[r#""a"#], 0),
            (&[""], 0),
            (&[], 0),
        ] {
            assert_eq!(read(lines), expected, "{lines:?}");
        }
        assert_eq!(read(&[vec!["\"a\""; MOST].join(",").as_str()]), MOST);
        assert_eq!(read(&[vec!["\"a\""; MOST + 1].join(",").as_str()]), 0);
    }

    #[test]
    fn each_origin_has_groups_of_its_own() {
        let headers = HeaderMap::from_iter([(CACHE_GROUPS, "\"a\"".parse().unwrap())]);
        let one = groups(&headers, &CACHE_GROUPS, "http://a.test");
        assert_ne!(one, groups(&headers, &CACHE_GROUPS, "https://a.test"));
        let mut tags = Tags::default();
        tags.add_groups(&headers, "http://a.test").unwrap();
        assert_eq!(tags.iter().collect::<Vec<_>>(), one);
    }
}
