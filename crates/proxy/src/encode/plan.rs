//! What is done to a response, and what its head says then.

use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::tag::Change;
use super::{Accept, Coding, Config};
use crate::fields::{has_directive, members};

/// Digests of a body's bytes (RFC 9530; RFC 3230; RFC 1864). A change makes them false, in the
/// head and in trailers.
pub(super) const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// What is done to a response's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    Keep,
    /// Nothing, but for another client something would be.
    Vary,
    Encode(Coding),
    Decode(Coding),
}

impl Action {
    pub(super) fn change(self) -> Option<Change> {
        match self {
            Self::Keep | Self::Vary => None,
            Self::Encode(coding) => Some(Change::Encoded(coding)),
            Self::Decode(_) => Some(Change::Decoded),
        }
    }
}

/// What is done to a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(super) action: Action,
    /// The entity tag from here on, where it changes.
    pub(super) tag: Option<HeaderValue>,
}

impl Plan {
    pub(super) fn keep() -> Self {
        Self { action: Action::Keep, tag: None }
    }

    /// The plan for a response that would be changed if there were memory for it.
    pub fn unchanged(&self) -> Self {
        let action = if self.action == Action::Keep { Action::Keep } else { Action::Vary };
        Self { action, tag: None }
    }

    /// The coding to encode with, for those who look a stored variant up before they make it.
    pub fn encodes(&self) -> Option<Coding> {
        match self.action {
            Action::Encode(coding) => Some(coding),
            _ => None,
        }
    }

    /// The coding to decode.
    pub fn decodes(&self) -> Option<Coding> {
        match self.action {
            Action::Decode(coding) => Some(coding),
            _ => None,
        }
    }

    /// Makes a response's head say what is done to its body. `length` is the new body's, in bytes,
    /// where it is known.
    pub fn apply(&self, headers: &mut HeaderMap, length: Option<u64>) {
        if self.action != Action::Keep {
            vary(headers);
        }
        if let Some(tag) = &self.tag {
            headers.insert(ETAG, tag.clone());
        }
        if self.action.change().is_none() {
            return;
        }
        match self.action {
            Action::Encode(coding) => {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
            }
            _ => {
                headers.remove(CONTENT_ENCODING);
            }
        }
        headers.remove(CONTENT_LENGTH);
        headers.extend(length.map(|length| (CONTENT_LENGTH, HeaderValue::from(length))));
        headers.remove(ACCEPT_RANGES);
        for name in DIGESTS {
            headers.remove(name);
        }
    }
}

/// Whether a response is a whole representation with a body, which may be changed.
pub(super) fn is_whole(status: StatusCode, headers: &HeaderMap) -> bool {
    let bodiless = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT);
    !bodiless
        && status != StatusCode::PARTIAL_CONTENT
        && !headers.contains_key(CONTENT_RANGE)
        && !has_directive(headers, &CACHE_CONTROL, "no-transform")
}

pub(super) fn action(config: &Config, accept: &Accept, headers: &HeaderMap) -> Action {
    if headers.contains_key(CONTENT_ENCODING) {
        return decoding(config, accept, headers);
    }
    let shrinks = headers
        .get(CONTENT_TYPE)
        .is_some_and(|content_type| config.compresses(content_type.as_bytes()));
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let is_short = length
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|length| length < config.min_bytes);
    if !shrinks || is_short {
        return Action::Keep;
    }
    accept.choose(&config.prefer).map_or(Action::Vary, Action::Encode)
}

/// A client gets what it does not accept only where it accepts nothing that we could make of it.
fn decoding(config: &Config, accept: &Accept, headers: &HeaderMap) -> Action {
    let mut codings = members(headers, &CONTENT_ENCODING);
    let (Some(name), None) = (codings.next(), codings.next()) else { return Action::Keep };
    let Some(coding) = Coding::named(name).filter(|_| config.decode.is_some()) else {
        return Action::Keep;
    };
    if accept.weight(coding) == 0 && accept.takes_identity() {
        Action::Decode(coding)
    } else {
        Action::Vary
    }
}

/// Says that the response depends on `accept-encoding`.
fn vary(headers: &mut HeaderMap) {
    let named = |member: &[u8]| member == b"*" || member.eq_ignore_ascii_case(b"accept-encoding");
    if members(headers, &VARY).any(named) {
        return;
    }
    // One line where there is one: some caches read no further.
    let lines: Vec<&[u8]> = headers.get_all(VARY).iter().map(HeaderValue::as_bytes).collect();
    let merged = match lines.as_slice() {
        [line] if !line.is_empty() => {
            HeaderValue::from_bytes(&[*line, b", accept-encoding"].concat())
        }
        _ => Ok(HeaderValue::from_static("accept-encoding")),
    };
    let single = lines.len() < 2;
    match merged {
        Ok(value) if single => drop(headers.insert(VARY, value)),
        _ => drop(headers.append(VARY, HeaderValue::from_static("accept-encoding"))),
    }
}
