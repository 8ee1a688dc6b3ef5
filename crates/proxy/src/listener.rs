//! Where a proxy listens, and how what it listens on changes while it serves.
//!
//! Each address has a socket on every shard. A listener that is no longer wanted stops accepting,
//! serves what the kernel had already accepted for it, and lets its connections finish; the
//! connections of other listeners don't notice.

mod connection;
mod plan;
mod proxy_protocol;
mod roster;
mod server;
mod shard;
mod sockets;

#[cfg(any(test, fuzzing))]
pub(crate) use proxy_protocol::fuzz as fuzz_proxy_protocol;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Weak};

use ipnet::IpNet;
use tokio::sync::watch;

pub(crate) use connection::{Client, Door, Ends, Shared};
pub(crate) use server::{Common, Server};
pub(crate) use shard::Shards;

/// What is spoken at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 in the clear, and HTTP/2 for clients that know (RFC 9113, section 3.3).
    Http,
    /// HTTP/1.1 and HTTP/2 over TLS, as the client chooses (ALPN).
    Https,
    /// HTTP/3 over QUIC, on UDP (RFC 9114). Answers of [`Protocol::Https`] tell clients of the
    /// first such listener (`alt-svc`), whatever its port.
    Http3,
}

/// What carries a protocol. An address of the one is free for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Protocol {
    pub(crate) fn transport(self) -> Transport {
        match self {
            Self::Http | Self::Https => Transport::Tcp,
            Self::Http3 => Transport::Udp,
        }
    }
}

/// An address that the proxy serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// What it is called in errors and logs, such as `HTTPS`. No two have the same.
    pub name: String,
    /// Port 0 picks a free one, which stays the listener's for as long as its name does.
    pub address: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Peers that say by the PROXY protocol whom they speak for. From these a connection has to
    /// begin with its header; from all others it has no meaning. HTTP/3 has no such thing.
    pub proxy_protocol: Vec<IpNet>,
}

impl Listener {
    /// A listener that takes no PROXY protocol.
    pub fn new(name: &str, address: SocketAddr, protocol: Protocol) -> Self {
        Self { name: name.to_owned(), address, protocol, proxy_protocol: Vec::new() }
    }
}

/// Everything that a proxy is to listen on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listeners(pub Vec<Listener>);

impl Listeners {
    /// One of each protocol, called `HTTP` and `HTTPS`.
    pub fn pair(http: SocketAddr, https: SocketAddr) -> Self {
        Self(vec![
            Listener::new("HTTP", http, Protocol::Http),
            Listener::new("HTTPS", https, Protocol::Https),
        ])
    }

    /// Listeners that never change.
    pub fn fixed(self) -> watch::Receiver<Arc<Self>> {
        watch::channel(Arc::new(self)).1
    }
}

/// Why an address is not served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The system refuses the address; it is tried again.
    #[error("{name} on {address}")]
    Bind {
        /// The listener's.
        name: String,
        /// As asked for.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another listener before it has the name or the address.
    #[error("{name} on {address}: another listener has the same {what}")]
    Twice {
        /// The listener's.
        name: String,
        /// As asked for.
        address: SocketAddr,
        /// `name` or `address`.
        what: &'static str,
    },
}

impl ListenError {
    fn name(&self) -> &str {
        match self {
            Self::Bind { name, .. } | Self::Twice { name, .. } => name,
        }
    }
}

impl From<ListenError> for io::Error {
    fn from(error: ListenError) -> Self {
        match error {
            // What the system says is looked for in the error, so it says it too.
            ListenError::Bind { ref source, .. } => {
                Self::new(source.kind(), format!("{error}: {source}"))
            }
            ListenError::Twice { .. } => Self::new(io::ErrorKind::InvalidInput, error),
        }
    }
}

/// How it is with one listener.
#[derive(Debug, Clone)]
pub struct ListenerState {
    /// The listener's name.
    pub name: String,
    /// Where it is bound, with the port that was picked; none while it can't be.
    pub bound: Option<SocketAddr>,
    /// Why what is wanted is not served. A listener can be bound all the same, to the address
    /// that was wanted before.
    pub error: Option<Arc<ListenError>>,
    /// As asked for.
    requested: SocketAddr,
    /// Held weakly: to look at a state must not keep a port.
    sockets: Weak<Vec<TcpListener>>,
}

/// A view of a proxy's listeners. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    states: watch::Receiver<Arc<[ListenerState]>>,
}

impl Handle {
    /// The state of every listener, in the order in which they are wanted; wakes on change.
    pub fn listeners(&self) -> watch::Receiver<Arc<[ListenerState]>> {
        self.states.clone()
    }

    /// Where the listener of this name is bound.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.states.borrow().iter().find(|state| state.name == name)?.bound
    }

    /// What is open now: name, address as asked for, sockets.
    pub(crate) fn sockets(&self) -> Vec<(String, SocketAddr, Arc<Vec<TcpListener>>)> {
        let states = self.states.borrow();
        let open = states.iter().filter_map(|state| {
            Some((state.name.clone(), state.requested, state.sockets.upgrade()?))
        });
        open.collect()
    }
}
