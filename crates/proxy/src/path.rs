//! The request path as routes and files see it.

use std::borrow::Cow;

use memchr::memchr;
use percent_encoding::percent_decode_str;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPath {
    /// No leading slash, as in `OPTIONS *`.
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// A `%` that two hexadecimal digits don't follow.
    #[error("the path has an incomplete percent-encoding")]
    Encoding,
    /// Not UTF-8 once decoded.
    #[error("the path is not UTF-8")]
    NotUtf8,
    /// A backslash or a control character, plain or encoded.
    #[error("the path has a backslash or a control character")]
    Character,
    /// A segment `.` or `..`, plain or encoded, or hidden beside an encoded slash.
    #[error("the path has a dot segment")]
    DotSegment,
}

/// The percent-decoded path, in which an encoded slash stays `%2F`: it is data and no separator
/// (RFC 3986, section 2.2).
///
/// Whatever two programs could read differently is refused and never repaired, because the
/// workload is sent the path as the client wrote it. Clients remove dot segments before they send
/// (RFC 3986, section 6.2.2.3), so who sends one is probing.
pub(crate) fn normalise(raw: &str) -> Result<Cow<'_, str>, BadPath> {
    if !raw.starts_with('/') {
        return Err(BadPath::NotAbsolute);
    }
    if raw.bytes().any(is_forbidden) {
        return Err(BadPath::Character);
    }
    let path = match memchr(b'%', raw.as_bytes()) {
        Some(_) => Cow::Owned(decode(raw)?),
        // Most paths: nothing is hidden in them.
        None if memchr(b'.', raw.as_bytes()).is_none() => return Ok(Cow::Borrowed(raw)),
        None => Cow::Borrowed(raw),
    };
    // An encoded slash counts as a separator here, as some programs would take it for one.
    let mut pieces = path.split('/').flat_map(|segment| segment.split("%2F"));
    if pieces.any(|piece| piece == "." || piece == "..") {
        return Err(BadPath::DotSegment);
    }
    Ok(path)
}

fn is_forbidden(byte: u8) -> bool {
    byte == b'\\' || byte < 0x20 || byte == 0x7f
}

fn decode(raw: &str) -> Result<String, BadPath> {
    let mut path = String::with_capacity(raw.len());
    for (index, part) in raw.split('%').enumerate() {
        if index == 0 {
            path.push_str(part);
            continue;
        }
        let code = part.get(..2).ok_or(BadPath::Encoding)?;
        if !code.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BadPath::Encoding);
        }
        // Decoded as a whole below, after which only slashes are still encoded.
        if code.eq_ignore_ascii_case("2f") {
            path.push_str("%252F");
        } else {
            path.push('%');
            path.push_str(code);
        }
        path.push_str(part.get(2..).unwrap_or_default());
    }
    let decoded = percent_decode_str(&path).decode_utf8().map_err(|_| BadPath::NotUtf8)?;
    if decoded.bytes().any(is_forbidden) {
        return Err(BadPath::Character);
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_are_not_copied() {
        assert!(matches!(normalise("/a/b.c/d..e/.well-known/x"), Ok(Cow::Borrowed(_))));
    }

    proptest::proptest! {
        /// Whatever is let through leads below the root, however it is written.
        #[test]
        fn nothing_leads_out(raw in "/([./\\\\]|%2[eEfF5]|%5[cC]|%00|%|[a-z]|é){0,12}") {
            if let Ok(path) = normalise(&raw) {
                let again = path.replace("%2F", "/");
                assert!(again.split(['/', '\\']).all(|piece| piece != "." && piece != ".."));
                assert!(path.starts_with('/') && !path.contains(['\\', '\0']));
            }
        }
    }

    #[test]
    fn decodes() {
        for (raw, path) in [
            ("/", "/"),
            ("/a%20b", "/a b"),
            ("/%61pi/x", "/api/x"),
            ("/caf%C3%A9", "/café"),
            ("/@scope%2fname", "/@scope%2Fname"),
            ("/100%25", "/100%"),
            ("/%252e%252e/x", "/%2e%2e/x"),
            ("/a//b", "/a//b"),
            ("/...", "/..."),
        ] {
            assert_eq!(normalise(raw).as_deref(), Ok(path), "{raw}");
        }
    }

    #[test]
    fn refuses_what_can_be_read_two_ways() {
        for (raw, error) in [
            ("*", BadPath::NotAbsolute),
            ("", BadPath::NotAbsolute),
            ("/%", BadPath::Encoding),
            ("/%2", BadPath::Encoding),
            ("/%zz", BadPath::Encoding),
            ("/%é1", BadPath::Encoding),
            ("/%ff", BadPath::NotUtf8),
            ("/a\\b", BadPath::Character),
            ("/a%5cb", BadPath::Character),
            ("/a%00", BadPath::Character),
            ("/a%0d%0ab", BadPath::Character),
            ("/..", BadPath::DotSegment),
            ("/a/../b", BadPath::DotSegment),
            ("/a/./b", BadPath::DotSegment),
            ("/%2e%2E/b", BadPath::DotSegment),
            ("/.%2e", BadPath::DotSegment),
            ("/a/..%2fb", BadPath::DotSegment),
            ("/a%2F..", BadPath::DotSegment),
        ] {
            assert_eq!(normalise(raw), Err(error), "{raw}");
        }
    }
}
