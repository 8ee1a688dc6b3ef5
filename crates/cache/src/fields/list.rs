//! Comma-separated lists, as text. What is no text (RFC 9110, section 5.5) is left out.

use http::header::{HeaderMap, HeaderName};

use crate::list;

/// The members of a field over all its lines, trimmed; empty ones are left out. Commas within
/// quoted strings do not separate.
pub(crate) fn members<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> + use<'a> {
    headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok()).flat_map(split)
}

/// The members of one line.
pub(crate) fn split(line: &str) -> impl Iterator<Item = &str> {
    list::split(line.as_bytes(), b',').filter_map(|member| str::from_utf8(member).ok())
}

/// What stands between the quotes of a quoted string; escapes are kept. A token is itself.
pub(crate) fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_separate_but_in_quotes() {
        for (line, expected) in [
            ("a, b ,c", &["a", "b", "c"][..]),
            (", a,,b, ", &["a", "b"]),
            ("a=\"x, y\", b", &["a=\"x, y\"", "b"]),
            (r#"a="x\", y", b"#, &[r#"a="x\", y""#, "b"]),
            ("a=\"x, y", &["a=\"x, y"]),
            ("", &[]),
        ] {
            assert_eq!(split(line).collect::<Vec<_>>(), expected, "{line}");
        }
        assert_eq!(unquoted("\"a\""), "a");
        assert_eq!(unquoted("'a'"), "'a'");
        assert_eq!(unquoted("\""), "\"");
    }
}
