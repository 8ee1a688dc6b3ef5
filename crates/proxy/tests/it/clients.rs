//! Clients: hyper's for what is to work, bare sockets for what is not.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::site::{HOST, PATIENCE, Site};

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A response that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A connection of either version.
pub(crate) enum Client {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    /// HTTP/1.1 in the clear.
    pub(crate) async fn plain(site: &Site) -> Self {
        Self::h1(TcpStream::connect(site.http).await.unwrap()).await
    }

    /// HTTP/2 in the clear, with prior knowledge.
    pub(crate) async fn plain_h2(site: &Site) -> Self {
        Self::h2(TcpStream::connect(site.http).await.unwrap()).await
    }

    /// Whatever version is agreed on out of `protocols`.
    pub(crate) async fn tls(site: &Site, protocols: &[&[u8]]) -> Self {
        let stream = handshake(site.https, &site.ca, HOST, protocols).await.unwrap();
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Self::h2(stream).await
        } else {
            Self::h1(stream).await
        }
    }

    pub(crate) async fn h1(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::H1(sender)
    }

    pub(crate) async fn h2(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let executor = TokioExecutor::new();
        let (sender, connection) = http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::H2(sender)
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn get_with(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::GET, path, headers, "").await
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        self.try_send(method, path, headers, body).await.expect("the request is answered")
    }

    pub(crate) async fn try_send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, hyper::Error> {
        let mut request = Request::builder().method(method);
        request = match self {
            Self::H1(_) => request.uri(path).header("host", HOST),
            Self::H2(_) => request.uri(format!("https://{HOST}{path}")),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        let answer = async {
            let response = match self {
                Self::H1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Self::H2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
            };
            let (head, body) = response.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        tokio::time::timeout(PATIENCE, answer).await.expect("the answer comes in time")
    }
}

/// One request with any body over HTTP/2, to the head of its response.
pub(crate) async fn h2_exchange<B>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<B>,
) -> Response<Incoming>
where
    B: Body<Data = Bytes, Error: Into<BodyError>> + Send + Unpin + 'static,
{
    let executor = TokioExecutor::new();
    let (mut sender, connection) = http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
    response.expect("the answer comes in time").unwrap()
}

/// A TLS connection that trusts `ca` alone.
pub(crate) async fn handshake(
    address: SocketAddr,
    ca: &CertificateDer<'static>,
    name: &str,
    protocols: &[&[u8]],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    handshake_on(TcpStream::connect(address).await?, ca, name, protocols).await
}

/// As [`handshake`], on a connection that is open.
pub(crate) async fn handshake_on(
    stream: TcpStream,
    ca: &CertificateDer<'static>,
    name: &str,
    protocols: &[&[u8]],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut config = trusting(ca, rustls::ALL_VERSIONS).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The settings of a TLS client that trusts `ca` alone.
pub(crate) fn trusting(
    ca: &CertificateDer<'static>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
}

/// Sends bytes as they are and returns all that comes back until the server closes.
pub(crate) async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    read_to_end(&mut stream).await
}

pub(crate) async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = async {
        // A reset after the answer is a way to close as well.
        let _ = stream.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the server closes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until `end` has come.
pub(crate) async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&text).contains(end) {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).await.unwrap();
            assert!(read > 0, "closed before {end:?}: {}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&chunk[..read]);
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the server answers");
    String::from_utf8_lossy(&text).into_owned()
}
