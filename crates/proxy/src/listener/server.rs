//! Makes what is listened on be what is wanted, for as long as the proxy runs; then drains.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use selvedge_telemetry::Chain;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Door;
use super::plan::{Plan, plan};
use super::roster::Roster;
use super::shard::Shards;
use super::sockets;
use super::{
    Ends, Handle, ListenError, Listener, ListenerState, Listeners, Protocol, Shared, Transport,
};
use crate::http3::{self, Accepting};
use crate::takeover::Inherited;
use crate::tls::Tls;

/// When an address that could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The port of HTTPS where no listener says another.
const HTTPS_PORT: u16 = 443;

/// What a proxy's listeners have in common.
pub(crate) struct Common {
    /// By shard.
    pub(crate) shared: Vec<Arc<Shared>>,
    pub(crate) tls: Arc<Tls>,
    pub(crate) https_port: Arc<AtomicU16>,
    pub(crate) alternative: Arc<ArcSwapOption<HeaderValue>>,
    /// The settings of HTTP/3.
    pub(crate) quic: quinn::ServerConfig,
}

/// The listeners of a proxy, and their shards.
pub(crate) struct Server {
    common: Common,
    shards: Shards,
    gate: Arc<Semaphore>,
    drain_timeout: Duration,
    wanted: watch::Receiver<Arc<Listeners>>,
    open: Vec<Open>,
    /// Listeners that are no more, and whose connections may not have ended.
    closed: Vec<Ends>,
    errors: HashMap<String, Arc<ListenError>>,
    states: watch::Sender<Arc<[ListenerState]>>,
}

/// The sockets of a listener.
enum Sockets {
    /// One for each shard.
    Tcp(Arc<Vec<TcpListener>>),
    /// One for all.
    Udp(UdpSocket),
}

impl Sockets {
    /// Binds them, and says where.
    fn bind(
        listener: &Listener,
        count: usize,
        inherited: Vec<TcpListener>,
    ) -> io::Result<(Self, SocketAddr)> {
        match listener.protocol.transport() {
            Transport::Tcp => {
                let sockets = sockets::bind(listener.address, count, inherited)?;
                let bound = sockets::local_address(&sockets)?;
                Ok((Self::Tcp(Arc::new(sockets)), bound))
            }
            Transport::Udp => {
                let socket = http3::bind(listener.address)?;
                let bound = socket.local_addr()?;
                Ok((Self::Udp(socket), bound))
            }
        }
    }

    /// Those that another process can go on with. Of HTTP/3 there are none: who reads its socket
    /// has to know its connections.
    fn to_hand_over(&self) -> Weak<Vec<TcpListener>> {
        match self {
            Self::Tcp(sockets) => Arc::downgrade(sockets),
            Self::Udp(_) => Weak::new(),
        }
    }
}

/// A listener that is bound.
struct Open {
    listener: Arc<ArcSwap<Listener>>,
    bound: SocketAddr,
    sockets: Sockets,
    stop: CancellationToken,
    accepting: TaskTracker,
    ends: Ends,
}

impl Server {
    /// Binds what is wanted; `inherited` are sockets that listen already.
    ///
    /// # Errors
    /// When any can't be bound.
    pub(crate) fn bind(
        common: Common,
        shards: Shards,
        wanted: watch::Receiver<Arc<Listeners>>,
        mut inherited: Inherited,
    ) -> Result<Self, ListenError> {
        let limits = common.shared.first().map(|shared| shared.limits.clone()).unwrap_or_default();
        let gate = limits.max_connections.min(Semaphore::MAX_PERMITS);
        let mut server = Self {
            common,
            shards,
            gate: Arc::new(Semaphore::new(gate)),
            drain_timeout: limits.drain_timeout,
            wanted,
            open: Vec::new(),
            closed: Vec::new(),
            errors: HashMap::new(),
            states: watch::Sender::new(Arc::new([])),
        };
        let follows = !inherited.is_empty();
        let wanted = Arc::clone(&server.wanted.borrow_and_update());
        let Plan { bind, refused, .. } = plan(&[], &wanted);
        if let Some(error) = refused.into_iter().next() {
            return Err(error);
        }
        for (listener, _) in bind {
            let sockets = inherited.take(&listener.name, listener.address);
            let transport = listener.protocol.transport();
            match server.open(listener, sockets) {
                Ok(open) => server.open.push(open),
                // The process before has it until its connections have ended.
                Err(error) if follows && transport == Transport::Udp => {
                    server.note(vec![error]);
                }
                Err(error) => return Err(error),
            }
        }
        server.publish(&wanted);
        Ok(server)
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle { states: self.states.subscribe() }
    }

    fn open(&self, listener: Listener, inherited: Vec<TcpListener>) -> Result<Open, ListenError> {
        match Sockets::bind(&listener, self.common.shared.len(), inherited) {
            Ok((sockets, bound)) => Ok(Open {
                listener: Arc::new(ArcSwap::from_pointee(listener)),
                bound,
                sockets,
                stop: CancellationToken::new(),
                accepting: TaskTracker::new(),
                ends: Ends {
                    connections: TaskTracker::new(),
                    drain: CancellationToken::new(),
                    abort: CancellationToken::new(),
                },
            }),
            Err(source) => {
                let Listener { name, address, .. } = listener;
                Err(ListenError::Bind { name, address, source })
            }
        }
    }

    /// Has every shard accept. An error leaves the listener to those that could begin.
    fn start(&self, open: &Open) -> io::Result<()> {
        let mut doors = Vec::new();
        for (shard, shared) in self.shards.handles().iter().zip(&self.common.shared) {
            let door = Arc::new(Door {
                shared: Arc::clone(shared),
                listener: Arc::clone(&open.listener),
                tls: Arc::clone(&self.common.tls),
                gate: Arc::clone(&self.gate),
                roster: Roster::default(),
                ends: open.ends.clone(),
            });
            shard.spawn(Arc::clone(&door).watch());
            doors.push((shard.clone(), door));
        }
        match &open.sockets {
            Sockets::Tcp(sockets) => {
                for (socket, (shard, door)) in sockets.iter().zip(doors.iter().cycle()) {
                    let socket = socket.try_clone()?;
                    let _inside = shard.enter();
                    let socket = tokio::net::TcpListener::from_std(socket)?;
                    let accepting = Arc::clone(door).accept(socket, open.stop.clone());
                    open.accepting.spawn_on(accepting, shard);
                }
            }
            Sockets::Udp(socket) => {
                // Each listener is read on some shard, not all on the same.
                let Some((shard, _)) = doors.iter().cycle().nth(open.bound.port().into()) else {
                    return Ok(());
                };
                let shard = (*shard).clone();
                let _inside = shard.enter();
                let gate = Arc::clone(&self.gate);
                let config = self.common.quic.clone();
                let accepting = Accepting::start(socket.try_clone()?, config, doors, gate)?;
                open.accepting.spawn_on(accepting.run(open.stop.clone()), &shard);
            }
        }
        Ok(())
    }

    /// Serves until `token` is cancelled, then drains, bounded.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        for open in &self.open {
            if let Err(error) = self.start(open) {
                tracing::error!(address = %open.bound, error = %Chain(&error), "can't accept");
            }
        }
        let mut wanted = self.wanted.clone();
        loop {
            let change = async {
                // Nobody can want anything else any more.
                if wanted.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let retry = async {
                match self.errors.is_empty() {
                    true => std::future::pending().await,
                    false => sleep(RETRY).await,
                }
            };
            tokio::select! {
                () = token.cancelled() => break,
                () = self.shards.failed() => {
                    tracing::error!("a shard has ended by itself; closing");
                    break;
                }
                () = change => {}
                () = retry => {}
            }
            let wanted = Arc::clone(&wanted.borrow_and_update());
            self.apply(&wanted).await;
        }
        self.end().await;
    }

    /// Goes as far towards what is wanted as the system lets it.
    async fn apply(&mut self, wanted: &Listeners) {
        self.closed.retain(|ends| !ends.connections.is_empty());
        let now = self.open.iter().map(|open| (Listener::clone(&open.listener.load()), open.bound));
        let now: Vec<_> = now.collect();
        let Plan { retire, keep, bind, refused } = plan(&now, wanted);
        for (place, listener) in keep {
            if let Some(open) = self.open.get(place) {
                open.listener.store(Arc::new(listener));
            }
        }
        let mut gone: Vec<(Transport, SocketAddr)> = Vec::new();
        let bound = |place: &usize| {
            now.get(*place).map(|(listener, bound)| (listener.protocol.transport(), *bound))
        };
        gone.extend(retire.iter().filter_map(bound));
        self.retire(&gone).await;
        let mut errors: Vec<ListenError> = refused;
        for (listener, replaced) in bind {
            match self.open(listener, Vec::new()) {
                Ok(open) => {
                    if let Err(error) = self.start(&open) {
                        tracing::error!(address = %open.bound, error = %Chain(&error), "can't accept");
                    }
                    self.open.push(open);
                    self.retire(replaced.as_ref().and_then(bound).as_slice()).await;
                }
                Err(error) => errors.push(error),
            }
        }
        self.note(errors);
        self.publish(wanted);
    }

    /// Closes listeners: no connection of theirs is cut off, but bounded in time.
    async fn retire(&mut self, gone: &[(Transport, SocketAddr)]) {
        let closing = self.open.extract_if(.., |open| gone.contains(&open.place()));
        for open in closing.collect::<Vec<_>>() {
            let ends = open.close().await;
            self.closed.push(ends.clone());
            let limit = self.drain_timeout;
            tokio::spawn(async move {
                let _ = timeout(limit, ends.connections.wait()).await;
                ends.abort.cancel();
            });
        }
    }

    /// Keeps what went wrong, and says it once.
    fn note(&mut self, errors: Vec<ListenError>) {
        let mut before = std::mem::take(&mut self.errors);
        for error in errors {
            let name = error.name().to_owned();
            let known = before.remove(&name).filter(|known| known.to_string() == error.to_string());
            if known.is_none() {
                tracing::error!(error = %Chain(&error), "can't listen");
            }
            self.errors.insert(name, known.unwrap_or_else(|| Arc::new(error)));
        }
    }

    fn publish(&self, wanted: &Listeners) {
        let (mut https, mut http3) = (None, None);
        let state = |listener: &Listener| {
            let open = self.open.iter().find(|open| open.listener.load().name == listener.name);
            if listener.protocol == Protocol::Https && https.is_none() {
                https = open.map(|open| open.bound.port());
            }
            if listener.protocol == Protocol::Http3 && http3.is_none() {
                http3 = open.map(|open| open.bound.port());
            }
            ListenerState {
                name: listener.name.clone(),
                bound: open.map(|open| open.bound),
                error: self.errors.get(&listener.name).cloned(),
                requested: open.map_or(listener.address, |open| open.listener.load().address),
                sockets: open.map(|open| open.sockets.to_hand_over()).unwrap_or_default(),
            }
        };
        let states: Vec<_> = wanted.0.iter().map(state).collect();
        self.common.https_port.store(https.unwrap_or(HTTPS_PORT), Ordering::Relaxed);
        self.common.alternative.store(http3.and_then(http3::alternative).map(Arc::new));
        self.states.send_replace(states.into());
    }

    async fn end(mut self) {
        let mut ends = std::mem::take(&mut self.closed);
        for open in std::mem::take(&mut self.open) {
            ends.push(open.close().await);
        }
        let finished = async {
            for ends in &ends {
                ends.connections.wait().await;
            }
        };
        if timeout(self.drain_timeout, finished).await.is_err() {
            let connections: usize = ends.iter().map(|ends| ends.connections.len()).sum();
            tracing::warn!(connections, "drain timed out; closing");
        }
        for ends in &ends {
            ends.abort.cancel();
            ends.connections.wait().await;
        }
        self.shards.end().await;
    }
}

impl Open {
    fn place(&self) -> (Transport, SocketAddr) {
        (self.listener.load().protocol.transport(), self.bound)
    }

    /// Closes the sockets and tells the connections to finish.
    async fn close(self) -> Ends {
        self.stop.cancel();
        self.accepting.close();
        self.accepting.wait().await;
        self.ends.connections.close();
        self.ends.drain.cancel();
        self.ends
    }
}
