//! The cache in the path of requests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use selvedge_proxy::{Connect, Stream, Target, Upstream, UpstreamLimits};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::clients::{Client, read_until};
use crate::site::{HOST, PATIENCE, Site, app};

pub(crate) type Body = http_body_util::combinators::BoxBody<Bytes, io::Error>;
type Script = dyn Fn(usize, Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync;

/// A server that answers by a script, told the number of each request from 1; 0 hangs up.
struct Origin {
    requests: Arc<AtomicUsize>,
    script: Arc<Script>,
}

#[async_trait::async_trait]
impl Connect for Origin {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (requests, script) = (Arc::clone(&self.requests), Arc::clone(&self.script));
        let service = service_fn(move |request| {
            let number = requests.fetch_add(1, Ordering::Relaxed) + 1;
            let response = script(number, request);
            async move {
                let response = response.await;
                match response.status() {
                    StatusCode::IM_A_TEAPOT => Err(io::Error::other("it hangs up")),
                    _ => Ok(response),
                }
            }
        });
        tokio::spawn(async move {
            let builder = hyper::server::conn::http1::Builder::new();
            let _ = builder.serve_connection(TokioIo::new(theirs), service).await;
        });
        Ok(Box::new(ours))
    }
}

/// An origin as a target, and its count of requests.
pub(crate) fn origin<F>(
    script: impl Fn(usize, Request<Incoming>) -> F + Send + Sync + 'static,
) -> (Target, Arc<AtomicUsize>)
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let requests = Arc::new(AtomicUsize::new(0));
    let script = Arc::new(move |number, request| -> BoxFuture<'static, Response<Body>> {
        Box::pin(script(number, request))
    });
    let origin = Origin { requests: Arc::clone(&requests), script };
    let upstream =
        Upstream::with_limits("origin".into(), Arc::new(origin), UpstreamLimits::default());
    (Target::Workload(Arc::new(upstream)), requests)
}

/// A site before an origin, and the origin's count of requests.
async fn site<F>(
    script: impl Fn(usize, Request<Incoming>) -> F + Send + Sync + 'static,
) -> (Site, Arc<AtomicUsize>)
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (target, requests) = origin(script);
    (Site::start(app(Some(1), vec![(1, target)])).await, requests)
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

pub(crate) fn answer(headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::builder();
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed();
    response.body(body).unwrap()
}

/// Hangs up.
pub(crate) fn nothing() -> Response<Body> {
    let mut response = answer(&[], "");
    *response.status_mut() = StatusCode::IM_A_TEAPOT;
    response
}

pub(crate) const FRESH: (&str, &str) = ("cache-control", "max-age=600");
/// Stale at once, since it is as old as it may get.
const STALE: [(&str, &str); 3] =
    [("cache-control", "max-age=600"), ("age", "600"), ("etag", "\"1\"")];

#[tokio::test]
async fn what_is_fresh_is_stored_and_told() {
    let (mut site, requests) = site(async |number, _| answer(&[FRESH], format!("{number}"))).await;
    let mut client = Client::plain(&site).await;
    let first = client.get("/a").await;
    assert_eq!(
        (first.text(), first.header("cache-status")),
        ("1", "selvedge; fwd=uri-miss; stored")
    );
    let again = client.get("/a").await;
    assert_eq!(again.text(), "1");
    assert!(again.header("cache-status").starts_with("selvedge; hit; ttl="), "{:?}", again.headers);
    assert_eq!(again.header("age"), "0");
    assert_eq!(client.get("/b").await.text(), "2");
    let head = client.send(Method::HEAD, "/a", &[], "").await;
    assert_eq!((head.header("content-length"), head.text()), ("1", ""));
    let part = client.get_with("/b", &[("range", "bytes=0-0")]).await;
    assert_eq!(
        (part.status, part.header("content-range")),
        (StatusCode::PARTIAL_CONTENT, "bytes 0-0/1")
    );
    let none = client.get_with("/b", &[("range", "bytes=5-")]).await;
    assert_eq!(
        (none.status, none.header("content-range")),
        (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */1")
    );
    // Another protocol and scheme has the same cache, but answers of its own.
    assert_eq!(Client::plain_h2(&site).await.get("/a").await.text(), "1");
    assert_eq!(Client::tls(&site, &[b"h2"]).await.get("/a").await.text(), "3");
    assert_eq!(requests.load(Ordering::Relaxed), 3);
    let words: Vec<_> =
        [site.record().await, site.record().await].map(|it| it.cache.unwrap()).into();
    assert_eq!(words, ["miss", "hit"]);
}

#[tokio::test]
async fn parts_of_a_body_come_together() {
    let (site, requests) =
        site(async |_, _| answer(&[FRESH, ("content-type", "text/plain")], "0123456789")).await;
    let mut client = Client::plain(&site).await;
    // Nothing is stored yet: the whole is asked for, and the part sent.
    let part = client.get_with("/", &[("range", "bytes=2-4")]).await;
    assert_eq!((part.status, part.text()), (StatusCode::PARTIAL_CONTENT, "234"));
    let parts = client.get_with("/", &[("range", "bytes=0-1,8-")]).await;
    let boundary = parts.header("content-type").strip_prefix("multipart/byteranges; boundary=");
    let boundary = boundary.unwrap();
    let expected = format!(
        "\r\n--{boundary}\r\ncontent-type: text/plain\r\ncontent-range: bytes 0-1/10\r\n\r\n01\
         \r\n--{boundary}\r\ncontent-type: text/plain\r\ncontent-range: bytes 8-9/10\r\n\r\n89\
         \r\n--{boundary}--\r\n"
    );
    assert_eq!(parts.text(), expected);
    assert_eq!(parts.header("content-length"), expected.len().to_string());
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn one_request_goes_out_for_all_that_want_the_same() {
    let gate = Arc::new(Semaphore::new(0));
    let (open, waiting) = (Arc::clone(&gate), gate);
    let (site, requests) = site(move |number, _| {
        let waiting = Arc::clone(&waiting);
        async move {
            let _ = waiting.acquire().await;
            answer(&[FRESH], format!("{number}"))
        }
    })
    .await;
    let site = Arc::new(site);
    let asked = (0..50).map(|_| {
        let site = Arc::clone(&site);
        tokio::spawn(async move { Client::plain(&site).await.get("/").await })
    });
    let asked: Vec<_> = asked.collect();
    eventually("a request has come", async || requests.load(Ordering::Relaxed) == 1).await;
    open.add_permits(100);
    let answers: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| answer.text() == "1"));
    let collapsed =
        |it: &&crate::clients::Answer| it.header("cache-status").ends_with("; collapsed");
    let hit = |it: &&crate::clients::Answer| it.header("cache-status").contains("; hit");
    let shared = answers.iter().filter(collapsed).count() + answers.iter().filter(hit).count();
    assert_eq!((shared, requests.load(Ordering::Relaxed)), (49, 1));
}

#[tokio::test]
async fn what_is_for_one_is_for_nobody_else() {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&gate);
    let (site, requests) = site(move |number, _| {
        let waiting = Arc::clone(&waiting);
        async move {
            let _ = waiting.acquire().await;
            answer(&[("cache-control", "private, max-age=600")], format!("{number}"))
        }
    })
    .await;
    let site = Arc::new(site);
    let asked: Vec<_> = (0..10)
        .map(|_| {
            let site = Arc::clone(&site);
            tokio::spawn(async move { Client::plain(&site).await.get("/").await })
        })
        .collect();
    eventually("a request has come", async || requests.load(Ordering::Relaxed) == 1).await;
    gate.add_permits(100);
    let mut answers: Vec<_> =
        join_all(asked).await.into_iter().map(|it| it.unwrap().text().to_owned()).collect();
    answers.sort();
    answers.dedup();
    assert_eq!((answers.len(), requests.load(Ordering::Relaxed)), (10, 10));
}

#[tokio::test]
async fn a_response_outlives_who_asked_first() {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&gate);
    let (site, requests) = site(move |_, _| {
        let waiting = Arc::clone(&waiting);
        async move {
            let chunks = futures_util::stream::unfold(0, move |sent| {
                let waiting = Arc::clone(&waiting);
                async move {
                    waiting.acquire().await.unwrap().forget();
                    (sent < 3).then(|| (Ok(Frame::data(Bytes::from("chunk"))), sent + 1))
                }
            });
            answer(&[FRESH], "").map(|_| StreamBody::new(chunks).boxed())
        }
    })
    .await;
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    gate.add_permits(1);
    read_until(&mut stream, "chunk").await;
    drop(stream);
    gate.add_permits(3);
    let answer = Client::plain(&site).await.get("/").await;
    assert_eq!((answer.text(), requests.load(Ordering::Relaxed)), ("chunkchunkchunk", 1));
}

#[tokio::test]
async fn requests_select_their_variant() {
    let (site, requests) = site(async |number, request: Request<Incoming>| {
        let language = request.headers().get("accept-language").cloned();
        let language = language.map_or_else(String::new, |it| it.to_str().unwrap().to_owned());
        answer(&[FRESH, ("vary", "accept-language")], format!("{language}{number}"))
    })
    .await;
    let mut client = Client::plain(&site).await;
    for (language, expected) in [("en", "en1"), ("de", "de2"), ("en", "en1"), ("DE", "de2")] {
        let answer = client.get_with("/", &[("accept-language", language)]).await;
        assert_eq!(answer.text(), expected);
    }
    // What changes the resource ends all of them.
    client.send(Method::POST, "/", &[], "x").await;
    assert_eq!(client.get_with("/", &[("accept-language", "en")]).await.text(), "en4");
    assert_eq!(client.get_with("/", &[("accept-language", "de")]).await.text(), "de5");
    assert_eq!(requests.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn what_is_stale_is_asked_for() {
    let (site, _) = site(async |number, request: Request<Incoming>| {
        match request.headers().get("if-none-match") {
            None => answer(&STALE, "body"),
            Some(_) if number == 2 => {
                let mut response = answer(&[("cache-control", "max-age=600"), ("x-new", "1")], "");
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
            Some(_) => answer(&[], "unexpected"),
        }
    })
    .await;
    let mut client = Client::plain(&site).await;
    assert_eq!(client.get("/").await.text(), "body");
    let confirmed = client.get("/").await;
    assert_eq!((confirmed.text(), confirmed.header("x-new")), ("body", "1"));
    let status = "selvedge; fwd=stale; fwd-status=304; stored";
    assert_eq!(confirmed.header("cache-status"), status);
    let hit = client.get_with("/", &[("if-none-match", "\"1\"")]).await;
    assert_eq!((hit.status, hit.text()), (StatusCode::NOT_MODIFIED, ""));
}

#[tokio::test]
async fn what_is_stale_may_be_used_meanwhile_or_instead() {
    let (site, requests) = site(async |number, request: Request<Incoming>| {
        let control = match request.uri().path() {
            "/meanwhile" => "max-age=600, stale-while-revalidate=60",
            "/instead" => "max-age=600, stale-if-error=60",
            "/must" => "max-age=600, must-revalidate",
            _ => "max-age=600",
        };
        match (request.uri().path(), request.headers().contains_key("if-none-match")) {
            ("/meanwhile", true) => answer(&[FRESH], format!("{number}")),
            ("/instead", true) => {
                let mut response = answer(&[], "broken");
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response
            }
            (_, true) => nothing(),
            _ => {
                let stale = [("cache-control", control), ("age", "600"), ("etag", "\"1\"")];
                answer(&stale, "old")
            }
        }
    })
    .await;
    let mut client = Client::plain(&site).await;
    for path in ["/meanwhile", "/instead", "/down", "/must"] {
        assert_eq!(client.get(path).await.text(), "old");
    }
    let stale = client.get("/meanwhile").await;
    assert_eq!((stale.text(), stale.header("cache-status")), ("old", "selvedge; hit; ttl=-1"));
    eventually("it is asked for behind that", async || requests.load(Ordering::Relaxed) == 5).await;
    eventually("the new one is stored", async || {
        Client::plain(&site).await.get("/meanwhile").await.text() == "5"
    })
    .await;
    let instead = client.get("/instead").await;
    let status = "selvedge; fwd=stale; fwd-status=503";
    assert_eq!((instead.text(), instead.header("cache-status")), ("old", status));
    assert_eq!(client.get("/down").await.text(), "old");
    assert_eq!(client.get("/must").await.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn what_clients_ask_of_caches_is_done() {
    let (site, _) = site(async |number, _| answer(&[FRESH], format!("{number}"))).await;
    let mut client = Client::plain(&site).await;
    let only = [("cache-control", "only-if-cached")];
    assert_eq!(client.get_with("/", &only).await.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(client.get("/").await.text(), "1");
    assert_eq!(client.get_with("/", &only).await.text(), "1");
    let anew = client.get_with("/", &[("cache-control", "no-cache")]).await;
    assert_eq!((anew.text(), anew.header("cache-status")), ("2", "selvedge; fwd=request; stored"));
    assert_eq!(client.get("/").await.text(), "2");
}

#[tokio::test]
async fn what_is_purged_is_not_served() {
    let (site, _) = site(async |number, request: Request<Incoming>| {
        let tag = request.uri().path().trim_start_matches('/').to_owned();
        answer(&[FRESH, ("surrogate-key", &tag), ("etag", "\"1\"")], format!("{number}"))
    })
    .await;
    let mut client = Client::plain(&site).await;
    let purge = async |json: &str| {
        let (status, words) = site.admin(&Method::POST, "/purge", json).await;
        assert_eq!(status, 200, "{words}");
    };
    let mut expected = 0;
    let mut get = async |path: &str, is_new: bool| {
        expected += usize::from(is_new);
        let answer = client.get(path).await;
        assert_eq!(answer.text() == expected.to_string(), is_new, "{path} {expected}");
    };
    for path in ["/a", "/b", "/c/d"] {
        get(path, true).await;
    }
    purge(r#"{"tag": "a"}"#).await;
    get("/b", false).await;
    get("/a", true).await;
    purge(&format!(r#"{{"url": "http://{}/b"}}"#, HOST.to_uppercase())).await;
    get("/b", true).await;
    purge(&format!(r#"{{"prefix": "{HOST}/c"}}"#)).await;
    get("/c/d", true).await;
    get("/a", false).await;
    purge(r#"{"ban": "path ~ \"/b*\" && tag == \"b\""}"#).await;
    get("/b", true).await;
    purge(r#"{"all": true, "app": "shop"}"#).await;
    for path in ["/a", "/b", "/c/d"] {
        get(path, true).await;
    }
    purge(r#"{"tag": "a", "soft": true}"#).await;
    let asked = client.get("/a").await;
    assert!(asked.header("cache-status").starts_with("selvedge; fwd=stale"), "{:?}", asked.headers);

    for (json, words) in [
        (r#"{"tag": "a", "app": "blog"}"#, "nothing of blog is stored here, but of shop"),
        (r#"{"url": "http://other.test/"}"#, "no route"),
    ] {
        let (status, said) = site.admin(&Method::POST, "/purge", json).await;
        assert!(status == 404 && said.contains(words), "{json}: {status} {said}");
    }
    for (json, words) in [
        ("{}", "name one of"),
        (r#"{"tag": "a", "all": true}"#, "name one of"),
        (r#"{"url": "/a"}"#, "a whole URL"),
        (r#"{"prefix": "a"}"#, "`prefix` can't be read"),
        (r#"{"ban": "path"}"#, "`ban` can't be read"),
        (r#"{"tga": "a"}"#, "unknown field"),
    ] {
        let (status, said) = site.admin(&Method::POST, "/purge", json).await;
        assert!(status == 400 && said.contains(words), "{json}: {status} {said}");
    }
    let (status, counters) = site.admin(&Method::GET, "/cache", "").await;
    let counters: serde_json::Value = serde_json::from_str(&counters).unwrap();
    assert!(status == 200 && counters["entries"].as_u64() >= Some(3), "{counters}");
}

#[tokio::test]
async fn what_is_not_served_just_now_is_purged_all_the_same() {
    let (target, _) = origin(async |number, _| answer(&[FRESH], format!("{number}")));
    let shown = || app(Some(1), vec![(1, target.clone())]);
    let site = Site::start(shown()).await;
    let mut client = Client::plain(&site).await;
    assert_eq!(client.get("/").await.text(), "1");
    site.swap(app(None, Vec::new()));
    let (status, said) =
        site.admin(&Method::POST, "/purge", r#"{"all": true, "app": "shop"}"#).await;
    assert!(status == 404 && said.contains("nothing of shop is stored"), "{said}");
    let url = format!(r#"{{"url": "http://{HOST}/"}}"#);
    let (status, said) = site.admin(&Method::POST, "/purge", &url).await;
    assert!(status == 503 && said.contains("purge it again"), "{said}");
    site.swap(shown());
    assert_eq!(client.get("/").await.text(), "2");
}

#[tokio::test]
async fn what_is_in_a_group_becomes_invalid_together() {
    let (site, requests) = site(async |number, request: Request<Incoming>| {
        let group = match request.uri().path() {
            "/a" | "/b" => "\"one\", \"two\"",
            _ => "\"three\"",
        };
        let changes = ("cache-group-invalidation", "\"two\"");
        answer(&[FRESH, ("cache-groups", group), changes], format!("{number}"))
    })
    .await;
    let mut client = Client::plain(&site).await;
    for path in ["/a", "/b", "/c"] {
        client.get(path).await;
    }
    // Responses to requests that change nothing make nothing invalid.
    assert_eq!((client.get("/a").await.text(), requests.load(Ordering::Relaxed)), ("1", 3));
    // Nor does another origin.
    Client::tls(&site, &[]).await.send(Method::POST, "/x", &[], "").await;
    assert_eq!(client.get("/a").await.text(), "1");
    client.send(Method::POST, "/x", &[], "").await;
    for (path, body) in [("/c", "3"), ("/a", "6"), ("/b", "7"), ("/a", "6")] {
        assert_eq!(client.get(path).await.text(), body, "{path}");
    }
}

#[tokio::test]
async fn head_and_post_tell_of_what_get_gets() {
    let (site, requests) = site(async |number, request: Request<Incoming>| {
        let tag = if request.headers().contains_key("x-new") { "\"2\"" } else { "\"1\"" };
        match (request.method().as_str(), request.uri().path()) {
            ("HEAD", _) => answer(&[FRESH, ("etag", tag), ("x-told", "by-head")], "1"),
            ("POST", path) => {
                let location = if path == "/same" { "/same" } else { "/else" };
                answer(&[FRESH, ("content-location", location)], format!("{number}"))
            }
            _ => answer(&[STALE[0], STALE[1], ("etag", "\"1\"")], format!("{number}")),
        }
    })
    .await;
    let mut client = Client::plain(&site).await;
    for path in ["/a", "/b"] {
        client.get(path).await;
    }
    // What it says is the same: it is fresh again.
    client.send(Method::HEAD, "/a", &[], "").await;
    let confirmed = client.get("/a").await;
    assert_eq!((confirmed.text(), confirmed.header("x-told")), ("1", "by-head"));
    // It is something else.
    client.send(Method::HEAD, "/a", &[("cache-control", "no-cache"), ("x-new", "1")], "").await;
    assert_eq!(client.get("/a").await.text(), "5");
    // Who is somebody is told what others are not.
    client.send(Method::HEAD, "/b", &[("authorization", "Basic eA==")], "").await;
    assert_eq!(client.get("/b").await.text(), "7");

    assert_eq!(client.send(Method::POST, "/same", &[], "x").await.text(), "8");
    assert_eq!(client.get("/same").await.text(), "8");
    client.send(Method::POST, "/other", &[], "x").await;
    assert_eq!(client.get("/other").await.text(), "10");
    assert_eq!(requests.load(Ordering::Relaxed), 10);
}
