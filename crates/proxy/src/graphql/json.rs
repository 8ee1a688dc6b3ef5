//! JSON in one spelling (RFC 8259): members in the order of their names, no white space, strings
//! escaped in one way. Numbers stay as they are written, since 1 and 1.0 are different inputs and
//! large ones must not be rounded.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// How deep a value may be nested. Each level is read again by the next.
const MAX_DEPTH: usize = 64;

/// The members of an object in their order, of which none comes twice.
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(name) = map.next_key::<Name<'de>>()? {
                    members.push((name.0, map.next_value()?));
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Reader).map(Members)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads an object. `None` if it is none, or has a member twice.
pub(super) fn members(text: &str) -> Option<Members<'_>> {
    let members: Members<'_> = serde_json::from_str(text).ok()?;
    let mut names: Vec<&str> = members.0.iter().map(|(name, _)| name.as_ref()).collect();
    names.sort_unstable();
    let twice = names.windows(2).any(|pair| pair.first() == pair.last());
    (!twice).then_some(members)
}

/// Writes a value in one spelling. `None` if it is nested too deeply, has a member twice, or a
/// string that is no Unicode.
pub(super) fn canonical(value: &RawValue) -> Option<String> {
    let mut out = String::with_capacity(value.get().len());
    write(value, MAX_DEPTH, &mut out)?;
    Some(out)
}

fn write(value: &RawValue, depth: usize, out: &mut String) -> Option<()> {
    let text = value.get();
    match text.as_bytes().first()? {
        b'{' => {
            let mut members = members(text)?;
            members.0.sort_by(|(one, _), (other, _)| one.cmp(other));
            out.push('{');
            for (index, (name, value)) in members.0.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(name).ok()?);
                out.push(':');
                write(value, depth.checked_sub(1)?, out)?;
            }
            out.push('}');
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            out.push('[');
            for (index, value) in items.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(value, depth.checked_sub(1)?, out)?;
            }
            out.push(']');
        }
        b'"' => {
            let string: Cow<'_, str> = serde_json::from_str::<Name<'_>>(text).ok()?.0;
            out.push_str(&serde_json::to_string(&string).ok()?);
        }
        _ => out.push_str(text),
    }
    Some(())
}
