//! `selvedge proxy`: the HTTP engine alone, without a control plane.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;

use clap::Args;
use selvedge_model::SiteId;
use selvedge_proxy::standalone::{self, Address, Admin};
use selvedge_proxy::{CacheConfig, Config, Limits, Listener, Listeners, Protocol, Proxy};
use selvedge_telemetry::access::AccessLog;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::failure::{Code, OrFail as _, Outcome};
use crate::signals;
use crate::terminal::Terminal;

/// The command line of `proxy`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    selvedge proxy --listen 127.0.0.1:8080 --upstream http://127.0.0.1:9000\n  \
    selvedge proxy --listen 127.0.0.1:8080 --upstream https://example.com --admin proxy.sock")]
pub(crate) struct ProxyArgs {
    /// Where it listens for HTTP. Port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Who answers what is not stored: http://NAME:PORT, https://NAME, or h2c://NAME:PORT for
    /// HTTP/2 in the clear.
    #[arg(long, value_name = "URL")]
    upstream: Address,
    /// Memory for stored responses, such as 512MiB; 0 turns the cache off.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size)]
    cache_memory: u64,
    /// A Unix socket to purge and look at the cache by: POST /purge, GET /cache.
    #[arg(long, value_name = "SOCKET")]
    admin: Option<PathBuf>,
    /// Threads that serve. Without it, one for each processor.
    #[arg(long, value_name = "N")]
    shards: Option<NonZeroUsize>,
}

/// What is printed once it serves.
#[derive(Serialize)]
struct Serving {
    schema: u32,
    pid: u32,
    http: SocketAddr,
}

/// A size in bytes: a whole number with KiB, MiB, GiB or nothing.
fn size(text: &str) -> Result<u64, String> {
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

/// Runs the verb until it is asked to end.
pub(crate) async fn run(args: ProxyArgs, terminal: Terminal) -> Outcome {
    crate::logging::start("proxy", None)?;
    let site = SiteId::new("proxy").or_fail(Code::Failed, "it has no name", "report this")?;
    let snapshot = standalone::single(site, &args.upstream).or_fail(
        Code::Failed,
        "the upstream can't be reached over TLS",
        "give it a name that its certificate is for, and this machine certificates that it trusts",
    )?;
    let (_snapshot, receiver) = watch::channel(Arc::new(snapshot));
    let admin_view = receiver.clone();
    let config = Config {
        listeners: Listeners(vec![Listener::new("HTTP", args.listen, Protocol::Http)]).fixed(),
        shards: args.shards.or_else(|| available_parallelism().ok()).map_or(1, NonZeroUsize::get),
        limits: Limits { max_connections: 100_000, ..Limits::default() },
        trusted: Vec::new(),
        cache: CacheConfig {
            memory: args.cache_memory,
            max_object: args.cache_memory / 8,
            ..CacheConfig::default()
        },
    };
    let proxy = Proxy::bind(config, receiver, AccessLog::discard()).or_fail(
        Code::Failed,
        "the proxy can't listen",
        "choose another address, or end what listens there",
    )?;
    let admin = args.admin.as_deref().map(Admin::bind).transpose().or_fail(
        Code::Failed,
        "the admin socket can't be made",
        "choose another path with --admin, in a directory that you may write to",
    )?;
    let http = proxy.address("HTTP").unwrap_or(args.listen);
    terminal.object(&Serving { schema: 1, pid: std::process::id(), http })?;
    terminal.line(format!("serving {} at http://{http}", args.upstream));
    let token = CancellationToken::new();
    let signals = signals::cancel_on_signal(token.clone());
    let cache = proxy.cache();
    let admin = admin.map(|admin| tokio::spawn(admin.run(cache, admin_view, token.clone())));
    proxy.run(token).await;
    signals.abort();
    if let Some(admin) = admin {
        let _ = admin.await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
