//! What a run is made of: exchanges in a row, and what is seen of each.

use std::fmt;

/// Header fields: names in lower case, in order, values as they are sent.
pub(super) type Fields = Vec<(String, Vec<u8>)>;

/// The hosts that are asked for.
pub(super) const HOSTS: [&str; 2] = ["a.test", "b.test:8080"];

/// Exchanges, one after the other, with an empty cache before the first.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) steps: Vec<Step>,
}

/// A pause, a request, and what the origin answers if it is asked meanwhile.
#[derive(Clone)]
pub(super) struct Step {
    pub(super) wait_ms: u64,
    pub(super) ask: Ask,
    pub(super) reply: Reply,
}

/// A request.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) method: String,
    pub(super) host: String,
    pub(super) target: String,
    pub(super) fields: Fields,
    pub(super) body: Vec<u8>,
    /// Sent in place of all that: something that is no request, and is to be refused.
    pub(super) broken: Option<Vec<u8>>,
}

/// What the origin does.
#[derive(Clone)]
pub(super) struct Reply {
    pub(super) kind: Kind,
    pub(super) delay_ms: u64,
    pub(super) status: u16,
    pub(super) fields: Fields,
    pub(super) body: Vec<u8>,
    /// The body comes in chunks, and the head does not say how long it is.
    pub(super) chunked: bool,
    /// The fields of a 304 to a request that has `if-none-match` or `if-modified-since`.
    pub(super) confirm: Option<Fields>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Whole,
    /// The connection closes within the body.
    Cut,
    /// The connection closes at once.
    HangUp,
    /// What comes is not HTTP.
    Garbage,
    /// There is no connection.
    Unreachable,
}

/// Request fields whose way to the origin is compared.
pub(super) const SENT: [&str; 9] = [
    "authorization",
    "cache-control",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
    "x-n",
];

/// A request that the origin got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) method: String,
    pub(super) host: String,
    pub(super) target: String,
    /// Those of [`SENT`], sorted.
    pub(super) fields: Vec<(String, String)>,
}

/// Those fields that are compared, sorted, as text.
pub(super) fn shown(fields: &Fields, compared: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let kept = fields.iter().filter(|(name, _)| compared(name));
    let mut kept: Vec<_> =
        kept.map(|(name, value)| (name.clone(), value.escape_ascii().to_string())).collect();
    kept.sort();
    kept
}

/// An answer that a client got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// What `cache-status` says, without lifetime and detail.
    pub(super) cache: Option<String>,
    pub(super) fields: Vec<(String, String)>,
    /// None if it broke off.
    pub(super) body: Option<String>,
}

/// What was seen of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) sent: Vec<Sent>,
    /// None for a request that is to be refused: any refusal is.
    pub(super) answer: Option<Answer>,
}

fn lines(f: &mut fmt::Formatter<'_>, fields: &Fields) -> fmt::Result {
    fields
        .iter()
        .try_for_each(|(name, value)| writeln!(f, "      {name}: {}", value.escape_ascii()))
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Step { wait_ms, ask, reply }) in self.steps.iter().enumerate() {
            writeln!(f, "  {at}: after {wait_ms} ms")?;
            if let Some(broken) = &ask.broken {
                writeln!(f, "    {}", broken.escape_ascii())?;
                continue;
            }
            writeln!(f, "    {} http://{}{}", ask.method, ask.host, ask.target)?;
            lines(f, &ask.fields)?;
            if !ask.body.is_empty() {
                writeln!(f, "      with a body")?;
            }
            let Reply { kind, delay_ms, status, chunked, .. } = reply;
            write!(f, "    {kind:?} {status} of {} bytes", reply.body.len())?;
            writeln!(f, "{} in {delay_ms} ms", if *chunked { ", chunked" } else { "" })?;
            lines(f, &reply.fields)?;
            if let Some(confirm) = &reply.confirm {
                writeln!(f, "    or 304 to a condition")?;
                lines(f, confirm)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Sent { method, host, target, fields } in &self.sent {
            write!(f, "\n    to the origin: {method} {host} {target}")?;
            fields.iter().try_for_each(|(name, value)| write!(f, " {name}: {value};"))?;
        }
        let Some(Answer { status, cache, fields, body }) = &self.answer else {
            return write!(f, "\n    refused");
        };
        write!(f, "\n    {status} ({})", cache.as_deref().unwrap_or("not by the cache"))?;
        fields.iter().try_for_each(|(name, value)| write!(f, " {name}: {value};"))?;
        match body {
            Some(body) => write!(f, " {body:?}"),
            None => write!(f, " no whole body"),
        }
    }
}
