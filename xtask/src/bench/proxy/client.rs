//! A client for many connections: HTTP/1.1, plain or over TLS, one request at a time on each.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The headers of an answer are within this many bytes.
const MAX_HEAD: u64 = 16 * 1024;
/// Ten thousand connections have a buffer each.
const BUFFER: usize = 2048;

/// What connects to one address.
#[derive(Clone)]
pub(super) struct Connector {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    pub(super) fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// Full handshakes only.
    pub(super) fn tls(address: SocketAddr, chain: &Path) -> anyhow::Result<Self> {
        let mut config = tls_config(chain)?;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { address, tls: Some(Arc::new(config)) })
    }

    pub(super) fn connect(&self) -> anyhow::Result<Connection> {
        let socket = TcpStream::connect(self.address).context("can't connect")?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let stream = match &self.tls {
            None => Stream::Plain(socket),
            Some(config) => {
                let name = ServerName::try_from("localhost")?;
                let client = ClientConnection::new(Arc::clone(config), name)?;
                Stream::Tls(Box::new(StreamOwned::new(client, socket)))
            }
        };
        // Caches tell hosts apart: this is the one that the load programs name.
        let name = if self.tls.is_some() { "localhost" } else { "127.0.0.1" };
        let host = format!("{name}:{}", self.address.port());
        Ok(Connection { stream: BufReader::with_capacity(BUFFER, stream), host })
    }
}

/// Trusts one certificate.
pub(super) fn tls_config(chain: &Path) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(chain)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

pub(super) struct Connection {
    stream: BufReader<Stream>,
    host: String,
}

impl Connection {
    /// Sends a request. [`Self::answer`] must follow.
    pub(super) fn ask(&mut self, path: &str) -> anyhow::Result<()> {
        let stream = self.stream.get_mut();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        stream.write_all(request.as_bytes())?;
        Ok(stream.flush()?)
    }

    /// The body of the answer, which must be a 200.
    pub(super) fn answer(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut head = self.stream.by_ref().take(MAX_HEAD);
        let (mut length, mut chunked) = (None, false);
        let mut line = String::new();
        head.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "the answer is {:?}", line.trim_end());
        loop {
            line.clear();
            ensure!(head.read_line(&mut line)? > 0, "the answer's headers do not end");
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = Some(value.trim().parse::<usize>()?),
                "transfer-encoding" => chunked = value.trim() == "chunked",
                _ => {}
            }
        }
        match length {
            _ if chunked => self.chunks(),
            Some(length) => self.bytes(length),
            None => bail!("the answer has no length"),
        }
    }

    fn bytes(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    fn chunks(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.by_ref().take(MAX_HEAD).read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim_end(), 16).context("no chunk's length")?;
            let chunk = self.bytes(length + 2)?;
            let (data, end) = chunk.split_at(length);
            ensure!(end == b"\r\n", "a chunk does not end");
            if length == 0 {
                return Ok(body);
            }
            body.extend_from_slice(data);
        }
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::origin::{Origin, body};
    use super::*;

    #[test]
    fn the_origin_answers_with_known_bodies_and_counts() {
        let origin = Origin::start(&[1024]).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], origin.port()));
        let mut connection = Connector::plain(address).connect().unwrap();
        for path in ["/hit/1024", "/proxied/1024", "/hit/1024/7"] {
            connection.ask(path).unwrap();
            assert_eq!(connection.answer().unwrap(), body(1024));
        }
        assert_eq!(origin.requests(), 3);
        connection.ask("/hit/999").unwrap();
        assert!(connection.answer().is_err());
    }
}
