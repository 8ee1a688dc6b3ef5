//! Every table and key of the author form, described once.
//!
//! The parser takes the names and limits from here, [`super::schema`] makes the JSON schema of it,
//! and the tables of the guide's reference are this text: a test holds them to it. What a key's
//! value means is decided where it is read.

mod tables;

pub(super) use tables::{APP, BUILD_LIMITS, PLACEMENT, REDIRECT, ROUTE, SERVICE};

/// A table of the author form.
#[derive(Debug)]
pub struct Table {
    /// Its key at the top of the file.
    pub name: &'static str,
    /// As people write it, such as `[[service]]`.
    pub title: &'static str,
    /// The most that there may be; `None` for a table that is there once.
    pub most: Option<usize>,
    /// What it is, in Markdown.
    pub about: &'static str,
    /// In the order of the guide.
    pub keys: &'static [Key],
    /// Keys that stand in place of each other.
    pub either: &'static [[&'static str; 2]],
}

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// The key.
    pub name: &'static str,
    /// What values it takes.
    pub takes: Takes,
    /// What holds without it.
    pub without: Without,
    /// What it is, in Markdown; [`Key::description`] adds the limits.
    pub about: &'static str,
    /// A value, in TOML.
    pub example: &'static str,
    /// The kinds of service that have it; empty for every kind, and outside of services.
    pub kinds: &'static [&'static str],
}

/// What values a key takes.
#[derive(Debug, Clone, Copy)]
pub enum Takes {
    /// A text of at most so many bytes, which matches this regular expression as a whole (of the
    /// dialect that ECMA 262 and the `regex` crate share).
    Text {
        /// The expression, without anchors.
        pattern: &'static str,
        /// The most bytes.
        most: usize,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of texts, not empty and none twice.
    Texts {
        /// What each matches, as in [`Takes::Text`].
        pattern: &'static str,
        /// The most entries.
        most: usize,
    },
    /// A table of texts.
    Map {
        /// What each key matches.
        pattern: &'static str,
        /// The most entries.
        most: usize,
    },
    /// `true` or `false`.
    Flag,
    /// One of these numbers.
    OneOf(&'static [u16]),
    /// A whole number.
    Number(Range),
    /// A size of memory in MiB, written with a unit.
    Size(Range),
    /// A duration in seconds, written with a unit.
    Duration(Range),
    /// Processors in thousandths, written as a decimal number.
    Processors(Range),
}

/// The limits of a number, both included.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The least.
    pub least: u32,
    /// The most.
    pub most: u32,
}

impl Range {
    /// Whether `number` is within the limits.
    pub fn contains(self, number: u32) -> bool {
        (self.least..=self.most).contains(&number)
    }
}

/// What holds without a key.
#[derive(Debug, Clone, Copy)]
pub enum Without {
    /// The file is refused.
    Refused,
    /// This, in words.
    Words(&'static str),
    /// This value, in TOML.
    Value(&'static str),
    /// This number, in the unit of its [`Range`].
    Number(u32),
}

/// Every table, in the order of the guide.
pub const TABLES: [&Table; 6] = [&APP, &SERVICE, &ROUTE, &REDIRECT, &PLACEMENT, &BUILD_LIMITS];

/// The kinds of service, with what each is in a few words.
pub const KINDS: [(&str, &str); 3] = [
    ("static", "files"),
    ("process", "a program that listens on `$PORT`"),
    ("upstream", "a plain HTTP server elsewhere"),
];
const KIND_NAMES: &[&str] = &["static", "process", "upstream"];
const STATIC: &[&str] = &["static"];
const PROCESS: &[&str] = &["process"];
const UPSTREAM: &[&str] = &["upstream"];
/// What is made of the app's files.
const BUILT: &[&str] = &["static", "process"];
/// What is a server.
const SERVERS: &[&str] = &["process", "upstream"];

const LABEL: Takes = Takes::Text { pattern: "[a-z]([a-z0-9-]{0,61}[a-z0-9])?", most: 63 };
const COMMAND: Takes =
    Takes::Text { pattern: r"[^\u0000]*[^\s\u0000][^\u0000]*", most: MAX_COMMAND_BYTES };
const ENVIRONMENT: Takes = Takes::Map { pattern: "[A-Za-z_][A-Za-z0-9_]*", most: MAX_VARIABLES };
const HOST: &str = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?";
const SITE: &str = "[a-z]([a-z0-9-]{0,61}[a-z0-9])?";

/// The most bytes that a command may have.
pub(super) const MAX_COMMAND_BYTES: usize = 8 * 1024;
/// The most variables that one `environment` may have.
pub(super) const MAX_VARIABLES: usize = 128;
/// The most services that an app may have.
pub(super) const MAX_SERVICES: usize = 32;
/// The most routes that an app may have.
pub(super) const MAX_ROUTES: usize = 256;
/// The most hosts of an app. Each needs a claim, a certificate at every site and DNS answers.
pub(super) const MAX_HOSTS: usize = 64;
/// The most bytes of a path or of a pattern of paths.
pub(super) const MAX_PATH_BYTES: usize = 1024;
/// The most headers that a route may set.
pub(super) const MAX_HEADERS: usize = 32;
/// The most headers, and the most cookies, that answers to GraphQL depend on.
pub(super) const MAX_IDENTITY: usize = 16;
/// The most entries of a list of sites, regions or jurisdictions.
pub(super) const MAX_ENTRIES: usize = 256;
/// The most addresses of an upstream.
pub(super) const MAX_ADDRESSES: usize = 16;
/// The most bytes of a URL.
pub(super) const MAX_URL_BYTES: usize = 2048;
/// The statuses of redirects.
pub(super) const STATUSES: &[u16] = &[301, 302, 303, 307, 308];
pub(super) const DEFAULT_STATUS: u16 = 307;
/// Memory of a process in MiB: less than the least starts no interpreter.
pub(super) const MEMORY: Range = Range { least: 16, most: 64 * 1024 };
pub(super) const DEFAULT_MEMORY_MIB: u32 = 256;
/// Processor time in thousandths of a processor: less than the least serves nobody.
pub(super) const PROCESSORS: Range = Range { least: 50, most: 256_000 };
pub(super) const DEFAULT_CPU_MILLIS: u32 = 1000;
/// What a service writes is kept in memory.
pub(super) const SERVICE_DISK: Range = Range { least: 1, most: MEMORY.most };
/// Processes and threads: a runtime such as Node.js or the JVM has some dozens.
pub(super) const PROCESSES: Range = Range { least: 16, most: 32_768 };
pub(super) const DEFAULT_PROCESSES: u32 = 512;
/// Of a build: a checkout with its dependencies.
pub(super) const BUILD_DISK: Range = Range { least: 16, most: 1024 * 1024 };
pub(super) const DEFAULT_BUILD_MEMORY_MIB: u32 = 2048;
pub(super) const DEFAULT_BUILD_DISK_MIB: u32 = 4096;
pub(super) const DEFAULT_BUILD_PROCESSES: u32 = 1024;
/// In seconds. A push has five minutes until it is live, so a longer wait for one service is of no
/// use.
pub(super) const TIMEOUT: Range = Range { least: 1, most: 300 };
pub(super) const DEFAULT_START_TIMEOUT_S: u32 = 30;
pub(super) const DEFAULT_STOP_TIMEOUT_S: u32 = 10;
/// An app must run somewhere.
const SITES: Range = Range { least: 1, most: u32::MAX };
pub(super) const DEFAULT_MIN_SITES: u32 = 1;

/// A key of every kind of service, or of another table.
const fn key(
    name: &'static str,
    takes: Takes,
    without: Without,
    about: &'static str,
    example: &'static str,
) -> Key {
    Key { name, takes, without, about, example, kinds: &[] }
}

impl Key {
    /// The key, for these kinds of service alone.
    const fn of(self, kinds: &'static [&'static str]) -> Self {
        Self { kinds, ..self }
    }

    /// The about with the limits, in Markdown.
    pub fn description(&self) -> String {
        let limits = match self.takes {
            Takes::Size(range) => {
                let (least, most) = (size(range.least), size(range.most));
                format!(" A whole number with `MiB` or `GiB`, from {least} to {most}.")
            }
            Takes::Duration(range) => {
                let (least, most) = (duration(range.least), duration(range.most));
                format!(" A whole number with `s` or `m`, from {least} to {most}.")
            }
            Takes::Processors(range) => {
                let (least, most) = (processors(range.least), processors(range.most));
                format!(" A number, from {least} to {most}.")
            }
            _ => String::new(),
        };
        format!("{}{limits}", self.about)
    }

    /// The default as a TOML value, where it is one.
    pub fn default_value(&self) -> Option<String> {
        match (self.without, self.takes) {
            (Without::Value(value), _) => Some(value.to_owned()),
            (Without::Number(mib), Takes::Size(_)) => Some(format!("\"{}\"", size(mib))),
            (Without::Number(s), Takes::Duration(_)) => Some(format!("\"{}\"", duration(s))),
            (Without::Number(millis), Takes::Processors(_)) => Some(processors(millis)),
            (Without::Number(number), _) => Some(number.to_string()),
            (Without::Refused | Without::Words(_), _) => None,
        }
    }
}

impl Table {
    /// The names of its keys, in alphabetical order.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.keys.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names
    }
}

/// MiB as people write them.
pub(super) fn size(mib: u32) -> String {
    if mib.is_multiple_of(1024) { format!("{}GiB", mib / 1024) } else { format!("{mib}MiB") }
}

/// Seconds as people write them.
pub(super) fn duration(s: u32) -> String {
    if s.is_multiple_of(60) { format!("{}m", s / 60) } else { format!("{s}s") }
}

/// Thousandths of a processor as people write them.
pub(super) fn processors(millis: u32) -> String {
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
