//! What fuzzers run: each function takes any bytes, and panics where a promise is broken. A fuzzing
//! build (`--cfg fuzzing`) has them, and so have tests, which run them over the seeds in
//! `fuzz/NAME`, whole and damaged.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};

use crate::description::{self, About, Description, What};
use crate::disk::fuzz_record;
use crate::fields::range::{Ranges, ranges};
use crate::key::Key;
use crate::policy::{self, Answer, Policy, Reuse, Times, Vary, Wish};
use crate::purge::ban::Ban;
use crate::purge::{Labels, Prefix, Tags, fuzz_purge};

/// A name, and what runs under it.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 7] = [
    ("ban", ban),
    ("prefix", prefix),
    ("description", description),
    ("policy", decisions),
    ("purge", fuzz_purge),
    ("range", range),
    ("record", fuzz_record),
];

/// A first line that is an expression, and what it is compared with behind it: the first is read
/// again as the same, and comparing ends, with its opposite for its negation.
pub fn ban(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (expression, rest) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(ban) = expression.parse::<Ban>() else { return };
    assert_eq!(ban.to_string(), expression);
    let mut headers = HeaderMap::new();
    for value in rest.lines().filter_map(|line| HeaderValue::from_str(line).ok()) {
        headers.append("cache-tag", value.clone());
        headers.append("x", value);
    }
    let tags = Tags::of(&headers).unwrap_or_default();
    let (app, url, path) = (b"app", b"url", rest.as_bytes());
    let labels = Labels { app, url, host: path, path, tags: &tags, headers: &headers };
    // One deeper may be too deep.
    if let Ok(negated) = format!("!({expression})").parse::<Ban>() {
        assert_ne!(ban.matches(&labels), negated.matches(&labels), "it is what it is not");
    }
}

/// What is read as a prefix is written as one that is the same.
pub fn prefix(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(prefix) = text.parse::<Prefix>() {
        assert_eq!(prefix.to_string().parse().as_ref(), Ok(&prefix));
    }
}

/// What is read as a description is written as one that is the same.
pub fn description(input: &[u8]) {
    let Some(read) = Description::read(input) else { return };
    let Description { app, url, host, path, tags, .. } = &read;
    let about = About { app, url, host, path, tags };
    let written = match &read.what {
        What::Response { status, headers, freshness } => {
            description::of_response(about, *status, headers, freshness)
        }
        What::Variants { names, generation } => description::of_variants(about, names, *generation),
    };
    assert_eq!(Description::read(&written), Some(read));
}

/// The first byte is a body's size. Ranges lie within it, and don't overlap.
pub fn range(input: &[u8]) {
    let Some((&size, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ranges::Parts(mut parts) = ranges(text, size.into()) else { return };
    assert!(!parts.is_empty(), "no part is no answer");
    parts.sort_by_key(|part| part.start);
    let bytes: u64 = parts.iter().map(|part| part.bytes()).sum();
    assert!(bytes <= size.into(), "more is sent than there is");
    assert!(parts.iter().all(|part| part.start < part.end && part.end <= size.into()));
    assert!(parts.is_sorted_by(|one, next| one.end <= next.start), "parts overlap");
}

/// Headers of a request and, behind an empty line, of its response. What one decision says, another
/// doesn't gainsay.
pub fn decisions(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (asked, answered) = text.split_once("\n\n").unwrap_or((&text, ""));
    let (asked, mut answered) = (headers(asked), headers(answered));
    let mut request = Request::new(());
    *request.headers_mut() = asked.clone();
    let (request, ()) = request.into_parts();
    let now_ms = 1_800_000_000_000;
    let times = Times { asked_ms: now_ms, received_ms: now_ms };
    let (rules, wish) = (Policy::default(), Wish::of(&asked));
    let stored = policy::storable(&rules, &request, StatusCode::OK, &answered, times);
    let vary = Vary::of(&answered);
    if let Vary::On(names) = &vary {
        let key = policy::variant(&Key::new(), names, &asked);
        assert_eq!(key, policy::variant(&Key::new(), names, &asked.clone()));
        assert!(names.is_sorted_by(|one, next| one.as_str() < next.as_str()));
    }
    if let Ok(freshness) = stored {
        assert!(vary != Vary::Any, "it answers no other request, and is stored");
        let fresh = wish.reuse(&freshness, now_ms) == Reuse::Fresh;
        assert!(!(fresh && freshness.must_ask()), "it is used without the asking that it wants");
        let mut expired = freshness.clone();
        expired.expire(now_ms);
        assert!(expired.remaining_ms(now_ms) <= 0, "it expired, and is fresh");
        for later in [0, 1, now_ms, u64::MAX] {
            let _ = (freshness.age_s(later), wish.reuse(&freshness, later));
        }
    }
    let size = 1000;
    let answer = policy::answer(&Method::GET, &asked, StatusCode::OK, &answered, size);
    if let Answer::Parts(parts) = answer {
        assert!(parts.iter().all(|part| part.start < part.end && part.end <= size));
    }
    let post = Request::post("http://a.test/x").body(());
    if let Ok((post, ())) = post.map(Request::into_parts) {
        for target in policy::invalidated(&post, "http", StatusCode::OK, &answered) {
            assert!(target.starts_with('/'), "{target} is no path of this host");
        }
    }
    policy::trim(&rules, &mut answered);
    let once = answered.clone();
    policy::trim(&rules, &mut answered);
    assert_eq!(once, answered, "what was left out before is not there");
    assert_eq!(policy::freshen(&once, &once), once);
}

fn headers(text: &str) -> HeaderMap {
    let line = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value.trim()).ok()?))
    };
    text.lines().filter_map(line).collect()
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
                    for bit in 0..8 {
                        let mut damaged = seed.clone();
                        damaged[at] ^= 1 << bit;
                        run(&damaged);
                    }
                }
            }
            assert!(seeds >= 2, "{name} has too few seeds");
        }
    }
}
