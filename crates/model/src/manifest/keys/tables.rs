//! The tables with their keys.

use super::{
    BUILD_DISK, BUILT, COMMAND, DEFAULT_BUILD_DISK_MIB, DEFAULT_BUILD_MEMORY_MIB,
    DEFAULT_BUILD_PROCESSES, DEFAULT_CPU_MILLIS, DEFAULT_MEMORY_MIB, DEFAULT_MIN_SITES,
    DEFAULT_PROCESSES, DEFAULT_START_TIMEOUT_S, DEFAULT_STATUS, DEFAULT_STOP_TIMEOUT_S,
    ENVIRONMENT, HOST, KIND_NAMES, LABEL, MAX_ADDRESSES, MAX_ENTRIES, MAX_HEADERS, MAX_HOSTS,
    MAX_IDENTITY, MAX_PATH_BYTES, MAX_ROUTES, MAX_SERVICES, MAX_URL_BYTES, MEMORY, PROCESS,
    PROCESSES, PROCESSORS, SERVERS, SERVICE_DISK, SITE, SITES, STATIC, STATUSES, TIMEOUT, Table,
    Takes, UPSTREAM, Without, key,
};

pub(in crate::manifest) const APP: Table = Table {
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

pub(in crate::manifest) const SERVICE: Table = Table {
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
            "cpu",
            Takes::Processors(PROCESSORS),
            Without::Number(DEFAULT_CPU_MILLIS),
            "Processors that it may keep busy: `0.5` is half of one.",
            "0.5",
        )
        .of(PROCESS),
        key(
            "disk",
            Takes::Size(SERVICE_DISK),
            Without::Words("half of `memory`, at least 64MiB"),
            "What it may write to `/app` and `/tmp`. It is kept in memory, counts there too, and ends with the process.",
            "\"128MiB\"",
        )
        .of(PROCESS),
        key(
            "processes",
            Takes::Number(PROCESSES),
            Without::Number(DEFAULT_PROCESSES),
            "Processes and threads at a time, from 16 to 32768.",
            "256",
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

pub(in crate::manifest) const ROUTE: Table = Table {
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
            Takes::Map { pattern: TOKEN, most: MAX_HEADERS },
            Without::Words("none"),
            "Headers set on every response of the route, replacing the service's own.",
            "{ x-frame-options = \"DENY\" }",
        ),
        key(
            "esi",
            Takes::Flag,
            Without::Value("false"),
            "Whether pages that say so are put together of pieces (ESI).",
            "true",
        ),
        key(
            "graphql",
            Takes::Flag,
            Without::Value("false"),
            "Whether it is a GraphQL endpoint, whose queries are stored also when they are posted.",
            "true",
        ),
        key(
            "graphql_headers",
            Takes::Texts { pattern: TOKEN, most: MAX_IDENTITY },
            Without::Words("none"),
            "Headers that its answers depend on.",
            "[\"x-tenant\"]",
        ),
        key(
            "graphql_cookies",
            Takes::Texts { pattern: TOKEN, most: MAX_IDENTITY },
            Without::Words("none"),
            "Cookies that its answers depend on.",
            "[\"session\"]",
        ),
        key(
            "graphql_ignore_other_cookies",
            Takes::Flag,
            Without::Value("false"),
            "Whether other cookies make no difference. A request that has one is not stored otherwise.",
            "true",
        ),
    ],
    either: &[["host", "hosts"]],
};

pub(in crate::manifest) const REDIRECT: Table = Table {
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

/// The name of a header or a cookie.
const TOKEN: &str = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";

/// An absolute path without query, escapes or backslashes; a star may be the last segment.
const PATH: &str = r"(/[^/*?#%\\\u0000-\u001f]+)*/([^/?#%\\*\u0000-\u001f]*|\*)";

pub(in crate::manifest) const PLACEMENT: Table = Table {
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

pub(in crate::manifest) const BUILD_LIMITS: Table = Table {
    name: "build_limits",
    title: "[build_limits]",
    most: None,
    about: "What each command of `build` and `test` may use. One that wants more is stopped, and the push is refused.",
    keys: &[
        key(
            "memory",
            Takes::Size(MEMORY),
            Without::Number(DEFAULT_BUILD_MEMORY_MIB),
            "The limit for all its processes. Half of it may be in `/tmp`, which is kept in memory.",
            "\"4GiB\"",
        ),
        key(
            "cpu",
            Takes::Processors(PROCESSORS),
            Without::Words("all of the machine's"),
            "Processors that it may keep busy. What serves requests goes first in any case.",
            "2",
        ),
        key(
            "disk",
            Takes::Size(BUILD_DISK),
            Without::Number(DEFAULT_BUILD_DISK_MIB),
            "What there may be in the checkout and the dependency cache together, with a file for every 4 KiB. A cache that fills half of it is emptied before the next build.",
            "\"8GiB\"",
        ),
        key(
            "processes",
            Takes::Number(PROCESSES),
            Without::Number(DEFAULT_BUILD_PROCESSES),
            "Processes and threads at a time, from 16 to 32768.",
            "2048",
        ),
    ],
    either: &[],
};
