//! Stored responses that survive the process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use selvedge_proxy::{CacheConfig, CacheDisk};

use crate::cache::{FRESH, answer, eventually, nothing, origin};
use crate::clients::{Answer, Client};
use crate::site::{Site, app};

/// More than a chunk on disk, and more than memory takes here.
const LARGE: usize = 1_800_000;

/// A body that differs at every place.
fn large() -> String {
    let mut text = String::new();
    for number in 0.. {
        if text.len() >= LARGE {
            break;
        }
        text += &format!("{number:08}\n");
    }
    text.truncate(LARGE);
    text
}

/// A site that stores in a directory, and its origin's count of requests.
async fn site(directory: &Path) -> (Site, Arc<AtomicUsize>) {
    let (target, requests) = origin(async |_, request: Request<Incoming>| {
        let headers = request.headers();
        let language = headers.get("accept-language").map_or("none", |it| it.to_str().unwrap());
        match request.uri().path() {
            _ if request.method() == Method::POST => answer(&[], "done"),
            "/large" => answer(&[FRESH, ("etag", "\"1\""), ("cache-tag", "big")], large()),
            "/asked" if headers.contains_key("if-none-match") => {
                let mut response = answer(&[FRESH, ("etag", "\"1\"")], "");
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
            "/asked" => {
                answer(&[("cache-control", "max-age=9"), ("age", "9"), ("etag", "\"1\"")], large())
            }
            "/language" => answer(&[FRESH, ("vary", "accept-language")], language.to_owned()),
            "/broken" => nothing(),
            path => answer(&[FRESH, ("cache-tag", "small")], format!("this is {path}")),
        }
    });
    let disk = CacheDisk::open(directory.to_owned(), 64 << 20).unwrap();
    let cache = CacheConfig {
        memory: 8 << 20,
        max_object: 1 << 20,
        disk: Some(disk),
        ..CacheConfig::default()
    };
    let site = Site::caching(app(Some(1), vec![(1, target)]), cache).await;
    let ready = || site.cache.disk_counters().unwrap().ready;
    eventually("the directory is read", async || ready()).await;
    (site, requests)
}

/// Waits until so many objects are on disk.
async fn written(site: &Site, count: usize) {
    eventually("all is on disk", async || {
        site.cache.disk_counters().unwrap().entries == count && site.cache.flush().await
    })
    .await;
}

fn is_hit(answer: &Answer) -> bool {
    answer.header("cache-status").contains("; hit")
}

#[tokio::test]
async fn what_is_stored_survives_a_restart_and_is_served_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (first, _) = site(directory.path()).await;
    let mut client = Client::plain(&first).await;
    for path in ["/small", "/large"] {
        assert!(!is_hit(&client.get(path).await), "{path}");
    }
    for language in ["da", "de"] {
        client.get_with("/language", &[("accept-language", language)]).await;
    }
    // What the fields are that it varies by is an object too.
    written(&first, 5).await;
    // It is too large for memory.
    let again = client.get("/large").await;
    assert!(is_hit(&again) && again.text() == large(), "{}", again.header("cache-status"));
    first.end().await;

    let (second, requests) = site(directory.path()).await;
    let mut clients = join_all((0..20).map(|_| Client::plain(&second))).await;
    let answers = join_all(clients.iter_mut().map(|client| client.get("/small"))).await;
    for answer in &answers {
        assert!(is_hit(answer) && answer.text() == "this is /small");
    }
    assert!(second.cache.disk_counters().unwrap().hits <= 2, "one reads it for all");
    let client = &mut clients[0];
    for language in ["de", "da"] {
        let answer = client.get_with("/language", &[("accept-language", language)]).await;
        assert!(is_hit(&answer) && answer.text() == language);
    }
    let whole = client.get("/large").await;
    assert!(is_hit(&whole) && whole.text() == large() && whole.header("etag") == "\"1\"");
    assert_eq!(whole.header("content-length"), LARGE.to_string());
    let text = large();
    for (range, from, to) in [
        ("bytes=0-9", 0, 10),
        ("bytes=524280-1048590", 524_280, 1_048_591),
        ("bytes=-7", LARGE - 7, LARGE),
    ] {
        let part = client.get_with("/large", &[("range", range)]).await;
        assert_eq!((part.status.as_u16(), part.text()), (206, &text[from..to]), "{range}");
    }
    let parts = client.get_with("/large", &[("range", "bytes=1-3,1700000-1700002")]).await;
    assert!(
        parts
            .text()
            .contains(&format!("1700000-1700002/{LARGE}\r\n\r\n{}", &text[1_700_000..1_700_003]))
    );
    assert_eq!(parts.header("content-length"), parts.text().len().to_string());
    let same = client.get_with("/large", &[("if-none-match", "\"1\"")]).await;
    assert_eq!((same.status.as_u16(), same.text()), (304, ""));
    let head = client.send(Method::HEAD, "/large", &[], "").await;
    assert!(is_hit(&head) && head.text().is_empty());
    assert_eq!(requests.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_was_taken_back_does_not_return() {
    let directory = tempfile::tempdir().unwrap();
    let (first, _) = site(directory.path()).await;
    let mut client = Client::plain(&first).await;
    for path in ["/small", "/large", "/posted", "/kept"] {
        client.get(path).await;
    }
    written(&first, 4).await;
    first.end().await;

    // In this process none of it has come to memory.
    let (second, _) = site(directory.path()).await;
    let mut client = Client::plain(&second).await;
    client.send(Method::POST, "/posted", &[], "").await;
    assert!(!is_hit(&client.get("/posted").await), "a POST ends it");
    client.send(Method::POST, "/posted", &[], "").await;
    for json in ["{\"tag\": \"big\"}", "{\"prefix\": \"/small\"}"] {
        let (status, words) = second.admin(&Method::POST, "/purge", json).await;
        assert_eq!(status, 200, "{words}");
    }
    assert!(is_hit(&client.get("/kept").await));
    second.end().await;

    let (third, requests) = site(directory.path()).await;
    let mut client = Client::plain(&third).await;
    for path in ["/small", "/large", "/posted"] {
        assert!(!is_hit(&client.get(path).await), "{path}");
    }
    assert_eq!(requests.load(Ordering::Relaxed), 3);
    assert!(is_hit(&client.get("/kept").await));
}

#[tokio::test]
async fn what_is_confirmed_stays_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (site, requests) = site(directory.path()).await;
    let mut client = Client::plain(&site).await;
    client.get("/asked").await;
    written(&site, 1).await;
    let bytes = site.cache.disk_counters().unwrap().bytes;
    let confirmed = client.get("/asked").await;
    assert!(confirmed.header("cache-status").contains("fwd=stale; fwd-status=304"));
    assert!(confirmed.text() == large());
    assert!(site.cache.flush().await);
    let fresh = client.get("/asked").await;
    assert!(is_hit(&fresh) && fresh.text() == large());
    assert_eq!(requests.load(Ordering::Relaxed), 2);
    let counters = site.cache.disk_counters().unwrap();
    assert!(counters.bytes < bytes + 4096, "its body was not written again");
}

#[tokio::test]
async fn what_is_damaged_is_never_served() {
    let directory = tempfile::tempdir().unwrap();
    let (first, _) = site(directory.path()).await;
    let mut client = Client::plain(&first).await;
    client.get("/small").await;
    client.get("/large").await;
    written(&first, 2).await;
    first.end().await;
    let segment = std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|it| it == "segment"));
    let segment = segment.last().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    for text in ["this is /small", &large()[1_100_000..1_100_020]] {
        let place = bytes.windows(text.len()).position(|window| window == text.as_bytes());
        bytes[place.unwrap()] ^= 1;
    }
    std::fs::write(&segment, bytes).unwrap();

    let (second, requests) = site(directory.path()).await;
    let mut client = Client::plain(&second).await;
    let small = client.get("/small").await;
    assert!(!is_hit(&small) && small.text() == "this is /small");
    let part = client.get_with("/large", &[("range", "bytes=0-99")]).await;
    assert_eq!(part.text(), &large()[..100], "of it, what is whole is good");
    let broken = client.try_send(Method::GET, "/large", &[], "").await;
    assert!(broken.is_err(), "its end is not what it says");
    let mut client = Client::plain(&second).await;
    let anew = client.get("/large").await;
    assert!(!is_hit(&anew) && anew.text() == large());
    assert_eq!(requests.load(Ordering::Relaxed), 2);
    assert_eq!(second.cache.disk_counters().unwrap().damaged, 2);
}

#[tokio::test]
async fn a_successor_has_the_directory_when_the_first_begins_to_drain() {
    let directory = tempfile::tempdir().unwrap();
    let (first, _) = site(directory.path()).await;
    let mut client = Client::plain(&first).await;
    client.get("/small").await;
    written(&first, 1).await;
    let successor = CacheDisk::open(directory.path().to_owned(), 64 << 20).unwrap();
    let (target, requests) = origin(async |number, _| answer(&[FRESH], format!("{number}")));
    let cache = CacheConfig { disk: Some(successor), ..CacheConfig::default() };
    let second = Site::caching(app(Some(1), vec![(1, target)]), cache).await;
    let mut late = Client::plain(&second).await;
    let (status, words) = second.admin(&Method::POST, "/purge", "{\"tag\": \"other\"}").await;
    assert_eq!(status, 503, "{words}");
    assert_eq!(late.get("/other").await.text(), "1", "it serves without it");
    // The connection holds the first one up, but not the directory.
    first.token.cancel();
    let ready = || second.cache.disk_counters().unwrap().ready;
    eventually("the directory changes hands", async || ready()).await;
    assert!(is_hit(&late.get("/small").await));
    assert_eq!(requests.load(Ordering::Relaxed), 1);
    drop(client);
    first.end().await;
}
