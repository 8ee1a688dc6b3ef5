//! What is done to a route's requests and responses on their way: pages of pieces, and GraphQL.

use std::collections::BTreeSet;

use super::diagnostic::{Problems, quote};
use super::keys::MAX_IDENTITY;
use super::routes::is_token;
use super::section::Section;
use super::{Graphql, ServiceKind};
use crate::fields::is_forgeable;

/// Headers that an app gets from the proxy or not at all, beside those that could be forged: what
/// clients send by these names tells no answers apart.
const WRITTEN: [&str; 8] = [
    "connection",
    "forwarded",
    "host",
    "proxy-authorization",
    "te",
    "traceparent",
    "via",
    "x-request-id",
];

/// The keys that say on what the answers of a GraphQL endpoint depend.
const IDENTITY: [&str; 3] = ["graphql_headers", "graphql_cookies", "graphql_ignore_other_cookies"];

/// Whether pages are put together, and what is said of GraphQL; `kind` is the route's service's.
pub(super) fn read(
    section: &Section<'_>,
    kind: Option<&ServiceKind>,
    problems: &mut Problems<'_>,
) -> (bool, Option<Graphql>) {
    let esi = section.flag("esi", problems).unwrap_or_default();
    let is_graphql = section.flag("graphql", problems).unwrap_or_default();
    for key in ["esi", "graphql"] {
        if let (Some(at), Some(ServiceKind::Static { .. })) = (section.place_of(key), kind) {
            let message = format!("`{key}` is of no use on a route to files");
            problems.report(at, message, "remove it: files are sent as they are");
        }
    }
    let headers = names(section, "graphql_headers", problems);
    let headers = headers.into_iter().map(|name| name.to_ascii_lowercase()).collect();
    let cookies = names(section, "graphql_cookies", problems).into_iter().collect();
    let ignore_other_cookies = section.flag("graphql_ignore_other_cookies", problems);
    if !is_graphql {
        for (key, at) in IDENTITY.into_iter().filter_map(|key| Some((key, section.place_of(key)?)))
        {
            let message = format!("`{key}` is of no use without `graphql`");
            problems.report(at, message, "add graphql = true, or remove it");
        }
    }
    let ignore_other_cookies = ignore_other_cookies.unwrap_or_default();
    (esi, is_graphql.then_some(Graphql { headers, cookies, ignore_other_cookies }))
}

/// Names of headers or cookies.
fn names(section: &Section<'_>, key: &str, problems: &mut Problems<'_>) -> BTreeSet<String> {
    let texts = section.texts(key, MAX_IDENTITY, problems);
    for text in texts.iter().filter(|text| !is_token(text.text)) {
        let message = format!("{} in `{key}` is no name", quote(text.text));
        problems.report(text.at, message, "use letters, digits and hyphens, such as \"session\"");
    }
    for text in texts.iter().filter(|text| key == "graphql_headers" && is_written(text.text)) {
        let message = format!("{} in `{key}` is written by the proxy", quote(text.text));
        problems.report(text.at, message, "name headers that clients send and the app reads");
    }
    texts.iter().map(|text| text.text.to_owned()).collect()
}

fn is_written(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    WRITTEN.contains(&name.as_str()) || name.starts_with("selvedge-") || is_forgeable(&name)
}
