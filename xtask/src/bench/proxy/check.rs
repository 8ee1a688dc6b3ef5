//! That a proxy does what a case is about, before it is measured: whole bodies, by the protocol of
//! the case, from its cache or from the origin.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::case::Over;
use super::load::{ACCEPT_GZIP, H3Client};
use super::origin::{Origin, body};
use super::server::Server;

/// How long an object may take to come into a cache: some store it after they have answered.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// Requests in a row that the origin must not see, or must.
const REQUESTS: u64 = 3;

/// Fetches until the answers come from the cache, and in gzip if that is asked for.
pub(super) fn hits(
    server: &Server,
    origin: &Origin,
    over: Over,
    path: &str,
    size: usize,
    gzip: bool,
) -> anyhow::Result<()> {
    let want = body(size);
    let deadline = Instant::now() + PATIENCE;
    let mut in_a_row = 0;
    while in_a_row < REQUESTS {
        let before = origin.requests();
        fetch(server, over, path, &want, gzip)?;
        if origin.requests() == before {
            in_a_row += 1;
            continue;
        }
        in_a_row = 0;
        ensure!(Instant::now() < deadline, "it asks its origin again and again: no cache");
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Fetches what every time must come from the origin.
pub(super) fn passes(
    server: &Server,
    origin: &Origin,
    over: Over,
    path: &str,
    size: usize,
) -> anyhow::Result<()> {
    let want = body(size);
    let before = origin.requests();
    for _ in 0..REQUESTS {
        fetch(server, over, path, &want, false)?;
    }
    let asked = origin.requests() - before;
    ensure!(asked == REQUESTS, "of {REQUESTS} requests its origin saw {asked}");
    Ok(())
}

fn fetch(server: &Server, over: Over, path: &str, want: &[u8], gzip: bool) -> anyhow::Result<()> {
    let (flag, version) = match over {
        Over::H1 | Over::H1Tls => ("--http1.1", "1.1"),
        Over::H2 => ("--http2", "2"),
        Over::H3 => {
            let client = H3Client::new(server.address(true), server.chain())?;
            ensure!(client.get(path)? == want, "the body is not the origin's");
            return Ok(());
        }
    };
    let port = server.address(over.is_encrypted()).port();
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", flag])
        .args(["--resolve", &format!("localhost:{port}:127.0.0.1")])
        .arg("--cacert")
        .arg(server.chain())
        .args(["--write-out", "%{stderr}%{http_code} %{http_version} %header{content-encoding}"])
        .args(if gzip { &["--compressed", "--header", ACCEPT_GZIP][..] } else { &[] })
        .arg(server.url(over, path))
        .output()
        .context("can't run curl")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "curl: {}", told.trim());
    let coding = if gzip { "gzip" } else { "" };
    let right = format!("200 {version} {coding}");
    ensure!(told.trim() == right.trim(), "status, version and coding are {told}");
    ensure!(output.stdout == want, "the body is not the origin's");
    Ok(())
}
