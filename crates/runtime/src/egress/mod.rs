//! The way out of a sandbox: a forward proxy, the one thing that its network namespace leads to.
//!
//! The listener is inside the namespace; this side accepts on it, resolves names and connects, so
//! that what may be reached is decided here and on the address that is really connected to. It
//! serves CONNECT and plain `http://` requests (RFC 9110 §7.1, §9.3.6), one for a connection.

mod policy;
mod request;
mod upstream;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub(crate) use policy::Policy;
use request::{Head, Target};
use upstream::Upstream;
pub(crate) use upstream::Upstreams;

const MAX_CONNECTIONS: usize = 256;
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// No byte either way for this long ends a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// What a connection is refused with.
#[derive(Debug)]
struct Refusal {
    status: &'static str,
    reason: String,
}

impl Refusal {
    fn new(status: &'static str, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

/// Where connections go.
#[derive(Debug, Default)]
pub(crate) struct Egress {
    pub(crate) policy: Policy,
    pub(crate) upstreams: Upstreams,
}

/// Serves a sandbox's way out until dropped.
pub(crate) async fn serve(listener: std::net::TcpListener, egress: Arc<Egress>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Connections end with this future.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // More wait in the listener's backlog.
        let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::debug!(%error, "a sandbox's way out could not accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let egress = Arc::clone(&egress);
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = connection(client, &egress).await {
                tracing::debug!(%error, "a connection out of a sandbox broke");
            }
        });
    }
}

async fn connection(mut client: TcpStream, egress: &Egress) -> io::Result<()> {
    let opened = tokio::time::timeout(HEAD_TIMEOUT, request::read(&mut client)).await?;
    let opened = match opened? {
        Ok(head) => open(head, egress).await,
        Err(refusal) => Err(refusal),
    };
    match opened {
        Ok((mut server, head)) => {
            if head.is_connect() {
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
            }
            relay(&mut client, &mut server).await
        }
        Err(refusal) => refuse(&mut client, &refusal).await,
    }
}

/// Connects to where a request goes and sends what of it goes there.
async fn open(head: Head, egress: &Egress) -> Result<(TcpStream, Head), Refusal> {
    let proxy = egress.upstreams.for_target(&head.target);
    let mut server = match proxy {
        Some(proxy) => proxy.connect(&head.target, &egress.policy).await?,
        None => direct(&head.target, &egress.policy).await?,
    };
    let _ = server.set_nodelay(true);
    server
        .write_all(&head.forward(proxy))
        .await
        .map_err(|error| Refusal::new("502 Bad Gateway", error.to_string()))?;
    Ok((server, head))
}

/// Connects straight to a target, at an address that the policy allows.
async fn direct(target: &Target, policy: &Policy) -> Result<TcpStream, Refusal> {
    let name = &target.host;
    let addresses = upstream::resolve(target)
        .await
        .map_err(|error| Refusal::new("502 Bad Gateway", format!("{name}: {error}")))?;
    let mut last = Refusal::new("502 Bad Gateway", format!("{name} has no address"));
    for address in addresses {
        if let Err(refusal) = check(target, address.ip(), policy) {
            last = refusal;
            continue;
        }
        match upstream::connect(address).await {
            Ok(server) => return Ok(server),
            Err(error) => {
                last = Refusal::new("502 Bad Gateway", format!("{name} ({address}): {error}"));
            }
        }
    }
    Err(last)
}

fn check(target: &Target, address: IpAddr, policy: &Policy) -> Result<(), Refusal> {
    match policy.refusal(address) {
        Ok(None) => Ok(()),
        Ok(Some(reason)) => {
            let reason = format!("{} can't be reached: {reason}", target.host);
            Err(Refusal::new("403 Forbidden", reason))
        }
        Err(error) => Err(Refusal::new("502 Bad Gateway", error.to_string())),
    }
}

async fn refuse(client: &mut TcpStream, refusal: &Refusal) -> io::Result<()> {
    let body = format!("The sandbox's network: {}\n", refusal.reason);
    let answer = format!(
        "HTTP/1.1 {}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        refusal.status,
        body.len()
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}

/// Copies both ways until both ends are done, or neither has sent anything for too long.
async fn relay(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let mut up = vec![0; 16 * 1024];
    let mut down = vec![0; 16 * 1024];
    let (mut up_open, mut down_open) = (true, true);
    while up_open || down_open {
        let step = async {
            tokio::select! {
                read = from_client.read(&mut up), if up_open => (true, read),
                read = from_server.read(&mut down), if down_open => (false, read),
            }
        };
        let (upwards, read) = tokio::time::timeout(IDLE_TIMEOUT, step).await?;
        let length = read?;
        let (to, bytes, open) = if upwards {
            (&mut to_server, up.get(..length), &mut up_open)
        } else {
            (&mut to_client, down.get(..length), &mut down_open)
        };
        if length == 0 {
            *open = false;
            to.shutdown().await?;
        } else {
            let sent = to.write_all(bytes.unwrap_or_default());
            tokio::time::timeout(IDLE_TIMEOUT, sent).await??;
        }
    }
    Ok(())
}
