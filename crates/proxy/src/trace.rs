//! Request ids and W3C Trace Context (Recommendation of 2021-11-23).

use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

/// Names a request in answers, records and to the workload. Always ours: a client's is replaced,
/// because it could repeat another request's.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Makes identifiers that are unique and evenly spread, without asking the system each time. They
/// are no secrets.
#[derive(Debug)]
pub(crate) struct Ids {
    key: u64,
    next: AtomicU64,
}

impl Ids {
    /// Seeds from the system.
    pub(crate) fn new() -> std::io::Result<Self> {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(|error| std::io::Error::other(error.to_string()))?;
        let seed = u128::from_le_bytes(seed);
        let (key, next) = ((seed >> 64) as u64, seed as u64);
        Ok(Self { key, next: AtomicU64::new(next) })
    }

    /// The next 64 bits.
    pub(crate) fn next(&self) -> u64 {
        mix(self.next.fetch_add(1, Ordering::Relaxed) ^ self.key)
    }

    /// A new request id: 32 hexadecimal digits.
    pub(crate) fn request_id(&self) -> String {
        format!("{:032x}", self.next_wide())
    }

    fn next_wide(&self) -> u128 {
        (u128::from(self.next()) << 64) | u128::from(self.next())
    }
}

/// The finaliser of SplitMix64: a bijection, so that different numbers stay different.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What identifies a request across programs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trace {
    request: u128,
    trace: u128,
    flags: u8,
    continued: bool,
}

impl Trace {
    /// Continues the request's trace where it has a valid one, and starts one otherwise. A trace
    /// that starts here is sampled, since the access record keeps its id.
    pub(crate) fn of(headers: &HeaderMap, ids: &Ids) -> Self {
        let request = ids.next_wide();
        match incoming(headers) {
            Some((trace, flags)) => Self { request, trace, flags, continued: true },
            None => Self { request, trace: ids.next_wide() | 1, flags: 1, continued: false },
        }
    }

    /// 32 hexadecimal digits.
    pub(crate) fn request_id(&self) -> String {
        format!("{:032x}", self.request)
    }

    /// 32 hexadecimal digits.
    pub(crate) fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// Sets the headers that the workload sees.
    pub(crate) fn propagate(&self, headers: &mut HeaderMap, ids: &Ids) {
        let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-00";
        put_hex(&mut parent, 3, &self.trace.to_be_bytes());
        put_hex(&mut parent, 36, &(ids.next() | 1).to_be_bytes());
        put_hex(&mut parent, 53, &[self.flags]);
        if let Ok(value) = HeaderValue::from_bytes(&parent) {
            headers.insert(TRACEPARENT, value);
        }
        if !self.continued {
            headers.remove(TRACESTATE);
        }
        let mut id = [b'0'; 32];
        put_hex(&mut id, 0, &self.request.to_be_bytes());
        if let Ok(value) = HeaderValue::from_bytes(&id) {
            headers.insert(REQUEST_ID, value);
        }
    }
}

/// Writes bytes in hexadecimal where there is room for them.
fn put_hex(text: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(digits) = text.get_mut(at..at + 2 * bytes.len()) {
        // The lengths are right.
        let _ = hex::encode_to_slice(bytes, digits);
    }
}

/// Trace id and flags of a valid `traceparent`.
fn incoming(headers: &HeaderMap) -> Option<(u128, u8)> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let text = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let mut fields = text.splitn(5, '-');
    let (version, trace, span, flags) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let hexadecimal = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    let shaped = hexadecimal(version, 2)
        && hexadecimal(trace, 32)
        && hexadecimal(span, 16)
        && hexadecimal(flags, 2);
    // Version 00 ends here; later ones may go on.
    let ends = version != "00" || fields.next().is_none();
    if !shaped || !ends || version == "ff" || zero(trace) || zero(span) {
        return None;
    }
    let flags = u8::from_str_radix(flags, 16).ok()? & 1;
    Some((u128::from_str_radix(trace, 16).ok()?, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn sent(parent: Option<&str>) -> HeaderMap {
        let ids = Ids::new().unwrap();
        let mut headers = HeaderMap::new();
        if let Some(parent) = parent {
            headers.insert(TRACEPARENT, parent.parse().unwrap());
        }
        headers.insert(TRACESTATE, "a=b".parse().unwrap());
        headers.insert(REQUEST_ID, "the client's".parse().unwrap());
        let trace = Trace::of(&headers, &ids);
        trace.propagate(&mut headers, &ids);
        assert_eq!(headers[REQUEST_ID], trace.request_id());
        headers
    }

    #[test]
    fn a_valid_trace_goes_on_with_a_span_of_ours() {
        for (parent, flags) in [
            (format!("00-{TRACE}-b7ad6b7169203331-01"), "-01"),
            (format!("00-{TRACE}-b7ad6b7169203331-00"), "-00"),
            (format!("cc-{TRACE}-b7ad6b7169203331-01-later"), "-01"),
        ] {
            let headers = sent(Some(&parent));
            let ours = headers[TRACEPARENT].to_str().unwrap();
            assert!(ours.starts_with(&format!("00-{TRACE}-")) && ours.ends_with(flags), "{ours}");
            assert!(!ours.contains("b7ad6b7169203331"), "{ours}");
            assert_eq!(headers[TRACESTATE], "a=b");
        }
    }

    #[test]
    fn anything_else_starts_a_trace() {
        for parent in [
            None,
            Some("junk".to_owned()),
            Some(format!("ff-{TRACE}-b7ad6b7169203331-01")),
            Some(format!("00-{TRACE}-0000000000000000-01")),
            Some(format!("00-{}-b7ad6b7169203331-01", "0".repeat(32))),
            Some(format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase())),
            Some(format!("00-{TRACE}-b7ad6b7169203331-01-more")),
        ] {
            let headers = sent(parent.as_deref());
            let ours = headers[TRACEPARENT].to_str().unwrap();
            assert_eq!(ours.len(), 55, "{ours}");
            assert!(!ours.contains(TRACE), "{ours}");
            assert!(!headers.contains_key(TRACESTATE));
        }
    }

    #[test]
    fn ids_differ() {
        let ids = Ids::new().unwrap();
        let made: std::collections::HashSet<_> = (0..10_000).map(|_| ids.next()).collect();
        assert_eq!(made.len(), 10_000);
    }
}
