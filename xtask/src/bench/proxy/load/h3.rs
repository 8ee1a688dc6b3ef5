//! A client for HTTP/3, which keeps a number of requests under way on a number of connections.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::{Buf as _, Bytes};
use futures_util::future::try_join_all;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, IdleTimeout, TransportConfig, VarInt};

use super::super::client::tls_config;
use super::Answered;

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// What may be on its way to the client on each stream, so that windows are not what is measured.
const WINDOW: u32 = 16 * 1024 * 1024;

type Requests = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

pub(in super::super) struct Client {
    address: SocketAddr,
    config: ClientConfig,
    runtime: tokio::runtime::Runtime,
}

/// A connection and the task that drives it.
struct Connection {
    endpoint: Endpoint,
    requests: Requests,
}

impl Client {
    pub(in super::super) fn new(address: SocketAddr, chain: &Path) -> anyhow::Result<Self> {
        let mut tls = tls_config(chain)?;
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(Some(IdleTimeout::try_from(PATIENCE)?));
        transport.stream_receive_window(VarInt::from_u32(WINDOW));
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config.transport_config(Arc::new(transport));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { address, config, runtime })
    }

    /// The body of one answer.
    pub(in super::super) fn get(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        self.runtime.block_on(async {
            let connection = self.connect().await?;
            let mut body = Vec::new();
            let mut requests = connection.requests.clone();
            ask(&mut requests, &self.url(path), |chunk| body.extend_from_slice(chunk)).await?;
            drop(requests);
            connection.close().await;
            Ok(body)
        })
    }

    /// Asks until a moment, and waits for what is under way then.
    pub(super) fn load(
        &self,
        path: &str,
        connections: usize,
        streams: usize,
        size: usize,
        until: Instant,
    ) -> anyhow::Result<Answered> {
        let url = self.url(path);
        self.runtime.block_on(async {
            let opening = (0..connections).map(|_| self.connect());
            let connections = try_join_all(opening).await?;
            let slots = connections.iter().flat_map(|connection| {
                (0..streams).map(|_| slot(connection.requests.clone(), url.clone(), size, until))
            });
            let tasks: Vec<_> = slots.map(tokio::spawn).collect();
            let mut requests = 0;
            for task in tasks {
                requests += task.await.context("a stream panicked")??;
            }
            for connection in connections {
                connection.close().await;
            }
            Ok(Answered { requests, bytes: requests * u64::try_from(size)? })
        })
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let connecting = endpoint.connect_with(self.config.clone(), self.address, "localhost")?;
        let quic = h3_quinn::Connection::new(connecting.await.context("no QUIC connection")?);
        // A request of frames that mean nothing beside its headers looks as if it had a body.
        let (mut driver, requests) = h3::client::builder().send_grease(false).build(quic).await?;
        // It ends when the connection does; what failed is told to the streams.
        tokio::spawn(async move { drop(poll_fn(|context| driver.poll_close(context)).await) });
        Ok(Connection { endpoint, requests })
    }
}

impl Connection {
    /// Lets the server know, so that it does not wait for more.
    async fn close(self) {
        drop(self.requests);
        self.endpoint.close(VarInt::from_u32(0x100), b"");
        self.endpoint.wait_idle().await;
    }
}

/// One request after the other; how many were answered.
async fn slot(
    mut requests: Requests,
    url: String,
    size: usize,
    until: Instant,
) -> anyhow::Result<u64> {
    let mut answered = 0;
    while Instant::now() < until {
        let mut bytes = 0;
        ask(&mut requests, &url, |chunk| bytes += chunk.len()).await?;
        ensure!(bytes == size, "a body of {bytes} bytes in place of {size}");
        answered += 1;
    }
    Ok(answered)
}

async fn ask(
    requests: &mut Requests,
    url: &str,
    mut body: impl FnMut(&[u8]),
) -> anyhow::Result<()> {
    let request = http::Request::get(url).body(())?;
    let mut stream = requests.send_request(request).await?;
    stream.finish().await?;
    let status = stream.recv_response().await?.status();
    ensure!(status == http::StatusCode::OK, "the answer is {status}");
    while let Some(mut chunk) = stream.recv_data().await? {
        while chunk.has_remaining() {
            let length = chunk.chunk().len();
            body(chunk.chunk());
            chunk.advance(length);
        }
    }
    Ok(())
}
