//! One client's request must not shape what the cache gives to others (poisoning), nor may what is for
//! one client be stored under an address that looks like a file's (deception).

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use selvedge_proxy::{CacheScope, QueryRules, Target, Upstream};

use crate::clients::{Client, raw};
use crate::site::{HOST, Site, app_of, view};
use crate::workloads::scripted;

/// An app that shows whatever it is sent, and calls it good for everybody: `/page`. It takes a `;` for
/// the end of a parameter, and an override for the method. Under `/account` it shows the client's
/// cookie, whatever follows in the path, and says nothing of caches.
async fn app(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let shown = format!("{} {:?} {body:?}", head.uri, head.headers);
    let is_account = head.uri.path().to_lowercase().contains("account");
    let too_large = head.headers.get("x-large").is_some_and(|value| value.len() > 10_000);
    let response = Response::builder();
    let response = match (is_account, too_large) {
        (true, _) => response.header("content-type", "text/css"),
        (false, true) => response.status(400),
        (false, false) => response.header("cache-control", "max-age=600"),
    };
    let response = match head.uri.path().starts_with("/page/language") {
        true => response.header("vary", "accept-language"),
        false => response,
    };
    Ok(response.body(Full::new(shown.into())).unwrap())
}

async fn site() -> Site {
    let connect = scripted(|_, stream| async {
        let builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.serve_connection(TokioIo::new(stream), service_fn(app)).await;
    });
    let upstream = Upstream::new("web of shop".into(), connect);
    let mut view = view(1, vec![("/*", Target::Workload(Arc::new(upstream)))]);
    let rules = QueryRules { drop: vec!["utm".into()], ..QueryRules::default() };
    for route in &mut view.table.routes {
        route.cache = Some(Arc::new(CacheScope::new(b"shop", &[], rules.clone())));
    }
    Site::start(app_of(Some(1), vec![view])).await
}

#[tokio::test]
async fn what_one_client_sends_is_not_what_others_get() {
    let site = site().await;
    let mut client = Client::plain(&site).await;
    let long = "evil".repeat(3000);
    for (number, (name, value)) in [
        ("x-forwarded-host", "evil"),
        ("x-forwarded-server", "evil"),
        ("x-forwarded-scheme", "evil"),
        ("x-forwarded-proto", "evil"),
        ("x-forwarded-port", "evil"),
        ("x-forwarded-prefix", "/evil"),
        ("x_forwarded_host", "evil"),
        ("forwarded", "host=evil"),
        ("x-host", "evil"),
        ("x-original-host", "evil"),
        ("x-http-host-override", "evil"),
        ("x-original-url", "/evil"),
        ("x-rewrite-url", "/evil"),
        ("x-real-ip", "evil"),
        ("true-client-ip", "evil"),
        ("x-http-method-override", "EVIL"),
        ("x-http-method", "EVIL"),
        ("x-method-override", "EVIL"),
        ("range", "bytes=0-0,evil"),
        ("if-none-match", "\"evil\""),
        ("te", "evil"),
        ("connection", "evil"),
        ("x-large", &long),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/page/{number}");
        client.get_with(&path, &[(name, value)]).await;
        let others = client.get(&path).await;
        assert_eq!(others.status, 200, "{name}");
        assert!(!others.text().to_lowercase().contains("evil"), "{name}: {}", others.text());
        // It is stored, so that the next one would get it.
        let again = client.get(&path).await;
        assert!(again.header("cache-status").contains("; hit"), "{name}: {:?}", again.headers);
    }
    // What the app does not see selects no variant.
    let hidden = [("accept-language", "de"), ("connection", "accept-language")];
    client.get_with("/page/language", &hidden).await;
    let german = client.get_with("/page/language", &[("accept-language", "de")]).await;
    assert!(german.text().contains("\"accept-language\": \"de\""), "{}", german.text());
    // A body of a GET, and parameters that are read in two ways.
    client.send(Method::GET, "/page/fat", &[], "evil").await;
    assert!(!client.get("/page/fat").await.text().contains("evil"));
    for query in ["a=1&utm=x;a=evil", "a=1&utm=evil;", "a=1&%75tm=evil", "a=1&UTM=evil"] {
        client.get(&format!("/page/cloak?{query}")).await;
        let others = client.get("/page/cloak?a=1").await;
        assert!(!others.text().contains("evil"), "{query}: {}", others.text());
    }
    // Other ways to write the host and the path are other addresses.
    for (host, path) in [
        (format!("{HOST}:1337"), "/page/host"),
        (format!("{HOST}."), "/page/host"),
        (HOST.to_owned(), "/page/%68ost"),
        (HOST.to_owned(), "/page//host"),
        (HOST.to_owned(), "/page/host?"),
        (HOST.to_owned(), "/page/Host"),
    ] {
        let get = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        raw(site.http, &get).await;
        let others = client.get("/page/host").await;
        assert!(others.text().starts_with("/page/host {"), "{host}{path}: {}", others.text());
        assert!(others.text().contains(&format!("\"host\": \"{HOST}\"")), "{}", others.text());
    }
}

#[tokio::test]
async fn what_is_for_one_client_is_not_stored_wherever_it_seems_to_be() {
    let site = site().await;
    for (path, expected) in [
        ("/account", 200),
        ("/account/x.css", 200),
        ("/account;x.css", 200),
        ("/account/;x.css", 200),
        ("/account%2fx.css", 200),
        ("/account%3bx.css", 200),
        ("/account%23x.css", 200),
        ("/account%3fx.css", 200),
        ("/account?x.css", 200),
        ("/ACCOUNT/x.css", 200),
        ("/account.css", 200),
        ("/static%2faccount", 200),
        ("/account%00.css", 400),
        ("/account%0a.css", 400),
        ("/account%5cx.css", 400),
        ("/static/..%2faccount", 400),
        ("/static/%2e%2e/account", 400),
        ("/static/../account", 400),
        ("/account/..%2fstatic%2fx.css", 400),
    ] {
        let get = |more: &str| {
            format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{more}\r\n")
        };
        let own = raw(site.http, &get("cookie: session=secret\r\n")).await;
        assert!(own.starts_with(&format!("HTTP/1.1 {expected} ")), "{path}: {own}");
        assert_eq!(own.contains("secret"), expected == 200, "{path}: {own}");
        let others = raw(site.http, &get("")).await;
        assert!(!others.contains("secret") && !others.contains("; hit"), "{path}: {others}");
    }
}
