//! What the client's request asks for, and its conditions put in the origin's terms.

use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::plan::{self, Plan};
use super::tag::{self, Change};
use super::{Accept, Config};
use crate::fields::{has_directive, tags};

/// What a client's request asks for.
#[derive(Debug, Clone)]
pub struct Negotiation {
    accept: Accept,
    /// `GET` or `HEAD`: the response is the target's representation, and its tag describes it.
    is_read: bool,
    is_head: bool,
    no_transform: bool,
    /// The tags in `if-none-match`, as the client sent them.
    held: Vec<HeaderValue>,
}

impl Negotiation {
    /// Reads a request, and changes its conditions to what whoever answers it can evaluate: the
    /// origin's own tag joins each tag of our making in `if-none-match`, unless the client no
    /// longer takes that coding, and in `if-match`.
    ///
    /// A `range` on condition of a date goes, if the client takes codings: a date is the same for
    /// the encoded and the plain representation, and parts of both must not be put together
    /// (RFC 9110, section 13.1.5). A client that has a tag must have used it, so this is rare.
    pub fn begin(method: &Method, headers: &mut HeaderMap) -> Self {
        let accept = Accept::of(headers);
        let is_read = method == Method::GET || method == Method::HEAD;
        let mut held = Vec::new();
        if is_read {
            let members = tags(headers, &IF_NONE_MATCH);
            held.extend(members.filter_map(|member| HeaderValue::from_bytes(member).ok()));
            translate(headers, &IF_NONE_MATCH, |change| match change {
                Change::Encoded(coding) => accept.weight(coding) > 0,
                Change::Decoded => accept.takes_identity(),
            });
        }
        translate(headers, &IF_MATCH, |_| true);
        let by_date = headers
            .get(IF_RANGE)
            .is_some_and(|condition| tag::parse(condition.as_bytes().trim_ascii()).is_none());
        if by_date && accept.takes_codings() {
            headers.remove(RANGE);
            headers.remove(IF_RANGE);
        }
        let no_transform = has_directive(headers, &CACHE_CONTROL, "no-transform");
        let is_head = method == Method::HEAD;
        Self { accept, is_read, is_head, no_transform, held }
    }

    /// What the client accepts.
    pub fn accept(&self) -> &Accept {
        &self.accept
    }

    /// Whether the response will have a head alone.
    pub(super) fn is_head(&self) -> bool {
        self.is_head
    }

    /// Replaces the client's `accept-encoding` in what an upstream is sent: by one spelling of what
    /// the client takes, or by nothing where the answer must come plain (`plain`), as for ESI.
    pub fn ask(&self, headers: &mut HeaderMap, plain: bool) {
        headers.remove(ACCEPT_ENCODING);
        if !plain && let Some(codings) = self.accept.canonical() {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(codings));
        }
    }

    /// What to do with a response that has this head. For `HEAD` it is what would be done for
    /// `GET`: the head changes in the same way, and there is no body to change.
    pub fn plan(&self, config: &Config, status: StatusCode, headers: &HeaderMap) -> Plan {
        if status == StatusCode::NOT_MODIFIED {
            return self.not_modified(config, headers);
        }
        if self.no_transform || !plan::is_whole(status, headers) {
            return Plan::keep();
        }
        let action = plan::action(config, &self.accept, headers);
        let change = match action.change() {
            Some(change) if self.is_read => change,
            _ => return Plan { action, tag: None },
        };
        let tag = headers.get(ETAG).and_then(|tag| tag::marked(tag, change));
        Plan { action, tag }
    }

    /// A `304` names the representation that the client has, which may be one of our making.
    fn not_modified(&self, config: &Config, headers: &HeaderMap) -> Plan {
        let Some((opaque, _)) = headers.get(ETAG).and_then(|tag| tag::parse(tag.as_bytes())) else {
            return Plan::keep();
        };
        let chosen = self.accept.choose(&config.prefer);
        let rank = |held: &&HeaderValue| {
            let (own, _) = tag::parse(held.as_bytes())?;
            if own == opaque {
                return Some(1);
            }
            let (origin, change) = tag::unmarked(own)?;
            let is_chosen = matches!(change, Change::Encoded(coding) if Some(coding) == chosen);
            (origin == opaque).then_some(if is_chosen { 2 } else { 0 })
        };
        let best = self.held.iter().filter(|held| rank(held).is_some()).max_by_key(rank);
        match best {
            Some(held) if rank(&held) != Some(1) => {
                Plan { action: plan::Action::Vary, tag: Some(held.clone()) }
            }
            _ => Plan::keep(),
        }
    }
}

/// Adds the origin's tag to each tag of our making that `wanted` says is to be translated.
fn translate(headers: &mut HeaderMap, name: &HeaderName, wanted: impl Fn(Change) -> bool) {
    let origin = |member: &[u8]| {
        let (opaque, _) = tag::parse(member)?;
        let (opaque, change) = tag::unmarked(opaque)?;
        let tag = [b"\"", opaque, b"\""].concat();
        wanted(change).then(|| HeaderValue::from_bytes(&tag).ok()).flatten()
    };
    let added: Vec<HeaderValue> = tags(headers, name).filter_map(origin).collect();
    for tag in added {
        headers.append(name.clone(), tag);
    }
}
