//! Patterns with `*`.

use memchr::memmem::Finder;

/// Texts with anything between them. Each part is looked for once, from the end of the one before,
/// so that the time is that of reading the text.
#[derive(Debug, Clone)]
pub(super) struct Glob {
    start: Vec<u8>,
    /// Between two stars.
    middle: Vec<Finder<'static>>,
    /// After the last star. Nothing: there is no star.
    end: Option<Vec<u8>>,
}

impl Glob {
    /// From the texts before, between and after the stars.
    pub(super) fn new(parts: Vec<String>) -> Self {
        let mut parts = parts.into_iter().map(String::into_bytes);
        let start = parts.next().unwrap_or_default();
        let end = parts.next_back();
        let middle = parts.filter(|part| !part.is_empty());
        Self { start, middle: middle.map(|part| Finder::new(&part).into_owned()).collect(), end }
    }

    pub(super) fn matches(&self, text: &[u8]) -> bool {
        let Some(end) = &self.end else { return self.start == text };
        let rest = text.strip_prefix(&*self.start).and_then(|rest| rest.strip_suffix(&**end));
        let Some(mut rest) = rest else { return false };
        for part in &self.middle {
            let Some(found) = part.find(rest) else { return false };
            rest = rest.get(found + part.needle().len()..).unwrap_or_default();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The plain definition, which may take very long.
    fn matches(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', pattern @ ..], _) => {
                (0..=text.len()).any(|skip| matches(pattern, &text[skip..]))
            }
            ([wanted, pattern @ ..], [byte, text @ ..]) => wanted == byte && matches(pattern, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn it_is_the_plain_definition(pattern in "[ab*]{0,7}", text in "[ab]{0,9}") {
            let glob = Glob::new(pattern.split('*').map(str::to_owned).collect());
            let expected = matches(pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(glob.matches(text.as_bytes()), expected);
        }
    }
}
