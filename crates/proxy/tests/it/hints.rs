//! Early hints of upstreams, for clients of HTTP/2.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use selvedge_proxy::upstream::Protocol;
use selvedge_proxy::{Connect, Target, Upstream, UpstreamConfig};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::clients::{handshake, raw};
use crate::site::{HOST, PATIENCE, Site, app};
use crate::workloads::{read_head, scripted};

pub(crate) const LINK: &str = "</style.css>; rel=preload; as=style";

/// Hints, and answers when it is told to.
pub(crate) fn http1(go_on: Arc<Notify>) -> Arc<dyn Connect> {
    scripted(move |_, mut stream| {
        let go_on = Arc::clone(&go_on);
        async move {
            while !read_head(&mut stream).await.is_empty() {
                let hint = format!(
                    "HTTP/1.1 102 Processing\r\nlink: <no>\r\n\r\n\
                     HTTP/1.1 103 Early Hints\r\nlink: {LINK}\r\nset-cookie: a=b\r\n\r\n"
                );
                stream.write_all(hint.as_bytes()).await.unwrap();
                go_on.notified().await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
            }
        }
    })
}

fn http2(go_on: Arc<Notify>) -> Arc<dyn Connect> {
    scripted(move |_, stream| {
        let go_on = Arc::clone(&go_on);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let go_on = Arc::clone(&go_on);
                tokio::spawn(async move {
                    for (status, link) in [(102, "<no>"), (103, LINK)] {
                        let hint = Response::builder().status(status).header("link", link);
                        let hint = hint.header("set-cookie", "a=b").body(()).unwrap();
                        respond.send_informational(hint).unwrap();
                    }
                    go_on.notified().await;
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data(Bytes::from_static(b"ok"), true).unwrap();
                });
            }
        }
    })
}

/// The hints that come before the answer to a request, which is awaited when one has come or
/// `without` any.
async fn ask(site: &Site, headers: &[(&str, &str)], go_on: &Notify) -> Vec<HeaderMap> {
    let stream = handshake(site.https, &site.ca, HOST, &[b"h2"]).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::get(format!("https://{HOST}/"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (mut response, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
    let mut hints = Vec::new();
    let answered = async {
        let hinted = headers.is_empty() || headers[0].1 == "navigate";
        if hinted {
            let hint = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
            assert_eq!(hint.status(), StatusCode::EARLY_HINTS);
            hints.push(hint.headers().clone());
        }
        go_on.notify_one();
        poll_fn(|cx| {
            while let std::task::Poll::Ready(Some(hint)) = response.poll_informational(cx) {
                hints.push(hint.unwrap().headers().clone());
            }
            std::pin::Pin::new(&mut response).poll(cx)
        })
        .await
        .unwrap()
    };
    let answer = tokio::time::timeout(PATIENCE, answered).await.expect("it answers");
    assert_eq!(answer.status(), StatusCode::OK);
    hints
}

#[tokio::test]
async fn a_page_is_hinted_at_before_it_comes() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let go_on = Arc::new(Notify::new());
        let connect = match protocol {
            Protocol::Http2 => http2(Arc::clone(&go_on)),
            _ => http1(Arc::clone(&go_on)),
        };
        let config = UpstreamConfig {
            connects: vec![connect],
            protocol,
            ..UpstreamConfig::named("web of shop")
        };
        let upstream = Arc::new(Upstream::build(config).unwrap());
        let site = Site::start(app(Some(1), vec![(1, Target::Workload(upstream))])).await;
        let expected: HeaderMap =
            [("link".parse().unwrap(), LINK.parse().unwrap())].into_iter().collect();
        for headers in [&[][..], &[("sec-fetch-mode", "navigate")]] {
            assert_eq!(ask(&site, headers, &go_on).await, std::slice::from_ref(&expected));
        }
        // Nobody uses hints for what is no page.
        assert!(ask(&site, &[("sec-fetch-mode", "cors")], &go_on).await.is_empty());
        // A client of HTTP/1.1 gets the answer alone.
        go_on.notify_one();
        let get = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
        let answer = raw(site.http, &get).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
}

#[tokio::test]
async fn the_version_is_seen_from_the_first_bytes() {
    let site =
        Site::start(app(Some(1), vec![(1, crate::site::files(&[("index.html", "page")]))])).await;
    // Byte by byte, the preface is still seen for what it is.
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut settings = [0; 9];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut settings).await.unwrap();
    assert_eq!(settings[3], 4, "SETTINGS come first");
    // What only looks like it is not.
    let answer = raw(site.http, "PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}
