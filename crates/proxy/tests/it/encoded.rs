//! Stored bodies that are compressed once and kept so.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use selvedge_proxy::{CacheConfig, CacheDisk};

use crate::cache::{Body, FRESH, answer, eventually, origin};
use crate::clients::{Answer, Client};
use crate::delivery::plain;
use crate::site::{HOST, Site, app};

const HTML: (&str, &str) = ("content-type", "text/html");
const CODINGS: [&str; 3] = ["gzip", "br", "zstd"];

/// A page of some length that says what it is.
fn page(name: &str) -> String {
    (0..300).map(|line| format!("<p>{name} has a line {line}</p>\n")).collect()
}

/// What does not shrink.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

async fn site<F>(
    cache: CacheConfig,
    script: impl Fn(usize, Request<Incoming>) -> F + Send + Sync + 'static,
) -> (Site, Arc<AtomicUsize>)
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (target, requests) = origin(script);
    (Site::caching(app(Some(1), vec![(1, target)]), cache).await, requests)
}

async fn get(client: &mut Client, path: &str, coding: &str) -> Answer {
    client.get_with(path, &[("accept-encoding", coding)]).await
}

/// It came out of the store compressed: what is compressed as it is sent has no length.
fn is_kept(answer: &Answer, coding: &str) -> bool {
    answer.header("content-encoding") == coding
        && answer.header("content-length") == answer.body.len().to_string()
}

#[tokio::test]
async fn a_hit_is_compressed_once() {
    let (site, requests) = site(CacheConfig::default(), async |_, request: Request<Incoming>| {
        assert!(!request.headers().contains_key("range"));
        answer(&[HTML, FRESH, ("etag", "\"1\""), ("vary", "x")], page("it"))
    })
    .await;
    let mut clients = [Client::plain(&site).await, Client::plain_h2(&site).await];
    for (made, coding) in CODINGS.into_iter().enumerate() {
        // What misses goes out as it comes.
        let first = get(&mut clients[0], "/", coding).await;
        assert_eq!(plain(&first), page("it"));
        assert!(made > 0 || !is_kept(&first, coding));
        for client in &mut clients {
            let mut bodies = Vec::new();
            for _ in 0..3 {
                let hit = get(client, "/", coding).await;
                assert!(hit.header("cache-status").starts_with("selvedge; hit"));
                assert!(is_kept(&hit, coding), "{:?}", hit.headers);
                assert_eq!(plain(&hit), page("it"));
                let tag = format!("W/\"1~{coding}\"");
                assert_eq!((hit.header("etag"), hit.header("vary")), (&*tag, "x, accept-encoding"));
                assert!(!hit.headers.contains_key("accept-ranges"));
                bodies.push(hit.body.clone());
            }
            assert!(bodies.iter().all(|body| *body == bodies[0]));
            let length = bodies[0].len().to_string();
            let tag = format!("W/\"1~{coding}\"");
            let asked = [("accept-encoding", coding)];
            let head = client.send(Method::HEAD, "/", &asked, "").await;
            assert_eq!((head.header("content-length"), head.header("etag")), (&*length, &*tag));
            assert_eq!((head.header("content-encoding"), head.text()), (coding, ""));
            let same = client.get_with("/", &[asked[0], ("if-none-match", &tag)]).await;
            assert_eq!((same.status, same.header("etag")), (StatusCode::NOT_MODIFIED, &*tag));
            let other = client.get_with("/", &[asked[0], ("if-none-match", "\"2\"")]).await;
            assert!(is_kept(&other, coding));
            // Parts are of the plain body, and of no use to who has another.
            let range = [asked[0], ("range", "bytes=3-4")];
            let part = client.get_with("/", &range).await;
            assert_eq!((part.status, part.text()), (StatusCode::PARTIAL_CONTENT, "it"));
            let whole = client.get_with("/", &[range[0], range[1], ("if-range", &tag)]).await;
            assert!(whole.status == StatusCode::OK && is_kept(&whole, coding));
            let identity = client.get("/").await;
            assert_eq!((identity.text(), identity.header("etag")), (&*page("it"), "\"1\""));
            let untouched = [asked[0], ("cache-control", "no-transform")];
            assert_eq!(client.get_with("/", &untouched).await.text(), page("it"));
        }
        assert_eq!(site.cache.encoded(), made as u64 + 1, "{coding}");
    }
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn many_at_once_wait_for_one() {
    let (site, _) =
        site(CacheConfig::default(), async |_, _| answer(&[HTML, FRESH], page("it"))).await;
    Client::plain(&site).await.get("/").await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(Client::plain(&site).await);
    }
    let asked = clients.iter_mut().map(|client| get(client, "/", "br"));
    let answers = join_all(asked).await;
    assert!(answers.iter().all(|it| is_kept(it, "br") && plain(it) == page("it")));
    assert_eq!(site.cache.encoded(), 1);
}

#[tokio::test]
async fn what_ends_a_body_ends_what_was_made_of_it() {
    let (site, _) = site(CacheConfig::default(), async |number, request: Request<Incoming>| {
        let tag = ("surrogate-key", request.uri().path().trim_start_matches('/'));
        answer(&[HTML, FRESH, tag, ("etag", "\"same\"")], page(&format!("number {number}")))
    })
    .await;
    let mut client = Client::plain(&site).await;
    let mut number = 0;
    let url = format!(r#"{{"url": "http://{HOST}/a"}}"#);
    let prefix = format!(r#"{{"prefix": "{HOST}/a"}}"#);
    let ban = r#"{"ban": "path ~ \"/a*\""}"#;
    let all = r#"{"all": true, "app": "shop"}"#;
    let soft = r#"{"tag": "a", "soft": true}"#;
    for end in ["", &url, r#"{"tag": "a"}"#, &prefix, ban, all, soft, "POST", "no-cache"] {
        match end {
            "" => {}
            "POST" => {
                number += 1;
                drop(client.send(Method::POST, "/a", &[], "").await);
            }
            // Whoever asks anew replaces it.
            "no-cache" => {
                number += 1;
                client.get_with("/a", &[("cache-control", "no-cache")]).await;
                number -= 1;
            }
            purge => assert_eq!(site.admin(&Method::POST, "/purge", purge).await.0, 200, "{purge}"),
        }
        number += 1;
        for coding in CODINGS {
            let before = site.cache.encoded();
            for _ in 0..2 {
                let got = get(&mut client, "/a", coding).await;
                assert_eq!(plain(&got), page(&format!("number {number}")), "{end} {coding}");
            }
            assert!(is_kept(&get(&mut client, "/a", coding).await, coding));
            assert_eq!(site.cache.encoded(), before + 1, "{end} {coding}");
        }
    }
}

#[tokio::test]
async fn what_is_confirmed_keeps_what_was_made_of_it() {
    let (site, requests) = site(CacheConfig::default(), async |_, request: Request<Incoming>| {
        let tag = ("etag", "\"1\"");
        let control = ("cache-control", "no-cache");
        match request.headers().get("if-none-match") {
            Some(_) => {
                let mut response = answer(&[control, tag, ("x-new", "1")], "");
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
            None => answer(&[HTML, control, tag], page("it")),
        }
    })
    .await;
    let mut client = Client::plain(&site).await;
    client.get("/").await;
    for _ in 0..4 {
        let got = get(&mut client, "/", "gzip").await;
        assert!(is_kept(&got, "gzip"), "{:?}", got.headers);
        assert_eq!((plain(&got), got.header("x-new")), (page("it"), "1"));
    }
    assert_eq!((site.cache.encoded(), requests.load(Ordering::Relaxed)), (1, 5));
}

#[tokio::test]
async fn some_bodies_stay_as_they_are() {
    let (site, _) =
        site(CacheConfig::default(), async |_, request: Request<Incoming>| {
            match request.uri().path() {
                "/noise" => answer(&[HTML, FRESH], noise(4000)),
                "/large" => answer(&[HTML, FRESH], "x".repeat((4 << 20) + 1)),
                "/untouched" => {
                    answer(&[HTML, ("cache-control", "max-age=60, no-transform")], page("it"))
                }
                "/private" => answer(&[HTML, ("cache-control", "private, max-age=60")], page("it")),
                _ => answer(&[("content-type", "image/png"), FRESH], page("it")),
            }
        })
        .await;
    let mut client = Client::plain(&site).await;
    for path in ["/untouched", "/picture"] {
        for _ in 0..3 {
            let got = get(&mut client, path, "gzip").await;
            assert_eq!((got.text(), got.header("content-encoding")), (&*page("it"), ""), "{path}");
        }
    }
    for path in ["/private", "/large"] {
        for _ in 0..3 {
            let got = get(&mut client, path, "gzip").await;
            assert_eq!(got.header("content-encoding"), "gzip", "{path}");
            assert!(!got.headers.contains_key("content-length"), "{path}");
        }
    }
    assert_eq!(site.cache.encoded(), 0);
    // It is tried once, and then known not to shrink.
    for _ in 0..4 {
        get(&mut client, "/noise", "gzip").await;
    }
    let noisy = get(&mut client, "/noise", "gzip").await;
    assert_eq!((noisy.header("content-encoding"), &noisy.body[..]), ("", &*noise(4000)));
    assert_eq!(noisy.header("vary"), "accept-encoding");
    assert_eq!(site.cache.encoded(), 1);
}

#[tokio::test]
async fn what_is_kept_is_counted_and_makes_room() {
    let memory = 256 << 10;
    let config = CacheConfig { memory, max_object: 64 << 10, ..CacheConfig::default() };
    let (site, requests) = site(config, async |_, request: Request<Incoming>| {
        answer(&[HTML, FRESH], page(request.uri().path()))
    })
    .await;
    let mut client = Client::plain(&site).await;
    let bytes = || site.cache.counters().bytes as u64;
    for number in 0..60 {
        let path = format!("/{number}");
        client.get(&path).await;
        let before = bytes();
        for coding in CODINGS {
            for _ in 0..2 {
                assert_eq!(plain(&get(&mut client, &path, coding).await), page(&path));
                assert!(bytes() <= memory);
            }
        }
        if number == 0 {
            let kept = join_all(CODINGS.map(async |coding| {
                let mut client = Client::plain(&site).await;
                get(&mut client, &path, coding).await.body.len() as u64
            }));
            let kept: u64 = kept.await.iter().sum();
            let more = bytes() - before;
            assert!((kept..kept + 3 * 200).contains(&more), "{more} for {kept}");
        }
    }
    assert!(site.cache.counters().evictions > 0);
    assert!(requests.load(Ordering::Relaxed) >= 60);
    let purged = site.admin(&Method::POST, "/purge", r#"{"all": true, "app": "shop"}"#).await;
    assert_eq!(purged.0, 200);
    eventually("nothing is left", async || bytes() == 0).await;
}

#[tokio::test]
async fn what_comes_back_from_disk_is_compressed_again() {
    let directory = tempfile::tempdir().unwrap();
    let start = async || {
        let disk = CacheDisk::open(directory.path().to_owned(), 64 << 20).unwrap();
        let config = CacheConfig { disk: Some(disk), ..CacheConfig::default() };
        let (site, requests) = site(config, async |_, _| answer(&[HTML, FRESH], page("it"))).await;
        eventually("the directory is read", async || site.cache.disk_counters().unwrap().ready)
            .await;
        (site, requests)
    };
    for round in 0..2 {
        let (site, requests) = start().await;
        let mut client = Client::plain(&site).await;
        if round == 0 {
            client.get("/").await;
            eventually("it is on disk", async || {
                site.cache.disk_counters().unwrap().entries == 1 && site.cache.flush().await
            })
            .await;
        }
        for _ in 0..3 {
            let got = get(&mut client, "/", "gzip").await;
            assert!(is_kept(&got, "gzip") && plain(&got) == page("it"), "{:?}", got.headers);
        }
        assert_eq!(site.cache.encoded(), 1);
        assert_eq!(requests.load(Ordering::Relaxed), 1 - round);
        site.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_what_was_purged_before_they_asked() {
    let version = Arc::new(AtomicUsize::new(0));
    let current = Arc::clone(&version);
    let (site, _) = site(CacheConfig::default(), move |_, _| {
        let text = page(&current.load(Ordering::SeqCst).to_string());
        async { answer(&[HTML, FRESH, ("etag", "\"same\"")], text) }
    })
    .await;
    let site = Arc::new(site);
    let seen = |answer: &Answer| -> usize {
        let text = plain(answer);
        let name = text.strip_prefix("<p>").and_then(|text| text.split(' ').next()).unwrap();
        assert_eq!(text, page(name));
        name.parse().unwrap()
    };
    // What was purged may be asked for anew, compressed and replaced at any time.
    let clients = (0..6).map(|number| {
        let (site, version) = (Arc::clone(&site), Arc::clone(&version));
        tokio::spawn(async move {
            let mut client = Client::plain(&site).await;
            for _ in 0..60 {
                let least = version.load(Ordering::SeqCst).saturating_sub(1);
                let got = get(&mut client, "/", CODINGS[number % 3]).await;
                assert!(seen(&got) >= least);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut client = Client::plain(&site).await;
    for number in 1..40 {
        version.store(number, Ordering::SeqCst);
        assert_eq!(site.admin(&Method::POST, "/purge", r#"{"all": true}"#).await.0, 200);
        for coding in CODINGS.into_iter().cycle().take(6) {
            assert_eq!(seen(&get(&mut client, "/", coding).await), number, "{coding}");
        }
    }
    for ended in join_all(clients).await {
        ended.unwrap();
    }
    assert!(site.cache.encoded() > 10);
}
