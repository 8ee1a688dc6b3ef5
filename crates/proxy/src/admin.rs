//! Words for who runs a proxy, over HTTP on a socket that only they reach: purge what is stored, and
//! see how much there is.
//!
//! `POST /purge` takes a JSON object: what to purge (one of `all`, `url`, `tag`, `prefix`, `ban`),
//! of which `app` where there are several, and whether it stays usable while it is asked for anew
//! (`soft`). 404 says that no route here stores such a thing now; what routes of before may have stored of
//! a named app is purged all the same. `GET /cache` shows counters.

mod socket;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, Uri};
use selvedge_cache::purge::ban::Ban;
use selvedge_cache::purge::{Kind, Prefix, Scope};
use serde::{Deserialize, Serialize};

pub use socket::Socket;

use crate::cache::CacheHandle;
use crate::{CacheScope, RouteTable, Snapshot, locate};

/// The largest request, in bytes.
pub const MAX_REQUEST: usize = 64 << 10;

/// What is to be purged.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PurgeRequest {
    /// Whose: needed where several apps are served, but for `url`.
    app: Option<String>,
    #[serde(default)]
    all: bool,
    url: Option<String>,
    tag: Option<String>,
    /// `HOST/PATH`, or `/PATH` at all hosts.
    prefix: Option<String>,
    ban: Option<String>,
    #[serde(default)]
    soft: bool,
}

/// What `GET /cache` shows.
#[derive(Debug, Serialize)]
struct CacheDocument {
    entries: usize,
    bytes: usize,
    hits: u64,
    misses: u64,
    evictions: u64,
    /// Bodies compressed to be kept so.
    encoded: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<DiskDocument>,
}

#[derive(Debug, Serialize)]
struct DiskDocument {
    /// Its directory is this process's, and was read.
    ready: bool,
    entries: usize,
    bytes: u64,
    hits: u64,
    misses: u64,
    written: u64,
    /// Not written: too much waited, or the disk had an error.
    dropped: u64,
    damaged: u64,
    errors: u64,
}

/// An answer: a status, and JSON.
pub type Answer = (StatusCode, Bytes);

fn say(status: StatusCode, words: impl std::fmt::Display) -> Answer {
    (status, Bytes::from(serde_json::json!({ "message": words.to_string() }).to_string() + "\n"))
}

fn wrong(words: impl std::fmt::Display) -> Answer {
    say(StatusCode::BAD_REQUEST, words)
}

/// Does what a request asks for. `body` is at most [`MAX_REQUEST`] bytes. A purge is answered when it
/// is on disk too, if something is stored there.
pub async fn answer(
    method: &Method,
    path: &str,
    body: &[u8],
    cache: Option<&CacheHandle>,
    snapshot: &Snapshot,
) -> Answer {
    let Some(cache) = cache else {
        return say(StatusCode::CONFLICT, "this proxy has no cache");
    };
    match (method, path) {
        (&Method::GET, "/cache") => counters(cache),
        (&Method::POST, "/purge") => match serde_json::from_slice(body) {
            Ok(request) => match purge(&request, cache, snapshot) {
                (status, _) if status != StatusCode::BAD_REQUEST && !cache.flush().await => {
                    unsafely()
                }
                answer => answer,
            },
            Err(error) => wrong(format_args!("the request is no purge: {error}")),
        },
        (_, "/cache" | "/purge") => {
            say(StatusCode::METHOD_NOT_ALLOWED, "GET /cache, or POST /purge")
        }
        _ => say(StatusCode::NOT_FOUND, "there is /cache and /purge"),
    }
}

/// What was purged holds here, and may not after a restart.
fn unsafely() -> Answer {
    say(
        StatusCode::SERVICE_UNAVAILABLE,
        "purged, but that is not on disk yet, and what was purged may be back if this process is \
         killed: the disk cache has an error (the log says which), or another process still has its \
         directory. Purge again when `ready` in GET /cache is true and `errors` does not grow",
    )
}

fn counters(cache: &CacheHandle) -> Answer {
    let counters = cache.counters();
    let disk = cache.disk_counters().map(|disk| DiskDocument {
        ready: disk.ready,
        entries: disk.entries,
        bytes: disk.bytes,
        hits: disk.hits,
        misses: disk.misses,
        written: disk.written,
        dropped: disk.dropped,
        damaged: disk.damaged,
        errors: disk.errors,
    });
    let document = CacheDocument {
        entries: counters.entries,
        bytes: counters.bytes,
        hits: counters.hits,
        misses: counters.misses,
        evictions: counters.evictions,
        encoded: cache.encoded(),
        disk,
    };
    match serde_json::to_vec(&document) {
        Ok(json) => (StatusCode::OK, json.into()),
        Err(error) => say(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

fn purge(request: &PurgeRequest, cache: &CacheHandle, snapshot: &Snapshot) -> Answer {
    let kind = if request.soft { Kind::Soft } else { Kind::Hard };
    let scope = match scope(request) {
        Ok(Wanted::Scope(scope)) => scope,
        Ok(Wanted::Url(url)) => return purge_url(url, request, kind, cache, snapshot),
        Err(words) => return wrong(words),
    };
    let found = app(request, snapshot);
    // What is stored outlives the routes by which it was.
    if let Some(app) = request.app.as_ref().or(found.as_ref().ok()) {
        cache.purge(app.as_bytes(), &scope, kind);
    }
    match found {
        Ok(_) => say(StatusCode::OK, "purged"),
        Err(answer) => answer,
    }
}

enum Wanted<'a> {
    Scope(Scope),
    Url(&'a str),
}

fn scope(request: &PurgeRequest) -> Result<Wanted<'_>, String> {
    let mut wanted = Vec::new();
    if request.all {
        wanted.push(Wanted::Scope(Scope::App));
    }
    if let Some(tag) = &request.tag {
        wanted.push(Wanted::Scope(Scope::Tag(tag.as_bytes().to_vec())));
    }
    if let Some(url) = &request.url {
        wanted.push(Wanted::Url(url));
    }
    if let Some(prefix) = &request.prefix {
        let prefix: Result<Prefix, _> = prefix.parse();
        let prefix = prefix.map_err(|error| format!("`prefix` can't be read: {error}"))?;
        wanted.push(Wanted::Scope(Scope::Prefix(prefix)));
    }
    if let Some(ban) = &request.ban {
        let ban: Result<Ban, _> = ban.parse();
        let ban = ban.map_err(|error| format!("`ban` can't be read: {error}"))?;
        wanted.push(Wanted::Scope(Scope::Ban(Arc::new(ban))));
    }
    match (wanted.pop(), wanted.is_empty()) {
        (Some(wanted), true) => Ok(wanted),
        _ => Err("name one of `all`, `url`, `tag`, `prefix` and `ban`".into()),
    }
}

/// Whose stored responses are meant.
fn app(request: &PurgeRequest, snapshot: &Snapshot) -> Result<String, Answer> {
    let apps = apps(snapshot);
    match (&request.app, apps.as_slice()) {
        (Some(app), known) if known.contains(app) => Ok(app.clone()),
        (app, []) => Err(say(
            StatusCode::NOT_FOUND,
            match app {
                Some(app) => format!("nothing of {app} is stored here, nor of any app"),
                None => "nothing of any app is stored here".into(),
            },
        )),
        (Some(app), known) => Err(say(
            StatusCode::NOT_FOUND,
            format!("nothing of {app} is stored here, but of {}", known.join(", ")),
        )),
        (None, [only]) => Ok(only.clone()),
        (None, known) => Err(wrong(format_args!("name the `app`: {}", known.join(", ")))),
    }
}

fn apps(snapshot: &Snapshot) -> Vec<String> {
    let scopes = tables(snapshot).flat_map(|table| &table.routes);
    let mut apps: Vec<String> = scopes
        .filter_map(|route| route.cache.as_ref())
        .map(|scope| String::from_utf8_lossy(scope.app()).into_owned())
        .collect();
    apps.sort();
    apps.dedup();
    apps
}

fn tables(snapshot: &Snapshot) -> impl Iterator<Item = &RouteTable> {
    let epochs = snapshot.hosts.values().flat_map(|app| app.epochs.values());
    epochs.map(|epoch| &epoch.table).chain(snapshot.rest.as_deref())
}

/// Purges what is stored for a URL by whatever routes it leads to, of all releases that are here.
fn purge_url(
    url: &str,
    request: &PurgeRequest,
    kind: Kind,
    cache: &CacheHandle,
    snapshot: &Snapshot,
) -> Answer {
    let parsed: Option<Uri> = url.parse().ok();
    let parts = parsed.as_ref().and_then(|uri| {
        Some((uri.scheme_str()?, uri.authority()?.as_str().to_ascii_lowercase(), uri))
    });
    let Some((scheme, authority, uri)) = parts else {
        return wrong("`url` is a whole URL, such as https://shop.example.com/page");
    };
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    let mut purged = 0;
    for (scope, target) in scopes(snapshot, &host, uri) {
        cache.purge_url(&scope, scheme, &authority, &target, kind);
        purged += 1;
    }
    if purged > 0 {
        return say(StatusCode::OK, "purged");
    }
    if tables(snapshot).next().is_none() {
        let words =
            "nothing is served here yet, so that no route leads from the URL; purge it again";
        return say(StatusCode::SERVICE_UNAVAILABLE, words);
    }
    // By whichever route it was stored before.
    let path = request.app.as_ref().map(|app| (app, format!("{host}{}", uri.path())));
    if let Some((app, prefix)) = path.and_then(|(app, path)| Some((app, path.parse().ok()?))) {
        cache.purge(app.as_bytes(), &Scope::Prefix(prefix), kind);
    }
    say(StatusCode::NOT_FOUND, format_args!("no route whose responses are stored leads from {url}"))
}

/// Where a URL leads: scopes, and the target as it is sent on.
fn scopes(snapshot: &Snapshot, host: &str, uri: &Uri) -> Vec<(Arc<CacheScope>, String)> {
    let tables: Vec<&RouteTable> = match snapshot.hosts.get(host) {
        Some(app) => app.epochs.values().map(|epoch| &epoch.table).collect(),
        None => snapshot.rest.iter().map(Arc::as_ref).collect(),
    };
    let of_table = |table: &RouteTable| {
        let route = table.routes.get(locate::route(table, host, uri.path())?)?;
        let mut target = match &route.rewrite {
            Some(rewrite) => route.path.rewritten(rewrite, uri.path()),
            None => uri.path().to_owned(),
        };
        if let Some(query) = uri.query() {
            target.push('?');
            target.push_str(query);
        }
        Some((route.cache.clone()?, target))
    };
    tables.into_iter().filter_map(of_table).collect()
}
