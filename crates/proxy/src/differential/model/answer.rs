//! How a response answers: whole, in parts, or with 304 (RFC 9110, sections 13 and 14).

use super::fields::{date, dated, first, has, members};
use super::response::Stored;
use super::{Came, fault};
use crate::differential::case::{Answer, Ask, Fields, shown};

pub(super) enum Form {
    Whole,
    NotModified,
    Parts(Vec<(usize, usize)>),
    Unsatisfiable,
}

/// What a tag is compared by weakly (RFC 9110, section 8.8.3.2).
fn opaque(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag)
}

fn is_unmodified(ask: &Ask, fields: &Fields) -> bool {
    if has(&ask.fields, "if-none-match") {
        let own = first(fields, "etag").map(opaque);
        let asked = members(&ask.fields, "if-none-match", false);
        return asked.iter().any(|tag| tag == "*" || own == Some(opaque(tag)));
    }
    let since = first(&ask.fields, "if-modified-since").and_then(date);
    let changed = dated(fields, "last-modified").or_else(|| dated(fields, "date"));
    matches!((since, changed), (Some(since), Some(changed)) if changed <= since)
}

/// RFC 9110, section 13.1.5.
fn range_applies(ask: &Ask, fields: &Fields) -> bool {
    if !has(&ask.fields, "if-range") {
        return true;
    }
    let Some(condition) = first(&ask.fields, "if-range").map(str::trim) else { return false };
    if condition.ends_with('"') {
        let same = first(fields, "etag").map(str::trim) == Some(condition);
        return same && !condition.starts_with("W/");
    }
    let (Some(asked), Some(changed)) = (date(condition), dated(fields, "last-modified")) else {
        return false;
    };
    asked == changed && dated(fields, "date").is_some_and(|date| date > changed)
}

/// RFC 9110, section 14.1.2: first byte and the one after the last, for each range.
fn ranges(text: &str, size: usize) -> Form {
    let Some((unit, set)) = text.split_once('=') else { return Form::Whole };
    if !unit.eq_ignore_ascii_case("bytes") {
        return Form::Whole;
    }
    let (mut parts, mut asked) = (Vec::new(), 0);
    for range in set.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        asked += 1;
        let Some((from, to)) = range.split_once('-') else { return Form::Whole };
        let number = |text: &str| -> Option<usize> {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().unwrap_or(usize::MAX))
        };
        let (start, end) = match (from.trim(), to.trim()) {
            ("", to) => match number(to) {
                Some(last) => (size.saturating_sub(last), size),
                None => return Form::Whole,
            },
            (from, "") => match number(from) {
                Some(from) => (from, size),
                None => return Form::Whole,
            },
            (from, to) => match (number(from), number(to)) {
                (Some(from), Some(to)) if from <= to => (from, to.saturating_add(1).min(size)),
                _ => return Form::Whole,
            },
        };
        if start < end {
            parts.push((start, end));
        }
    }
    // More than 16, and what would send bytes twice, gets the whole.
    let overlap = |one: &(usize, usize), two: &(usize, usize)| one.0 < two.1 && two.0 < one.1;
    let overlaps = parts
        .iter()
        .enumerate()
        .any(|(at, one)| parts.iter().skip(at + 1).any(|two| overlap(one, two)));
    match asked {
        0 | 17.. => Form::Whole,
        _ if parts.is_empty() => Form::Unsatisfiable,
        _ if overlaps => Form::Whole,
        _ => Form::Parts(parts),
    }
}

fn form(ask: &Ask, status: u16, fields: &Fields, size: Option<usize>) -> Form {
    if !(200..300).contains(&status) {
        return Form::Whole;
    }
    if is_unmodified(ask, fields) {
        return Form::NotModified;
    }
    let lines = ask.fields.iter().filter(|(name, _)| name == "range").count();
    match (first(&ask.fields, "range"), size) {
        (Some(range), Some(size))
            if lines == 1 && ask.method == "GET" && status == 200 && range_applies(ask, fields) =>
        {
            ranges(range, size)
        }
        _ => Form::Whole,
    }
}

/// How a response that comes answers; of several ranges none are made while it comes.
pub(super) fn formed(came: &Came, ask: &Ask) -> Form {
    match form(ask, came.status, &came.fields, came.size) {
        Form::Parts(parts) if parts.len() > 1 => Form::Whole,
        form => form,
    }
}

/// The fields of a 304 (RFC 9110, section 15.4.5).
fn not_modified(fields: &Fields) -> Fields {
    let tagged = has(fields, "etag");
    let of_the_body = |name: &str| name.starts_with("content-") && name != "content-location";
    let kept =
        fields.iter().filter(|(name, _)| !(of_the_body(name) || tagged && name == "last-modified"));
    kept.cloned().collect()
}

impl Form {
    /// The answer that a whole response becomes.
    pub(super) fn answer(&self, came: &Came, cache: String) -> Answer {
        let body = came.is_whole.then(|| came.body.clone());
        let size = came.size.unwrap_or(came.body.len());
        let (status, mut fields, body) = match self {
            Self::Whole => (came.status, came.fields.clone(), body),
            Self::NotModified => (304, not_modified(&came.fields), Some(Vec::new())),
            Self::Unsatisfiable => {
                let range = ("content-range".to_owned(), format!("bytes */{size}"));
                return Answer { fields: vec![range], ..fault(416) };
            }
            Self::Parts(parts) => {
                let (fields, body) = in_parts(came, size, parts);
                (206, fields, body)
            }
        };
        fields.retain(|(name, _)| name != "content-length");
        let body = body.map(|body| body.escape_ascii().to_string());
        Answer { status, cache: Some(cache), fields: shown(&fields, |_| true), body }
    }
}

/// RFC 9110, sections 14.4 and 14.6.
fn in_parts(came: &Came, size: usize, parts: &[(usize, usize)]) -> (Fields, Option<Vec<u8>>) {
    let range = |(start, end): (usize, usize)| format!("bytes {start}-{}/{size}", end - 1);
    let mut fields = came.fields.clone();
    if let [(start, end)] = *parts {
        fields.retain(|(name, _)| name != "content-range");
        fields.push(("content-range".to_owned(), range((start, end)).into_bytes()));
        return (fields, came.body.get(start..end).map(<[u8]>::to_vec));
    }
    let mut text = Vec::new();
    for part in parts {
        text.extend_from_slice(b"\r\n--BOUNDARY\r\n");
        if let Some((_, kind)) = fields.iter().find(|(name, _)| name == "content-type") {
            text.extend_from_slice(&[b"content-type: ", &kind[..], b"\r\n"].concat());
        }
        text.extend_from_slice(format!("content-range: {}\r\n\r\n", range(*part)).as_bytes());
        text.extend_from_slice(&came.body[part.0..part.1]);
    }
    text.extend_from_slice(b"\r\n--BOUNDARY--\r\n");
    fields.retain(|(name, _)| name != "content-type");
    let kind = b"multipart/byteranges; boundary=BOUNDARY".to_vec();
    fields.push(("content-type".to_owned(), kind));
    (fields, Some(text))
}

impl Stored {
    /// The answer that it is now.
    pub(super) fn answer(&self, ask: &Ask, now_ms: u64, cache: &str) -> Answer {
        let mut fields = self.fields.clone();
        let age = (self.age_ms(now_ms).max(0) / 1000).to_string();
        fields.push(("age".to_owned(), age.into_bytes()));
        let size = Some(self.body.len());
        let (status, body) = (self.status, self.body.clone());
        let came = Came { status, fields, body, is_whole: true, size, announced: size };
        let form = form(ask, self.status, &self.fields, size);
        let mut answer = form.answer(&came, cache.to_owned());
        if ask.method == "HEAD" && answer.body.is_some() {
            answer.body = Some(String::new());
        }
        answer
    }
}

/// A reference (RFC 3986, section 5.2) to something at the request's own origin, as path and query.
pub(super) fn resolve(ask: &Ask, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or("");
    let absolute = match reference.strip_prefix("//") {
        Some(rest) => Some(rest),
        None if reference.contains("://") => Some(reference.strip_prefix("http://")?),
        None => None,
    };
    if let Some(rest) = absolute {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let of = |authority: &str| {
            let lower = authority.to_lowercase();
            lower.strip_suffix(":80").map(str::to_owned).unwrap_or(lower)
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        return (of(authority) == of(&ask.host)).then_some(path);
    }
    let (base, base_query) = match ask.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&ask.target[..], None),
    };
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let (path, query) = match path {
        "" => (base.to_owned(), query.or(base_query)),
        path if path.starts_with('/') => (path.to_owned(), query),
        path => (format!("{}{path}", &base[..=base.rfind('/')?]), query),
    };
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path[1..].split('/').collect();
    for (at, segment) in segments.iter().enumerate() {
        let last = at + 1 == segments.len();
        match *segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    let path = format!("/{}", kept.join("/"));
    Some(query.map_or(path.clone(), |query| format!("{path}?{query}")))
}
