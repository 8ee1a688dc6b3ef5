//! The engine with an origin and a client in memory, in time that passes when nothing else happens.

use std::io;
use std::sync::atomic::AtomicU16;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use selvedge_cache::policy::Policy;
use selvedge_model::SiteId;
use selvedge_model::manifest::PathPattern;
use selvedge_telemetry::access::AccessLog;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::watch;

use super::case::{Answer, Ask, Fields, Kind, Reply, SENT, Sent, Step, shown};
use super::generate::BEGIN_MS;
use crate::cache::{Cache, CacheConfig};
use crate::listener::{Client, Shared};
use crate::spoken::Spoken;
use crate::{
    CacheScope, Connect, Delivery, Limits, QueryRules, RouteTable, RouteView, Snapshot, Stream,
    Target, Upstream, floor, trace,
};

/// Fields of an answer that are not compared: those that frame it, and the proxy's own.
const NOT_COMPARED: [&str; 7] = [
    "accept-ranges",
    "cache-status",
    "connection",
    "content-length",
    "selvedge-site",
    "transfer-encoding",
    "x-request-id",
];

/// What happened in an exchange.
pub(super) struct Happened {
    /// When the client sent its request.
    pub(super) began_ms: u64,
    pub(super) sent: Vec<Sent>,
    /// When the origin was asked, and when it answered, for each request.
    pub(super) times: Vec<(u64, u64)>,
    /// None where the connection closed without an answer.
    pub(super) answer: Option<Answer>,
}

#[derive(Default)]
struct Told {
    reply: Option<Reply>,
    sent: Vec<Sent>,
    times: Vec<(u64, u64)>,
}

struct Origin {
    told: Mutex<Told>,
    cache: Arc<Cache>,
}

struct ToOrigin(Arc<Origin>);

#[async_trait::async_trait]
impl Connect for ToOrigin {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        if self.0.reply().kind == Kind::Unreachable {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        tokio::spawn(Arc::clone(&self.0).serve(theirs));
        Ok(Box::new(ours))
    }
}

impl Origin {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reply(&self) -> Reply {
        self.told().reply.clone().expect("an exchange is under way")
    }

    /// One request; then the connection closes, so that none is sent again.
    async fn serve(self: Arc<Self>, mut stream: DuplexStream) {
        let Some(message) = read_message(&mut stream, None).await else { return };
        let asked_ms = self.cache.now_ms();
        let mut words = message.first.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let host = message.value("host");
        let fields = shown(&message.fields, |name| SENT.contains(&name));
        let conditional = message.has("if-none-match") || message.has("if-modified-since");
        let is_head = method == "HEAD";
        self.told().sent.push(Sent { method, host, target, fields });
        let reply = self.reply();
        tokio::time::sleep(Duration::from_millis(reply.delay_ms)).await;
        self.told().times.push((asked_ms, self.cache.now_ms()));
        let text = match reply.kind {
            Kind::HangUp | Kind::Unreachable => Vec::new(),
            Kind::Garbage => b"HTP/1.1 200 OK\r\n\r\n".to_vec(),
            Kind::Whole | Kind::Cut => written(&reply, conditional, is_head),
        };
        let _ = stream.write_all(&text).await;
    }
}

/// A reply as bytes.
fn written(reply: &Reply, conditional: bool, is_head: bool) -> Vec<u8> {
    let confirm = reply.confirm.as_ref().filter(|_| conditional);
    let (status, fields) = confirm.map_or((reply.status, &reply.fields), |fields| (304, fields));
    let mut text = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n").into_bytes();
    for (name, value) in fields {
        text.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    let bodiless = status == 304 || status == 204;
    let length = reply.body.len();
    match reply.chunked {
        _ if bodiless => {}
        true => text.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        false => text.extend_from_slice(format!("content-length: {length}\r\n").as_bytes()),
    }
    text.extend_from_slice(b"\r\n");
    if bodiless || is_head {
        return text;
    }
    match reply.kind {
        Kind::Cut => text.extend_from_slice(&reply.body[..length / 2]),
        _ if reply.chunked => {
            let (one, two) = reply.body.split_at(length / 2);
            for chunk in [one, two].into_iter().filter(|chunk| !chunk.is_empty()) {
                text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(&[chunk, b"\r\n"].concat());
            }
            text.extend_from_slice(b"0\r\n\r\n");
        }
        _ => text.extend_from_slice(&reply.body),
    }
    text
}

/// A message of HTTP/1.1.
struct Message {
    first: String,
    fields: Fields,
    /// None if it broke off.
    body: Option<Vec<u8>>,
}

impl Message {
    fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(own, _)| own == name)
    }

    fn value(&self, name: &str) -> String {
        let found = self.fields.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    }
}

/// Reads a message: a request, or the response to one with this method.
async fn read_message(stream: &mut DuplexStream, to: Option<&str>) -> Option<Message> {
    let mut text = Vec::new();
    let end = loop {
        if let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
    };
    let mut body = text.split_off(end + 4);
    let head = &text[..end];
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.trim_ascii_end());
    let first = String::from_utf8_lossy(lines.next()?).into_owned();
    let fields = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8_lossy(&line[..colon]).to_lowercase();
        Some((name, line[colon + 1..].trim_ascii().to_vec()))
    });
    let mut message = Message { fields: fields.collect(), first, body: None };
    let status = message.first.split(' ').nth(1).unwrap_or_default().to_owned();
    let bodiless = match to {
        Some(method) => method == "HEAD" || status == "304" || status == "204",
        None => !message.has("content-length") && !message.has("transfer-encoding"),
    };
    let length = message.value("content-length").parse::<usize>().ok();
    message.body = match length {
        _ if bodiless => Some(Vec::new()),
        _ if message.has("transfer-encoding") => chunks(stream, body).await,
        Some(length) => {
            while body.len() < length && stream.read_buf(&mut body).await.ok()? > 0 {}
            (body.len() == length).then_some(body)
        }
        None => {
            stream.read_to_end(&mut body).await.ok()?;
            Some(body)
        }
    };
    Some(message)
}

async fn chunks(stream: &mut DuplexStream, mut text: Vec<u8>) -> Option<Vec<u8>> {
    while !text.ends_with(b"0\r\n\r\n") {
        if stream.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
    }
    let (mut body, mut rest) = (Vec::new(), &text[..]);
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(line + 2..line + 2 + size)?);
        rest = rest.get(line + 4 + size..)?;
    }
}

/// The engine, an origin, and a connection from a client.
pub(super) struct Engine {
    cache: Arc<Cache>,
    origin: Arc<Origin>,
    shared: Arc<Shared>,
    upstream: Arc<Upstream>,
    connection: Option<DuplexStream>,
    _snapshot: watch::Sender<Arc<Snapshot>>,
}

impl Engine {
    pub(super) fn new(policy: Policy, memory: u64) -> Self {
        let config = CacheConfig { memory, max_object: 1 << 20, disk: None, policy };
        let cache = Cache::at(config, BEGIN_MS);
        let origin = Arc::new(Origin { told: Mutex::default(), cache: Arc::clone(&cache) });
        let connect = Arc::new(ToOrigin(Arc::clone(&origin)));
        let upstream = Arc::new(Upstream::new("origin".into(), connect));
        let route = RouteView {
            hosts: Vec::new(),
            path: PathPattern::Prefix(String::new()),
            service: None,
            rewrite: None,
            cache: Some(Arc::new(CacheScope::new(b"proxy", &[], QueryRules::default()))),
            delivery: Delivery::default(),
            response_headers: Vec::new(),
            target: Target::Workload(Arc::clone(&upstream)),
        };
        let (snapshot, watched) = watch::channel(Arc::new(Snapshot {
            site: SiteId::new("here").unwrap(),
            pins: None,
            hosts: Default::default(),
            rest: Some(Arc::new(RouteTable { force_https: false, routes: vec![route] })),
            certificates: Default::default(),
            default_certificate: None,
            tls: Arc::default(),
            explain: false,
            probe_key: None,
        }));
        let shared = Arc::new(Shared {
            shard: 0,
            limits: Limits::default(),
            trusted: Vec::new(),
            snapshot: watched,
            access: AccessLog::discard(),
            cache: Some(Arc::clone(&cache)),
            floors: Arc::new(floor::Floors::default()),
            ids: trace::Ids::new().unwrap(),
            https: Arc::new(AtomicU16::new(0)),
            alternative: Arc::new(ArcSwapOption::empty()),
        });
        Self { cache, origin, shared, upstream, connection: None, _snapshot: snapshot }
    }

    /// Bytes that are stored.
    pub(super) fn stored_bytes(&self) -> usize {
        self.cache.handle().counters().bytes
    }

    /// How many have gone to make room.
    pub(super) fn evictions(&self) -> u64 {
        self.cache.handle().counters().evictions
    }

    pub(super) async fn step(&mut self, step: &Step) -> Happened {
        tokio::time::sleep(Duration::from_millis(step.wait_ms)).await;
        let began_ms = self.cache.now_ms();
        *self.origin.told() = Told { reply: Some(step.reply.clone()), ..Told::default() };
        let answer = self.ask(&step.ask).await;
        // Time passes only when nothing else can, so that what goes on behind the answer has then
        // come to its end, or waits for the origin.
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if self.upstream.in_flight() == 0 {
                break;
            }
        }
        let told = std::mem::take(&mut *self.origin.told());
        Happened { began_ms, sent: told.sent, times: told.times, answer }
    }

    async fn ask(&mut self, ask: &Ask) -> Option<Answer> {
        let mut stream = self.connection.take().unwrap_or_else(|| {
            let (ours, theirs) = tokio::io::duplex(256 << 10);
            let served = Spoken::new(theirs, Client::alone(&self.shared), Some(false));
            tokio::spawn(async move {
                // How it ended, the client sees.
                let _ = served.await;
            });
            ours
        });
        let text = ask.broken.clone().unwrap_or_else(|| asked(ask));
        stream.write_all(&text).await.ok()?;
        let method = if ask.broken.is_some() { "GET" } else { &ask.method };
        let message = read_message(&mut stream, Some(method)).await?;
        let closes = message.value("connection") == "close" || message.body.is_none();
        self.connection = (!closes && ask.broken.is_none()).then_some(stream);
        Some(answered(message))
    }
}

fn asked(ask: &Ask) -> Vec<u8> {
    let mut text = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", ask.method, ask.target, ask.host);
    if !ask.body.is_empty() {
        text.push_str(&format!("content-length: {}\r\n", ask.body.len()));
    }
    let mut text = text.into_bytes();
    for (name, value) in &ask.fields {
        text.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    text.extend_from_slice(b"\r\n");
    text.extend_from_slice(&ask.body);
    text
}

/// An answer as it is compared: of an error page of the proxy's own, little more than its status.
fn answered(message: Message) -> Answer {
    let status = message.first.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or(0);
    let cache = message.has("cache-status").then(|| {
        let value = message.value("cache-status");
        let kept = |part: &&str| {
            !["selvedge"].contains(part)
                && !part.starts_with("ttl=")
                && !part.starts_with("detail=")
        };
        value.split("; ").filter(kept).collect::<Vec<_>>().join("; ")
    });
    if message.has("x-content-type-options") {
        let fields = shown(&message.fields, |name| name == "content-range");
        return Answer { status, cache: None, fields, body: None };
    }
    let kind = message.value("content-type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=");
    let plain = |text: String| match boundary {
        Some(boundary) => text.replace(boundary, "BOUNDARY"),
        None => text,
    };
    let mut fields = shown(&message.fields, |name| !NOT_COMPARED.contains(&name));
    for (_, value) in &mut fields {
        *value = plain(std::mem::take(value));
    }
    let body = message.body.map(|body| plain(body.escape_ascii().to_string()));
    Answer { status, cache, fields, body }
}
