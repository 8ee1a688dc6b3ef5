//! What fuzzers run: each function takes any bytes, and panics where a promise is broken. A fuzzing
//! build (`--cfg fuzzing`) has them, and so have tests, which run them over the seeds in
//! `fuzz/NAME`, whole and damaged.

use http::{HeaderMap, HeaderValue};

use crate::description::{self, About, Description, What};
use crate::purge::ban::Ban;
use crate::purge::{Labels, Prefix, Tags, fuzz_purge};

/// A name, and what runs under it.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 4] =
    [("ban", ban), ("prefix", prefix), ("description", description), ("purge", fuzz_purge)];

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
    let about = About { app: &read.app, url: &read.url, host: &read.host, path: &read.path };
    let written = match &read.what {
        What::Response { status, headers, freshness } => {
            description::of_response(about, *status, headers, freshness)
        }
        What::Variants { names, generation } => description::of_variants(about, names, *generation),
    };
    assert_eq!(Description::read(&written), Some(read));
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
