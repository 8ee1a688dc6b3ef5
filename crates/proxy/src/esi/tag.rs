//! One piece of markup: its name and attributes.

use super::parser::{Include, Wrong};

/// What a piece of markup says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Include(Include),
    Remove,
    Try,
    Attempt,
    Except,
    /// The end of one of the three above.
    End(Element),
    /// An element that opens and closes at once and has no effect so, or the end of one that has
    /// no content.
    Nothing,
}

/// An element with others in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Try,
    Attempt,
    Except,
}

/// Where a piece of markup ends that begins with `<`: behind the first `>` outside quotes.
pub(super) fn end(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (at, &byte) in text.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

/// Reads a whole piece, from `<esi:` or `</esi:` to `>`.
pub(super) fn read(text: &[u8]) -> Result<Tag, Wrong> {
    let inner = text.strip_prefix(b"<").and_then(|text| text.strip_suffix(b">"));
    let inner = std::str::from_utf8(inner.unwrap_or_default()).map_err(|_| Wrong::NotUtf8)?;
    if let Some(name) = inner.strip_prefix("/esi:") {
        return match name.trim_ascii_end() {
            "try" => Ok(Tag::End(Element::Try)),
            "attempt" => Ok(Tag::End(Element::Attempt)),
            "except" => Ok(Tag::End(Element::Except)),
            "include" | "comment" => Ok(Tag::Nothing),
            "remove" => Err(Wrong::Unopened),
            _ => Err(Wrong::Element),
        };
    }
    let inner = inner.strip_prefix("esi:").unwrap_or_default();
    let (inner, is_empty) = match inner.strip_suffix('/') {
        Some(inner) => (inner, true),
        None => (inner, false),
    };
    let name_end = inner.find(|c: char| c.is_ascii_whitespace()).unwrap_or(inner.len());
    let (name, attributes) = inner.split_at(name_end);
    let unless_empty = |tag| if is_empty { Tag::Nothing } else { tag };
    match name {
        "include" => include(attributes).map(Tag::Include),
        "comment" => Ok(Tag::Nothing),
        "remove" => Ok(unless_empty(Tag::Remove)),
        "try" if is_empty => Err(Wrong::Try),
        "try" => Ok(Tag::Try),
        "attempt" if is_empty => Err(Wrong::Try),
        "attempt" => Ok(Tag::Attempt),
        "except" if is_empty => Err(Wrong::Try),
        "except" => Ok(Tag::Except),
        _ => Err(Wrong::Element),
    }
}

fn include(attributes: &str) -> Result<Include, Wrong> {
    let (mut src, mut alt, mut onerror) = (None, None, None);
    let mut rest = attributes;
    while let Some((name, value, tail)) = attribute(rest)? {
        rest = tail;
        let slot = match name {
            "src" => &mut src,
            "alt" => &mut alt,
            "onerror" => &mut onerror,
            // Other processors know more attributes.
            _ => continue,
        };
        if slot.replace(value).is_some() {
            return Err(Wrong::Attribute);
        }
    }
    let or_continue = match onerror.as_deref() {
        None => false,
        Some("continue") => true,
        Some(_) => return Err(Wrong::Attribute),
    };
    let src = src.filter(|src| !src.is_empty()).ok_or(Wrong::Src)?;
    Ok(Include { src, alt: alt.filter(|alt| !alt.is_empty()), or_continue })
}

/// The first attribute's name and value, and what follows it.
fn attribute(text: &str) -> Result<Option<(&str, String, &str)>, Wrong> {
    let text = text.trim_ascii_start();
    if text.is_empty() {
        return Ok(None);
    }
    let (name, rest) = text.split_once('=').ok_or(Wrong::Attribute)?;
    let name = name.trim_ascii_end();
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '.');
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(Wrong::Attribute);
    }
    let rest = rest.trim_ascii_start();
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\'')).ok_or(Wrong::Attribute)?;
    let (value, rest) =
        rest.get(1..).and_then(|rest| rest.split_once(quote)).ok_or(Wrong::Attribute)?;
    Ok(Some((name, unescape(value), rest)))
}

/// Resolves XML's entities. An ampersand that begins none is itself, as people write URLs.
fn unescape(text: &str) -> String {
    const ENTITIES: [(&str, char); 5] =
        [("&amp;", '&'), ("&lt;", '<'), ("&gt;", '>'), ("&quot;", '"'), ("&apos;", '\'')];
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let known = ENTITIES
            .iter()
            .find_map(|(entity, c)| from.strip_prefix(entity).map(|tail| (*c, tail)));
        let (c, tail) = known.unwrap_or(('&', from.get(1..).unwrap_or_default()));
        out.push(c);
        rest = tail;
    }
    out.push_str(rest);
    out
}
