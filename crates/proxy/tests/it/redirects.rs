//! What answers in place of what was asked for: redirects, rewrites, HTTPS, and a page for paths
//! that only a browser knows.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{Method, StatusCode};
use selvedge_model::Redirect;
use selvedge_model::manifest::{Destination, PathPattern};
use selvedge_proxy::files::StaticSite;
use selvedge_proxy::{Target, Upstream};
use serde_json::Value;

use crate::clients::{Client, raw};
use crate::site::{HOST, PROBE_KEY, Site, app_of, files, view, write};
use crate::workloads::{scripted, serve_mirror};

fn redirect(from: PathPattern, url: &str, carry: bool, status: u16) -> Target {
    let to = Destination { url: url.to_owned(), carry };
    Target::Redirect(Arc::new(Redirect { hosts: BTreeSet::new(), from, to, status }))
}

fn prefix(text: &str) -> PathPattern {
    PathPattern::Prefix(text.to_owned())
}

#[tokio::test]
async fn redirects_take_part_in_the_matching_and_are_recorded() {
    let itself = PathPattern::Exact("/self".into());
    let routes = vec![
        ("/*", files(&[("index.html", "home"), ("old/kept.txt", "kept")])),
        ("/old/*", redirect(prefix("/old"), "/new", true, 308)),
        ("/old/kept.txt", files(&[("old/kept.txt", "kept")])),
        ("/away", redirect(PathPattern::Exact("/away".into()), "https://a.test/#x", false, 302)),
        ("/self", redirect(itself, &format!("http://{HOST}/self"), false, 307)),
    ];
    let mut site = Site::start(app_of(Some(1), vec![view(1, routes)])).await;
    let mut client = Client::plain(&site).await;
    for (path, status, location) in [
        ("/", 200, ""),
        ("/old/kept.txt", 200, ""),
        ("/old/a%20b?q=1", 308, "/new/a%20b?q=1"),
        ("/old//evil.test/", 308, "/new/evil.test/"),
        ("/old", 308, "/new"),
        ("/away?q", 302, "https://a.test/?q#x"),
    ] {
        let answer = client.get(path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(answer.header("location"), location, "{path}");
        assert_eq!(answer.header("selvedge-epoch"), "1.1", "{path}");
        let record = site.record().await;
        assert_eq!((record.status, record.error.is_none()), (status, true), "{path}");
    }
    let answer = client.send(Method::POST, "/old/x", &[], "body").await;
    assert_eq!(answer.status, StatusCode::PERMANENT_REDIRECT);
    let answer = client.get("/self").await;
    assert_eq!(answer.status, StatusCode::LOOP_DETECTED);
    assert!(answer.text().contains("leads to itself"), "{}", answer.text());
}

#[tokio::test]
async fn https_is_forced_on_everybody_but_the_agent() {
    let mut forced = view(1, vec![("/a/*", files(&[("a/index.html", "page")]))]);
    forced.table.force_https = true;
    let site = Site::start(app_of(Some(1), vec![forced])).await;
    let mut client = Client::plain(&site).await;
    for path in ["/a/?q=%20", "/nowhere"] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, StatusCode::PERMANENT_REDIRECT, "{path}");
        let expected = format!("https://{HOST}:{}{path}", site.https.port());
        assert_eq!(answer.header("location"), expected);
    }
    let answer = client.get_with("/a/", &[("selvedge-probe", PROBE_KEY)]).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "page"));
    let answer = client.get_with("/a/", &[("selvedge-probe", "a guess of this")]).await;
    assert_eq!(answer.status, StatusCode::PERMANENT_REDIRECT);
    let mut client = Client::tls(&site, &[b"h2"]).await;
    assert_eq!(client.get("/a/").await.text(), "page");
    // A host that nobody serves is not sent to HTTPS, where no certificate would answer.
    let answer =
        raw(site.http, "GET / HTTP/1.1\r\nhost: no.test\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
}

#[tokio::test]
async fn a_service_is_asked_for_the_rewritten_path() {
    let connect = scripted(|_, stream| serve_mirror(stream));
    let upstream = Target::Workload(Arc::new(Upstream::new("api".into(), connect)));
    let page = files(&[("index.html", "home"), ("v2/a b.txt", "file")]);
    let routes = vec![
        ("/api/*", upstream.clone()),
        ("/deep/api/*", upstream.clone()),
        ("/one", upstream),
        ("/static/*", page),
    ];
    let mut release = view(1, routes);
    for route in &mut release.table.routes {
        route.rewrite = Some(match route.path.to_string().as_str() {
            "/api/*" => prefix(""),
            "/deep/api/*" | "/static/*" => prefix("/v2"),
            _ => PathPattern::Exact("/the one".into()),
        });
    }
    let site = Site::start(app_of(Some(1), vec![release])).await;
    let mut client = Client::plain(&site).await;
    for (path, target, off) in [
        ("/api/users/7?full", "/users/7?full", "/api"),
        ("/api", "/", "/api"),
        ("/api//evil.test/x", "/evil.test/x", "/api"),
        ("/%61pi/a%2Fb", "/a%2Fb", "/api"),
        ("/deep/api/x", "/v2/x", ""),
        ("/one?q", "/the%20one?q", ""),
    ] {
        let forged = [("x-forwarded-prefix", "/forged")];
        let seen: Value =
            serde_json::from_slice(&client.get_with(path, &forged).await.body).unwrap();
        assert_eq!(seen["target"], target, "{path}");
        assert_eq!(seen["headers"]["x-forwarded-prefix"][0].as_str().unwrap_or(""), off, "{path}");
    }
    assert_eq!(client.get("/static/a%20b.txt").await.text(), "file");
    assert_eq!(client.get("/static/../index.html").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn pages_that_are_not_there_fall_back() {
    let directory = tempfile::tempdir().unwrap();
    let content = [("app.html", "the app"), ("app.js", "code"), ("404.html", "lost")];
    write(directory.path(), &content);
    let site = Arc::new(StaticSite::load(directory.path()).unwrap());
    let target = Target::Fallback(site, "app.html".into());
    let site = Site::start(app_of(Some(1), vec![view(1, vec![("/*", target)])])).await;
    let mut client = Client::plain(&site).await;
    let html = [("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    for (path, accept, status, body) in [
        ("/", &[][..], 200, "the app"),
        ("/users/7", &[], 200, "the app"),
        ("/users/john.doe", &html, 200, "the app"),
        ("/app.js", &html, 200, "code"),
        ("/old.123.js", &[("accept", "*/*")], 404, "lost"),
        ("/logo.png", &[], 404, "lost"),
    ] {
        let answer = client.get_with(path, accept).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, body), "{path}");
    }
    let page = client.get("/users/7").await;
    let again = client.get_with("/users/8", &[("if-none-match", page.header("etag"))]).await;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED);
    let posted = client.send(Method::POST, "/users/7", &[], "x").await;
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
}
