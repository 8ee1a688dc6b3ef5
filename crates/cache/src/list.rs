//! Comma-separated lists in header fields (RFC 9110, section 5.6.1), by bytes: a field may hold
//! more than ASCII.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The members of a field over all its lines, trimmed; empty ones are left out. Commas within
/// quoted strings do not separate.
pub fn members<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    headers.get_all(name).into_iter().map(HeaderValue::as_bytes).flat_map(|line| split(line, b','))
}

/// The entity tags of a field over all its lines. A backslash in one is a character like others
/// (RFC 9110, section 8.8.3).
pub fn tags<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let lines = headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    lines.flat_map(|line| parts(line, b',', false))
}

/// The parts of a text between separators, trimmed; empty ones are left out. Separators within
/// quoted strings do not count.
pub fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    parts(text, separator, true)
}

fn parts(text: &[u8], separator: u8, escapes: bool) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = end(text, separator, escapes);
        rest = text.get(end + 1..);
        Some(text.get(..end).unwrap_or_default())
    })
    .map(<[u8]>::trim_ascii)
    .filter(|member| !member.is_empty())
}

fn end(text: &[u8], separator: u8, escapes: bool) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted && escapes => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_in_quotes_do_not_count() {
        let parts = |text: &'static str| split(text.as_bytes(), b',').collect::<Vec<_>>();
        for (text, expected) in [
            ("a, b ,c", &["a", "b", "c"][..]),
            (", a,,b, ", &["a", "b"]),
            ("a=\"x, y\", b", &["a=\"x, y\"", "b"]),
            (r#"a="x\", y", b"#, &[r#"a="x\", y""#, "b"]),
            ("a=\"x, y", &["a=\"x, y"]),
            ("", &[]),
        ] {
            assert_eq!(parts(text), expected.iter().map(|it| it.as_bytes()).collect::<Vec<_>>());
        }
    }
}
