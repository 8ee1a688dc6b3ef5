//! What is done to responses on their way: compression, pages put together of pieces, and GraphQL
//! queries answered by the cache.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use selvedge_proxy::encode::{Coding, DecodeLimits, Decoder, Effort, compress, decompress};
use selvedge_proxy::{Target, esi, graphql};
use tokio::sync::mpsc;

use crate::cache::{Body, answer, origin};
use crate::clients::{Answer, Client};
use crate::site::{HOST, Site, app, app_of, files, view};

const HTML: (&str, &str) = ("content-type", "text/html");
const FRESH: (&str, &str) = ("cache-control", "max-age=600");
const TAG: (&str, &str) = ("etag", "\"1\"");

fn text() -> String {
    "<p>The quick brown fox jumps over the lazy dog.</p>\n".repeat(60)
}

/// The body, by a decoder that is not ours where there is one.
pub(crate) fn plain(answer: &Answer) -> String {
    let body = &answer.body[..];
    let mut text = String::new();
    match answer.header("content-encoding") {
        "" => text.push_str(answer.text()),
        "gzip" => drop(flate2::read::GzDecoder::new(body).read_to_string(&mut text).unwrap()),
        "br" => drop(brotli::Decompressor::new(body, 4096).read_to_string(&mut text).unwrap()),
        "zstd" => text = String::from_utf8(zstd::decode_all(body).unwrap()).unwrap(),
        other => panic!("{other}"),
    }
    text
}

#[tokio::test]
async fn responses_are_compressed_as_clients_accept() {
    let (target, requests) = origin(async |_, request: Request<Incoming>| {
        let headers = request.headers();
        assert!(!headers.contains_key("range"));
        match request.uri().path() {
            "/picture" => answer(&[("content-type", "image/png"), FRESH], text()),
            "/small" => answer(&[HTML, FRESH], "small"),
            // It has no codings, and judges conditions.
            _ if headers.get("if-none-match").is_some_and(|tag| tag == "\"1\"") => {
                let mut response = answer(&[TAG, FRESH], "");
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
            _ => answer(&[HTML, FRESH, TAG], text()),
        }
    });
    let site = Site::start(app(Some(1), vec![(1, target)])).await;
    for mut client in [Client::plain(&site).await, Client::tls(&site, &[b"h2"]).await] {
        for (accepted, coding) in [
            ("gzip", "gzip"),
            ("gzip, deflate, br", "br"),
            ("gzip, deflate, br, zstd", "zstd"),
            ("zstd;q=0.1, gzip", "gzip"),
            ("identity", ""),
            ("deflate", ""),
        ] {
            // The first time from the origin, then from the cache.
            for path in ["/", "/", "/stored"] {
                let asked = [("accept-encoding", accepted)];
                let got = client.get_with(path, &asked).await;
                assert_eq!(got.header("content-encoding"), coding, "{accepted}");
                assert_eq!(plain(&got), text());
                assert_eq!(got.header("vary"), "accept-encoding");
                let tag = if coding.is_empty() { "\"1\"" } else { &format!("W/\"1~{coding}\"") };
                assert_eq!(got.header("etag"), tag);
                let head = client.send(Method::HEAD, path, &asked, "").await;
                assert_eq!((head.header("etag"), head.header("content-encoding")), (tag, coding));
                assert_eq!(head.header("content-length"), got.header("content-length"));
                // It is what the client says that it has.
                let again = [asked[0], ("if-none-match", tag)];
                let again = client.get_with(path, &again).await;
                assert_eq!((again.status, again.header("etag")), (StatusCode::NOT_MODIFIED, tag));
                let other = client.get_with(path, &[asked[0], ("if-none-match", "\"2\"")]).await;
                assert_eq!(other.status, StatusCode::OK);
            }
        }
        let gzip = [("accept-encoding", "gzip")];
        for path in ["/picture", "/small"] {
            let got = client.get_with(path, &gzip).await;
            assert!(!got.headers.contains_key("content-encoding"));
            assert!(!got.headers.contains_key("vary"), "{path}");
        }
        // Ranges are of the plain representation, and nobody who has another gets one.
        let part = [gzip[0], ("range", "bytes=1-2"), ("if-range", "\"1\"")];
        let part = client.get_with("/", &part).await;
        assert_eq!((part.status, part.text()), (StatusCode::PARTIAL_CONTENT, "p>"));
        assert_eq!(part.header("etag"), "\"1\"");
        for condition in ["W/\"1~gzip\"", "Tue, 24 Nov 2026 10:00:00 GMT"] {
            let whole = [gzip[0], ("range", "bytes=1-2"), ("if-range", condition)];
            let whole = client.get_with("/", &whole).await;
            assert_eq!((whole.status, plain(&whole)), (StatusCode::OK, text()), "{condition}");
        }
    }
    // One stored response serves all codings.
    let asked = requests.load(Ordering::Relaxed);
    assert_eq!(asked, 8, "4 over each scheme");
}

#[tokio::test]
async fn what_comes_encoded_is_passed_on_or_decoded() {
    let (target, requests) = origin(async |_, request: Request<Incoming>| {
        let accepted = request.headers().get("accept-encoding").cloned();
        let encoded = compress(Coding::Gzip, Effort::Store, text().as_bytes());
        let headers = [HTML, FRESH, TAG, ("content-encoding", "gzip")];
        let mut response = answer(&headers, encoded.unwrap());
        let asked = accepted.map(|it| (http::HeaderName::from_static("x-asked"), it));
        response.headers_mut().extend(asked);
        response
    });
    let site = Site::start(app(Some(1), vec![(1, target)])).await;
    let mut client = Client::plain(&site).await;
    for _ in 0..2 {
        let kept = client.get_with("/", &[("accept-encoding", "GZIP;q=0.3, x")]).await;
        assert_eq!((plain(&kept), kept.header("etag")), (text(), "\"1\""));
        assert_eq!(kept.header("x-asked"), "gzip");
        let decoded = client.get("/").await;
        assert_eq!(decoded.text(), text());
        assert_eq!(decoded.header("etag"), "W/\"1~identity\"");
        assert!(!decoded.headers.contains_key("content-encoding"));
    }
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_slow_stream_is_not_held_back() {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let receiver = Arc::new(std::sync::Mutex::new(Some(receiver)));
    let (target, _) = origin(move |_, _| {
        let receiver = receiver.lock().unwrap().take().unwrap();
        async move {
            let pieces = futures_util::stream::unfold(receiver, async |mut receiver| {
                let piece = receiver.recv().await?;
                Some((Ok::<_, Infallible>(Frame::data(piece)), receiver))
            });
            let body: Body =
                StreamBody::new(Box::pin(pieces)).map_err(|never| match never {}).boxed();
            Response::builder().header("content-type", "text/html").body(body).unwrap()
        }
    });
    let site = Site::start(app(Some(1), vec![(1, target)])).await;
    let request = Request::get("/").header("host", HOST).header("accept-encoding", "br");
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let Client::H1(mut client) = Client::plain(&site).await else { unreachable!() };
    let mut response = client.send_request(request).await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "br");
    let mut decoder = Decoder::new(Coding::Brotli, DecodeLimits::default()).unwrap();
    let mut buffer = [0; 1000];
    for number in 0..5 {
        let piece = format!("piece {number} ");
        sender.send(piece.clone().into()).await.unwrap();
        // The next piece is sent only when this one was read.
        let mut read = String::new();
        while read.len() < piece.len() {
            let mut data = response.frame().await.unwrap().unwrap().into_data().unwrap();
            while let written @ 1.. = decoder.step(&mut data, &mut buffer).unwrap() {
                read.push_str(std::str::from_utf8(&buffer[..written]).unwrap());
            }
        }
        assert_eq!(read, piece);
    }
    drop(sender);
    while let Some(frame) = response.frame().await {
        let mut data = frame.unwrap().into_data().unwrap();
        assert_eq!(decoder.step(&mut data, &mut buffer), Ok(0));
    }
    decoder.finish().unwrap();
}

/// A path, the headers of what is there, and its body.
type Piece<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

/// A site whose pages are put together of these.
async fn site_of_pieces(pieces: &[Piece<'_>]) -> (Site, Arc<Asked>) {
    let pieces: BTreeMap<String, Response<String>> = pieces
        .iter()
        .map(|(path, headers, body)| {
            let mut response = Response::builder();
            for (name, value) in *headers {
                response = response.header(*name, *value);
            }
            ((*path).to_owned(), response.body((*body).to_owned()).unwrap())
        })
        .collect();
    let asked = Arc::new(Asked::default());
    let log = Arc::clone(&asked);
    let (target, _) = origin(move |_, request: Request<Incoming>| {
        let path = request.uri().to_string();
        let cookie = request.headers().get("cookie").map(|it| it.to_str().unwrap().to_owned());
        assert_eq!(request.headers()["host"], HOST);
        log.lock().unwrap().push((path.clone(), cookie.clone().unwrap_or_default()));
        let mut response = pieces
            .get(&path)
            .cloned()
            .unwrap_or_else(|| Response::builder().status(404).body("nothing".to_owned()).unwrap());
        if response.body() == "cookie" {
            *response.body_mut() = cookie.unwrap_or_default();
        }
        async { response.map(|it| Full::new(it.into()).map_err(|never| match never {}).boxed()) }
    });
    let page = with_esi(vec![("/*", target), ("/files/*", files(&[("files/a.txt", "[a file]")]))]);
    (Site::start(page).await, asked)
}

type Asked = std::sync::Mutex<Vec<(String, String)>>;

fn with_esi(routes: Vec<(&str, Target)>) -> selvedge_proxy::AppView {
    let mut view = view(1, routes);
    for route in &mut view.table.routes {
        route.delivery.esi = Some(Arc::new(esi::Config::default()));
    }
    app_of(Some(1), vec![view])
}

const TEMPLATE: (&str, &str) = ("surrogate-control", "content=\"ESI/1.0\"");

#[tokio::test]
async fn pages_are_put_together_and_their_pieces_cached_apart() {
    let (site, asked) = site_of_pieces(&[
        (
            "/shop/page",
            &[HTML, TEMPLATE, FRESH, TAG],
            "1<esi:include src='/shared'/>2<esi:include src=\"user?a=1&amp;b=2\"/>3\
             <esi:include src='/gone' onerror='continue'/><esi:include src='/files/a.txt'/>",
        ),
        ("/shared", &[FRESH], "(shared)"),
        ("/shop/user?a=1&b=2", &[("cache-control", "private")], "cookie"),
    ])
    .await;
    let mut client = Client::plain(&site).await;
    for cookie in ["user=ann", "user=bob", "user=ann"] {
        // Ranges and conditions are of a page that nobody has.
        let headers = [("cookie", cookie), ("range", "bytes=0-1"), ("if-none-match", "\"1\"")];
        let page = client.get_with("/shop/page", &headers).await;
        assert_eq!(page.status, StatusCode::OK);
        assert_eq!(page.text(), format!("1(shared)2{cookie}3[a file]"));
        assert_eq!(page.header("cache-control"), "private, no-store");
        for gone in ["etag", "content-length", "surrogate-control", "accept-ranges", "age"] {
            assert!(!page.headers.contains_key(gone), "{gone}");
        }
    }
    let count = |path: &str| asked.lock().unwrap().iter().filter(|it| it.0 == path).count();
    // The template and what may be shared once; what is somebody's each time.
    assert_eq!((count("/shop/page"), count("/shared"), count("/shop/user?a=1&b=2")), (1, 1, 3));
    let head = client.send(Method::HEAD, "/shop/page", &[], "").await;
    assert_eq!(head.header("cache-control"), "private, no-store");
    assert!(!head.headers.contains_key("content-length"));
}

#[tokio::test]
async fn pages_that_fail_say_so_and_end() {
    let padding = "x".repeat(2000);
    let long = format!("{padding}<esi:include src='/gone'/>");
    let (site, asked) = site_of_pieces(&[
        ("/early", &[TEMPLATE], "<esi:include src='/gone'/>"),
        ("/late", &[HTML, TEMPLATE], &long),
        ("/wrong", &[TEMPLATE], "<esi:choose>"),
        ("/self", &[TEMPLATE], "x<esi:include src='/self' onerror='continue'/>"),
        ("/elsewhere", &[TEMPLATE], "<esi:include src='http://127.0.0.1/'/>"),
        (
            "/tried",
            &[TEMPLATE],
            "<esi:try><esi:attempt>1<esi:include src='/gone'/></esi:attempt>\
            <esi:except>2</esi:except></esi:try>",
        ),
        ("/plain", &[HTML], "<esi:include src='/self'/>"),
    ])
    .await;
    let mut client = Client::plain(&site).await;
    for path in ["/early", "/wrong", "/elsewhere"] {
        let page = client.get(path).await;
        assert_eq!(page.status, StatusCode::BAD_GATEWAY, "{path}: {}", page.text());
    }
    assert_eq!(client.get("/self").await.text(), "xxxx");
    assert_eq!(client.get("/tried").await.text(), "2");
    assert_eq!(client.get("/plain").await.text(), "<esi:include src='/self'/>");
    assert_eq!(asked.lock().unwrap().iter().filter(|it| it.0 == "/self").count(), 4);
    // What has begun breaks off, also where it is compressed.
    client.try_send(Method::GET, "/late", &[], "").await.unwrap_err();
    let mut client = Client::plain_h2(&site).await;
    client.try_send(Method::GET, "/late", &[("accept-encoding", "gzip")], "").await.unwrap_err();
}

#[tokio::test]
async fn pages_are_compressed_whole() {
    let long = text();
    let (site, _) = site_of_pieces(&[
        ("/", &[HTML, TEMPLATE], "<esi:include src='/long'/>-<esi:include src='/long'/>"),
        ("/long", &[HTML, FRESH], &long),
    ])
    .await;
    let mut client = Client::plain(&site).await;
    let gzip = [("accept-encoding", "gzip")];
    for _ in 0..3 {
        let page = client.get_with("/", &gzip).await;
        assert_eq!(page.header("content-encoding"), "gzip");
        let body = decompress(Coding::Gzip, DecodeLimits::default(), page.body.clone()).unwrap();
        assert_eq!(body, format!("{long}-{long}"));
    }
    // Nothing of a page is kept compressed, but what is asked for alone is, and is no page's.
    assert_eq!(site.cache.encoded(), 0);
    assert!(!client.get_with("/long", &gzip).await.header("content-length").is_empty());
    let head = client.send(Method::HEAD, "/", &gzip, "").await;
    assert!(!head.headers.contains_key("content-length"));
    let page = client.get_with("/", &gzip).await;
    let body = decompress(Coding::Gzip, DecodeLimits::default(), page.body.clone()).unwrap();
    assert_eq!(body, format!("{long}-{long}"));
    assert_eq!(site.cache.encoded(), 1);
}

/// A site with a GraphQL endpoint that says how many requests it has had, and what it was sent.
async fn graphql_site() -> (Site, Arc<std::sync::atomic::AtomicUsize>) {
    let (target, requests) = origin(async |number, request: Request<Incoming>| {
        assert!(!request.headers().contains_key("accept-encoding"));
        let method = request.method().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let broken = if body.contains("broken") { ",\"errors\":[{\"message\":\"x\"}]" } else { "" };
        let sent = format!("{method} {} {}", body.len(), body.contains("  "));
        let body = format!("{{\"data\":{{\"number\":{number},\"sent\":\"{sent}\"}}{broken}}}");
        answer(&[("content-type", "application/json"), FRESH], body)
    });
    let mut view = view(1, vec![("/*", target)]);
    for route in &mut view.table.routes {
        route.delivery.graphql = Some(Arc::new(graphql::Config {
            identity: vec![graphql::Identity::Cookie("session".to_owned())],
            ..graphql::Config::default()
        }));
    }
    (Site::start(app_of(Some(1), vec![view])).await, requests)
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn queries_that_are_posted_are_answered_by_the_cache() {
    let (site, requests) = graphql_site().await;
    let mut client = Client::plain(&site).await;
    let mut post = async |headers: &[(&str, &str)], body: &str| {
        let headers = [&[JSON], headers].concat();
        let answer = client.send(Method::POST, "/graphql", &headers, body).await;
        let stored = answer.header("cache-status").starts_with("selvedge; hit");
        (answer.text().to_owned(), stored)
    };
    let query = "{\"query\":\"query  Q($x: Int) { a(x: $x, y: 1) }\",\"variables\":{\"x\":1}}";
    let first = post(&[], query).await;
    let sent = format!("\"sent\":\"POST {} true\"", query.len());
    assert!(first.0.contains(&sent) && !first.1, "{first:?}");
    // The same in other words, and with conditions, which are not for a post.
    for (headers, same) in [
        (&[][..], query),
        (&[("range", "bytes=0-1"), ("if-none-match", "*")], query),
        (&[], "{\"variables\":{\"x\":1},\"query\":\"query Q($x:Int){a(y:1,x:$x)}#\"}"),
    ] {
        assert_eq!(post(headers, same).await, (first.0.clone(), true), "{same}");
    }
    let asked = || requests.load(Ordering::Relaxed);
    assert_eq!(asked(), 1);
    for other in [
        "{\"query\":\"query Q($x:Int){a(y:1,x:$x)}\",\"variables\":{\"x\":2}}",
        "{\"query\":\"{a}\"}",
    ] {
        assert!(!post(&[], other).await.1);
        assert!(post(&[], other).await.1, "{other}");
    }
    assert_eq!(asked(), 3);
    // Who asks, as far as it is declared; and nobody whose cookies say more.
    for (cookie, stored) in [("session=1", true), ("session=2", true), ("other=1", false)] {
        assert!(!post(&[("cookie", cookie)], query).await.1);
        assert_eq!(post(&[("cookie", cookie)], query).await.1, stored, "{cookie}");
    }
    assert_eq!(asked(), 7);
    let large = format!("{{\"query\":\"{{a}}\"{}}}", " ".repeat(200_000));
    for never in [
        "{\"query\":\"mutation{a}\"}",
        "{\"query\":\"{broken}\"}",
        "[{\"query\":\"{a}\"}]",
        "no json",
        "",
        &large,
    ] {
        for _ in 0..2 {
            let (text, stored) = post(&[], never).await;
            let sent = format!("\"sent\":\"POST {} ", never.len());
            assert!(text.contains(&sent) && !stored, "{text}");
        }
    }
    assert_eq!(asked(), 19);
    // A mutation may have changed any answer; what only can't be cached has not.
    let other = "{\"query\":\"{a}\"}";
    assert!(!post(&[], other).await.1 && post(&[], other).await.1);
    assert!(!post(&[("cookie", "other=1")], query).await.1);
    assert!(post(&[], other).await.1);
    assert!(!post(&[], "{\"query\":\"mutation{a}\"}").await.1);
    assert!(!post(&[], other).await.1);
}

#[tokio::test]
async fn queries_in_urls_are_cached_and_mutations_never() {
    let (site, requests) = graphql_site().await;
    let mut client = Client::plain_h2(&site).await;
    for (paths, expected) in [
        (["/graphql?query=%7Ba%7D&x=1", "/graphql?x=1&query=%7B%20a%20%7D"], 1),
        (["/graphql?query=mutation%7Ba%7D", "/graphql?query=mutation%7Ba%7D"], 2),
        (["/graphql?query=%7Ba%7D&query=%7Bb%7D", "/graphql?query=%7Ba%7D&query=%7Bb%7D"], 2),
        (["/graphql", "/graphql"], 1),
    ] {
        let before = requests.load(Ordering::Relaxed);
        for path in paths {
            assert_eq!(client.get(path).await.status, StatusCode::OK);
        }
        assert_eq!(requests.load(Ordering::Relaxed) - before, expected, "{paths:?}");
    }
}
