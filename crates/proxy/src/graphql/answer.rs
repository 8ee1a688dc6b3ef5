//! Which answers are stored.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};

/// Whether a response may be stored, if its body has no errors (see [`Answer`]) and the rules of
/// HTTP say so too.
pub fn may_store(status: StatusCode, headers: &HeaderMap) -> bool {
    let essence = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().split(|&byte| byte == b';').next())
        .unwrap_or_default()
        .trim_ascii()
        .to_ascii_lowercase();
    status == StatusCode::OK
        && !headers.contains_key(CONTENT_ENCODING)
        && matches!(essence.as_slice(), b"application/json" | b"application/graphql-response+json")
}

/// Reads an answer as it passes, for whether it is a whole object with `data` and without
/// `errors`. It keeps a few bytes, however long the answer is.
#[derive(Debug, Default)]
pub struct Answer {
    /// How many objects and arrays are open.
    depth: u32,
    place: Place,
    /// The beginning of a member's name at the top; longer ones are not of interest.
    name: Vec<u8>,
    has_data: bool,
    refused: bool,
}

/// Where in the text the answer is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first brace.
    #[default]
    Start,
    /// Where a member's name begins at the top.
    BeforeName,
    /// In such a name.
    Name,
    /// Anywhere else outside strings.
    Value,
    /// In another string.
    String,
    /// Behind a backslash in another string.
    Escape,
    /// Behind the last brace.
    End,
}

/// No name that matters is longer.
const NAME: usize = 8;

impl Answer {
    /// Takes in the next piece of the answer.
    pub fn read(&mut self, piece: &[u8]) {
        for &byte in piece {
            if self.refused {
                return;
            }
            self.byte(byte);
        }
    }

    fn byte(&mut self, byte: u8) {
        let is_space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        match (self.place, byte) {
            (Place::Start | Place::End | Place::BeforeName, _) if is_space => {}
            (Place::Start, b'{') => {
                self.depth = 1;
                self.place = Place::BeforeName;
            }
            (Place::BeforeName, b'"') => self.place = Place::Name,
            (Place::BeforeName, b'}') => self.close(),
            // What is written in escapes can't be told from `errors` without more ado.
            (Place::Start | Place::End | Place::BeforeName, _) | (Place::Name, b'\\') => {
                self.refused = true;
            }
            (Place::Name, b'"') => self.named(),
            (Place::Name, _) if self.name.len() <= NAME => self.name.push(byte),
            (Place::Name, _) => {}
            (Place::String, b'"') => self.place = Place::Value,
            (Place::String, b'\\') => self.place = Place::Escape,
            (Place::String, _) => {}
            (Place::Escape, _) => self.place = Place::String,
            (Place::Value, b'"') => self.place = Place::String,
            (Place::Value, b'{' | b'[') => self.depth = self.depth.saturating_add(1),
            (Place::Value, b'}' | b']') => self.close(),
            (Place::Value, b',') if self.depth == 1 => self.place = Place::BeforeName,
            (Place::Value, _) => {}
        }
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.place = if self.depth == 0 { Place::End } else { Place::Value };
    }

    fn named(&mut self) {
        match self.name.as_slice() {
            b"data" => self.has_data = true,
            b"errors" | b"hasNext" => self.refused = true,
            _ => {}
        }
        self.name.clear();
        self.place = Place::Value;
    }

    /// The answer is over: whether it may be stored.
    pub fn is_good(&self) -> bool {
        !self.refused && self.has_data && self.place == Place::End
    }
}
