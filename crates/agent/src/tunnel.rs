//! Tunnels to control: opened because an order asks for it, for one question, and closed when it
//! has been answered or control has hung up.
//!
//! A slow reader at the other end slows down only the reading of files here: nothing waits for a
//! tunnel that serves requests or writes logs.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use selvedge_api::{
    LogCursor, LogEvent, LogFilter, MAX_TUNNEL_LINE, TUNNEL_VERSION, TunnelHello, TunnelProof,
    TunnelQuestion, TunnelWelcome, WorkloadRow,
};
use selvedge_model::operation::{OperationId, Target, TunnelEnd, TunnelSecret};
use selvedge_telemetry::journal::Step;
use selvedge_telemetry::logging::Chain;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

use crate::log::SiteLog;
use crate::workloads::Watched;

/// How long control may take for each of its lines while the tunnel is being opened.
const PATIENCE: Duration = Duration::from_secs(5);

/// What questions are about.
#[derive(Clone)]
pub(crate) struct Subjects {
    pub(crate) log: SiteLog,
    pub(crate) workloads: watch::Receiver<Arc<Vec<Watched>>>,
}

/// An open tunnel and what control wants to know.
pub(crate) struct Tunnel {
    lines: Lines,
    question: TunnelQuestion,
}

type Lines = Framed<UnixStream, LinesCodec>;

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error("control can't be reached")]
    Connect(#[source] io::Error),
    #[error("control refused the tunnel: {0}")]
    Refused(String),
    #[error("what answers is not control: it does not have the tunnel's secret")]
    NotControl,
    #[error("the tunnel broke")]
    Broken(#[source] LinesCodecError),
    #[error("control hung up")]
    HungUp,
    #[error("control did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("control said something else than expected")]
    Unexpected(#[source] serde_json::Error),
    #[error("the machine gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// Connects, and proves and has proved to it who is at the ends.
pub(crate) async fn open(
    path: &Path,
    operation: OperationId,
    target: &Target,
    secret: &TunnelSecret,
) -> Result<Tunnel, TunnelError> {
    let stream = selvedge_fabric::socket::connect(path).await.map_err(TunnelError::Connect)?;
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_TUNNEL_LINE));
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(TunnelError::Random)?;
    let nonce = hex::encode(nonce);
    let hello = TunnelHello {
        version: TUNNEL_VERSION,
        operation,
        target: target.clone(),
        nonce: nonce.clone(),
    };
    send(&mut lines, &hello).await?;
    let about = (operation, target);
    match receive(&mut lines).await? {
        TunnelWelcome::Refused { reason } => return Err(TunnelError::Refused(reason)),
        TunnelWelcome::Proof { nonce: theirs, proof } => {
            if !secret.verify(TunnelEnd::Control, about, &nonce, &proof) {
                return Err(TunnelError::NotControl);
            }
            let proof = secret.prove(TunnelEnd::Site, about, &theirs);
            send(&mut lines, &TunnelProof { proof }).await?;
        }
    }
    let question = receive(&mut lines).await?;
    Ok(Tunnel { lines, question })
}

async fn send(lines: &mut Lines, value: &impl Serialize) -> Result<(), TunnelError> {
    let line = serde_json::to_string(value).map_err(TunnelError::Unexpected)?;
    lines.send(line).await.map_err(TunnelError::Broken)
}

async fn receive<T: DeserializeOwned>(lines: &mut Lines) -> Result<T, TunnelError> {
    let line = tokio::time::timeout(PATIENCE, lines.next()).await;
    let line = line.map_err(|_| TunnelError::Silent)?.ok_or(TunnelError::HungUp)?;
    serde_json::from_str(&line.map_err(TunnelError::Broken)?).map_err(TunnelError::Unexpected)
}

/// Answers the question until everything has been said or control hangs up.
pub(crate) async fn serve(tunnel: Tunnel, subjects: &Subjects) {
    let (sink, source) = tunnel.lines.split();
    let answering = async {
        match tunnel.question {
            TunnelQuestion::Logs(filter) => logs(sink, &subjects.log, *filter).await,
            TunnelQuestion::Workloads => workloads(sink, subjects).await,
        }
    };
    tokio::select! {
        answered = answering => {
            if let Err(error) = answered {
                tracing::debug!("a tunnel ended early: {}", Chain(&error));
            }
        }
        () = hung_up(source) => {}
    }
}

/// Waits until control has closed its end. It says nothing more.
async fn hung_up(mut source: SplitStream<Lines>) {
    while let Some(Ok(_)) = source.next().await {}
}

type Sink = SplitSink<Lines, String>;

async fn logs(mut sink: Sink, log: &SiteLog, filter: LogFilter) -> Result<(), LinesCodecError> {
    let mut entries = log.journal().query(log.query(filter));
    while let Some(step) = entries.next().await? {
        let event = match step {
            Step::Entry(entry) => log.say(&entry),
            Step::Reading => Some(LogEvent::Pending { site: Some(log.site().clone()) }),
            Step::Current(sequence) => {
                let mut cursor = LogCursor::default();
                cursor.advance(Some(log.site()), sequence);
                Some(LogEvent::Current { cursor })
            }
        };
        if let Some(line) = event.and_then(|event| serde_json::to_string(&event).ok()) {
            sink.feed(line).await?;
        }
        if !entries.is_ready() {
            sink.flush().await?;
        }
    }
    sink.flush().await
}

async fn workloads(mut sink: Sink, subjects: &Subjects) -> Result<(), LinesCodecError> {
    let watched = subjects.workloads.borrow().clone();
    let site = subjects.log.site().clone();
    let looked = tokio::task::spawn_blocking(move || {
        watched.iter().map(|it| it.look(&site)).collect::<Vec<WorkloadRow>>()
    })
    .await
    .map_err(io::Error::other)?;
    sink.send(serde_json::to_string(&looked).unwrap_or_default()).await
}
