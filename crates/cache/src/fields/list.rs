//! Comma-separated lists (RFC 9110, section 5.6.1).

use http::header::{GetAll, HeaderMap, HeaderName, HeaderValue};

/// The members of a field over all its lines, trimmed; empty ones are left out. Commas within
/// quoted strings do not separate.
pub(crate) fn members<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> + use<'a> {
    lines(headers.get_all(name)).flat_map(split)
}

fn lines<'a>(lines: GetAll<'a, HeaderValue>) -> impl Iterator<Item = &'a str> {
    lines.into_iter().filter_map(|line| line.to_str().ok())
}

/// The members of one line.
pub(crate) fn split(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = member_end(text);
        rest = text.get(end + 1..);
        Some(text.get(..end).unwrap_or_default())
    })
    .map(str::trim)
    .filter(|member| !member.is_empty())
}

/// Where the first member ends.
fn member_end(text: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
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
