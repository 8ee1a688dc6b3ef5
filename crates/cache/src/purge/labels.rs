//! What purges go by: the labels of a stored object.

use std::sync::Arc;

use http::HeaderMap;

use super::Stamp;

/// Header fields that list tags: names separated by spaces, and by commas.
const SURROGATE_KEY: &str = "surrogate-key";
const CACHE_TAG: &str = "cache-tag";
/// Bytes of all tags of a response.
const MOST_BYTES: usize = 16 << 10;
/// Tags of a response.
const MOST_TAGS: usize = 1000;
/// Between tags in memory. No header field's value holds it.
const SEPARATOR: u8 = b'\n';

/// What a purge compares. Text is compared byte by byte.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// Whose it is.
    pub app: &'a [u8],
    /// Its primary key.
    pub url: &'a [u8],
    /// The host that was asked for: lower case, no port.
    pub host: &'a [u8],
    /// The path as keys have it, without the query.
    pub path: &'a [u8],
    /// Its tags.
    pub tags: &'a Tags,
    /// The response's fields.
    pub headers: &'a HeaderMap,
}

/// What can be purged.
pub trait Purgeable {
    /// What a purge compares. Asked for only when there was a purge since the last check.
    fn labels(&self) -> Labels<'_>;
    /// Which purges it was checked against.
    fn stamp(&self) -> &Stamp;
}

impl<T: Purgeable + ?Sized> Purgeable for Arc<T> {
    fn labels(&self) -> Labels<'_> {
        T::labels(self)
    }

    fn stamp(&self) -> &Stamp {
        T::stamp(self)
    }
}

/// The tags of a response, in one allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags {
    joined: Vec<u8>,
    count: usize,
}

/// Why a response's tags can't be kept. It must not be stored then, because a purge would miss it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagsError {
    /// Too many.
    #[error("a response has more than {MOST_TAGS} tags")]
    TooMany,
    /// Too long.
    #[error("a response's tags are longer than {MOST_BYTES} bytes")]
    TooLong,
    /// A tag that can't be told from two.
    #[error("a tag holds a line feed")]
    LineFeed,
}

impl Tags {
    /// The tags that the fields `Surrogate-Key` and `Cache-Tag` list.
    pub fn of(headers: &HeaderMap) -> Result<Self, TagsError> {
        let mut tags = Self::default();
        for value in headers.get_all(SURROGATE_KEY) {
            for tag in value.as_bytes().split(u8::is_ascii_whitespace) {
                tags.add(tag)?;
            }
        }
        for value in headers.get_all(CACHE_TAG) {
            for tag in value.as_bytes().split(|byte| *byte == b',') {
                tags.add(tag.trim_ascii())?;
            }
        }
        tags.joined.shrink_to_fit();
        Ok(tags)
    }

    /// Adds a tag. An empty one is none.
    pub fn add(&mut self, tag: &[u8]) -> Result<(), TagsError> {
        if tag.is_empty() {
            return Ok(());
        }
        if tag.contains(&SEPARATOR) {
            return Err(TagsError::LineFeed);
        }
        if self.count == MOST_TAGS {
            return Err(TagsError::TooMany);
        }
        if self.joined.len() + tag.len() + 1 > MOST_BYTES {
            return Err(TagsError::TooLong);
        }
        if self.count > 0 {
            self.joined.push(SEPARATOR);
        }
        self.joined.extend_from_slice(tag);
        self.count += 1;
        Ok(())
    }

    /// All of them in one text, as they are stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.joined
    }

    /// As they were stored.
    ///
    /// # Errors
    /// When they can't be kept.
    pub fn from_bytes(joined: &[u8]) -> Result<Self, TagsError> {
        let mut tags = Self::default();
        joined.split(|byte| *byte == SEPARATOR).try_for_each(|tag| tags.add(tag))?;
        tags.joined.shrink_to_fit();
        Ok(tags)
    }

    /// Each tag, in the order of the fields.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.joined.split(|byte| *byte == SEPARATOR).filter(|tag| !tag.is_empty())
    }

    /// What they take beside this value, in bytes.
    pub fn bytes(&self) -> usize {
        self.joined.capacity()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn tags(fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let tags = Tags::of(&headers).unwrap();
        tags.iter().map(|tag| String::from_utf8(tag.to_vec()).unwrap()).collect()
    }

    #[test]
    fn both_fields_list_tags() {
        assert_eq!(
            tags(&[
                ("surrogate-key", "a  b a"),
                ("cache-tag", "c d, e,,"),
                ("surrogate-key", "f"),
                ("x", "g"),
            ]),
            ["a", "b", "a", "f", "c d", "e"]
        );
        assert!(tags(&[]).is_empty());
        let mut both = Tags::default();
        assert_eq!(Tags::from_bytes(both.as_bytes()), Ok(Tags::default()));
        both.add(b"a b").unwrap();
        both.add(b"c").unwrap();
        assert_eq!(Tags::from_bytes(both.as_bytes()), Ok(both));
    }

    #[test]
    fn tags_are_bounded() {
        let mut tags = Tags::default();
        for number in 0..MOST_TAGS {
            tags.add(number.to_string().as_bytes()).unwrap();
        }
        assert_eq!(tags.add(b"another"), Err(TagsError::TooMany));
        assert_eq!(tags.add(b""), Ok(()));
        let mut tags = Tags::default();
        assert_eq!(tags.add(&[b'x'; MOST_BYTES]), Err(TagsError::TooLong));
        assert_eq!(tags.add(b"a\nb"), Err(TagsError::LineFeed));
    }
}
