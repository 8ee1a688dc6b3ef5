//! The plain path: hosts, routes, protocols, names, records.

use http::StatusCode;
use selvedge_telemetry::access::ErrorSource;

use crate::clients::{Client, handshake, raw};
use crate::site::{HOST, Site, app, app_of, epoch, files, release, view};

#[tokio::test]
async fn every_protocol_serves_the_same() {
    let mut site = Site::start(app(Some(1), vec![(1, files(&[("index.html", "hello")]))])).await;
    for (protocol, tls, mut client) in [
        ("HTTP/1.1", None, Client::plain(&site).await),
        ("HTTP/2", None, Client::plain_h2(&site).await),
        ("HTTP/1.1", Some("TLSv1.3"), Client::tls(&site, &[b"http/1.1"]).await),
        ("HTTP/1.1", Some("TLSv1.3"), Client::tls(&site, &[]).await),
        ("HTTP/2", Some("TLSv1.3"), Client::tls(&site, &[b"h2", b"http/1.1"]).await),
    ] {
        let answer = client.get("/?q=1").await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello"), "{protocol}");
        assert_eq!(answer.header("selvedge-release"), release(1).short());
        assert_eq!(answer.header("selvedge-epoch"), "1.1");
        assert_eq!(answer.header("selvedge-site"), "fra");
        assert_eq!(answer.header("x-route"), "yes");
        assert!(answer.headers.contains_key("date"));
        let cookie = answer.header("set-cookie");
        assert_eq!(cookie.contains("Secure"), tls.is_some(), "{cookie}");

        let record = site.record().await;
        assert_eq!(record.protocol, protocol);
        assert_eq!(record.tls.as_deref(), tls);
        assert_eq!(record.scheme, if tls.is_some() { "https" } else { "http" });
        assert_eq!((record.method.as_str(), record.path.as_str()), ("GET", "/?q=1"));
        assert_eq!((record.status, record.bytes_sent), (200, 5));
        assert_eq!(record.app.as_deref(), Some("shop"));
        assert_eq!(record.service.as_deref(), Some("web"));
        assert_eq!(record.release, Some(release(1).short()));
        assert_eq!(record.epoch, Some(epoch(1).to_string()));
        assert_eq!(record.request_id, answer.header("x-request-id"));
        assert_eq!(record.host, HOST);
        assert_eq!(record.error, None);
        assert!(record.client.starts_with("127.0.0.1:"), "{}", record.client);
    }
}

#[tokio::test]
async fn certificates_are_chosen_by_name() {
    let site = Site::start(app(Some(1), vec![(1, files(&[("index.html", "x")]))])).await;
    assert!(handshake(site.https, &site.ca, "SHOP.edge.test", &[]).await.is_ok());
    let refused = handshake(site.https, &site.ca, "other.edge.test", &[]).await.unwrap_err();
    assert!(refused.to_string().contains("AccessDenied"), "{refused}");
}

#[tokio::test]
async fn the_most_precise_route_answers() {
    let named = |name: &str| files(&[("index.html", name), ("api/x", name), ("api/y", name)]);
    let routes =
        vec![("/*", named("all")), ("/api/y", named("exact")), ("/api/*", named("prefix"))];
    let site = Site::start(app_of(Some(1), vec![view(1, routes)])).await;
    let mut client = Client::plain(&site).await;
    for (path, body) in
        [("/", "all"), ("/api/x", "prefix"), ("/%61pi/x", "prefix"), ("/api/y", "exact")]
    {
        assert_eq!(client.get(path).await.text(), body, "{path}");
    }
}

#[tokio::test]
async fn what_is_not_served_is_explained() {
    let view = view(1, vec![("/only/*", files(&[("only/x", "x")]))]);
    let mut site = Site::start(app_of(Some(1), vec![view])).await;

    let unknown = "GET / HTTP/1.1\r\nhost: <b>.test\r\nconnection: close\r\n\r\n";
    assert!(raw(site.http, unknown).await.starts_with("HTTP/1.1 400 "));
    let record = site.record().await;
    assert_eq!(record.error.unwrap().source, ErrorSource::Client);

    let unknown = "GET / HTTP/1.1\r\nhost: Other.test:80\r\naccept: text/html\r\n\
                   connection: close\r\n\r\n";
    let answer = raw(site.http, unknown).await;
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
    assert!(answer.contains("other.test") && answer.contains(HOST), "{answer}");
    assert!(answer.contains("text/html") && answer.contains("selvedge-site: fra"), "{answer}");
    assert_eq!(site.record().await.host, "other.test");

    let mut client = Client::plain(&site).await;
    let answer = client.get("/elsewhere").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("selvedge-release"), release(1).short());
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["kind"], "no-route");
    assert_eq!(problem["app"], "shop");
    assert_eq!(problem["request"], answer.header("x-request-id"));

    site.swap(app_of(None, vec![]));
    let answer = client.get("/only/x").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("retry-after"), "5");
}
