//! Static files: what is found, what is not, and how it is asked for.

use std::os::unix::fs::symlink;
use std::sync::Arc;

use http::{Method, StatusCode};
use selvedge_model::manifest::PathPattern;
use selvedge_proxy::Target;
use selvedge_proxy::files::StaticSite;
use tempfile::TempDir;

use crate::clients::{Client, raw};
use crate::site::{HOST, Site, app, app_of, files, view, write};

/// Too large to be kept in memory, and longer than a chunk.
fn big() -> String {
    (0..50_000).map(|number| format!("{number:07} ")).collect()
}

fn artifact() -> TempDir {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("site");
    write(
        &root,
        &[
            ("index.html", "home"),
            ("about.html", "about"),
            ("docs/index.html", "docs"),
            ("docs/a b.txt", "space"),
            ("docs.html", "not this"),
            ("app.js", "js"),
            ("big.bin", &big()),
            ("404.html", "nothing here"),
            ("empty.txt", ""),
            (".env", "SECRET"),
            (".git/config", "SECRET"),
            ("docs/.hidden", "SECRET"),
            (".well-known/security.txt", "contact"),
            (".well-known/.hidden", "SECRET"),
            ("../secret.txt", "SECRET"),
        ],
    );
    symlink("docs/index.html", root.join("inside.html")).unwrap();
    symlink("docs", root.join("linked")).unwrap();
    symlink("../secret.txt", root.join("outside.txt")).unwrap();
    symlink("/etc", root.join("etc")).unwrap();
    symlink(".env", root.join("env.txt")).unwrap();
    symlink(".", root.join("docs/loop")).unwrap();
    symlink("nowhere", root.join("broken")).unwrap();
    outside
}

async fn site(artifact: &TempDir) -> Site {
    let files = StaticSite::load(&artifact.path().join("site")).unwrap();
    Site::start(app(Some(1), vec![(1, Target::Static(Arc::new(files)))])).await
}

#[tokio::test]
async fn names_lead_to_files() {
    let artifact = artifact();
    let site = site(&artifact).await;
    let mut client = Client::plain(&site).await;
    for (path, body, mime) in [
        ("/", "home", "text/html; charset=utf-8"),
        ("/index.html", "home", "text/html; charset=utf-8"),
        ("/about", "about", "text/html; charset=utf-8"),
        ("/about.html", "about", "text/html; charset=utf-8"),
        ("/docs/", "docs", "text/html; charset=utf-8"),
        ("/docs/a%20b.txt", "space", "text/plain; charset=utf-8"),
        ("/app.js", "js", "text/javascript; charset=utf-8"),
        ("/empty.txt", "", "text/plain; charset=utf-8"),
        ("/inside.html", "docs", "text/html; charset=utf-8"),
        ("/linked/", "docs", "text/html; charset=utf-8"),
        ("/.well-known/security.txt", "contact", "text/plain; charset=utf-8"),
    ] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, body), "{path}");
        assert_eq!(answer.header("content-type"), mime, "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("content-length"), body.len().to_string());
    }
    assert_eq!(client.get("/big.bin").await.text(), big());
    assert_eq!(client.get("/big.bin").await.header("content-type"), "application/octet-stream");
    let answer = client.get("/docs?a=b").await;
    assert_eq!(answer.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(answer.header("location"), "/docs/?a=b");
}

#[tokio::test]
async fn nothing_else_does() {
    let artifact = artifact();
    let site = site(&artifact).await;
    let mut client = Client::plain(&site).await;
    for path in [
        "/none",
        "/about.html/",
        "/.env",
        "/.git/config",
        "/.git/",
        "/%2egit/config",
        "/docs/.hidden",
        "/.well-known/.hidden",
        "/outside.txt",
        "/env.txt",
        "/etc/passwd",
        "/etc/",
        "/broken",
        "/docs/loop/index.html",
        "//etc/passwd",
        "/docs%2Findex.html",
        "/docs//index.html",
    ] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.text(), "nothing here", "{path}");
        assert!(!answer.headers.contains_key("etag"), "{path}");
    }
    for path in [
        "/../secret.txt",
        "/docs/../../secret.txt",
        "/docs/..%2f..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "/.%2e/secret.txt",
        "/..\\secret.txt",
        "/..%5csecret.txt",
        "/docs/./index.html",
        "/index.html%00.txt",
        "/%c0%ae%c0%ae/secret.txt",
        "/index.html%",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
        let answer = raw(site.http, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        assert!(!answer.contains("SECRET"), "{path}");
    }
}

#[tokio::test]
async fn conditions() {
    let artifact = artifact();
    let site = site(&artifact).await;
    let mut client = Client::tls(&site, &[b"h2"]).await;
    let etag = client.get("/").await.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.len() == 34, "{etag}");
    assert_ne!(client.get("/about").await.header("etag"), etag);

    for (name, value, status) in [
        ("if-none-match", etag.clone(), 304),
        ("if-none-match", format!("W/{etag}"), 304),
        ("if-none-match", format!("\"x\", {etag}"), 304),
        ("if-none-match", "*".into(), 304),
        ("if-none-match", "\"x\"".into(), 200),
        ("if-match", etag.clone(), 200),
        ("if-match", "*".into(), 200),
        ("if-match", format!("W/{etag}"), 412),
        ("if-match", "\"x\"".into(), 412),
    ] {
        let answer = client.get_with("/", &[(name, &value)]).await;
        assert_eq!(answer.status, status, "{name}: {value}");
        if status == 304 {
            assert_eq!((answer.text(), answer.header("etag")), ("", etag.as_str()));
            assert_eq!(answer.header("x-route"), "yes");
        }
    }
}

#[tokio::test]
async fn parts() {
    let artifact = artifact();
    let site = site(&artifact).await;
    let mut client = Client::plain(&site).await;
    let big = big();
    let etag = client.get("/big.bin").await.header("etag").to_owned();
    assert_eq!(client.get("/big.bin").await.header("accept-ranges"), "bytes");

    for (path, whole) in [("/", "home"), ("/big.bin", big.as_str())] {
        let size = whole.len();
        for (range, first, last) in [
            ("bytes=0-0".to_owned(), 0, 0),
            ("bytes=1-".to_owned(), 1, size - 1),
            ("bytes=-3".to_owned(), size - 3, size - 1),
            (format!("bytes={}-{}", size / 2, size * 2), size / 2, size - 1),
        ] {
            let answer = client.get_with(path, &[("range", &range)]).await;
            assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{path} {range}");
            assert_eq!(answer.text(), &whole[first..=last], "{path} {range}");
            let expected = format!("bytes {first}-{last}/{size}");
            assert_eq!(answer.header("content-range"), expected);
        }
        let answer = client.get_with(path, &[("range", &format!("bytes={size}-"))]).await;
        assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(answer.header("content-range"), format!("bytes */{size}"));
    }
    for (if_range, range, status) in [
        (etag.as_str(), "bytes=0-3", 206),
        ("\"other\"", "bytes=0-3", 200),
        ("Tue, 24 Nov 2026 00:00:00 GMT", "bytes=0-3", 200),
        (etag.as_str(), "bytes=0-1,5-6", 200),
    ] {
        let headers = [("range", range), ("if-range", if_range)];
        let answer = client.get_with("/big.bin", &headers).await;
        assert_eq!(answer.status, status, "{if_range} {range}");
    }
}

#[tokio::test]
async fn methods() {
    let artifact = artifact();
    let mut site = site(&artifact).await;
    for mut client in [Client::plain(&site).await, Client::tls(&site, &[b"h2"]).await] {
        for path in ["/", "/big.bin"] {
            let get = client.get(path).await;
            let head = client.send(Method::HEAD, path, &[], "").await;
            assert_eq!((head.status, head.text()), (StatusCode::OK, ""));
            for name in ["content-length", "content-type", "etag"] {
                assert_eq!(head.header(name), get.header(name), "{path} {name}");
            }
        }
        let answer = client.send(Method::POST, "/", &[], "body").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.header("allow"), "GET, HEAD");
        let answer = client.send(Method::HEAD, "/none", &[], "").await;
        assert_eq!((answer.status, answer.text()), (StatusCode::NOT_FOUND, ""));
    }
    while let Ok(record) = site.records.try_recv() {
        let aborted = record.error.is_some_and(|error| error.kind == "aborted");
        assert!(!aborted, "{} {}", record.method, record.path);
    }
}

#[tokio::test]
async fn directories_behind_a_rewrite_keep_the_address_of_the_client() {
    let pages = files(&[("index.html", "home"), ("sub/index.html", "sub"), ("a b/index.html", "")]);
    let prefix = |text: &str| PathPattern::Prefix(text.to_owned());
    let mut release = view(
        1,
        ["/docs/*", "/deep/docs/*", "/named/*", "/*"].map(|path| (path, pages.clone())).into(),
    );
    for route in &mut release.table.routes {
        route.rewrite = match route.path.to_string().as_str() {
            "/docs/*" => Some(prefix("")),
            "/deep/docs/*" => Some(prefix("/sub")),
            "/named/*" => Some(PathPattern::Exact("/sub".into())),
            _ => None,
        };
    }
    let site = Site::start(app_of(Some(1), vec![release])).await;
    let mut client = Client::plain(&site).await;
    for (path, location) in [
        ("/docs", "/docs/"),
        ("/docs?a=b%20", "/docs/?a=b%20"),
        ("/docs/sub", "/docs/sub/"),
        ("/%64ocs/a%20b?q", "/%64ocs/a%20b/?q"),
        ("/deep/docs", "/deep/docs/"),
        ("/sub", "/sub/"),
    ] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, StatusCode::PERMANENT_REDIRECT, "{path}");
        assert_eq!(answer.header("location"), location, "{path}");
    }
    for (path, text) in [
        ("/docs/", "home"),
        ("/docs/sub/", "sub"),
        ("/deep/docs/", "sub"),
        ("/named", "sub"),
        ("/named/", "sub"),
        ("/named/any", "sub"),
    ] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, text), "{path}");
    }
}

#[tokio::test]
async fn a_directory_never_sends_the_client_to_another_host() {
    let pages = files(&[("base/sub/index.html", "sub")]);
    let mut release = view(1, vec![("/*", pages)]);
    for route in &mut release.table.routes {
        route.rewrite = Some(PathPattern::Prefix("/base".into()));
    }
    let site = Site::start(app_of(Some(1), vec![release])).await;
    let request = format!("GET //sub HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    let answer = raw(site.http, &request).await.to_lowercase();
    assert!(answer.contains("\r\nlocation: /sub/\r\n"), "{answer}");
}
