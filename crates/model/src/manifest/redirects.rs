//! `[[redirect]]`: which requests are sent elsewhere, and where.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::diagnostic::{Problems, quote};
use super::keys::{self, MAX_URL_BYTES};
use super::routes::{self, Taken};
use super::section::Section;
use super::{App, PathPattern, encode};
use crate::id::Host;

/// How many redirects may follow each other; browsers give up at about twenty.
const MAX_HOPS: usize = 10;

/// A segment that no pattern has, for "anything below".
const ANYTHING: &str = "anything";

/// Requests that are answered with a redirect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The hosts matched; empty means the app's default hosts (`APP.ZONE`).
    pub hosts: BTreeSet<Host>,
    /// The paths matched.
    pub from: PathPattern,
    /// Where to.
    pub to: Destination,
    /// 301, 302, 303, 307 or 308 (RFC 9110, section 15.4).
    pub status: u16,
}

/// Where a redirect leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// A URL, or a path at the same host. May be empty or end without a path where something is
    /// carried.
    pub url: String,
    /// Whether what follows the prefix of `from` is added.
    pub carry: bool,
}

impl Redirect {
    /// The `location` for a request of the raw path `path` and `query`, which matches. The query is
    /// carried unless the destination has one of its own.
    pub fn location(&self, path: &str, query: Option<&str>) -> String {
        let (url, fragment) =
            match self.to.url.find('#').and_then(|at| self.to.url.split_at_checked(at)) {
                Some((url, fragment)) => (url, fragment),
                None => (self.to.url.as_str(), ""),
            };
        let mut location = url.to_owned();
        if self.to.carry {
            location.push_str(&self.from.rest(path));
        }
        if path_of(&location).is_empty() {
            location.push('/');
        }
        if let Some(query) = query.filter(|_| !url.contains('?')) {
            location.push('?');
            location.push_str(query);
        }
        location + fragment
    }
}

/// The origin of a URL with scheme, or nothing, and what follows it.
fn split_origin(url: &str) -> (&str, &str) {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    if after_scheme == 0 {
        return ("", url);
    }
    let authority = url.get(after_scheme..).unwrap_or_default();
    let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
    url.split_at_checked(after_scheme + end).unwrap_or((url, ""))
}

fn path_of(url: &str) -> &str {
    let rest = split_origin(url).1;
    rest.get(..rest.find(['?', '#']).unwrap_or(rest.len())).unwrap_or_default()
}

/// The redirects in the order written.
pub(super) fn read(
    sections: &[Section<'_>],
    taken: &mut Taken,
    problems: &mut Problems<'_>,
) -> Vec<(usize, Redirect)> {
    let mut redirects = Vec::new();
    for section in sections {
        section.refuse_unknown(&keys::REDIRECT.names(), &[], problems);
        let hosts = routes::hosts(section, problems);
        let from = routes::pattern(section, "from", problems);
        let to = destination(section, from.as_ref(), problems);
        let status = status(section, problems);
        let (Some(hosts), Some(from)) = (hosts, from) else { continue };
        taken.take(&hosts, &from, "redirect", section.at, problems);
        if let (Some(to), Some(status)) = (to, status) {
            redirects.push((section.at, Redirect { hosts, from, to, status }));
        }
    }
    redirects
}

fn status(section: &Section<'_>, problems: &mut Problems<'_>) -> Option<u16> {
    if section.place_of("status").is_none() {
        return Some(keys::DEFAULT_STATUS);
    }
    let (status, at) = section.number_such_as("status", "308", problems)?;
    let known = keys::STATUSES.iter().find(|known| u32::from(**known) == status);
    if known.is_none() {
        let mend = "use 308 or 301 for good, 307 or 302 for now, 303 to answer a form";
        problems.report(at, format!("{status} is no status of a redirect"), mend);
    }
    known.copied()
}

fn destination(
    section: &Section<'_>,
    from: Option<&PathPattern>,
    problems: &mut Problems<'_>,
) -> Option<Destination> {
    if section.place_of("to").is_none() {
        let mend = "add to = \"/new/*\", or a whole URL such as \"https://www.example.com/*\"";
        problems.report(section.at, "[[redirect]] has no `to`", mend);
    }
    let to = section.text("to", problems)?;
    if let Some((what, mend)) = destination_problem(to.text) {
        problems.report(to.at, format!("`to` {} {what}", quote(to.text)), mend);
        return None;
    }
    match to.text.strip_suffix("/*") {
        Some(url) => {
            if let Some(PathPattern::Exact(from)) = from {
                let message = format!("`to` ends in `/*`, and `from` {} does not", quote(from));
                let mend = "end both in `/*` to carry what follows, or neither";
                problems.report(to.at, message, mend);
                return None;
            }
            Some(Destination { url: url.to_owned(), carry: true })
        }
        None => Some(Destination { url: to.text.to_owned(), carry: false }),
    }
}

fn destination_problem(to: &str) -> Option<(&'static str, &'static str)> {
    const FORMS: &str =
        "write a path such as \"/new/*\", or a URL such as \"https://www.example.com/*\"";
    let (origin, rest) = split_origin(to);
    let literal = rest.strip_suffix("/*").unwrap_or(rest);
    let path = path_of(literal);
    if to.len() > MAX_URL_BYTES {
        Some(("is too long", "choose a URL of at most 2048 bytes"))
    } else if to.contains(|c: char| !c.is_ascii_graphic() || "\"<>\\^`{|}".contains(c)) {
        Some(("has a character that URLs don't", "percent-encode it"))
    } else if origin.is_empty() && (!to.starts_with('/') || to.starts_with("//")) {
        Some(("is neither a path nor a URL", FORMS))
    } else if !origin.is_empty() && !is_origin(origin) {
        Some(("has no scheme and host that browsers follow", FORMS))
    } else if path.is_empty() && !literal.is_empty() {
        Some(("has a query or fragment and no path", FORMS))
    } else if literal.contains('*') || (literal != rest && literal != path) {
        Some((
            "has a `*` that is not the whole last segment",
            "end it in `/*`, which stands for what `/*` in `from` matched, and has no query",
        ))
    } else if path.split('/').any(|segment| segment == "." || segment == "..") {
        Some(("has a `.` or `..` segment", "write the path that it leads to"))
    } else {
        None
    }
}

/// Whether a text is `http://HOST[:PORT]`, or with https.
fn is_origin(origin: &str) -> bool {
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    authority.is_some_and(|authority| {
        let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
        Host::new(host).is_ok() && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// Where a request is, as far as an app knows its own hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    /// A host that no route or redirect names.
    Default,
    Named(Host),
}

/// A redirect of `app` that leads in a circle, or too far: which one, and the paths passed. Hosts
/// of `defaults` are known to be the app's default ones.
pub fn find_loop(app: &App, defaults: &[Host]) -> Option<(usize, Vec<String>)> {
    let named: BTreeSet<&Host> = app.hosts();
    let routes = app.routes.iter().map(|route| (&route.hosts, &route.path, None));
    let redirects = app.redirects.iter().map(|it| (&it.hosts, &it.from, Some(it)));
    let mut entries: Vec<_> = routes.chain(redirects).collect();
    entries.sort_by_key(|(_, pattern, _)| std::cmp::Reverse(pattern.precedence()));
    let answers = |at: &At, path: &str| {
        let path = decode(path);
        entries
            .iter()
            .find(|(hosts, pattern, _)| {
                let here = match at {
                    At::Default => hosts.is_empty(),
                    At::Named(host) => hosts.contains(host),
                };
                here && pattern.matches(&path)
            })
            .and_then(|(_, _, redirect)| *redirect)
    };
    let arrive = |at: &At, location: &str| {
        let host = host_of(split_origin(location).0);
        match host {
            None if location.starts_with('/') => Some(at.clone()),
            None => None,
            Some(host) if named.contains(&host) => Some(At::Named(host)),
            Some(host) => defaults.contains(&host).then_some(At::Default),
        }
    };
    for (index, redirect) in app.redirects.iter().enumerate() {
        for (mut at, mut path) in starts(redirect) {
            let mut passed = vec![shown(&at, &path)];
            while let Some(next) = answers(&at, &path) {
                let location = next.location(&path, None);
                let Some(there) = arrive(&at, &location) else { break };
                path = path_of(&location).to_owned();
                at = there;
                passed.push(shown(&at, &path));
                if passed.len() > MAX_HOPS {
                    return Some((index, passed));
                }
            }
        }
    }
    None
}

/// Requests that a redirect answers: at each of its hosts, its own path and one below it.
fn starts(redirect: &Redirect) -> Vec<(At, String)> {
    let hosts = redirect.hosts.iter().cloned().map(At::Named);
    let default = redirect.hosts.is_empty().then_some(At::Default);
    let paths = match &redirect.from {
        PathPattern::Exact(path) => vec![encode(path)],
        PathPattern::Prefix(path) => vec![
            if path.is_empty() { "/".to_owned() } else { encode(path) },
            format!("{}/{ANYTHING}", encode(path)),
        ],
    };
    hosts
        .chain(default)
        .flat_map(|at| paths.iter().map(move |path| (at.clone(), path.clone())))
        .collect()
}

fn shown(at: &At, path: &str) -> String {
    match at {
        At::Default => path.to_owned(),
        At::Named(host) => format!("{host}{path}"),
    }
}

/// The host of an origin that has its scheme's own port: at another port another server answers.
fn host_of(origin: &str) -> Option<Host> {
    let (authority, own) = match origin.strip_prefix("https://") {
        Some(authority) => (authority, ":443"),
        None => (origin.strip_prefix("http://")?, ":80"),
    };
    Host::new(authority.strip_suffix(own).unwrap_or(authority)).ok()
}

/// Percent-decodes, for comparing with patterns.
fn decode(path: &str) -> String {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if *first == b'%' => {
                decoded.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Reports what [`find_loop`] finds.
pub(super) fn refuse_loops(app: &App, places: &[usize], problems: &mut Problems<'_>) {
    if let Some((index, passed)) = find_loop(app, &[]) {
        let at = places.get(index).copied().unwrap_or_default();
        let (message, mend) = loop_words(&passed);
        problems.report(at, message, mend);
    }
}

/// What [`find_loop`] found, in words, and the mend.
pub fn loop_words(passed: &[String]) -> (String, &'static str) {
    let mut shown: Vec<&str> = Vec::new();
    for path in passed {
        let again = shown.contains(&path.as_str());
        shown.push(path);
        if again {
            break;
        }
    }
    const SHOWN: usize = 6;
    let mend = match shown.as_slice() {
        [one, other] if one == other => {
            "let it lead elsewhere; to have everything over HTTPS, set force_https = true in [app]"
        }
        _ => "let one of them lead to where no redirect matches",
    };
    let more = if shown.len() > SHOWN { " -> …" } else { "" };
    shown.truncate(SHOWN);
    let message = format!("a redirect leads in a circle: {}{more}", shown.join(" -> "));
    (message, mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect(from: &str, to: &str) -> Redirect {
        let from = match from.strip_suffix("/*") {
            Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
            None => PathPattern::Exact(from.to_owned()),
        };
        let to = match to.strip_suffix("/*") {
            Some(url) => Destination { url: url.to_owned(), carry: true },
            None => Destination { url: to.to_owned(), carry: false },
        };
        Redirect { hosts: BTreeSet::new(), from, to, status: 307 }
    }

    #[test]
    fn locations() {
        for (from, to, path, query, want) in [
            ("/old", "/new", "/old", None, "/new"),
            ("/old", "/new", "/old", Some("a=1"), "/new?a=1"),
            ("/old", "/new?b=2", "/old", Some("a=1"), "/new?b=2"),
            ("/old", "/new#part", "/old", Some("a=1"), "/new?a=1#part"),
            ("/old/*", "/new/*", "/old/x/y", None, "/new/x/y"),
            ("/old/*", "/new/*", "/old", None, "/new"),
            ("/old/*", "/*", "/old", None, "/"),
            ("/old/*", "/*", "/old//evil.example/x", None, "/evil.example/x"),
            ("/*", "https://www.example.com/*", "/", None, "https://www.example.com/"),
            (
                "/*",
                "https://www.example.com/*",
                "/a%20b",
                Some("q"),
                "https://www.example.com/a%20b?q",
            ),
            ("/x", "https://example.com", "/x", Some("q"), "https://example.com/?q"),
        ] {
            assert_eq!(redirect(from, to).location(path, query), want, "{from} {to}");
        }
    }
}
