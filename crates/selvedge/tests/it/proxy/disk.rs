//! Stored responses on disk, and processes that end without warning.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::Uri;
use axum::http::header::CACHE_CONTROL;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::harness::{eventually, signal};

/// A body that only this path has, of 64 KiB to 1.3 MiB.
fn body(path: &str) -> Vec<u8> {
    let number: usize = path.rsplit('/').next().unwrap().parse().unwrap();
    path.bytes().cycle().take((64 << 10) + (number % 9) * 150_000).collect()
}

/// An origin of such bodies, and its count of requests.
async fn origin() -> (String, Arc<AtomicUsize>) {
    async fn answer(
        State(count): State<Arc<AtomicUsize>>,
        uri: Uri,
    ) -> impl axum::response::IntoResponse {
        count.fetch_add(1, Ordering::Relaxed);
        ([(CACHE_CONTROL, "max-age=600")], body(uri.path()))
    }
    let count = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(answer).with_state(Arc::clone(&count));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}"), count)
}

struct Proxy {
    process: Child,
    address: SocketAddr,
}

async fn proxy(directory: &Path, admin: &Path, upstream: &str) -> Proxy {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(["proxy", "--json", "--shards", "2", "--listen", "127.0.0.1:0"]);
    command.args(["--upstream", upstream, "--cache-memory", "8MiB"]);
    command.args(["--cache-disk-size", "256MiB", "--cache-disk"]).arg(directory);
    command.arg("--admin").arg(admin);
    let (process, line) = super::start(command).await;
    let said: serde_json::Value = serde_json::from_str(&line).unwrap();
    Proxy { process, address: said["http"].as_str().unwrap().parse().unwrap() }
}

/// Status and body of an answer that was read to its end; none if it was cut off.
async fn exchange<S>(mut stream: S, request: String) -> Option<(u16, Vec<u8>)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.ok()?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
    let length: usize = head.split("content-length: ").nth(1)?.lines().next()?.parse().unwrap();
    let status = head.split(' ').nth(1)?.parse().unwrap();
    let body = bytes.split_off(end + 4);
    (body.len() == length).then_some((status, body))
}

async fn get(address: SocketAddr, path: &str, fields: &str) -> Option<(u16, Vec<u8>)> {
    let stream = TcpStream::connect(address).await.ok()?;
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n{fields}\r\n");
    exchange(stream, request).await
}

/// What the admin socket says.
async fn admin(socket: &Path, start: &str, json: &str) -> (u16, serde_json::Value) {
    let stream = UnixStream::connect(socket).await.unwrap();
    let length = json.len();
    let request = format!(
        "{start} HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{json}"
    );
    let (status, body) = exchange(stream, request).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn ready(socket: &Path) {
    eventually("the directory is read", async || {
        let (_, counters) = admin(socket, "GET /cache", "").await;
        (counters["disk"]["ready"] == true).then_some(())
    })
    .await;
}

/// In each round some of what was stored is purged, more is asked for, and the process is killed in
/// the midst of that. What is left is whole, and none of it was purged.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_writes_it_leaves_nothing_torn_and_brings_nothing_back() {
    let place = tempfile::tempdir().unwrap();
    let (stored, socket) = (place.path().join("stored"), place.path().join("admin.sock"));
    let (upstream, requests) = origin().await;
    let mut found = 0;
    for round in 0..4 {
        let mut proxy = proxy(&stored, &socket, &upstream).await;
        ready(&socket).await;
        let before = requests.load(Ordering::Relaxed);
        for number in 0..if round == 0 { 0 } else { 60 } {
            for old in 0..round {
                let path = format!("/{old}/{number}");
                let only = "cache-control: only-if-cached\r\n";
                let (status, bytes) = get(proxy.address, &path, only).await.expect("an answer");
                if status == 200 {
                    assert!(old + 1 == round, "{path} was purged");
                    assert!(bytes == body(&path), "{path} is torn");
                    found += 1;
                } else {
                    assert_eq!(status, 504);
                }
            }
        }
        assert_eq!(requests.load(Ordering::Relaxed), before);
        if round > 0 {
            let purge = format!("{{\"prefix\": \"/{}\"}}", round - 1);
            let (status, words) = admin(&socket, "POST /purge", &purge).await;
            assert_eq!(status, 200, "{words}");
        }
        let mut asking = JoinSet::new();
        for number in 0..60 {
            let (address, path) = (proxy.address, format!("/{round}/{number}"));
            asking.spawn(async move { get(address, &path, "").await });
        }
        // The kill falls while the later ones are on their way.
        for _ in 0..20 + 10 * round {
            asking.join_next().await;
        }
        signal(proxy.process.id().unwrap(), Signal::SIGKILL);
        proxy.process.wait().await.unwrap();
        asking.shutdown().await;
    }
    assert!(found > 0, "something survived");
}

/// Needs to mount a small file system, which only root may.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_no_request() {
    let place = tempfile::tempdir().unwrap();
    let small = place.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(&small);
    if !mount.output().await.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a_full_disk_fails_no_request must be root, to mount a small tmpfs");
        return;
    }
    let mounted = Mounted(small.clone());
    let (socket, (upstream, _)) = (place.path().join("admin.sock"), origin().await);
    let mut proxy = proxy(&small.join("stored"), &socket, &upstream).await;
    ready(&socket).await;
    for number in 0..40 {
        let path = format!("/{number}");
        let answer = get(proxy.address, &path, "").await.expect("an answer");
        assert!(answer == (200, body(&path)), "{path}");
    }
    let errors = eventually("the disk is full", async || {
        let (_, counters) = admin(&socket, "GET /cache", "").await;
        counters["disk"]["errors"].as_u64().filter(|errors| *errors > 0)
    });
    errors.await;
    for number in 0..40 {
        let path = format!("/{number}");
        let answer = get(proxy.address, &path, "range: bytes=10-19\r\n").await.expect("an answer");
        assert_eq!(answer, (206, body(&path)[10..20].to_vec()));
    }
    signal(proxy.process.id().unwrap(), Signal::SIGTERM);
    assert!(proxy.process.wait().await.unwrap().success());
    drop(mounted);
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test]
async fn what_cannot_be_stored_to_is_said_at_the_start() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (arguments, code, words) in [
        (
            ["--cache-disk", file.to_str().unwrap(), "--cache-memory=64MiB"],
            1,
            "file for the disk cache",
        ),
        (["--cache-disk=stored", "--cache-disk-size", "1MiB"], 1, "1048576 bytes is too small"),
        (["--cache-disk=stored", "--cache-memory", "0"], 2, "nothing can be stored on disk"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command.args(["proxy", "--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:1"]);
        let output = command.args(arguments).current_dir(&place).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(words) && output.status.code() == Some(code), "{said}");
    }
}
