//! Ban expressions: which objects of an app a purge means, by path, host, tags and response fields.
//!
//! ```text
//! path ~ "/img/*" && header(content-type) ~ "image/*"
//! tag == "x" || !(host == "a.example" && path == "/")
//! ```
//!
//! `==` and `!=` compare whole texts; `~` and `!~` compare with a pattern, in which `*` stands for
//! any characters, `/` among them. A text stands in `"`; `\"` and `\\` are these two characters, and
//! in a pattern `\*` is a star. Several tags, or several fields of one name, match when one of them
//! does; `!=` and `!~` say that none does. Names of fields are compared without regard to case, all
//! else byte by byte. `!` binds closest, then `&&`, then `||`.
//!
//! Patterns are no regular expressions: a comparison takes time in proportion to the text compared,
//! whoever wrote the pattern.

mod glob;
mod parse;

use std::fmt;
use std::str::FromStr;

use http::HeaderName;

use super::Labels;
use glob::Glob;

/// The longest expression, in bytes.
const MOST_BYTES: usize = 1024;
/// Comparisons in an expression.
const MOST_COMPARISONS: usize = 16;
/// Parentheses and negations inside each other.
const MOST_DEPTH: usize = 8;

/// A ban expression.
#[derive(Debug, Clone)]
pub struct Ban {
    source: String,
    expression: Expression,
}

/// Why a text is no ban expression. Columns count characters from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// It is too long.
    #[error("a ban expression is at most {MOST_BYTES} bytes long, and this is {0}")]
    TooLong(usize),
    /// It has too many comparisons.
    #[error("column {column}: a ban expression has at most {MOST_COMPARISONS} comparisons")]
    TooMany {
        /// Where the first one too many is.
        column: usize,
    },
    /// It is too deep.
    #[error("column {column}: ( and ! are at most {MOST_DEPTH} deep")]
    TooDeep {
        /// Where it becomes too deep.
        column: usize,
    },
    /// Something else should be here.
    #[error("column {column}: expected {expected}, found {found}")]
    Unexpected {
        /// Where it is.
        column: usize,
        /// What could be here.
        expected: &'static str,
        /// What is here.
        found: String,
    },
    /// A text has no end.
    #[error("column {column}: the text that begins here has no closing \"")]
    Open {
        /// Where it begins.
        column: usize,
    },
    /// A backslash before something that needs none.
    #[error("column {column}: \\ stands before \", \\ and, in a pattern, * only")]
    Escape {
        /// Where the backslash is.
        column: usize,
    },
    /// No name of a header field.
    #[error("column {column}: {name:?} is not the name of a header field")]
    Header {
        /// Where the name is.
        column: usize,
        /// The name.
        name: String,
    },
}

impl FromStr for Ban {
    type Err = BanError;

    fn from_str(source: &str) -> Result<Self, BanError> {
        if source.len() > MOST_BYTES {
            return Err(BanError::TooLong(source.len()));
        }
        Ok(Self { source: source.to_owned(), expression: parse::parse(source)? })
    }
}

impl fmt::Display for Ban {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl PartialEq for Ban {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Ban {}

impl Ban {
    /// Whether it is true of what has these labels. The app is not its business.
    pub fn matches(&self, labels: &Labels<'_>) -> bool {
        self.expression.matches(labels)
    }
}

#[derive(Debug, Clone)]
enum Expression {
    All(Vec<Expression>),
    Any(Vec<Expression>),
    Not(Box<Expression>),
    Compare(Field, Pattern),
}

#[derive(Debug, Clone)]
enum Field {
    Path,
    Host,
    Tag,
    Header(HeaderName),
}

#[derive(Debug, Clone)]
enum Pattern {
    Text(String),
    Glob(Glob),
}

impl Pattern {
    fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Text(wanted) => wanted.as_bytes() == text,
            Self::Glob(glob) => glob.matches(text),
        }
    }
}

impl Expression {
    fn matches(&self, labels: &Labels<'_>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(labels)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(labels)),
            Self::Not(part) => !part.matches(labels),
            Self::Compare(field, pattern) => match field {
                Field::Path => pattern.matches(labels.path),
                Field::Host => pattern.matches(labels.host),
                Field::Tag => labels.tags.iter().any(|tag| pattern.matches(tag)),
                Field::Header(name) => {
                    let mut values = labels.headers.get_all(name).iter();
                    values.any(|value| pattern.matches(value.as_bytes()))
                }
            },
        }
    }
}
