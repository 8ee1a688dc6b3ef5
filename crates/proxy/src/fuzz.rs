//! What fuzzers run: each function takes any bytes, and panics where a promise is broken. A fuzzing
//! build (`--cfg fuzzing`) has them, and so have tests, which run them over the seeds in
//! `fuzz/NAME`, whole and damaged.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use ipnet::IpNet;
use selvedge_cache::key::Key;

use crate::client_address::{client_address, client_scheme};
use crate::encode::{self, Coding, DecodeLimits, Decoder, Negotiation};
use crate::trace::{Ids, Trace};
use crate::{CacheScope, Limits, QueryRules, check, esi, forward, graphql, pins};

/// A name, and what runs under it.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 10] = [
    ("decoding", decoding),
    ("esi", esi_template),
    ("graphql", graphql_request),
    ("head", head),
    ("http3-frames", crate::http3::fuzz_frames),
    ("negotiation", negotiation),
    ("proxy-protocol", crate::listener::fuzz_proxy_protocol),
    ("standalone-file", crate::standalone::fuzz_file),
    ("upstream-response", crate::upstream::fuzz_response),
    ("websocket-frames", crate::tunnel::fuzz_frames),
];

/// The first byte is the coding and how the body is cut. Bodies end or fail, within their limits,
/// in the same way however they are cut.
pub fn decoding(input: &[u8]) {
    let Some((&first, body)) = input.split_first() else { return };
    let coding = match first % 3 {
        0 => Coding::Gzip,
        1 => Coding::Brotli,
        _ => Coding::Zstd,
    };
    let limits = DecodeLimits { max_bytes: 1 << 20, max_ratio: 50, free_bytes: 64 << 10 };
    let whole = encode::decompress(coding, limits, Bytes::copy_from_slice(body));
    let Ok(mut decoder) = Decoder::new(coding, limits) else { return };
    let mut pieces = body.chunks(usize::from(first / 3) + 1);
    let (mut plain, mut buffer) = (Vec::new(), [0; 100]);
    let end = 'body: loop {
        let Some(piece) = pieces.next() else { break decoder.finish() };
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match decoder.step(&mut piece, &mut buffer) {
                Ok(0) => break,
                Ok(written) => plain.extend(buffer.iter().take(written)),
                Err(error) => break 'body Err(error),
            }
            assert!(plain.len() as u64 <= limits.max_bytes, "it grew beyond its limit");
        }
    };
    if let (Ok(whole), Ok(())) = (&whole, &end) {
        assert_eq!(whole, &plain, "cuts changed what came out");
    }
}

/// The first byte is how the template is cut. Cuts make no difference, and a template without
/// markup is its own output.
pub fn esi_template(input: &[u8]) {
    let Some((&first, template)) = input.split_first() else { return };
    let parse = |size: usize| {
        let mut parser = esi::Parser::new(512);
        let mut out = Vec::new();
        for piece in template.chunks(size) {
            flatten(parser.push(Bytes::copy_from_slice(piece))?, &mut out);
        }
        flatten(parser.finish()?, &mut out);
        Ok::<_, esi::Malformed>(out)
    };
    let whole = parse(template.len().max(1));
    assert_eq!(whole, parse(usize::from(first) + 1), "cuts changed what it means");
    let marks: [&[u8]; 3] = [b"<esi:", b"</esi:", b"<!--esi"];
    let has_marks = marks.iter().any(|mark| memchr::memmem::find(template, mark).is_some());
    if !has_marks {
        assert_eq!(whole.as_deref(), Ok(template), "text without markup was changed");
    }
}

/// Segments in writing, in which neighbouring texts are one.
fn flatten(segments: Vec<esi::Segment>, out: &mut Vec<u8>) {
    for segment in segments {
        match segment {
            esi::Segment::Text(text) => out.extend_from_slice(&text),
            esi::Segment::Include(include) => {
                out.extend_from_slice(format!("\0{include:?}").as_bytes());
            }
            esi::Segment::Try(one) => {
                out.extend_from_slice(b"\0(");
                flatten(one.attempt, out);
                out.extend_from_slice(b"\0|");
                flatten(one.except, out);
                out.extend_from_slice(b"\0)");
            }
        }
    }
}

/// The body of a `POST`. One that is cached has a document that means the same to who reads it
/// again, has no mutation, and has the same key as that.
pub fn graphql_request(input: &[u8]) {
    let config = graphql::Config::default();
    for content_type in ["application/json", "application/graphql"] {
        let request = Request::post("/").header(CONTENT_TYPE, content_type).body(());
        let Ok((head, ())) = request.map(Request::into_parts) else { continue };
        let Ok(operation) = graphql::read(&config, &head, input) else { continue };
        assert!(operation.document().split(' ').next() != Some("mutation"), "a mutation is cached");
        let request = Request::post("/").header(CONTENT_TYPE, "application/graphql").body(());
        let Ok((head, ())) = request.map(Request::into_parts) else { continue };
        if let Ok(again) = graphql::read(&config, &head, operation.document().as_bytes()) {
            assert_eq!(again.document(), operation.document(), "it is not in its normal form");
            let mut key = Key::new();
            again.extend(&mut key);
        }
    }
    let mut answer = graphql::Answer::default();
    answer.read(input);
    if answer.is_good() {
        let halves = input.split_at(input.len() / 2);
        let mut again = graphql::Answer::default();
        again.read(halves.0);
        again.read(halves.1);
        assert!(again.is_good(), "cuts changed the answer");
    }
}

/// Headers of a request and, behind an empty line, of its response. What is planned holds together.
pub fn negotiation(input: &[u8]) {
    let (request, response) = match memchr::memmem::find(input, b"\n\n") {
        Some(at) => (input.get(..at).unwrap_or_default(), input.get(at..).unwrap_or_default()),
        None => (input, &[][..]),
    };
    let (mut asked, mut answered) = (headers(request), headers(response));
    let negotiation = Negotiation::begin(&Method::GET, &mut asked);
    let config = encode::Config::default();
    for status in [StatusCode::OK, StatusCode::NOT_MODIFIED, StatusCode::PARTIAL_CONTENT] {
        let plan = negotiation.plan(&config, status, &answered);
        let before = answered.get(ETAG).cloned();
        if let Some(coding) = plan.encodes() {
            assert!(negotiation.accept().weight(coding) > 0, "a coding that was not accepted");
        }
        let changes = plan.encodes().is_some() || plan.decodes().is_some();
        assert!(!changes || status == StatusCode::OK, "{status} was changed");
        if changes {
            plan.apply(&mut answered, None);
            let strong = answered.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
            let kept = strong.is_some() && encode_tag(before.as_ref());
            assert!(!kept, "two representations with one strong tag");
        }
    }
}

/// Whether it is a strong tag, well-formed.
fn encode_tag(tag: Option<&HeaderValue>) -> bool {
    tag.map(HeaderValue::as_bytes).is_some_and(|tag| {
        let opaque = tag.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\""));
        opaque.is_some_and(|opaque| opaque.iter().all(|&byte| byte > b'"' && byte != 0x7f))
    })
}

/// A target, and behind it the headers of a request. One that passes names one host and a path
/// that leads nowhere else, and what is sent on says nothing of a connection nor in our name.
pub fn head(input: &[u8]) {
    let (target, rest) = match memchr::memchr(b'\n', input) {
        Some(at) => (input.get(..at).unwrap_or_default(), input.get(at..).unwrap_or_default()),
        None => (input, &[][..]),
    };
    let Ok(request) = Request::builder().uri(target).body(()) else { return };
    let (mut head, ()) = request.into_parts();
    head.headers = headers(rest);
    let limits = Limits::default();
    let Ok(checked) = check::check(&head, &limits) else { return };
    let path = checked.path.replace("%2F", "/");
    assert!(path.split('/').all(|piece| piece != "." && piece != ".."), "{path} leads elsewhere");
    let host = checked.authority.host();
    assert!(!host.is_empty() && !host.contains(['/', '@', ' ', '?', '#']), "{host:?} is no host");
    let peer = SocketAddr::from(([192, 0, 2, 1], 80));
    assert_eq!(client_address(peer, &head.headers, &[]), peer, "a stranger was believed");
    let all = [IpNet::from(IpAddr::from([192, 0, 2, 1]))];
    let _ = client_address(peer, &head.headers, &all);
    let _ = client_scheme(peer, &head.headers, &all);
    assert_eq!(client_scheme(peer, &head.headers, &[]), None, "a stranger was believed");
    forward::remove_nominated(&mut head.headers);
    let mut sent_on =
        forward::to_workload(&head.headers, &checked.authority, forward::node(peer), "https");
    pins::strip(&mut sent_on);
    for name in [
        "connection",
        "keep-alive",
        "transfer-encoding",
        "upgrade",
        "x-real-ip",
        "proxy-authorization",
        "selvedge-pin",
        "selvedge-probe",
    ] {
        assert!(!sent_on.contains_key(name), "{name} is sent on");
    }
    for name in ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded"] {
        assert_eq!(sent_on.get_all(name).iter().count(), 1, "{name} is not said once");
    }
    if let Ok(ids) = Ids::new() {
        let trace = Trace::of(&head.headers, &ids);
        let mut told = head.headers.clone();
        trace.propagate(&mut told, &ids);
        let parents: Vec<_> = told.get_all("traceparent").iter().collect();
        let parent = parents.first().and_then(|parent| parent.to_str().ok()).unwrap_or_default();
        assert_eq!((parents.len(), parent.get(3..35)), (1, Some(trace.trace_id().as_str())));
    }
    let rules = QueryRules { sort: true, keep: Some(vec!["a".into()]), drop: vec!["b".into()] };
    let scope = CacheScope::new(b"app", &[], rules);
    if let Some(target) = head.uri.path_and_query() {
        let _ = scope.key("https", host.as_bytes(), target.as_str());
    }
}

fn headers(text: &[u8]) -> HeaderMap {
    let line = |line: &[u8]| {
        let at = line.iter().position(|&byte| byte == b':')?;
        let name = HeaderName::from_bytes(line.get(..at)?).ok()?;
        Some((name, HeaderValue::from_bytes(line.get(at + 1..)?.trim_ascii()).ok()?))
    };
    text.split(|&byte| byte == b'\n').filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Every seed, whole, cut off at every byte, and with a bit wrong in every byte.
    #[test]
    fn seeds_keep_the_promises() {
        for (name, run) in TARGETS {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name);
            let mut seeds = 0;
            for entry in std::fs::read_dir(&directory).unwrap() {
                let seed = std::fs::read(entry.unwrap().path()).unwrap();
                seeds += 1;
                run(&seed);
                for at in 0..seed.len() {
                    run(&seed[..at]);
                    let mut damaged = seed.clone();
                    damaged[at] ^= 1 << (at % 8);
                    run(&damaged);
                }
            }
            assert!(seeds >= 3, "{name} has too few seeds");
        }
    }
}
