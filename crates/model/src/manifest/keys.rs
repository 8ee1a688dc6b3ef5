//! Every table and key of the author form, described once.
//!
//! The parser takes the names and limits from here, [`super::schema`] makes the JSON schema of it,
//! and the tables of the guide's reference are this text: a test holds them to it. What a key's
//! value means is decided where it is read.

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
pub const TABLES: [&Table; 5] = [&APP, &SERVICE, &ROUTE, &REDIRECT, &PLACEMENT];

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

pub(super) const APP: Table = Table {
    name: "app",
    title: "[app]",
    most: None,
    about: "What the app is called, and how it is built and tested.",
    keys: &[
        key(
            "name",
            LABEL,
            Without::Refused,
            "Unique in the installation: lower-case letters, digits and hyphens, beginning with a letter, at most 63. An app that names no host is served at `NAME.ZONE`.",
            "\"shop\"",
        ),
        key(
            "build",
            COMMAND,
            Without::Words("nothing is run"),
            "A shell command, run once before the services' own builds.",
            "\"npm ci && npm run build\"",
        ),
        key(
            "test",
            COMMAND,
            Without::Words("nothing is run"),
            "A shell command, run after all builds. A non-zero exit refuses the push.",
            "\"npm test\"",
        ),
        key(
            "environment",
            ENVIRONMENT,
            Without::Words("none"),
            "Variables for build, test and every service: see [environment](#environment).",
            "{ CURRENCY = \"EUR\" }",
        ),
        key(
            "force_https",
            Takes::Flag,
            Without::Value("false"),
            "Whether plain HTTP is answered with a redirect (308) to the same address with HTTPS.",
            "true",
        ),
    ],
    either: &[],
};

pub(super) const SERVICE: Table = Table {
    name: "service",
    title: "[[service]]",
    most: Some(MAX_SERVICES),
    about: "What answers requests.",
    keys: &[
        key(
            "name",
            LABEL,
            Without::Refused,
            "Unique in the app, with the same letters as an app's name.",
            "\"web\"",
        ),
        key(
            "kind",
            Takes::Word(KIND_NAMES),
            Without::Refused,
            "`\"static\"` for files, `\"process\"` for a program that listens on `$PORT`, `\"upstream\"` for a plain HTTP server elsewhere.",
            "\"static\"",
        ),
        key(
            "build",
            COMMAND,
            Without::Words("nothing is run"),
            "A shell command, run after the app's `build`.",
            "\"npm run build\"",
        )
        .of(BUILT),
        key(
            "environment",
            ENVIRONMENT,
            Without::Words("none"),
            "Variables for this service's build and run, over the app's.",
            "{ NODE_ENV = \"production\" }",
        )
        .of(BUILT),
        key(
            "root",
            Takes::Text { pattern: r"[^/\\\u0000-\u001f][^\\\u0000-\u001f]*", most: MAX_PATH_BYTES },
            Without::Refused,
            "The directory whose files are served, relative to the app's directory and within it. `\".\"` is the app's directory.",
            "\"public\"",
        )
        .of(STATIC),
        key(
            "fallback",
            Takes::Text { pattern: r"[^/\\\u0000-\u001f]([^\\\u0000-\u001f]*[^/\\\u0000-\u001f])?", most: MAX_PATH_BYTES },
            Without::Words("404, with `404.html` if there is one"),
            "A file below `root` that answers where no file is, for an app that routes in the browser. It answers pages: a path that looks like a missing file, such as `/app.js`, stays 404 unless the client asks for HTML.",
            "\"index.html\"",
        )
        .of(STATIC),
        key(
            "command",
            COMMAND,
            Without::Refused,
            "A shell command that runs until SIGTERM and answers HTTP/1.1 on `$PORT`. Begin it with `exec`, so that the signal reaches the program itself.",
            "\"exec node server.js\"",
        )
        .of(PROCESS),
        key(
            "health",
            Takes::Text { pattern: r"/([!-\u0022$-.0-~][!-\u0022$-~]*)?", most: MAX_PATH_BYTES },
            Without::Words("none"),
            "A path that answers 2xx or 3xx when all is well. A process is ready once it does; without one, once `$PORT` accepts connections. An upstream is asked every 10 seconds; without one, it is connected to.",
            "\"/healthz\"",
        )
        .of(SERVERS),
        key(
            "memory",
            Takes::Size(MEMORY),
            Without::Number(DEFAULT_MEMORY_MIB),
            "The limit for all its processes.",
            "\"512MiB\"",
        )
        .of(PROCESS),
        key(
            "start_timeout",
            Takes::Duration(TIMEOUT),
            Without::Number(DEFAULT_START_TIMEOUT_S),
            "How long it may take to be ready.",
            "\"1m\"",
        )
        .of(PROCESS),
        key(
            "stop_timeout",
            Takes::Duration(TIMEOUT),
            Without::Number(DEFAULT_STOP_TIMEOUT_S),
            "How long it may take to end after SIGTERM, before SIGKILL.",
            "\"20s\"",
        )
        .of(PROCESS),
        key(
            "addresses",
            Takes::Texts { pattern: r"http://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?/?", most: MAX_ADDRESSES },
            Without::Refused,
            "Where it is: `http://`, a host name or an address, and a port unless it is 80. With several, requests go to each in turn, and one that can't be connected to is passed over.",
            "[\"http://10.0.0.5:9000\", \"http://10.0.0.6:9000\"]",
        )
        .of(UPSTREAM),
        key(
            "host",
            Takes::Text { pattern: r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?", most: 260 },
            Without::Words("the visitor's own"),
            "The `host` header that it is sent.",
            "\"legacy.example.com\"",
        )
        .of(UPSTREAM),
    ],
    either: &[],
};

pub(super) const ROUTE: Table = Table {
    name: "route",
    title: "[[route]]",
    most: Some(MAX_ROUTES),
    about: "Which requests go to which service.",
    keys: &[
        key(
            "host",
            Takes::Text { pattern: HOST, most: 254 },
            Without::Words("the app's default host"),
            "A host name.",
            "\"shop.example.com\"",
        ),
        key(
            "hosts",
            Takes::Texts { pattern: HOST, most: MAX_HOSTS },
            Without::Words("the app's default host"),
            "Several of them, in place of `host`.",
            "[\"shop.example.com\", \"www.shop.example.com\"]",
        ),
        key(
            "path",
            Takes::Text { pattern: PATH, most: MAX_PATH_BYTES },
            Without::Value("\"/*\""),
            "`\"/exact\"`, or `\"/prefix/*\"`, which matches `/prefix`, `/prefix/` and everything below.",
            "\"/api/*\"",
        ),
        key(
            "service",
            LABEL,
            Without::Words("the app's only service"),
            "The service that answers.",
            "\"api\"",
        ),
        key(
            "rewrite",
            Takes::Text { pattern: PATH, most: MAX_PATH_BYTES },
            Without::Words("the path as it came"),
            "The path that the service is asked for: an exact one, or with `/*` the one that replaces the prefix of `path`. `\"/*\"` takes the prefix off.",
            "\"/v2/*\"",
        ),
        key(
            "response_headers",
            Takes::Map { pattern: "[!#$%&'*+.^_`|~0-9A-Za-z-]+", most: MAX_HEADERS },
            Without::Words("none"),
            "Headers set on every response of the route, replacing the service's own.",
            "{ x-frame-options = \"DENY\" }",
        ),
    ],
    either: &[["host", "hosts"]],
};

pub(super) const REDIRECT: Table = Table {
    name: "redirect",
    title: "[[redirect]]",
    most: Some(MAX_ROUTES),
    about: "Which requests are sent elsewhere.",
    keys: &[
        key(
            "host",
            Takes::Text { pattern: HOST, most: 254 },
            Without::Words("the app's default host"),
            "A host name.",
            "\"www.example.com\"",
        ),
        key(
            "hosts",
            Takes::Texts { pattern: HOST, most: MAX_HOSTS },
            Without::Words("the app's default host"),
            "Several of them, in place of `host`.",
            "[\"www.example.com\", \"example.org\"]",
        ),
        key(
            "from",
            Takes::Text { pattern: PATH, most: MAX_PATH_BYTES },
            Without::Value("\"/*\""),
            "The paths, as in a route.",
            "\"/old/*\"",
        ),
        key(
            "to",
            Takes::Text { pattern: r"(https?://[^/?#*\s]+(/.*)?|/([^/].*)?)", most: MAX_URL_BYTES },
            Without::Refused,
            "A path at the same host, or a whole URL, as it is in a browser's address line. A `/*` at its end stands for what `/*` in `from` matched. The query goes along, unless there is one here.",
            "\"https://example.com/*\"",
        ),
        key(
            "status",
            Takes::OneOf(STATUSES),
            Without::Number(DEFAULT_STATUS as u32),
            "`308` or `301` for good, which browsers remember; `307` or `302` for now; `303` to answer a form. Clients of 301, 302 and 303 go on with GET.",
            "308",
        ),
    ],
    either: &[["host", "hosts"]],
};

/// An absolute path without query, escapes or backslashes; a star may be the last segment.
const PATH: &str = r"(/[^/*?#%\\\u0000-\u001f]+)*/([^/?#%\\*\u0000-\u001f]*|\*)";

pub(super) const PLACEMENT: Table = Table {
    name: "placement",
    title: "[placement]",
    most: None,
    about: "At which sites the app runs. Without it, at every site.",
    keys: &[
        key(
            "min_sites",
            Takes::Number(SITES),
            Without::Number(DEFAULT_MIN_SITES),
            "Fewer sites that qualify refuse the push.",
            "2",
        ),
        key(
            "max_sites",
            Takes::Number(SITES),
            Without::Words("every site that qualifies"),
            "No more sites than this; which ones, `selvedge why` explains.",
            "6",
        ),
        key(
            "include",
            Takes::Texts { pattern: SITE, most: MAX_ENTRIES },
            Without::Words("none"),
            "Ids of sites that must be chosen.",
            "[\"fra\"]",
        ),
        key(
            "exclude",
            Takes::Texts { pattern: SITE, most: MAX_ENTRIES },
            Without::Words("none"),
            "Ids of sites that must not be chosen.",
            "[\"nyc\"]",
        ),
        key(
            "regions",
            Takes::Texts {
                pattern: "(africa|asia|europe|north-america|oceania|south-america)",
                most: MAX_ENTRIES,
            },
            Without::Words("everywhere"),
            "`africa`, `asia`, `europe`, `north-america`, `oceania`, `south-america`: only sites in one of these.",
            "[\"europe\"]",
        ),
        key(
            "jurisdictions",
            Takes::Texts { pattern: "[A-Za-z]{2}", most: MAX_ENTRIES },
            Without::Words("everywhere"),
            "Two-letter country codes (ISO 3166-1), or `EU`: only sites in one of these.",
            "[\"EU\"]",
        ),
    ],
    either: &[],
};
