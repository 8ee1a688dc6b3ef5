//! `selvedge proxy`: the HTTP engine alone, without a control plane.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use clap::{Args, ValueHint};
use selvedge_model::SiteId;
use selvedge_proxy::admin::Socket;
use selvedge_proxy::standalone::{self, Address, DiskSettings, Settings, size};
use selvedge_proxy::takeover::{self, Claim};
use selvedge_proxy::{
    CacheConfig, CacheDisk, Config, Handle, Limits, Listener, Listeners, Protocol, Proxy, Snapshot,
};
use selvedge_telemetry::access::AccessLog;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::failure::{Code, OrFail as _, Outcome};
use crate::signals;
use crate::terminal::Terminal;

/// The command line of `proxy`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    selvedge proxy --listen 127.0.0.1:8080 --upstream http://127.0.0.1:9000\n  \
    selvedge proxy --listen 127.0.0.1:8080 --upstream https://example.com --admin proxy.sock\n  \
    selvedge proxy --listen 127.0.0.1:8080 --upstream http://127.0.0.1:9000 --cache-disk stored\n  \
    selvedge proxy --config proxy.toml    # read anew on SIGHUP")]
pub(crate) struct ProxyArgs {
    /// A file that says where to listen and what to serve; read anew on SIGHUP.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["listen", "upstream", "cache_memory", "cache_disk"])]
    config: Option<PathBuf>,
    /// Where it listens for HTTP. Port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS:PORT", required_unless_present = "config")]
    listen: Option<SocketAddr>,
    /// Who answers what is not stored: http://NAME:PORT, https://NAME, or h2c://NAME:PORT for
    /// HTTP/2 in the clear.
    #[arg(long, value_name = "URL", required_unless_present = "config")]
    upstream: Option<Address>,
    /// Memory for stored responses, such as 512MiB; 0 turns the cache off.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size)]
    cache_memory: u64,
    /// A directory of its own for stored responses beside memory: they survive a restart.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    cache_disk: Option<PathBuf>,
    /// What that directory may take; at least 64MiB.
    #[arg(long, value_name = "SIZE", default_value = "10GiB", value_parser = size, requires = "cache_disk")]
    cache_disk_size: u64,
    /// A Unix socket to purge and look at the cache by: POST /purge, GET /cache.
    #[arg(long, value_name = "SOCKET")]
    admin: Option<PathBuf>,
    /// A Unix socket by which the next process started with it takes over the listeners of this one,
    /// without a connection refused; this one then finishes what it serves, and ends.
    #[arg(long, value_name = "SOCKET")]
    takeover: Option<PathBuf>,
    /// Threads that serve. Without it, one for each processor.
    #[arg(long, value_name = "N")]
    shards: Option<NonZeroUsize>,
}

/// What is printed once it serves.
#[derive(Serialize)]
struct Serving {
    schema: u32,
    pid: u32,
    /// The first listener of plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<SocketAddr>,
    /// The first listener of HTTPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    https: Option<SocketAddr>,
    /// The first listener of HTTP/3.
    #[serde(skip_serializing_if = "Option::is_none")]
    http3: Option<SocketAddr>,
}

/// Runs the verb until it is asked to end.
pub(crate) async fn run(args: ProxyArgs, terminal: Terminal) -> Outcome {
    crate::logging::start("proxy", None)?;
    // Large pages make resident what of a connection's buffers is never touched, which is two fifths of an
    // idle one, and took no time off anything. A site's programs would inherit this, so that sites keep them.
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!("large pages can't be turned off: {error}");
    }
    let site = SiteId::new("proxy").or_fail(Code::Failed, "it has no name", "report this")?;
    let settings = settings(&args, site.clone())?;
    let wanted = settings.listeners.clone();
    let (listeners, listening) = watch::channel(Arc::new(settings.listeners));
    let (snapshot, serving) = watch::channel(Arc::new(settings.snapshot));
    let processors = available_parallelism().map_or(1, NonZeroUsize::get);
    let config = Config {
        listeners: listening,
        shards: args.shards.map(NonZeroUsize::get).or(settings.shards).unwrap_or(processors),
        limits: Limits { max_connections: 100_000, ..Limits::default() },
        trusted: settings.trusted,
        cache: CacheConfig { disk: open(settings.disk)?, ..settings.cache },
    };
    let mut claim = match &args.takeover {
        Some(path) => takeover::claim(path).await.or_fail(
            Code::Failed,
            "the listeners of the process before can't be taken over",
            "end it, or start this one without --takeover",
        )?,
        None => None,
    };
    let inherited = claim.as_mut().map(Claim::inherited).unwrap_or_default();
    let bound = Proxy::resume(config, inherited, serving.clone(), AccessLog::discard());
    let proxy = bound.or_fail(
        Code::Failed,
        "the proxy can't listen",
        "choose another address, or end what listens there",
    )?;
    let is_successor = claim.is_some();
    let admin = args.admin.as_deref().map(|path| Socket::bind(path, is_successor));
    let admin = admin.transpose().or_fail(
        Code::Failed,
        "the admin socket can't be made",
        "choose another path with --admin, in a directory that you may write to",
    )?;
    tell(&proxy, &wanted, terminal)?;
    let token = CancellationToken::new();
    let signals = signals::cancel_on_signal(token.clone());
    let reload = args
        .config
        .map(|path| AbortOnDropHandle::new(tokio::spawn(reload(path, site, listeners, snapshot))));
    let cache = proxy.cache();
    let admin = admin.map(|admin| tokio::spawn(admin.run(cache, serving, token.clone())));
    let handle = proxy.handle();
    let hand_over = args.takeover.map(|path| {
        let token = token.clone();
        AbortOnDropHandle::new(tokio::spawn(hand_over(path, claim, handle, token)))
    });
    proxy.run(token).await;
    drop(hand_over);
    signals.abort();
    drop(reload);
    if let Some(admin) = admin {
        let _ = admin.await;
    }
    Ok(())
}

/// Tells the process before that this one serves, and offers the listeners to the next; once that
/// one serves, this one drains.
async fn hand_over(path: PathBuf, claim: Option<Claim>, handle: Handle, token: CancellationToken) {
    if let Some(claim) = claim
        && let Err(error) = claim.serving().await
    {
        let error = selvedge_telemetry::Chain(&error);
        tracing::warn!(%error, "the process before may not have ended");
    }
    match takeover::offer(&path, &handle).await {
        Ok(()) => token.cancel(),
        Err(error) => {
            let error = selvedge_telemetry::Chain(&error);
            tracing::error!(%error, "no process can take over the listeners");
        }
    }
}

fn settings(args: &ProxyArgs, site: SiteId) -> Outcome<Settings> {
    if let Some(path) = &args.config {
        return read(path, site);
    }
    let given = args.listen.zip(args.upstream.as_ref());
    let (listen, upstream) = given.ok_or_else(|| anyhow::anyhow!("nothing to serve")).or_fail(
        Code::Usage,
        "the proxy does not know what to serve",
        "give --listen and --upstream, or --config",
    )?;
    let snapshot = standalone::single(site, upstream).or_fail(
        Code::Failed,
        "the upstream can't be reached over TLS",
        "give it a name that its certificate is for, and this machine certificates that it trusts",
    )?;
    let listeners = Listeners(vec![Listener::new("HTTP", listen, Protocol::Http)]);
    let cache = CacheConfig {
        memory: args.cache_memory,
        max_object: args.cache_memory / 8,
        ..CacheConfig::default()
    };
    let disk = args.cache_disk.clone();
    let disk = disk.map(|directory| DiskSettings { directory, bytes: args.cache_disk_size });
    if disk.is_some() && cache.memory == 0 {
        return Err(anyhow::anyhow!("--cache-memory 0 turns the cache off")).or_fail(
            Code::Usage,
            "nothing can be stored on disk",
            "give the cache some memory, such as --cache-memory 64MiB",
        );
    }
    Ok(Settings { listeners, trusted: Vec::new(), snapshot, cache, disk, shards: None })
}

/// Opens the directory for stored responses.
fn open(disk: Option<DiskSettings>) -> Outcome<Option<CacheDisk>> {
    let open = disk.map(|disk| CacheDisk::open(disk.directory, disk.bytes));
    open.transpose().or_fail(
        Code::Failed,
        "responses can't be stored on disk",
        "choose a directory that you may write to, and at least 64MiB",
    )
}

fn read(path: &Path, site: SiteId) -> Outcome<Settings> {
    Settings::read(path, site).or_fail(
        Code::Usage,
        format!("{} says nothing that can be served", path.display()),
        "mend it; docs/guide/proxy.md shows all that it can say",
    )
}

fn tell(proxy: &Proxy, wanted: &Listeners, terminal: Terminal) -> Outcome {
    let first = |protocol| {
        let listener = wanted.0.iter().find(|it| it.protocol == protocol)?;
        proxy.address(&listener.name)
    };
    terminal.object(&Serving {
        schema: 1,
        pid: std::process::id(),
        http: first(Protocol::Http),
        https: first(Protocol::Https),
        http3: first(Protocol::Http3),
    })?;
    for listener in &wanted.0 {
        let address = proxy.address(&listener.name).unwrap_or(listener.address);
        terminal.line(match listener.protocol {
            Protocol::Http => format!("serving at http://{address}"),
            Protocol::Https => format!("serving at https://{address}"),
            Protocol::Http3 => format!("serving at https://{address} by HTTP/3"),
        });
    }
    Ok(())
}

/// Reads the file anew at each SIGHUP. What can't be served is told, and changes nothing.
async fn reload(
    path: PathBuf,
    site: SiteId,
    listeners: watch::Sender<Arc<Listeners>>,
    snapshot: watch::Sender<Arc<Snapshot>>,
) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        match Settings::read(&path, site.clone()) {
            Ok(settings) => {
                snapshot.send_replace(Arc::new(settings.snapshot));
                listeners.send_replace(Arc::new(settings.listeners));
                tracing::info!(path = %path.display(), "the configuration was read anew");
            }
            Err(error) => {
                let error = selvedge_telemetry::Chain(&error);
                tracing::error!(path = %path.display(), %error, "the configuration stays as it was");
            }
        }
    }
}
