//! The normal form of an app: what `selvedge.toml` says, validated and with defaults filled in.
//!
//! Everything behind the parser works on these types; only `author` and the modules below it know
//! how people write them. [`discover`] finds the apps of a repository, [`parse`] reads one.

mod author;
mod diagnostic;
mod discover;
mod keys;
mod placement;
mod routes;
mod schema;
mod section;
mod services;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use author::{MAX_FILE_BYTES, parse};
pub use diagnostic::{Diagnostic, closest};
pub use discover::{FILE_NAME, discover};
pub use keys::{KINDS, Key, Range, TABLES, Table, Takes, Without};
pub use schema::schema;

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
    /// At least one, in the order written, names unique.
    pub services: Vec<Service>,
    /// At least one; every service is reachable by one. Matching order is [`Route::precedence`].
    pub routes: Vec<Route>,
    /// Where the app is to run.
    pub placement: Placement,
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
    /// Headers set on every response of the route, replacing the service's own.
    pub response_headers: BTreeMap<String, String>,
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

    /// Greater is tried first: exact patterns before prefixes, longer before shorter.
    pub fn precedence(&self) -> (bool, usize) {
        match self {
            Self::Exact(path) => (true, path.len()),
            Self::Prefix(path) => (false, path.len()),
        }
    }
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

    /// All hosts that the app's routes name.
    pub fn hosts(&self) -> BTreeSet<&Host> {
        self.routes.iter().flat_map(|route| &route.hosts).collect()
    }

    /// Whether a route names no host, so that the app is served at its default hosts.
    pub fn uses_default_host(&self) -> bool {
        self.routes.iter().any(|route| route.hosts.is_empty())
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
}
