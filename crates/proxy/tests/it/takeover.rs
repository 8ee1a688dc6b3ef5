//! A proxy that takes over from another, and clients that must not notice.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use selvedge_proxy::takeover::{TakeoverError, claim, offer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::clients::handshake;
use crate::site::{HOST, PATIENCE, Site, app, files};

fn offering(site: &Site, path: &Path) -> JoinHandle<Result<(), TakeoverError>> {
    let (handle, path) = (site.handle.clone(), path.to_owned());
    tokio::spawn(async move { offer(&path, &handle).await })
}

async fn offered(path: &Path) {
    let there = async {
        while !path.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, there).await.expect("it offers");
}

/// Opens connections, one after the other, and asks once on each; none may be refused or reset, or
/// end without an answer.
async fn connect_again_and_again(
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
) {
    while !stop.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(address).await.expect("nobody is refused");
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("nobody is reset");
        let mut answer = String::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
        read.expect("an answer comes").expect("nobody is reset");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("page"), "{answer}");
        asked.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_refused_or_reset_by_takeovers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("takeover.sock");
    assert!(claim(&path).await.unwrap().is_none(), "nobody offers");
    let page = app(Some(1), vec![(1, files(&[("index.html", "page")]))]);
    let mut site = Site::start(page).await;
    let mut offer = offering(&site, &path);
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let asking = connect_again_and_again(site.http, Arc::clone(&stop), Arc::clone(&asked));
            tokio::spawn(asking)
        })
        .collect();

    // A successor that dies before it serves changes nothing.
    offered(&path).await;
    drop(claim(&path).await.unwrap().expect("it is offered"));
    // More shards and fewer than before.
    for shards in [3, 1, 2, 4, 1] {
        let before = asked.load(Ordering::Relaxed);
        offered(&path).await;
        let mut claimed = claim(&path).await.unwrap().expect("it is offered");
        let next = site.successor(claimed.inherited(), shards).await;
        assert_eq!((next.http, next.https), (site.http, site.https));
        claimed.serving().await.unwrap();
        offer.await.unwrap().unwrap();
        offer = offering(&next, &path);
        site.token.cancel();
        tokio::time::timeout(PATIENCE, &mut site.ended).await.expect("it drains").unwrap();
        site = next;
        while asked.load(Ordering::Relaxed) < before + 100 {
            assert!(clients.iter().all(|client| !client.is_finished()));
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(handshake(site.https, &site.ca, HOST, &[]).await.is_ok());
    offer.abort();
}

#[tokio::test]
async fn one_process_offers_at_a_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("takeover.sock");
    // Left behind by a process that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let site = Site::start(app(None, vec![])).await;
    let first = offering(&site, &path);
    let granted = async {
        loop {
            if let Ok(Some(claimed)) = claim(&path).await {
                return claimed;
            }
            tokio::task::yield_now().await;
        }
    };
    let claimed = tokio::time::timeout(PATIENCE, granted).await.expect("it is offered");
    let second = offer(&path, &site.handle).await;
    assert!(matches!(second, Err(TakeoverError::Taken(_))), "{second:?}");
    drop(claimed);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert!(!path.exists(), "it cleans up");
}
