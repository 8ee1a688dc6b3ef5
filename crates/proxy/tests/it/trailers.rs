//! Trailers in both directions, over every pair of protocols that has them.

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use selvedge_proxy::{Target, Upstream, UpstreamLimits};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;

use crate::clients::{h2_exchange, raw};
use crate::site::{HOST, Site, app};
use crate::workloads::{read_head, scripted};

type Frames = stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;

fn frames(data: &str, trailers: HeaderMap) -> StreamBody<Frames> {
    let data = Bytes::copy_from_slice(data.as_bytes());
    StreamBody::new(stream::iter(vec![Ok(Frame::data(data)), Ok(Frame::trailers(trailers))]))
}

pub(crate) fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

/// Answers with the trailers that it was sent, and one that may not be one.
async fn echo(request: Request<Incoming>) -> Result<Response<StreamBody<Frames>>, Infallible> {
    let te = request.headers().get("te").cloned();
    let body = request.into_body().collect().await.unwrap();
    let mut trailers = body.trailers().cloned().unwrap_or_default();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("set-cookie", HeaderValue::from_static("forged"));
    let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    let mut response = Response::new(frames(&body, trailers));
    response.headers_mut().insert("trailer", "grpc-status, x-sum, host".parse().unwrap());
    response.headers_mut().extend(te.map(|te| (HeaderName::from_static("x-te"), te)));
    Ok(response)
}

async fn serve_h1(stream: DuplexStream) {
    let builder = hyper::server::conn::http1::Builder::new();
    let _ = builder.serve_connection(TokioIo::new(stream), service_fn(echo)).await;
}

async fn site_of(target: Target) -> Site {
    Site::start(app(Some(1), vec![(1, target)])).await
}

pub(crate) fn plain_h1() -> Target {
    let connect = scripted(|_, stream| serve_h1(stream));
    Target::Workload(Arc::new(Upstream::new("web of shop".into(), connect)))
}

#[tokio::test]
async fn trailers_of_both_messages_pass() {
    let site = site_of(plain_h1()).await;
    let sent = map(&[("x-sum", "abc"), ("host", "evil"), ("x-forwarded-for", "203.0.113.9")]);
    let request = Request::post(format!("http://{HOST}/"))
        .header("te", "trailers")
        .header("trailer", "x-sum, host, x-forwarded-for")
        .body(frames("hello", sent))
        .unwrap();
    let stream = TcpStream::connect(site.http).await.unwrap();
    let response = h2_exchange(stream, request).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-te"], "trailers");
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers(), Some(&map(&[("x-sum", "abc"), ("grpc-status", "0")])));
    assert_eq!(body.to_bytes(), "hello");
}

#[tokio::test]
async fn an_http1_client_gets_trailers_if_it_takes_them() {
    let site = site_of(plain_h1()).await;
    let get = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close");
    let answer = raw(site.http, &format!("{get}, te\r\nte: trailers\r\n\r\n")).await;
    assert!(answer.contains("\r\ntrailer: grpc-status"), "{answer}");
    assert!(answer.ends_with("\r\n0\r\ngrpc-status: 0\r\n\r\n"), "{answer}");
    let answer = raw(site.http, &format!("{get}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.ends_with("\r\n0\r\n\r\n") && !answer.contains("grpc"), "{answer}");
}

#[tokio::test]
async fn trailers_without_end_break_the_answer() {
    let connect = scripted(|_, mut stream| async move {
        read_head(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n";
        stream.write_all(head).await.unwrap();
        let line = format!("x-long: {}\r\n", "x".repeat(1000));
        while stream.write_all(line.as_bytes()).await.is_ok() {}
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    });
    let limits = UpstreamLimits { max_header_bytes: 10_000, ..UpstreamLimits::default() };
    let upstream = Upstream::with_limits("web of shop".into(), connect, limits);
    let mut site = site_of(Target::Workload(Arc::new(upstream))).await;
    let request = Request::get(format!("http://{HOST}/"));
    let request = request.body(frames("", HeaderMap::new())).unwrap();
    let stream = TcpStream::connect(site.http).await.unwrap();
    let response = h2_exchange(stream, request).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.into_body().collect().await.is_err());
    assert_eq!(site.record().await.error.unwrap().kind, "body-closed-early");
}
