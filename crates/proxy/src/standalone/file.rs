//! The configuration file of a proxy that runs alone.

mod listeners;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderValue;
use selvedge_model::manifest::PathPattern;
use selvedge_model::{Host, SiteId};
use serde::Deserialize;

use super::tls::{CertificateTable, ClientAuthTable, certificates, policy};
use super::{Address, Scheme};
use crate::graphql;
use crate::upstream::{ClientCertificate, Protocol, TcpConnect, Trust, UpstreamTls};
use crate::{
    CacheConfig, CacheScope, Delivery, Listeners, QueryRules, RouteTable, RouteView, Snapshot,
    Target, Upstream, UpstreamConfig, UpstreamLimits,
};
use listeners::{ListenerTable, listeners};

/// What a file says, ready to be served.
pub struct Settings {
    /// What is listened on.
    pub listeners: Listeners,
    /// Proxies whose word on a client's address counts. A running proxy keeps those that it began
    /// with.
    pub trusted: Vec<ipnet::IpNet>,
    /// What is served.
    pub snapshot: Snapshot,
    /// How it is cached, but for the disk. A running proxy keeps the cache that it began with.
    pub cache: CacheConfig,
    /// Where else responses are stored. A running proxy keeps the disk that it began with.
    pub disk: Option<DiskSettings>,
    /// Threads that serve, if the file says so. A running proxy keeps those that it began with.
    pub shards: Option<usize>,
}

/// A directory for stored responses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSettings {
    /// The directory.
    pub directory: PathBuf,
    /// Bytes that it may take.
    pub bytes: u64,
}

impl DiskSettings {
    /// Bytes where nothing is said.
    pub const DEFAULT_BYTES: u64 = 10 << 30;
}

/// Why a file is of no use. The words name the place and the mend.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("{0} can't be read")]
    Unreadable(PathBuf, #[source] std::io::Error),
    /// It is no TOML, or has another shape; the words show the line.
    #[error("{0}")]
    Form(String),
    /// What it says can't be.
    #[error("{place}: {what}")]
    Wrong {
        /// Where: `[[route]] 2`, say.
        place: String,
        /// What is wrong, and the mend.
        what: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    shards: Option<usize>,
    #[serde(default)]
    trusted_proxies: Vec<ipnet::IpNet>,
    #[serde(default)]
    listener: Vec<ListenerTable>,
    #[serde(default)]
    certificate: Vec<CertificateTable>,
    /// A file of session ticket keys.
    ticket_keys: Option<PathBuf>,
    #[serde(default)]
    client_auth: Vec<ClientAuthTable>,
    #[serde(default)]
    upstream: Vec<UpstreamTable>,
    #[serde(default)]
    route: Vec<RouteTableForm>,
    #[serde(default)]
    cache: CacheTable,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpstreamTable {
    name: String,
    addresses: Vec<String>,
    host: Option<String>,
    max_requests: Option<usize>,
    tls: Option<TlsTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsTable {
    server_name: Option<String>,
    /// PEM files.
    roots: Option<PathBuf>,
    client_chain: Option<PathBuf>,
    client_key: Option<PathBuf>,
    #[serde(default)]
    insecurely_trust_anyone: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteTableForm {
    #[serde(default)]
    hosts: Vec<String>,
    path: Option<String>,
    upstream: String,
    #[serde(default = "yes")]
    cache: bool,
    /// Whether responses are compressed as clients accept.
    #[serde(default = "yes")]
    compress: bool,
    /// Whether pages that say so are put together of pieces.
    #[serde(default)]
    esi: bool,
    /// It is a GraphQL endpoint, whose queries are cached.
    graphql: Option<GraphqlTable>,
    #[serde(default)]
    query: QueryTable,
}

/// What the answers of a GraphQL endpoint depend on beside the query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GraphqlTable {
    #[serde(default)]
    headers: Vec<String>,
    #[serde(default)]
    cookies: Vec<String>,
    #[serde(default)]
    ignore_other_cookies: bool,
}

impl GraphqlTable {
    fn config(&self, place: &str) -> Result<graphql::Config, FileError> {
        let header = |name: &String| {
            let name = name.parse().map_err(|_| wrong(place, format!("{name:?} is no header")))?;
            Ok::<_, FileError>(graphql::Identity::Header(name))
        };
        let mut identity = self.headers.iter().map(header).collect::<Result<Vec<_>, _>>()?;
        identity.extend(self.cookies.iter().cloned().map(graphql::Identity::Cookie));
        let ignore_other_cookies = self.ignore_other_cookies;
        Ok(graphql::Config { identity, ignore_other_cookies, ..graphql::Config::default() })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryTable {
    #[serde(default)]
    sort: bool,
    keep: Option<Vec<String>>,
    #[serde(default)]
    drop: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheTable {
    memory: Option<String>,
    max_object: Option<String>,
    /// A directory of its own.
    disk: Option<PathBuf>,
    disk_size: Option<String>,
}

fn yes() -> bool {
    true
}

pub(super) fn wrong(place: impl Into<String>, what: impl Into<String>) -> FileError {
    FileError::Wrong { place: place.into(), what: what.into() }
}

/// A size in bytes: a whole number with KiB, MiB, GiB or nothing.
///
/// # Errors
/// In words, what to write.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err("write a whole number with KiB, MiB or GiB, such as 512MiB".into()),
    };
    let number: u64 = number.parse().map_err(|_| "begin with a whole number, such as 512MiB")?;
    number.checked_mul(1 << shift).ok_or_else(|| "that is more than can be counted".into())
}

impl Settings {
    /// Reads a file, and the files that it names: their paths begin at its directory.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(path: &Path, site: SiteId) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| FileError::Unreadable(path.to_owned(), error))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new(".")), site)
    }

    fn parse(text: &str, directory: &Path, site: SiteId) -> Result<Self, FileError> {
        let file: File =
            toml::from_str(text).map_err(|error| FileError::Form(error.to_string()))?;
        if file.listener.is_empty() {
            return Err(wrong(
                "[[listener]]",
                "there is none; say where to listen: address = \"127.0.0.1:8080\"",
            ));
        }
        if file.shards == Some(0) {
            return Err(wrong(
                "shards",
                "nobody would serve; leave it out for one thread a processor",
            ));
        }
        let listeners = listeners(&file.listener)?;
        let (certificates, default_certificate) = certificates(&file.certificate, directory)?;
        if file.listener.iter().any(|it| it.tls)
            && certificates.is_empty()
            && default_certificate.is_none()
        {
            return Err(wrong("[[certificate]]", "there is none, and a listener has tls = true"));
        }
        let tls = policy(file.ticket_keys.as_deref(), &file.client_auth, directory)?;
        let upstreams = upstreams(&file.upstream, directory)?;
        let routes = routes(&file.route, &upstreams)?;
        let (cache, disk) = cache(&file.cache, directory)?;
        let snapshot = Snapshot {
            site,
            pins: None,
            hosts: HashMap::new(),
            rest: Some(Arc::new(RouteTable { force_https: false, routes })),
            certificates,
            default_certificate,
            tls: Arc::new(tls),
            explain: true,
            probe_key: None,
        };
        let (trusted, shards) = (file.trusted_proxies, file.shards);
        Ok(Self { listeners, trusted, snapshot, cache, disk, shards })
    }
}

pub(super) fn read(directory: &Path, path: &Path) -> Result<Vec<u8>, FileError> {
    let path = directory.join(path);
    std::fs::read(&path).map_err(|error| FileError::Unreadable(path, error))
}

pub(super) fn host_name(text: &str, place: &str) -> Result<Host, FileError> {
    Host::new(&text.to_ascii_lowercase())
        .map_err(|error| wrong(place, format!("{text:?} is no host: {error}")))
}

fn upstreams(
    tables: &[UpstreamTable],
    directory: &Path,
) -> Result<BTreeMap<String, Arc<Upstream>>, FileError> {
    let mut upstreams = BTreeMap::new();
    for table in tables {
        let place = format!("[[upstream]] {:?}", table.name);
        let upstream = Arc::new(upstream(table, directory, &place)?);
        if upstreams.insert(table.name.clone(), upstream).is_some() {
            return Err(wrong(place, "there are two of this name"));
        }
    }
    Ok(upstreams)
}

fn upstream(table: &UpstreamTable, directory: &Path, place: &str) -> Result<Upstream, FileError> {
    let addresses: Vec<Address> = table
        .addresses
        .iter()
        .map(|text| text.parse().map_err(|error| wrong(place, format!("{text:?}: {error}"))))
        .collect::<Result<_, _>>()?;
    let Some(first) = addresses.first() else {
        return Err(wrong(place, "it has no address; write addresses = [\"http://NAME:PORT\"]"));
    };
    if addresses.iter().any(|address| address.scheme() != first.scheme()) {
        return Err(wrong(place, "its addresses have different schemes; make two upstreams"));
    }
    let (protocol, tls) = match (first.scheme(), &table.tls) {
        (Scheme::Https, tls) => {
            (Protocol::Either, Some(upstream_tls(tls, first, directory, place)?))
        }
        (_, Some(_)) => return Err(wrong(place, "`tls` is for addresses with https")),
        (Scheme::Http, None) => (Protocol::Http1, None),
        (Scheme::H2c, None) => (Protocol::Http2, None),
    };
    let host = table.host.as_ref().map(HeaderValue::try_from).transpose();
    let host = host.map_err(|_| wrong(place, "`host` is no host"))?;
    let limits = UpstreamLimits {
        max_requests: table.max_requests.unwrap_or(UpstreamLimits::default().max_requests),
        ..UpstreamLimits::default()
    };
    let connect = |address: &Address| -> Arc<dyn crate::Connect> {
        Arc::new(TcpConnect::new(address.host(), address.port()))
    };
    Upstream::build(UpstreamConfig {
        connects: addresses.iter().map(connect).collect(),
        host,
        limits,
        protocol,
        tls,
        ..UpstreamConfig::named(&table.name)
    })
    .map_err(|error| wrong(place, error.to_string()))
}

fn upstream_tls(
    table: &Option<TlsTable>,
    first: &Address,
    directory: &Path,
    place: &str,
) -> Result<UpstreamTls, FileError> {
    let mut tls =
        UpstreamTls { server_name: Some(first.host().to_owned()), ..UpstreamTls::default() };
    let Some(table) = table else { return Ok(tls) };
    if let Some(name) = &table.server_name {
        tls.server_name = Some(name.clone());
    }
    tls.trust = match (&table.roots, table.insecurely_trust_anyone) {
        (Some(_), true) => {
            return Err(wrong(
                place,
                "`roots` says whom to trust, `insecurely_trust_anyone` everybody",
            ));
        }
        (Some(roots), false) => Trust::Roots(read(directory, roots)?),
        (None, true) => Trust::InsecurelyAnyone,
        (None, false) => Trust::System,
    };
    tls.client_certificate = match (&table.client_chain, &table.client_key) {
        (Some(chain), Some(key)) => {
            Some(ClientCertificate { chain: read(directory, chain)?, key: read(directory, key)? })
        }
        (None, None) => None,
        _ => return Err(wrong(place, "`client_chain` and `client_key` belong together")),
    };
    Ok(tls)
}

fn routes(
    tables: &[RouteTableForm],
    upstreams: &BTreeMap<String, Arc<Upstream>>,
) -> Result<Vec<RouteView>, FileError> {
    let mut routes = Vec::new();
    let encoding = Arc::default();
    for (index, table) in tables.iter().enumerate() {
        let place = format!("[[route]] {}", index + 1);
        let Some(upstream) = upstreams.get(&table.upstream) else {
            let known: Vec<&str> = upstreams.keys().map(String::as_str).collect();
            let what =
                format!("there is no upstream {:?}, but: {}", table.upstream, known.join(", "));
            return Err(wrong(place, what));
        };
        if table.graphql.is_some() && !table.cache {
            return Err(wrong(place, "`graphql` is of no use with `cache = false`"));
        }
        let hosts = table.hosts.iter().map(|host| host_name(host, &place));
        let query = QueryRules {
            sort: table.query.sort,
            keep: table.query.keep.clone(),
            drop: table.query.drop.clone(),
        };
        let scope = || CacheScope::new(b"proxy", &[table.upstream.as_bytes()], query);
        routes.push(RouteView {
            hosts: hosts.collect::<Result<_, _>>()?,
            path: pattern(table.path.as_deref().unwrap_or("/*"), &place)?,
            service: None,
            rewrite: None,
            cache: table.cache.then(|| Arc::new(scope())),
            delivery: Delivery {
                encode: table.compress.then(|| Arc::clone(&encoding)),
                esi: table.esi.then(Arc::default),
                graphql: table
                    .graphql
                    .as_ref()
                    .map(|it| it.config(&place))
                    .transpose()?
                    .map(Arc::new),
            },
            response_headers: Vec::new(),
            target: Target::Workload(Arc::clone(upstream)),
        });
    }
    if routes.is_empty() {
        return Err(wrong(
            "[[route]]",
            "there is none; say where requests go: upstream = \"NAME\"",
        ));
    }
    routes.sort_by_key(|route| std::cmp::Reverse(route.path.precedence()));
    Ok(routes)
}

fn pattern(text: &str, place: &str) -> Result<PathPattern, FileError> {
    let pattern = match text.strip_suffix("/*") {
        Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
        None => PathPattern::Exact(text.to_owned()),
    };
    let path = text.strip_suffix("/*").unwrap_or(text);
    let good = text.starts_with('/') && !path.contains(['*', '?', '#']);
    match good {
        true => Ok(pattern),
        false => {
            Err(wrong(place, format!("{text:?} is no path; write /page, or /part/* for all below")))
        }
    }
}

fn cache(
    table: &CacheTable,
    directory: &Path,
) -> Result<(CacheConfig, Option<DiskSettings>), FileError> {
    let read = |key: &str, text: &Option<String>| {
        let text = text.as_deref().map(size).transpose();
        text.map_err(|what| wrong(format!("[cache] {key}"), what))
    };
    let memory = read("memory", &table.memory)?.unwrap_or(256 << 20);
    let max_object = read("max_object", &table.max_object)?.unwrap_or(memory / 8);
    let bytes = read("disk_size", &table.disk_size)?;
    if table.disk.is_none() && bytes.is_some() {
        return Err(wrong("[cache] disk_size", "say where: disk = \"DIRECTORY\""));
    }
    if table.disk.is_some() && memory == 0 {
        return Err(wrong("[cache] disk", "with memory = \"0\" nothing is stored"));
    }
    let disk = table.disk.as_ref().map(|path| DiskSettings {
        directory: directory.join(path),
        bytes: bytes.unwrap_or(DiskSettings::DEFAULT_BYTES),
    });
    Ok((CacheConfig { memory, max_object, ..CacheConfig::default() }, disk))
}

/// A file that names no others. It is read or refused, in words.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let files = ["chain", "key", "roots"];
    let (Ok(site), false) = (SiteId::new("alone"), files.iter().any(|it| text.contains(it))) else {
        return;
    };
    match Settings::parse(text, Path::new("."), site) {
        Ok(settings) => {
            let table = settings.snapshot.rest.as_ref();
            assert!(table.is_some_and(|table| !table.routes.is_empty()), "it serves nothing");
        }
        Err(error) => assert!(!error.to_string().is_empty(), "it doesn't say why"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        shards = 2
        [[listener]]
        address = "127.0.0.1:8080"
        [[listener]]
        address = "127.0.0.1:8443"
        tls = true
        http3 = true
        [[certificate]]
        hosts = ["Shop.test"]
        chain = "chain.pem"
        key = "key.pem"
        default = true
        [[upstream]]
        name = "app"
        addresses = ["http://127.0.0.1:9000", "http://127.0.0.1:9001"]
        [[route]]
        upstream = "app"
        [[route]]
        hosts = ["shop.test"]
        path = "/api/*"
        upstream = "app"
        cache = false
        [[route]]
        path = "/graphql"
        upstream = "app"
        compress = false
        esi = true
        graphql = { cookies = ["session"], headers = ["x-tenant"] }
        [cache]
        memory = "64MiB"
        disk = "stored"
        disk_size = "1GiB"
    "#;

    fn parse(text: &str) -> Result<Settings, FileError> {
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["shop.test".to_owned()]).unwrap();
        std::fs::write(directory.path().join("chain.pem"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        std::fs::write(directory.path().join("key.pem"), key).unwrap();
        Settings::parse(text, directory.path(), SiteId::new("proxy").unwrap())
    }

    #[tokio::test]
    async fn a_file_is_understood() {
        let settings = parse(GOOD).unwrap();
        assert_eq!(settings.shards, Some(2));
        let protocols: Vec<_> = settings.listeners.0.iter().map(|it| it.protocol).collect();
        assert_eq!(
            protocols,
            [crate::Protocol::Http, crate::Protocol::Https, crate::Protocol::Http3]
        );
        assert_eq!((settings.cache.memory, settings.cache.max_object), (64 << 20, 8 << 20));
        assert!(settings.snapshot.certificates.contains_key("shop.test"));
        assert!(settings.snapshot.default_certificate.is_some());
        let rest = settings.snapshot.rest.unwrap();
        let not_cached: Vec<_> = rest.routes.iter().filter(|it| it.cache.is_none()).collect();
        assert_eq!(not_cached.len(), 1);
        let delivery = &not_cached[0].delivery;
        assert!(delivery.encode.is_some() && delivery.esi.is_none());
        let path = PathPattern::Exact("/graphql".to_owned());
        let delivery = &rest.routes.iter().find(|it| it.path == path).unwrap().delivery;
        assert!(delivery.encode.is_none() && delivery.esi.is_some());
        assert_eq!(delivery.graphql.as_ref().unwrap().identity.len(), 2);
    }

    #[tokio::test]
    async fn what_is_wrong_is_named() {
        for (from, to, words) in [
            ("shards = 2", "shards = 0", "shards: nobody would serve"),
            ("shards = 2", "shard = 2", "unknown field `shard`"),
            ("\"127.0.0.1:8080\"", "\"8080\"", "address"),
            ("\"127.0.0.1:8080\"", "\"127.0.0.1:8080\"\nhttp3 = true", "needs tls = true"),
            ("\"chain.pem\"", "\"none.pem\"", "none.pem can't be read"),
            ("\"chain.pem\"", "\"key.pem\"", "[[certificate]] 1: `chain` holds no PEM"),
            ("\"key.pem\"", "\"chain.pem\"", "[[certificate]] 1: `key` holds no PEM"),
            ("\"Shop.test\"", "\"-\"", "[[certificate]] 1: \"-\" is no host"),
            (
                "\"http://127.0.0.1:9000\"",
                "\"ftp://a\"",
                "[[upstream]] \"app\": \"ftp://a\": upstreams",
            ),
            ("\"http://127.0.0.1:9000\"", "\"https://a\"", "different schemes"),
            ("\"x-tenant\"", "\"x tenant\"", "[[route]] 3: \"x tenant\" is no header"),
            ("esi = true", "cache = false", "[[route]] 3: `graphql` is of no use"),
            ("path = \"/api/*\"", "path = \"api\"", "[[route]] 2: \"api\" is no path"),
            (
                "upstream = \"app\"\n        cache",
                "upstream = \"ap\"\n        cache",
                "no upstream \"ap\", but: app",
            ),
            ("\"64MiB\"", "\"64MB\"", "[cache] memory: write a whole number"),
            ("\"64MiB\"", "\"0\"", "[cache] disk: with memory"),
            ("disk = \"stored\"", "", "[cache] disk_size: say where"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let error = parse(&GOOD.replacen(from, to, 1)).err().unwrap().to_string();
            assert!(error.contains(words), "{to}: {error}");
        }
        assert!(parse("").err().unwrap().to_string().contains("[[listener]]"));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("1 GiB"), Ok(1 << 30));
        assert_eq!(size("0"), Ok(0));
        for bad in ["MiB", "1MB", "-1", "99999999999GiB", ""] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
