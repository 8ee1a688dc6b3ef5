//! `range` and `content-range` (RFC 9110, section 14).

use super::list::split;

/// Ranges of one request that are answered; more get the whole, which is cheaper for everybody
/// (RFC 9110, section 14.2).
const MAX_RANGES: usize = 16;

/// A part of a body: its first byte and the one after its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
}

impl Span {
    /// Bytes in it.
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// What a `range` asks for of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// The field is to be ignored.
    Whole,
    /// In the order asked for, none empty.
    Parts(Vec<Span>),
    Unsatisfiable,
}

/// Reads `range` for a body of `size` bytes. Other units and what is malformed get the whole.
pub(crate) fn ranges(text: &str, size: u64) -> Ranges {
    let Some(set) = text
        .get(..6)
        .filter(|unit| unit.eq_ignore_ascii_case("bytes="))
        .and_then(|_| text.get(6..))
    else {
        return Ranges::Whole;
    };
    let mut parts = Vec::new();
    let mut asked = 0;
    for spec in split(set) {
        asked += 1;
        match span(spec, size) {
            Ok(Some(span)) => parts.push(span),
            Ok(None) => {}
            Err(Malformed) => return Ranges::Whole,
        }
        if asked > MAX_RANGES {
            return Ranges::Whole;
        }
    }
    if asked == 0 {
        return Ranges::Whole;
    }
    if parts.is_empty() {
        return Ranges::Unsatisfiable;
    }
    // Overlapping parts would send bytes twice: an old way to make a server work.
    let mut sorted = parts.clone();
    sorted.sort_by_key(|span| span.start);
    let overlap = sorted.windows(2).any(|pair| matches!(pair, [a, b] if b.start < a.end));
    if overlap { Ranges::Whole } else { Ranges::Parts(parts) }
}

struct Malformed;

/// One range; none if the body has no such part.
fn span(spec: &str, size: u64) -> Result<Option<Span>, Malformed> {
    let (first, last) = spec.split_once('-').ok_or(Malformed)?;
    let (first, last) = (first.trim(), last.trim());
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let (start, end) = match (number(first), number(last)) {
        (None, Some(suffix)) if first.is_empty() => (size - suffix.min(size), size),
        (Some(start), None) if last.is_empty() => (start, size),
        (Some(start), Some(end)) if start <= end => (start, end.saturating_add(1).min(size)),
        _ => return Err(Malformed),
    };
    Ok((start < end).then_some(Span { start, end }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(spans: &[(u64, u64)]) -> Ranges {
        Ranges::Parts(spans.iter().map(|&(start, end)| Span { start, end }).collect())
    }

    #[test]
    fn ranges_are_understood() {
        for (text, expected) in [
            ("bytes=0-4", parts(&[(0, 5)])),
            ("Bytes= 2 - 3", parts(&[(2, 4)])),
            ("bytes=5-", parts(&[(5, 10)])),
            ("bytes=-3", parts(&[(7, 10)])),
            ("bytes=-30", parts(&[(0, 10)])),
            ("bytes=9-99999999999999999999999", parts(&[(9, 10)])),
            ("bytes=0-1,3-4", parts(&[(0, 2), (3, 5)])),
            ("bytes=7-, 0-0, 20-", parts(&[(7, 10), (0, 1)])),
            ("bytes=0-4,4-5", Ranges::Whole),
            ("bytes=10-", Ranges::Unsatisfiable),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=4-2", Ranges::Whole),
            ("bytes=0-1,x", Ranges::Whole),
            ("bytes=-", Ranges::Whole),
            ("bytes=", Ranges::Whole),
            ("lines=0-1", Ranges::Whole),
        ] {
            assert_eq!(ranges(text, 10), expected, "{text}");
        }
        assert_eq!(ranges(&format!("bytes={}", "0-0,".repeat(17)), 10), Ranges::Whole);
        assert_eq!(ranges("bytes=0-", 0), Ranges::Unsatisfiable);
    }
}
