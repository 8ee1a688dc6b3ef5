//! `[[route]]`: which requests go to which service.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::{Problems, closest, one_of, quote};
use super::keys::{self, MAX_HEADERS, MAX_HOSTS, MAX_PATH_BYTES};
use super::section::{Section, Text};
use super::services::Draft;
use super::{PathPattern, Route, ServiceKind, delivery};
use crate::id::{Host, ServiceName};

const MAX_HEADER_BYTES: usize = 4096;

/// Header fields that belong to one connection or to the framing of one message, which a proxy
/// writes itself (RFC 9110 section 7.6.1, RFC 9112 section 6).
const MESSAGE_HEADERS: [&str; 11] = [
    "connection",
    "content-length",
    "content-range",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The routes in the order written. Every service is reachable when nothing is reported.
pub(super) fn read(
    sections: &[Section<'_>],
    services: &[Draft<'_>],
    taken: &mut Taken,
    problems: &mut Problems<'_>,
) -> Vec<Route> {
    let mut routed = BTreeSet::new();
    let mut routes = Vec::new();
    for section in sections {
        section.refuse_unknown(&keys::ROUTE.names(), &[], problems);
        let service = service(section, services, problems);
        routed.extend(service.map(|service| service.text));
        let hosts = hosts(section, problems);
        let path = pattern(section, "path", problems);
        let rewrite = rewrite(section, path.as_ref(), problems);
        let response_headers = response_headers(section, problems);
        let (esi, graphql) = delivery::read(section, kind(service, services), problems);
        let (Some(path), Some(hosts)) = (path, hosts) else {
            continue;
        };
        taken.take(&hosts, &path, "route", section.at, problems);
        if let Some(service) = service.and_then(|service| ServiceName::new(service.text).ok()) {
            routes.push(Route { hosts, path, service, rewrite, response_headers, esi, graphql });
        }
    }
    if sections.is_empty()
        && let [only] = services
    {
        let route = only.service.as_ref().map(everything);
        if let Some(route) = &route {
            taken.take(&route.hosts, &route.path, "route", only.at, problems);
        }
        routes.extend(route);
    } else {
        refuse_unreachable(services, &routed, problems);
    }
    routes
}

/// What the service of a route is.
fn kind<'s>(service: Option<Text<'_>>, services: &'s [Draft<'_>]) -> Option<&'s ServiceKind> {
    let drafts = services.iter().filter_map(|draft| Some((draft.name?.text, draft)));
    let draft = drafts.into_iter().find(|(name, _)| Some(*name) == service.map(|it| it.text))?.1;
    draft.service.as_ref().map(|service| &service.kind)
}

/// The route of an app's sole service when it states none.
fn everything(service: &super::Service) -> Route {
    Route {
        hosts: BTreeSet::new(),
        path: PathPattern::Prefix(String::new()),
        service: service.name.clone(),
        rewrite: None,
        response_headers: BTreeMap::new(),
        esi: false,
        graphql: None,
    }
}

fn refuse_unreachable(
    services: &[Draft<'_>],
    routed: &BTreeSet<&str>,
    problems: &mut Problems<'_>,
) {
    for service in services {
        if let Some(name) = service.name.filter(|name| !routed.contains(name.text)) {
            let message = format!("no route leads to service {}", quote(name.text));
            let is_static = service
                .service
                .as_ref()
                .is_some_and(|service| matches!(service.kind, ServiceKind::Static { .. }));
            let name = name.text.escape_debug();
            let path = if is_static { "/*".to_owned() } else { format!("/{name}/*") };
            let mend =
                format!("add one, such as:\n[[route]]\npath = \"{path}\"\nservice = \"{name}\"",);
            problems.report(service.at, message, mend);
        }
    }
}

/// The name of the service that a route leads to; for one that isn't there, after the report, the
/// one that was likely meant.
fn service<'a>(
    section: &Section<'a>,
    services: &[Draft<'a>],
    problems: &mut Problems<'_>,
) -> Option<Text<'a>> {
    let names = || services.iter().filter_map(|draft| draft.name);
    if section.place_of("service").is_none() {
        if let [only] = services {
            return only.name;
        }
        let mend = format!("add service = \"…\" with one of {}", one_of(names().map(|n| n.text)));
        problems.report(section.at, "[[route]] has no `service`", mend);
    }
    let service = section.text("service", problems)?;
    if names().any(|name| name.text == service.text) {
        return Some(service);
    }
    let likely = closest(service.text, names().map(|name| name.text));
    let mend = match likely {
        Some(likely) => format!("did you mean {likely:?}?"),
        None => "name a service of this file, or add this one as a [[service]]".to_owned(),
    };
    problems.report(service.at, format!("there is no service {}", quote(service.text)), mend);
    likely.map(|text| Text { text, at: service.at })
}

/// The hosts of a route or redirect, empty for the app's default hosts; `None` after a report.
pub(super) fn hosts(section: &Section<'_>, problems: &mut Problems<'_>) -> Option<BTreeSet<Host>> {
    if let (Some(one), Some(many)) = (section.place_of("host"), section.place_of("hosts")) {
        let mend = "put all of them in `hosts`, and remove `host`";
        problems.report(
            one.max(many),
            format!("{} has both `host` and `hosts`", section.title),
            mend,
        );
        return None;
    }
    let mut texts = section.texts("hosts", MAX_HOSTS, problems);
    let stated = section.place_of("host").is_some() || section.place_of("hosts").is_some();
    texts.extend(section.text("host", problems));
    let mut hosts = BTreeSet::new();
    for text in &texts {
        if let Some(host) = host(*text, problems)
            && !hosts.insert(host)
        {
            let message = format!("host {} is there twice", quote(text.text));
            problems.report(text.at, message, "remove one; letters of either case are the same");
        }
    }
    // A host that was stated and not understood must not turn into "the default hosts".
    (!stated || !hosts.is_empty()).then_some(hosts)
}

fn host(text: Text<'_>, problems: &mut Problems<'_>) -> Option<Host> {
    let mut refuse = |what: &str, mend: &str| {
        problems.report(text.at, format!("host {} {what}", quote(text.text)), mend);
        None
    };
    match Host::new(text.text) {
        _ if text.text.contains("://") => {
            refuse("is a whole URL", "write the host alone, such as \"www.example.com\"")
        }
        _ if text.text.contains('*') => refuse("is a wildcard", "name each host"),
        _ if text.text.contains(':') => {
            refuse("has a port", "write the host alone: sites decide on which ports they listen")
        }
        Ok(host) if host.as_str().rsplit('.').next().is_some_and(is_number) => {
            refuse("is an address", "write a name: certificates and DNS answers are for names")
        }
        Ok(host) => Some(host),
        Err(error) if text.text.is_ascii() => refuse("is no host name", error.rule),
        Err(_) => refuse("is no host name", "write it as DNS has it, in Punycode (xn--…)"),
    }
}

fn is_number(label: &str) -> bool {
    label.bytes().all(|b| b.is_ascii_digit())
}

/// The pattern at `key`, by default everything; `None` after a report.
pub(super) fn pattern(
    section: &Section<'_>,
    key: &str,
    problems: &mut Problems<'_>,
) -> Option<PathPattern> {
    if section.place_of(key).is_none() {
        return Some(PathPattern::Prefix(String::new()));
    }
    let path = section.text(key, problems)?;
    if let Some((what, mend)) = path_problem(path.text) {
        problems.report(path.at, format!("{key} {} {what}", quote(path.text)), mend);
        return None;
    }
    Some(match path.text.strip_suffix("/*") {
        Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
        None => PathPattern::Exact(path.text.to_owned()),
    })
}

fn rewrite(
    section: &Section<'_>,
    path: Option<&PathPattern>,
    problems: &mut Problems<'_>,
) -> Option<PathPattern> {
    let at = section.place_of("rewrite")?;
    let rewrite = pattern(section, "rewrite", problems)?;
    if let (Some(PathPattern::Exact(path)), PathPattern::Prefix(_)) = (path, &rewrite) {
        let message = format!("`rewrite` ends in `/*`, and `path` {} does not", quote(path));
        problems.report(at, message, "end both in `/*` to carry what follows, or neither");
    }
    Some(rewrite)
}

fn path_problem(path: &str) -> Option<(&'static str, &'static str)> {
    let literal = path.strip_suffix("/*").unwrap_or(path);
    if path.contains("://") {
        Some(("is a whole URL", "write the path alone, and the host as `host`"))
    } else if !path.starts_with('/') {
        Some(("does not begin with `/`", "write an absolute path, such as \"/api/*\""))
    } else if path.contains(['?', '#']) {
        Some(("has a query or fragment", "write the path alone: routes don't look at the query"))
    } else if literal.contains('*') {
        Some((
            "has a `*` that is not the whole last segment",
            "write \"/*\" at the end, which matches everything below, or the exact path",
        ))
    } else if literal.split('/').any(|segment| segment == "." || segment == "..") {
        Some(("has a `.` or `..` segment", "write the path that it leads to"))
    } else if path.contains("//") {
        Some(("has an empty segment", "write single slashes"))
    } else if path.contains('%') {
        Some((
            "is percent-encoded",
            "write the characters themselves: patterns match decoded paths",
        ))
    } else if path.contains(|c: char| c.is_control() || c == '\\') {
        Some(("has a backslash or a control character", "remove it"))
    } else if path.len() > MAX_PATH_BYTES {
        Some(("is too long", "choose a path of at most 1024 bytes"))
    } else {
        None
    }
}

/// The hosts and patterns that routes and redirects have so far: each may lead to one thing only.
#[derive(Default)]
pub(super) struct Taken(BTreeMap<(Option<Host>, PathPattern), &'static str>);

impl Taken {
    /// Takes `path` at `hosts` for a `what`, reporting where it is taken.
    pub(super) fn take(
        &mut self,
        hosts: &BTreeSet<Host>,
        path: &PathPattern,
        what: &'static str,
        at: usize,
        problems: &mut Problems<'_>,
    ) {
        let every: Vec<Option<Host>> =
            if hosts.is_empty() { vec![None] } else { hosts.iter().cloned().map(Some).collect() };
        for host in every {
            let whose = host.as_ref().map_or("the app's default host".to_owned(), Host::to_string);
            if let Some(other) = self.0.insert((host, path.clone()), what) {
                let both = match other == what {
                    true => format!("two {what}s match"),
                    false => format!("a {other} and a {what} match"),
                };
                let mend = "remove one, or change its host or path";
                problems.report(at, format!("{both} {path} at {whose}"), mend);
            }
        }
    }

    /// Reports more hosts than an app may have.
    pub(super) fn refuse_too_many_hosts(&self, at: usize, problems: &mut Problems<'_>) {
        let hosts: BTreeSet<_> = self.0.keys().filter_map(|(host, _)| host.as_ref()).collect();
        if hosts.len() > MAX_HOSTS {
            let message =
                format!("the routes name {} hosts, and {MAX_HOSTS} is the most", hosts.len());
            problems.report(at, message, "remove some, or split the app into several");
        }
    }
}

fn response_headers(
    section: &Section<'_>,
    problems: &mut Problems<'_>,
) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    for (name, (at, value)) in section.map("response_headers", MAX_HEADERS, problems) {
        let lower = name.to_ascii_lowercase();
        if let Some((what, mend)) = header_name_problem(&lower) {
            problems.report(at, format!("response header {} {what}", quote(name)), mend);
        }
        if let Some((what, mend)) = header_value_problem(value.text) {
            let message = format!("the value of response header {} {what}", quote(name));
            problems.report(value.at, message, mend);
        }
        if headers.insert(lower, value.text.to_owned()).is_some() {
            let message = format!("response header {} is there twice", quote(name));
            problems.report(at, message, "keep one; letters of either case are the same");
        }
    }
    headers
}

/// Whether it is a name as headers and cookies have them (RFC 9110, section 5.6.2).
pub(super) fn is_token(name: &str) -> bool {
    let belongs = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=256).contains(&name.len()) && name.bytes().all(belongs)
}

fn header_name_problem(name: &str) -> Option<(&'static str, &'static str)> {
    if !is_token(name) {
        Some(("is no header name", "use letters, digits and hyphens, such as \"x-frame-options\""))
    } else if MESSAGE_HEADERS.contains(&name) {
        Some(("belongs to the connection", "remove it: the proxy writes it for each message"))
    } else if name.starts_with("selvedge-") {
        Some(("is one of Selvedge's own", "choose a name that doesn't begin with selvedge-"))
    } else if name == "set-cookie" {
        Some((
            "would replace every cookie of the response",
            "set cookies in the service: response headers replace what the service says",
        ))
    } else {
        None
    }
}

fn header_value_problem(value: &str) -> Option<(&'static str, &'static str)> {
    if value.len() > MAX_HEADER_BYTES {
        Some(("is longer than 4096 bytes", "shorten it"))
    } else if !value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)) {
        Some((
            "has a character that header values can't carry",
            "use printable ASCII on one line, and percent-encode the rest",
        ))
    } else if value.trim_matches([' ', '\t']).len() != value.len() {
        Some(("begins or ends with a space", "remove it: HTTP drops spaces around values"))
    } else {
        None
    }
}
