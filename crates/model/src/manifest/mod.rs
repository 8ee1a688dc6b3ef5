//! The normal form of an app: what `selvedge.toml` says, validated and with defaults filled in.
//!
//! Everything behind the parser works on these types; only `author` and the modules below it know
//! how people write them. [`discover`] finds the apps of a repository, [`parse`] reads one.

mod author;
mod delivery;
mod diagnostic;
mod discover;
mod keys;
mod limits;
mod placement;
mod redirects;
mod routes;
mod schema;
mod section;
mod services;
mod upstream;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use author::{MAX_FILE_BYTES, parse};
pub use diagnostic::{Diagnostic, closest};
pub use discover::{FILE_NAME, discover};
pub use keys::{KINDS, Key, Range, TABLES, Table, Takes, Without};
pub use limits::{BuildLimits, ProcessLimits};
pub use redirects::{Destination, Redirect, find_loop, loop_words};
pub use schema::schema;
pub use upstream::{AddressError, UpstreamAddress};

use crate::id::{AppName, Host, ServiceName, SiteId};

/// An app in normal form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Unique in the installation.
    pub name: AppName,
    /// Run once in the checkout before the services' own builds.
    pub build: Option<String>,
    /// Run in the built checkout; a non-zero exit refuses the push.
    pub test: Option<String>,
    /// Variables for build, test and every service.
    pub environment: BTreeMap<String, String>,
    /// Whether plain HTTP is answered with a redirect to HTTPS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force_https: bool,
    /// In the order written, names unique. Empty only where there are redirects.
    pub services: Vec<Service>,
    /// Every service is reachable by one. Matching order is [`PathPattern::precedence`].
    pub routes: Vec<Route>,
    /// Requests that are sent elsewhere. They take part in the matching order with the routes, and
    /// no host has both for one pattern.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redirects: Vec<Redirect>,
    /// Where the app is to run.
    pub placement: Placement,
    /// What builds and tests may use.
    #[serde(default, skip_serializing_if = "BuildLimits::is_default")]
    pub build_limits: BuildLimits,
}

/// A workload of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Unique in the app.
    pub name: ServiceName,
    /// What it is and how it runs.
    pub kind: ServiceKind,
    /// Run in the app's directory during the build stage, after the app's own build.
    pub build: Option<String>,
    /// Variables for this service's build and run, over the app's.
    pub environment: BTreeMap<String, String>,
}

/// The kinds of service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ServiceKind {
    /// Files of a directory.
    Static {
        /// Relative to the app's directory, `/`-separated, without `..`; `.` is the app's directory.
        root: String,
        /// The file, `/`-separated and relative to `root`, that answers where no file is: of an app
        /// that routes in the browser.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<String>,
    },
    /// A program that listens for HTTP/1.1 on `$PORT`.
    Process {
        /// Run by `/bin/sh -c` in `/app`.
        command: String,
        /// A path that answers 2xx or 3xx when ready; without one, ready means that `$PORT` accepts.
        health: Option<String>,
        /// How long it may take to be ready, in seconds.
        start_timeout_s: u32,
        /// How long it may take to end after SIGTERM before SIGKILL, in seconds.
        stop_timeout_s: u32,
        /// Memory limit in MiB.
        memory_mib: u32,
        /// What else it may use.
        #[serde(default, skip_serializing_if = "ProcessLimits::is_default")]
        limits: ProcessLimits,
    },
    /// A plain HTTP/1.1 server elsewhere.
    Upstream {
        /// At least one; requests go to each in turn.
        addresses: Vec<UpstreamAddress>,
        /// The `host` header to send; `None`: the client's own.
        host: Option<String>,
        /// A path that answers 2xx or 3xx when all is well; without one, an address is well when it
        /// accepts connections.
        health: Option<String>,
    },
}

/// Which requests go to which service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The hosts matched; empty means the app's default hosts (`APP.ZONE`).
    pub hosts: BTreeSet<Host>,
    /// The paths matched.
    pub path: PathPattern,
    /// The service that answers.
    pub service: ServiceName,
    /// The path that the service is asked for instead: an exact one, or a prefix in place of the
    /// route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<PathPattern>,
    /// Headers set on every response of the route, replacing the service's own.
    pub response_headers: BTreeMap<String, String>,
    /// Pages that say so are put together of pieces (ESI).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub esi: bool,
    /// It is a GraphQL endpoint, whose queries are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graphql: Option<Graphql>,
}

/// What the answers of a GraphQL endpoint depend on beside the query.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graphql {
    /// Headers, in lower case.
    pub headers: BTreeSet<String>,
    /// Cookies.
    pub cookies: BTreeSet<String>,
    /// Other cookies make no difference. A request that has one is not stored otherwise.
    pub ignore_other_cookies: bool,
}

/// A path pattern: `/exact`, or `/prefix/*`, which matches `/prefix`, `/prefix/` and all below.
/// `/*` matches everything. Compared byte for byte with the percent-decoded, dot-free request path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathPattern {
    /// Matches this path alone.
    Exact(String),
    /// Matches this path (stored without the trailing slash; empty for `/*`) and all below it.
    Prefix(String),
}

impl PathPattern {
    /// Whether the request path `path` is matched.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }

    /// The path that `rewrite` makes of the raw request path `path`, which matches: an exact one,
    /// or the rewritten prefix with what follows this pattern's own. The result is as in a request,
    /// percent-encoded.
    pub fn rewritten(&self, rewrite: &Self, path: &str) -> String {
        match rewrite {
            Self::Exact(exact) => encode(exact),
            Self::Prefix(prefix) => {
                let path = encode(prefix) + &self.rest(path);
                if path.is_empty() { "/".to_owned() } else { path }
            }
        }
    }

    /// What follows the pattern in the raw request path `path`, which matches: nothing, or a path
    /// that begins with a single slash.
    ///
    /// Segments are counted rather than compared, since the request may have written them with
    /// escapes; an encoded slash is no separator.
    fn rest(&self, path: &str) -> String {
        let Self::Prefix(prefix) = self else { return String::new() };
        let slashes = prefix.matches('/').count();
        match path.match_indices('/').nth(slashes) {
            // Two slashes at the front of a path would make a host of what follows.
            Some((at, _)) => {
                format!("/{}", path.get(at..).unwrap_or_default().trim_start_matches('/'))
            }
            None => String::new(),
        }
    }

    /// Greater is tried first: exact patterns before prefixes, longer before shorter.
    pub fn precedence(&self) -> (bool, usize) {
        match self {
            Self::Exact(path) => (true, path.len()),
            Self::Prefix(path) => (false, path.len()),
        }
    }
}

/// A decoded path as a request carries it (RFC 3986, section 3.3).
fn encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(path) => write!(f, "{path}/*"),
        }
    }
}

/// Where an app may and must run. Empty sets allow everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Fewer feasible sites than this refuses the push. At least 1.
    pub min_sites: u32,
    /// No more sites than this; `None` is every site that meets the constraints.
    pub max_sites: Option<u32>,
    /// Sites that must be chosen.
    pub include: BTreeSet<SiteId>,
    /// Sites that must not be chosen.
    pub exclude: BTreeSet<SiteId>,
    /// Regions allowed.
    pub regions: BTreeSet<crate::topology::Region>,
    /// Jurisdictions allowed; a site qualifies when it lies in one of them.
    pub jurisdictions: BTreeSet<crate::topology::Jurisdiction>,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            min_sites: 1,
            max_sites: None,
            include: BTreeSet::new(),
            exclude: BTreeSet::new(),
            regions: BTreeSet::new(),
            jurisdictions: BTreeSet::new(),
        }
    }
}

/// The path of the `selvedge.toml` of the app in `directory` of a repository; empty is the top.
pub fn path_in(directory: &str) -> String {
    if directory.is_empty() { FILE_NAME.to_owned() } else { format!("{directory}/{FILE_NAME}") }
}

impl App {
    /// The service named `name`.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.iter().find(|service| &service.name == name)
    }

    /// All hosts that the app's routes and redirects name.
    pub fn hosts(&self) -> BTreeSet<&Host> {
        self.host_sets().flatten().collect()
    }

    /// Whether a route or a redirect names no host, so that the app is served at its default hosts.
    pub fn uses_default_host(&self) -> bool {
        self.host_sets().any(BTreeSet::is_empty)
    }

    fn host_sets(&self) -> impl Iterator<Item = &BTreeSet<Host>> {
        let redirects = self.redirects.iter().map(|redirect| &redirect.hosts);
        self.routes.iter().map(|route| &route.hosts).chain(redirects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_match_whole_segments() {
        let api = PathPattern::Prefix("/api".into());
        for good in ["/api", "/api/", "/api/x"] {
            assert!(api.matches(good), "{good}");
        }
        assert!(!api.matches("/apix"));
        assert!(PathPattern::Prefix(String::new()).matches("/"));
        assert!(PathPattern::Exact("/api".into()).precedence() > api.precedence());
    }

    #[test]
    fn rewriting_carries_what_follows_the_prefix() {
        let prefix = |text: &str| PathPattern::Prefix(text.into());
        for (pattern, rewrite, path, want) in [
            ("/api", "", "/api/users/7", "/users/7"),
            ("/api", "", "/api", "/"),
            ("/api", "", "/api/", "/"),
            ("/api", "/v2 beta", "/api/a%20b", "/v2%20beta/a%20b"),
            ("/api", "", "/%61pi/x%2Fy", "/x%2Fy"),
            ("/a/b", "/c", "/a/b/d/", "/c/d/"),
            ("", "/base", "/", "/base/"),
            ("/a", "", "/a//evil.example", "/evil.example"),
            ("/é", "/e", "/%C3%A9/x", "/e/x"),
        ] {
            assert_eq!(prefix(pattern).rewritten(&prefix(rewrite), path), want, "{path}");
        }
        let exact = PathPattern::Exact("/index.html".into());
        assert_eq!(prefix("/app").rewritten(&exact, "/app/deep/link"), "/index.html");
    }
}
