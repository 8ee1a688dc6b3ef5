//! What header fields say that a cache has to understand.

pub(crate) mod control;
pub(crate) mod list;
pub(crate) mod range;
pub(crate) mod targeted;

use std::time::UNIX_EPOCH;

use http::header::{AGE, DATE, EXPIRES, HeaderMap, HeaderName, LAST_MODIFIED};

/// The largest number of seconds that is told apart from more (RFC 9111, section 1.2.2).
pub(crate) const MAX_DELTA: u64 = 1 << 31;

/// Reads delta-seconds. What is too large to count is [`MAX_DELTA`]; what is no number is none.
pub(crate) fn delta_seconds(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse::<u64>().map_or(MAX_DELTA, |seconds| seconds.min(MAX_DELTA)))
}

/// An HTTP-date (RFC 9110, section 5.6.7) in milliseconds since 1970.
pub(crate) fn date_ms(text: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(text.trim()).ok()?;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).ok()
}

/// Writes an HTTP-date.
#[cfg(test)]
pub(crate) fn http_date(ms: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + std::time::Duration::from_millis(ms))
}

/// The first line of a field, as text.
pub(crate) fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `date`; none where it is missing or can't be read.
pub(crate) fn date(headers: &HeaderMap) -> Option<u64> {
    date_ms(first(headers, &DATE)?)
}

/// `last-modified`.
pub(crate) fn last_modified(headers: &HeaderMap) -> Option<u64> {
    date_ms(first(headers, &LAST_MODIFIED)?)
}

/// `expires`: none without one, and zero where it can't be read, which is in the past
/// (RFC 9111, section 5.3).
pub(crate) fn expires(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(EXPIRES)?;
    Some(value.to_str().ok().and_then(date_ms).unwrap_or(0))
}

/// `age` in seconds: the first member counts, and what is no number is ignored
/// (RFC 9111, section 5.1). Of what only begins as one (`7200.0`, `7200;x`) the beginning is taken:
/// to think a response older than it is does no harm.
pub(crate) fn age(headers: &HeaderMap) -> Option<u64> {
    let line = first(headers, &AGE)?.trim();
    let end = line.find(|c: char| !c.is_ascii_digit()).unwrap_or(line.len());
    delta_seconds(line.get(..end)?)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn seconds_are_digits() {
        for (text, expected) in [
            ("0", Some(0)),
            ("003600", Some(3600)),
            ("2147483648", Some(MAX_DELTA)),
            ("99999999999999999999999", Some(MAX_DELTA)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.0", None),
            ("1a", None),
        ] {
            assert_eq!(delta_seconds(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_first_age_counts() {
        for (values, expected) in [
            (&["30"][..], Some(30)),
            (&["0, 7200"], Some(0)),
            (&["7200", "0"], Some(7200)),
            (&["abc"], None),
            (&["-7200"], None),
            (&["7200.0"], Some(7200)),
            (&["7200;a=1"], Some(7200)),
            (&[], None),
        ] {
            assert_eq!(age(&with(AGE, values)), expected, "{values:?}");
        }
    }

    #[test]
    fn dates_have_three_forms() {
        let moment = Some(784_111_777_000);
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(date_ms(text), moment, "{text}");
        }
        assert_eq!(http_date(784_111_777_000), "Sun, 06 Nov 1994 08:49:37 GMT");
        for text in ["0", "-1", "tomorrow", "Sun, 06 Nov 1994 08:49:37 PST", ""] {
            assert_eq!(date_ms(text), None, "{text}");
        }
        assert_eq!(expires(&with(EXPIRES, &["0"])), Some(0));
        assert_eq!(expires(&HeaderMap::new()), None);
    }
}
