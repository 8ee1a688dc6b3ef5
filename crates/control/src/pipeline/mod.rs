//! The pipeline: from a received push to a release that every site serves.
//!
//! Pushes to one repository go one after the other, those to different ones side by side. Each goes
//! through the stages of [`Stage`](selvedge_model::Stage) and is recorded as it goes, its intent
//! before its effect, so that a control that is killed at any point completes or undoes it when it
//! starts again (`recover`). Planning is `plan`'s, running the author's commands `runtime`'s, and
//! nothing reaches a site but through the fabric.
//!
//! The git endpoint's hook and the API submit pushes through a [`Handle`].

mod build;
mod claims;
mod collect;
mod commit;
mod place;
mod progress;
mod publish;
mod queue;
mod receive;
mod recover;
mod removal;
mod restore;
mod rollback;
mod rollout;
mod run;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use selvedge_fabric::{FabricError, SharedFabric, artifact};
use selvedge_model::documents::{AppRecord, PushCause, PushFailure};
use selvedge_model::{
    AppName, Assignment, EnvironmentName, Installation, Push, PushState, RepositoryName, SiteId,
    Stage, keys,
};
use selvedge_runtime::Runtime;
use selvedge_telemetry::journal::Journal;
use tokio::net::UnixListener;
use tokio::sync::{RwLock, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::git::{Git, GitError, Oid, Repository};
use crate::hook::listener;
use crate::logs::OwnLog;
use crate::steering::{LEAVE, SETTLE};

pub(crate) use claims::contested;
pub(crate) use place::{Choice, Needs, choose};
pub use progress::Progress;
use progress::ProgressLog;
pub(crate) use progress::{render, verdict_of};
pub(crate) use receive::fits;
pub use removal::RemovalError;
pub use rollback::RollbackError;
use run::{Refusal, Run, broken};
use store::Store;

/// What the pipeline needs.
pub struct PipelineConfig {
    /// Where documents and blobs go.
    pub fabric: SharedFabric,
    /// Runs builds and tests.
    pub runtime: Runtime,
    /// The repositories.
    pub git: Git,
    /// Control's data directory: checkouts in `work`, dependency caches in `cache`, and the socket
    /// for hooks.
    pub data: PathBuf,
    /// What holds for the installation.
    pub installation: Installation,
    /// How much and how long.
    pub limits: Limits,
    /// Where what pushes say is kept.
    pub journal: Journal,
}

/// How much a push may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Time for each build command.
    pub build: Duration,
    /// Time for each test command.
    pub test: Duration,
    /// Size of an artifact.
    pub artifact: artifact::Limits,
    /// Time for sites to fetch a release, besides what its services may take to start.
    pub fetch: Duration,
    /// Time for sites to switch over and answer.
    pub verify: Duration,
    /// How long a failing probe may be repeated before the release is taken for broken.
    pub probe_retry: Duration,
    /// How long after a start sites may take to renew their leases.
    pub settle: Duration,
    /// How long a site that is no longer planned keeps what it has: until no client holds a DNS
    /// answer that names it.
    pub leave: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            build: Duration::from_secs(15 * 60),
            test: Duration::from_secs(10 * 60),
            artifact: artifact::Limits::default(),
            fetch: Duration::from_secs(60),
            verify: Duration::from_secs(30),
            probe_retry: Duration::from_secs(5),
            settle: SETTLE,
            leave: LEAVE,
        }
    }
}

/// The pipeline, ready to run.
pub struct Pipeline {
    shared: Arc<Shared>,
    submissions: mpsc::Receiver<Submission>,
    handle: Handle,
    hooks: UnixListener,
}

/// Submits pushes and follows them. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    submissions: mpsc::Sender<Submission>,
}

/// A push that was taken in.
pub struct Ticket {
    /// Its number in the repository.
    pub number: u64,
    /// What it says.
    pub progress: Progress,
}

/// Why a push was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Too many pushes wait already.
    #[error("too many pushes to {0} are waiting; try again when they are done")]
    Busy(RepositoryName),
    /// Control is ending.
    #[error("control is stopping; try again in a moment")]
    Stopping,
    /// What is to be released is no commit.
    #[error("{0} is not a commit")]
    NoCommit(Oid),
    /// The fabric failed.
    #[error("the push can't be recorded")]
    Fabric(#[source] FabricError),
    /// git failed.
    #[error("the repository can't be read")]
    Git(#[source] GitError),
}

/// Why the pipeline can't start.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The socket for hooks can't be made.
    #[error("can't listen for git's hooks on {}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A push on its way into the queue.
struct Submission {
    repository: RepositoryName,
    cause: PushCause,
    old: Option<Oid>,
    new: Oid,
    reply: oneshot::Sender<Result<Ticket, SubmitError>>,
}

/// What all parts of the pipeline work with.
struct Shared {
    store: Store,
    runtime: Runtime,
    git: Git,
    installation: Installation,
    limits: Limits,
    work: PathBuf,
    cache: PathBuf,
    /// Held for reading between a blob and the document that names it, for writing while blobs
    /// without one are deleted.
    collecting: RwLock<()>,
    /// Whether there may be blobs that no release names: after a start, which may follow a crash,
    /// and when a release was deleted.
    blobs_due: AtomicBool,
    /// When control has started: sites that are up renew their leases in the moments after.
    started: Instant,
    /// The pushes that wait or run, by repository and number.
    running: Mutex<HashMap<(RepositoryName, u64), Arc<ProgressLog>>>,
    own: OwnLog,
}

/// Where hooks find the pipeline: `DATA/hooks.sock`.
pub fn hook_socket(data: &std::path::Path) -> PathBuf {
    data.join("hooks.sock")
}

impl Pipeline {
    /// Prepares the pipeline and binds the socket for hooks. Nothing runs yet.
    pub fn new(config: PipelineConfig) -> Result<Self, PipelineError> {
        let path = hook_socket(&config.data);
        let hooks =
            listener::bind(&path).map_err(|source| PipelineError::Socket { path, source })?;
        let shared = Arc::new(Shared {
            store: Store(config.fabric),
            runtime: config.runtime,
            git: config.git,
            installation: config.installation,
            limits: config.limits,
            work: config.data.join("work"),
            cache: config.data.join("cache"),
            collecting: RwLock::new(()),
            blobs_due: AtomicBool::new(true),
            started: Instant::now(),
            running: Mutex::new(HashMap::new()),
            own: OwnLog::new(config.journal),
        });
        let (sender, submissions) = mpsc::channel(64);
        let handle = Handle { shared: Arc::clone(&shared), submissions: sender };
        Ok(Self { shared, submissions, handle, hooks })
    }

    /// A handle on the pipeline.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Completes or undoes what an earlier life left, and takes pushes until `token` is cancelled.
    /// What is under way then is left as after a crash. Ending before is a defect, and a restart
    /// mends what it has left.
    pub async fn run(self, token: CancellationToken) {
        let queue = queue::run(self.shared, self.submissions, token);
        let hooks = listener::run(self.hooks, self.handle);
        tokio::pin!(queue);
        tokio::select! {
            () = &mut queue => {}
            () = hooks => queue.await,
        }
    }
}

impl Handle {
    /// Submits a push of `new` to main, which the pusher believes to be at `old`.
    pub async fn push(
        &self,
        repository: &RepositoryName,
        old: Option<Oid>,
        new: Oid,
    ) -> Result<Ticket, SubmitError> {
        self.submit(repository, PushCause::Push, old, new).await
    }

    async fn submit(
        &self,
        repository: &RepositoryName,
        cause: PushCause,
        old: Option<Oid>,
        new: Oid,
    ) -> Result<Ticket, SubmitError> {
        let known = self.shared.git.repository(repository).has_commit(&new).await;
        if !known.map_err(SubmitError::Git)? {
            return Err(SubmitError::NoCommit(new));
        }
        let (reply, answer) = oneshot::channel();
        let repository = repository.clone();
        let submission = Submission { repository, cause, old, new, reply };
        self.submissions.send(submission).await.map_err(|_| SubmitError::Stopping)?;
        answer.await.map_err(|_| SubmitError::Stopping)?
    }

    /// Follows a push from its start; `None` when there is no such push, or when it has not been
    /// taken up again since control was started.
    pub async fn subscribe(
        &self,
        repository: &RepositoryName,
        number: u64,
    ) -> Result<Option<Progress>, FabricError> {
        let running = self.shared.running_get(repository, number);
        if let Some(log) = running {
            return Ok(Some(log.follow()));
        }
        let push: Option<Push> = self.shared.store.get(&keys::push(repository, number)).await?;
        Ok(push.filter(|push| !push.is_open()).map(|push| ProgressLog::of_ended(push).follow()))
    }
}

impl Shared {
    fn running_add(&self, push: &Push, log: &Arc<ProgressLog>) {
        log.keep(self.own.clone(), push);
        let key = (push.repository.clone(), push.number);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(key, Arc::clone(log));
    }

    fn running_remove(&self, push: &Push) {
        let key = (push.repository.clone(), push.number);
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    fn running_get(&self, repository: &RepositoryName, number: u64) -> Option<Arc<ProgressLog>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(&(repository.clone(), number)).cloned()
    }

    /// Where an app's builds keep what they have downloaded.
    fn cache_of(&self, app: &AppName) -> PathBuf {
        self.cache.join(app.as_str())
    }

    /// What sites are to have of an app; those that have left the topology included, whose
    /// assignments somebody has to take away.
    async fn assignments(&self, app: &AppName) -> Result<BTreeMap<SiteId, Assignment>, Refusal> {
        let all: Vec<(String, Assignment)> =
            self.store.list(keys::ASSIGNMENTS).await.map_err(broken("read what sites have"))?;
        let production = EnvironmentName::production();
        let of_app = all.into_iter().map(|(_, assignment)| assignment);
        Ok(of_app
            .filter(|it| it.app == *app && it.environment == production)
            .map(|it| (it.site.clone(), it))
            .collect())
    }

    /// The apps of a repository.
    async fn records_of(&self, repository: &RepositoryName) -> Result<Vec<AppRecord>, Refusal> {
        let all: Vec<(String, AppRecord)> =
            self.store.list(keys::APPS).await.map_err(broken("read the apps"))?;
        let records = all.into_iter().map(|(_, record)| record);
        Ok(records.filter(|record| record.repository == *repository).collect())
    }

    /// Records a push under the next free number, and keeps its objects. A push whose objects can't
    /// be kept ends there.
    async fn record_push(&self, repository: &Repository, mut push: Push) -> Result<Push, Refusal> {
        let failed = "record the push";
        let prefix = keys::pushes(&push.repository);
        let listing = self.store.0.list(&prefix).await.map_err(broken(failed))?;
        let last = listing.documents.last().and_then(|document| {
            document.key.strip_prefix(&prefix).and_then(|number| number.parse::<u64>().ok())
        });
        push.number = last.unwrap_or(0);
        loop {
            push.number += 1;
            let key = keys::push(&push.repository, push.number);
            if self.store.create(&key, &push).await.map_err(broken(failed))? {
                break;
            }
        }
        let commit = push.new_commit.parse().map_err(broken(failed))?;
        let kept = repository.keep(&Run::keeper(push.number), &commit).await;
        let Err(refusal) = kept.map_err(broken("keep the pushed commit")) else { return Ok(push) };
        let reason = refusal.reason.clone();
        let last_lines = Vec::new();
        push.state = PushState::Refused(PushFailure { stage: Stage::Receive, reason, last_lines });
        let key = keys::push(&push.repository, push.number);
        if let Err(error) = self.store.put(&key, &push).await {
            tracing::warn!(%error, key, "a push that nobody will run is left in the records");
        }
        Err(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A push in the middle of nowhere.
    pub(super) fn push(state: PushState) -> Push {
        Push {
            number: 7,
            repository: RepositoryName::new("shop").unwrap(),
            cause: PushCause::Push,
            old_commit: None,
            new_commit: "a".repeat(40),
            received_ms: 0,
            state,
            stages: Vec::new(),
            apps: Vec::new(),
        }
    }
}
