//! Header fields of requests that only the edge sets. The proxy takes them out of what clients send, and
//! an app can't declare that its answers depend on them.

/// What clients may not tell a workload, beside `x-forwarded-*`, since it would take it for our word:
/// who the client is, what it asked for, and `proxy` because CGI makes `HTTP_PROXY` of it
/// (CVE-2016-5385).
const FORGEABLE: [&str; 14] = [
    "client-cert",
    "client-cert-chain",
    "front-end-https",
    "proxy",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-host",
    "x-http-host-override",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-url-scheme",
];

const X_FORWARDED: &str = "x-forwarded-";

/// Whether a workload would take a field of this name, in lower case, for our word. Programs behind CGI
/// and its heirs can't tell `_` from `-`.
pub fn is_forgeable(name: &str) -> bool {
    // Most names need no closer look.
    if !matches!(name.as_bytes().first(), Some(b'c' | b'f' | b'p' | b't' | b'x')) {
        return false;
    }
    FORGEABLE.iter().any(|forged| reads_as(name, forged))
        || name.get(..X_FORWARDED.len()).is_some_and(|start| reads_as(start, X_FORWARDED))
}

fn reads_as(name: &str, forged: &str) -> bool {
    name.len() == forged.len()
        && name.bytes().zip(forged.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
}
