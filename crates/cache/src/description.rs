//! What the disk tier keeps beside a body: a stored response's head, or how a URL's variants are
//! found, with what purges go by.
//!
//! Deliberately absent: bodies, and the purge stamp, which the tier keeps itself.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::disk::Judge;
use crate::policy::Freshness;
use crate::purge::{Labels, Purgeable, Purger, Stamp, Tags, Verdict};

/// The version of the form. Another one is none.
const VERSION: u8 = 2;
const RESPONSE: u8 = 0;
const VARIANTS: u8 = 1;
/// Fields of a response, and names of fields.
const MOST_FIELDS: u32 = 4096;

/// What was asked for, as far as purges tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About<'a> {
    /// Whose it is.
    pub app: &'a [u8],
    /// Its primary key.
    pub url: &'a [u8],
    /// The host: lower case, no port.
    pub host: &'a [u8],
    /// The path as keys have it, without the query.
    pub path: &'a [u8],
    /// The tags, of which not all stand in a response's fields.
    pub tags: &'a Tags,
}

/// What is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A response, whose body is beside this.
    Response {
        /// Its status.
        status: StatusCode,
        /// Its fields.
        headers: HeaderMap,
        /// For how long it is good.
        freshness: Freshness,
    },
    /// The response depends on fields of the request.
    Variants {
        /// Their names.
        names: Box<[HeaderName]>,
        /// A part of the variants' keys.
        generation: u64,
    },
}

/// A description that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Whose it is.
    pub app: Box<[u8]>,
    /// Its primary key.
    pub url: Box<[u8]>,
    /// The host.
    pub host: Box<[u8]>,
    /// The path.
    pub path: Box<[u8]>,
    /// The tags.
    pub tags: Tags,
    /// What is stored.
    pub what: What,
}

/// The description of a response.
pub fn of_response(
    about: About<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    freshness: &Freshness,
) -> Bytes {
    let mut out = begin(about, RESPONSE);
    out.extend_from_slice(&status.as_u16().to_le_bytes());
    let times = [freshness.born_ms, freshness.lifetime_ms, freshness.stale_while_revalidate_ms];
    for time in times.into_iter().chain([freshness.stale_if_error_ms.unwrap_or(0)]) {
        out.extend_from_slice(&time.to_le_bytes());
    }
    let flags = [
        freshness.stale_if_error_ms.is_some(),
        freshness.must_ask,
        freshness.never_stale,
        freshness.not_stale_unasked,
    ];
    out.extend(flags.map(u8::from));
    out.extend_from_slice(&(headers.len() as u32).to_le_bytes());
    for (name, value) in headers {
        put(&mut out, name.as_str().as_bytes());
        put(&mut out, value.as_bytes());
    }
    out.into()
}

/// The description of how variants are found.
pub fn of_variants(about: About<'_>, names: &[HeaderName], generation: u64) -> Bytes {
    let mut out = begin(about, VARIANTS);
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(&(names.len() as u32).to_le_bytes());
    for name in names {
        put(&mut out, name.as_str().as_bytes());
    }
    out.into()
}

fn begin(about: About<'_>, what: u8) -> Vec<u8> {
    let mut out = vec![VERSION, what];
    for part in [about.app, about.url, about.host, about.path, about.tags.as_bytes()] {
        put(&mut out, part);
    }
    out
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

impl Description {
    /// Reads a description. Nothing: it is of another version, or none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let [version, what] = take(&mut rest)?;
        if version != VERSION {
            return None;
        }
        let mut part = || text(&mut rest).map(Box::<[u8]>::from);
        let (app, url, host, path) = (part()?, part()?, part()?, part()?);
        let tags = Tags::from_bytes(&part()?).ok()?;
        let what = match what {
            RESPONSE => response(&mut rest)?,
            VARIANTS => {
                let generation = u64::from_le_bytes(take(&mut rest)?);
                let count = count(&mut rest)?;
                let names = (0..count).map(|_| HeaderName::from_bytes(text(&mut rest)?).ok());
                What::Variants { names: names.collect::<Option<_>>()?, generation }
            }
            _ => return None,
        };
        rest.is_empty().then_some(Self { app, url, host, path, tags, what })
    }
}

fn response(rest: &mut &[u8]) -> Option<What> {
    let status = StatusCode::from_u16(u16::from_le_bytes(take(rest)?)).ok()?;
    let mut times = [0; 4];
    for time in &mut times {
        *time = i64::from_le_bytes(take(rest)?);
    }
    let [born_ms, lifetime_ms, stale_while_revalidate_ms, stale_if_error_ms] = times;
    let flags: [u8; 4] = take(rest)?;
    let [says, must_ask, never_stale, not_stale_unasked] = flags.map(|flag| flag != 0);
    let freshness = Freshness {
        born_ms,
        lifetime_ms,
        stale_while_revalidate_ms,
        stale_if_error_ms: says.then_some(stale_if_error_ms),
        must_ask,
        never_stale,
        not_stale_unasked,
    };
    let mut headers = HeaderMap::new();
    for _ in 0..count(rest)? {
        let name = HeaderName::from_bytes(text(rest)?).ok()?;
        headers.try_append(name, HeaderValue::from_bytes(text(rest)?).ok()?).ok()?;
    }
    Some(What::Response { status, headers, freshness })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_le_bytes(take(rest)?);
    let (taken, after) = rest.split_at_checked(length as usize)?;
    *rest = after;
    Some(taken)
}

fn count(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(take(rest)?)).filter(|count| *count <= MOST_FIELDS)
}

/// A description with its stamp.
struct Stamped {
    description: Description,
    none: HeaderMap,
    stamp: Stamp,
}

impl Purgeable for Stamped {
    fn labels(&self) -> Labels<'_> {
        let Description { app, url, host, path, tags, what } = &self.description;
        let headers = match what {
            What::Response { headers, .. } => headers,
            What::Variants { .. } => &self.none,
        };
        Labels { app, url, host, path, tags, headers }
    }

    fn stamp(&self) -> &Stamp {
        &self.stamp
    }
}

/// Judges what the disk tier is about to write again, by what was purged.
pub fn judge(purger: Purger) -> Judge {
    Arc::new(move |meta, stamp| {
        let description = Description::read(meta)?;
        let object = Stamped { description, none: HeaderMap::new(), stamp };
        (purger.verdict(&object) != Verdict::Gone).then_some(object.stamp)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::purge::{Kind, Limits, Scope};

    fn tags() -> Tags {
        let mut tags = Tags::default();
        tags.add(b"tag").unwrap();
        tags.add(b"\0another").unwrap();
        tags
    }

    fn about<'a>(app: &'a [u8], url: &'a [u8], tags: &'a Tags) -> About<'a> {
        About { app, url, host: b"a.example", path: b"/path", tags }
    }

    fn whole(bytes: &[u8], app: &[u8], url: &[u8], expected: &What) {
        let read = Description::read(bytes).unwrap();
        assert_eq!((&*read.app, &*read.url), (app, url));
        assert_eq!((&*read.host, &*read.path), (&b"a.example"[..], &b"/path"[..]));
        assert_eq!((&read.what, &read.tags), (expected, &tags()));
        for end in 0..bytes.len() {
            assert_eq!(Description::read(&bytes[..end]), None, "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            app: Vec<u8>,
            url: Vec<u8>,
            status in 100u16..600,
            fields in proptest::collection::vec(("[a-c]{1,2}", "[ -~\u{e9}]{0,9}"), 0..9),
            times: [i64; 3],
            stale_if_error_ms: Option<i64>,
            flags: [bool; 3],
            generation: u64,
        ) {
            let status = StatusCode::from_u16(status).unwrap();
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            let [born_ms, lifetime_ms, stale_while_revalidate_ms] = times;
            let [must_ask, never_stale, not_stale_unasked] = flags;
            let freshness = Freshness {
                born_ms,
                lifetime_ms,
                stale_while_revalidate_ms,
                stale_if_error_ms,
                must_ask,
                never_stale,
                not_stale_unasked,
            };
            let written = of_response(about(&app, &url, &tags()), status, &headers, &freshness);
            let names: Box<[HeaderName]> = headers.keys().cloned().collect();
            whole(&written, &app, &url, &What::Response { status, headers, freshness });
            let written = of_variants(about(&app, &url, &tags()), &names, generation);
            whole(&written, &app, &url, &What::Variants { names, generation });
        }

        #[test]
        fn anything_else_is_none(bytes: Vec<u8>) {
            let _ = Description::read(&bytes);
        }
    }

    #[test]
    fn a_judge_keeps_what_is_not_gone() {
        let purger = Purger::new(Limits::default());
        let judge = judge(purger.clone());
        let headers = HeaderMap::new();
        let freshness = Freshness {
            born_ms: 0,
            lifetime_ms: 0,
            stale_while_revalidate_ms: 0,
            stale_if_error_ms: None,
            must_ask: false,
            never_stale: false,
            not_stale_unasked: false,
        };
        let tagged =
            of_response(about(b"app", b"url", &tags()), StatusCode::OK, &headers, &freshness);
        let stamp = || Stamp::new(crate::purge::Generation::FIRST);
        assert!(judge(&tagged, stamp()).is_some());
        purger.purge(b"app", &Scope::Tag(b"tag".to_vec()), Kind::Hard);
        assert!(judge(&tagged, stamp()).is_none());
        purger.purge(b"app", &Scope::Url(b"url".to_vec()), Kind::Soft);
        let plain = of_variants(about(b"app", b"url", &Tags::default()), &[], 1);
        let kept = judge(&plain, stamp()).unwrap();
        assert_eq!(kept.generation(), purger.current(), "it need not be compared again");
        purger.purge(b"app", &Scope::App, Kind::Hard);
        assert!(judge(&plain, kept).is_none());
        assert!(judge(b"none", Stamp::new(purger.current())).is_none());
    }
}
