//! Tunnels: connections that sites open because an operation has asked for them. Control waits for
//! them at a socket beside the fabric's and asks one question through each.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use selvedge_api::{
    MAX_TUNNEL_LINE, TUNNEL_VERSION, TunnelHello, TunnelProof, TunnelQuestion, TunnelWelcome,
};
use selvedge_fabric::FabricError;
use selvedge_fabric::socket::{self, Socket};
use selvedge_model::SiteId;
use selvedge_model::operation::{
    NodeState, OperationId, OperationKind, OperationState, Outcome, Target, Task, TunnelEnd,
    TunnelPurpose, TunnelSecret,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::codec::{Framed, LinesCodec};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::data::{DataError, random};
use crate::now_ms;
use crate::operations::Operations;

/// How long sites may take to open a tunnel.
const OPENING: Duration = Duration::from_secs(5);
/// How long a site may take for each of its lines while a tunnel is being opened.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that are being opened at a time. More wait in the kernel's queue.
const MAX_OPENING: usize = 256;
/// How long to wait when a connection can't be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A connection to a site that has proved to be the one that was asked.
pub(crate) struct Tunnel(Lines);

type Lines = Framed<UnixStream, LinesCodec>;

/// Why tunnels can't be asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error("the operation can't be written")]
    Fabric(#[from] FabricError),
    #[error(transparent)]
    Random(#[from] DataError),
}

/// Opens tunnels. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tunnels {
    operations: Operations,
    awaited: Arc<Awaited>,
}

/// Tunnels that are being waited for.
#[derive(Default)]
struct Awaited(Mutex<HashMap<(OperationId, Target), Waiting>>);

struct Waiting {
    secret: TunnelSecret,
    sender: oneshot::Sender<Tunnel>,
}

impl Awaited {
    fn lock(&self) -> MutexGuard<'_, HashMap<(OperationId, Target), Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tunnel that a site has been asked for. Whoever drops it does not want it any more.
pub(crate) struct Opening {
    place: (OperationId, Target),
    awaited: Arc<Awaited>,
    tunnel: oneshot::Receiver<Tunnel>,
    outcome: watch::Receiver<Outcome>,
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.awaited.lock().remove(&self.place);
    }
}

impl Opening {
    /// Waits for the tunnel, or for the reason, in words, why there is none.
    pub(crate) async fn wait(mut self) -> Result<Tunnel, String> {
        let target = self.place.1.clone();
        let given_up = async {
            loop {
                if let Some(reason) = refusal(&self.outcome.borrow_and_update(), &target) {
                    return reason;
                }
                if self.outcome.changed().await.is_err() {
                    // The operation has ended, and its last word was no refusal.
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            biased;
            tunnel = &mut self.tunnel => tunnel.map_err(|_| "control is ending".to_owned()),
            reason = given_up => Err(reason),
            () = tokio::time::sleep(OPENING * 2) => Err("it opened no tunnel".to_owned()),
        }
    }
}

fn refusal(outcome: &Outcome, target: &Target) -> Option<String> {
    let node =
        outcome.nodes.iter().find(|node| node.site == target.site && node.node == target.node)?;
    match node.state {
        NodeState::Failed => Some(node.reason.clone().unwrap_or_default()),
        NodeState::TimedOut => Some(format!("it did not answer within {} s", OPENING.as_secs())),
        NodeState::Offline => Some("it is offline".to_owned()),
        NodeState::Received if outcome.state != OperationState::Running => {
            Some("it did not answer in time".to_owned())
        }
        NodeState::Received | NodeState::Applied => None,
    }
}

impl Tunnels {
    pub(crate) fn new(operations: Operations) -> Self {
        Self { operations, awaited: Arc::default() }
    }

    /// Asks sites for a tunnel each, as one operation.
    pub(crate) async fn open(
        &self,
        purpose: TunnelPurpose,
        sites: &BTreeSet<SiteId>,
    ) -> Result<BTreeMap<SiteId, Opening>, TunnelError> {
        let id = OperationId::new(now_ms(), u32::from_ne_bytes(random::<4>()?));
        let (mut tasks, mut tunnels) = (BTreeMap::new(), Vec::new());
        for site in sites {
            let target = Target::sole(site.clone());
            let secret = TunnelSecret::new(random::<32>()?);
            let (sender, tunnel) = oneshot::channel();
            let place = (id, target.clone());
            let waiting = Waiting { secret: secret.clone(), sender };
            self.awaited.lock().insert(place.clone(), waiting);
            tunnels.push((site.clone(), place, tunnel));
            tasks.insert(target, Task::OpenTunnel(secret));
        }
        let kind = OperationKind::Tunnel(purpose);
        let started = self.operations.start((id, kind), tasks, OPENING).await;
        if started.is_err() {
            let mut awaited = self.awaited.lock();
            for (_, place, _) in &tunnels {
                awaited.remove(place);
            }
        }
        let outcome = started?;
        let openings = tunnels.into_iter().map(|(site, place, tunnel)| {
            let awaited = Arc::clone(&self.awaited);
            (site, Opening { place, awaited, tunnel, outcome: outcome.clone() })
        });
        Ok(openings.collect())
    }

    /// Takes connections until `token` is cancelled.
    pub(crate) async fn run(self, socket: Socket, token: CancellationToken) {
        let tasks = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(MAX_OPENING));
        let accept = async {
            loop {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
                match socket.accept().await {
                    Ok(stream) => {
                        let tunnels = self.clone();
                        let work = async move {
                            if let Err(reason) = tunnels.admit(stream).await {
                                tracing::debug!(reason, "a tunnel was not opened");
                            }
                            drop(slot);
                        };
                        tasks.spawn(token.clone().run_until_cancelled_owned(work));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the tunnels' socket can't accept a connection");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                }
            }
        };
        token.run_until_cancelled(accept).await;
        tasks.close();
        tasks.wait().await;
    }

    /// Finds out who connects, and hands the tunnel to whoever waits for it.
    async fn admit(&self, stream: UnixStream) -> Result<(), String> {
        let refused = socket::refusal(&stream).map_err(|error| error.to_string())?;
        let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_TUNNEL_LINE));
        if let Some(reason) = refused {
            return refuse(&mut lines, reason).await;
        }
        let hello: TunnelHello = receive(&mut lines).await?;
        if hello.version != TUNNEL_VERSION {
            let reason = format!(
                "control speaks version {TUNNEL_VERSION} of tunnels, not {}: restart the older process",
                hello.version
            );
            return refuse(&mut lines, reason).await;
        }
        let place = (hello.operation, hello.target);
        let secret = self.awaited.lock().get(&place).map(|waiting| waiting.secret.clone());
        let Some(secret) = secret else {
            return refuse(&mut lines, "nobody waits for it any more".to_owned()).await;
        };
        let about = (place.0, &place.1);
        let nonce = random::<32>().map(hex::encode).map_err(|error| error.to_string())?;
        let proof = secret.prove(TunnelEnd::Control, about, &hello.nonce);
        send(&mut lines, &TunnelWelcome::Proof { nonce: nonce.clone(), proof }).await?;
        let theirs: TunnelProof = receive(&mut lines).await?;
        if !secret.verify(TunnelEnd::Site, about, &nonce, &theirs.proof) {
            return Err(format!("{} does not have the tunnel's secret", place.1.site));
        }
        // Once: a second connection with the same secret finds nobody waiting.
        let waiting = self.awaited.lock().remove(&place);
        let waiting = waiting.ok_or("nobody waits for it any more")?;
        waiting.sender.send(Tunnel(lines)).map_err(|_| "nobody waits for it any more".to_owned())
    }
}

impl Tunnel {
    /// Asks the one question.
    pub(crate) async fn ask(&mut self, question: &TunnelQuestion) -> Result<(), String> {
        send(&mut self.0, question).await
    }

    /// Waits for the next line of the answer; `None` at its end. Cancel safe.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Option<Result<T, String>> {
        let line = self.0.next().await?;
        Some(match line {
            Ok(line) => serde_json::from_str(&line).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        })
    }
}

async fn refuse(lines: &mut Lines, reason: String) -> Result<(), String> {
    send(lines, &TunnelWelcome::Refused { reason: reason.clone() }).await?;
    Err(reason)
}

async fn send(lines: &mut Lines, value: &impl Serialize) -> Result<(), String> {
    let line = serde_json::to_string(value).map_err(|error| error.to_string())?;
    lines.send(line).await.map_err(|error| error.to_string())
}

async fn receive<T: DeserializeOwned>(lines: &mut Lines) -> Result<T, String> {
    let line = tokio::time::timeout(PATIENCE, lines.next()).await;
    let line = line.map_err(|_| "it said nothing".to_owned())?.ok_or("it hung up")?;
    let line = line.map_err(|error| error.to_string())?;
    serde_json::from_str(&line).map_err(|error| error.to_string())
}
