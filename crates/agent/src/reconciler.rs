//! Carries out the steps from what a site has to what it is to have, and shows the result to the
//! proxy, to the DNS server and in the status.
//!
//! One task owns everything and makes one pass after another: work out what is wanted, take the
//! steps, swap the snapshots, and only then take away what nobody is sent to any more. What takes
//! time runs in tasks of its own, whose end wakes the next pass. There is no other path: a start
//! from the ledger, a push and a repair are the same pass.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use selvedge_fabric::SharedFabric;
use selvedge_model::documents::Probe;
use selvedge_model::{Digest, Epoch, Release, ReleaseId, SiteId};
use selvedge_proxy::files::StaticSite;
use selvedge_proxy::{EpochView, Snapshot};
use selvedge_runtime::{Runtime, WorkloadState};
use selvedge_telemetry::logging::Chain;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::artifacts::{Store, StoreError};
use crate::certificates::Certificates;
use crate::desired::{Desired, DesiredEpoch, EpochKey, Part, ReleaseKey, UpstreamId, WorkloadId};
use crate::diff::{Step, diff};
use crate::documents::{AppKey, Documents};
use crate::elsewhere::Elsewhere;
use crate::ledger::Ledger;
use crate::log::SiteLog;
use crate::publish::{Probes, Published};
use crate::resources::{Resources, fetch_release, load_static, unpack};
use crate::snapshot::epoch_view;
use crate::status::Status;
use crate::workloads::{Running, Watched, unshared};

/// How long requests may take that a workload still has when it is to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The shortest pause before a pass that only a timer asks for.
const PAUSE: Duration = Duration::from_millis(100);

/// How long to wait before something that the disk refused is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the reconciler works with.
pub(crate) struct Setup {
    pub(crate) site: SiteId,
    pub(crate) fabric: SharedFabric,
    pub(crate) store: Store,
    pub(crate) runtime: Runtime,
    pub(crate) ledger: Ledger,
    /// Where workloads' output and events go.
    pub(crate) log: SiteLog,
    /// Where the proxy answers plain HTTP, for probes.
    pub(crate) proxy: SocketAddr,
    pub(crate) explain: bool,
    /// Tells the proxy which requests are the agent's own.
    pub(crate) probe_key: String,
    /// What was wrong with the ledger when it was read, and with how programs are isolated here.
    pub(crate) problems: Vec<String>,
}

/// Where the reconciler shows results.
pub(crate) struct Outputs {
    pub(crate) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(crate) dns: watch::Sender<Arc<selvedge_dns::Snapshot>>,
    pub(crate) status: watch::Sender<Arc<Status>>,
    pub(crate) workloads: watch::Sender<Arc<Vec<Watched>>>,
}

/// An epoch that the proxy can answer with.
pub(crate) struct Shown {
    pub(crate) wanted: DesiredEpoch,
    pub(crate) view: Arc<EpochView>,
}

/// An epoch out of use whose services still have requests.
pub(crate) struct Draining {
    pub(crate) release: ReleaseId,
    /// Numbers of [`Reconciler::leaving`].
    left: BTreeSet<u64>,
}

/// Something that is used by requests until they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Workload(WorkloadId),
    Static(Digest),
    Upstream(UpstreamId),
}

/// The end of something that took time.
pub(crate) enum Event {
    Release(ReleaseKey, Result<Arc<Release>, String>),
    Artifact(Digest, Result<PathBuf, String>),
    Static(Digest, Result<Arc<StaticSite>, String>),
    /// A workload has changed, or is gone.
    Workload(WorkloadId, Option<watch::Receiver<WorkloadState>>),
    /// A look at an upstream found something else than the last one; `None`: nobody looks any more.
    Upstream(Option<watch::Receiver<Vec<String>>>),
    Gone(u64),
    Collected(Result<usize, StoreError>),
    Probed(AppKey, u64, Probe),
}

pub(crate) struct Reconciler {
    pub(crate) setup: Setup,
    documents: watch::Receiver<Arc<Documents>>,
    pub(crate) outputs: Outputs,
    pub(crate) resources: Resources,
    pub(crate) shown: BTreeMap<EpochKey, Shown>,
    pub(crate) draining: BTreeMap<EpochKey, Draining>,
    /// The oldest epoch of each app that may still be served here; durable before it is acted on.
    pub(crate) floors: BTreeMap<AppKey, Epoch>,
    pub(crate) certificates: Certificates,
    pub(crate) published: Published,
    pub(crate) probes: Probes,
    pub(crate) tasks: JoinSet<Event>,
    previous: Desired,
    /// What is on its way out, by number, with the artifact that it needs until then.
    leaving: BTreeMap<u64, Option<Digest>>,
    last_number: u64,
    referred: Option<BTreeSet<Digest>>,
    collecting: bool,
    /// What the disk refuses, by subject, in words.
    pub(crate) disk: BTreeMap<&'static str, String>,
}

impl Reconciler {
    /// A reconciler that starts from what the ledger held.
    pub(crate) fn new(
        setup: Setup,
        documents: watch::Receiver<Arc<Documents>>,
        outputs: Outputs,
        releases: Vec<Release>,
        floors: BTreeMap<AppKey, Epoch>,
    ) -> Self {
        let mut resources = Resources::default();
        for release in releases {
            resources.releases.insert((release.app.name.clone(), release.id), Arc::new(release));
        }
        Self {
            setup,
            documents,
            outputs,
            resources,
            shown: BTreeMap::new(),
            draining: BTreeMap::new(),
            floors,
            certificates: Certificates::default(),
            published: Published::default(),
            probes: Probes::default(),
            tasks: JoinSet::new(),
            previous: Desired::default(),
            leaving: BTreeMap::new(),
            last_number: 0,
            referred: None,
            collecting: false,
            disk: BTreeMap::new(),
        }
    }

    /// Works until `token` is cancelled, then ends every workload.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        loop {
            self.pass().await;
            let wake = self.wake_at();
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = token.cancelled() => break,
                changed = self.documents.changed() => {
                    if changed.is_err() {
                        token.cancelled().await;
                        break;
                    }
                }
                Some(ended) = self.tasks.join_next() => self.note(ended),
                () = timer => {}
            }
            // What has ended meanwhile is one pass, not many.
            while let Some(ended) = self.tasks.try_join_next() {
                self.note(ended);
            }
        }
        self.tasks.abort_all();
        let running = std::mem::take(&mut self.resources.workloads);
        let mut ending: JoinSet<()> = running.into_values().map(Running::stop).collect();
        while ending.join_next().await.is_some() {}
    }

    /// One pass. Idempotent.
    async fn pass(&mut self) {
        let documents = self.documents.borrow_and_update().clone();
        let wanted: BTreeMap<EpochKey, DesiredEpoch> =
            self.shown.iter().map(|(key, it)| (key.clone(), it.wanted.clone())).collect();
        let releases = &self.resources.releases;
        let release = |key: &ReleaseKey| releases.ready(key).map(Arc::as_ref);
        let desired = Desired::of(&self.setup.site, &documents, release, &wanted);
        let actual = self.resources.actual(self.shown.keys().cloned().collect());
        let steps = diff(&desired, &actual);
        let (taking, building): (Vec<Step>, Vec<Step>) =
            steps.into_iter().partition(Step::takes_away);

        let may_unpack = self.refer(&desired).await;
        for step in building {
            if may_unpack || !matches!(step, Step::Unpack(_)) {
                self.build(step, &desired);
            }
        }
        self.publish(&documents, &desired).await;
        let mut left = BTreeMap::new();
        for step in taking {
            self.take_away(step, &mut left).await;
        }
        self.note_draining(&desired, &left);
        self.refer(&desired).await;
        self.publish_status(&documents, &desired);
        self.previous = desired;
    }

    fn build(&mut self, step: Step, desired: &Desired) {
        let Setup { fabric, store, runtime, ledger, log, .. } = &self.setup;
        match step {
            Step::FetchRelease(key) => {
                let work = fetch_release(Arc::clone(fabric), ledger.clone(), key.clone());
                let event_key = key.clone();
                let task = self.tasks.spawn(async move { Event::Release(event_key, work.await) });
                self.resources.releases.begin(key, task);
            }
            Step::Unpack(artifact) => {
                let digest = artifact.digest;
                let work = unpack(Arc::clone(fabric), store.clone(), digest);
                let task = self.tasks.spawn(async move { Event::Artifact(digest, work.await) });
                self.resources.artifacts.begin(digest, task);
            }
            Step::LoadStatic(digest) => {
                let Some(root) = self.resources.artifacts.ready(&digest).cloned() else { return };
                let work = load_static(root);
                let task = self.tasks.spawn(async move { Event::Static(digest, work.await) });
                self.resources.statics.begin(digest, task);
            }
            Step::Start(id, plan) => {
                let Some(app) = self.resources.artifacts.ready(&plan.artifact.digest) else {
                    return;
                };
                let running = Running::start(runtime, &plan, app.clone(), log);
                let mut state = running.state();
                // It may have changed already: look once more.
                state.mark_changed();
                self.watch_workload(id, state);
                self.resources.workloads.insert(id, running);
                self.show_workloads();
            }
            Step::Reach(id, plan) => {
                let elsewhere = Elsewhere::reach(&plan);
                self.watch_upstream(elsewhere.problems());
                self.resources.upstreams.insert(id, elsewhere);
            }
            Step::Show(key) => self.show(key, desired),
            Step::Retire(key) => drop(self.shown.remove(&key)),
            Step::Stop(_)
            | Step::Leave(_)
            | Step::DropStatic(_)
            | Step::DropArtifact(_)
            | Step::ForgetRelease(_) => {}
        }
    }

    fn show(&mut self, key: EpochKey, desired: &Desired) {
        let Some(wanted) = desired.epochs.get(&key) else { return };
        let release = (key.app.0.clone(), wanted.release);
        let Some(release) = self.resources.releases.ready(&release) else { return };
        let view = epoch_view(&key.app.1, key.epoch, release, &self.resources.targets(wanted));
        tracing::info!(app = %key.app.0, epoch = %key.epoch, release = %release.id, "warm");
        self.shown.insert(key, Shown { wanted: wanted.clone(), view: Arc::new(view) });
    }

    fn show_workloads(&self) {
        let watched = self.resources.workloads.values().map(Running::watched).collect();
        self.outputs.workloads.send_replace(Arc::new(watched));
    }

    fn watch_workload(&mut self, id: WorkloadId, mut state: watch::Receiver<WorkloadState>) {
        self.tasks.spawn(async move {
            let alive = state.changed().await.is_ok();
            Event::Workload(id, alive.then_some(state))
        });
    }

    fn watch_upstream(&mut self, mut problems: watch::Receiver<Vec<String>>) {
        self.tasks.spawn(async move {
            let alive = problems.changed().await.is_ok();
            Event::Upstream(alive.then_some(problems))
        });
    }

    async fn take_away(&mut self, step: Step, left: &mut BTreeMap<Thing, u64>) {
        match step {
            Step::Stop(id) => {
                let Some(running) = self.resources.workloads.remove(&id) else { return };
                self.show_workloads();
                let number = self.leave(Some(running.artifact()));
                left.insert(Thing::Workload(id), number);
                self.tasks.spawn(async move {
                    running.drain(PATIENCE).await;
                    Event::Gone(number)
                });
            }
            Step::Leave(id) => {
                let Some(elsewhere) = self.resources.upstreams.remove(&id) else { return };
                let number = self.leave(None);
                left.insert(Thing::Upstream(id), number);
                self.tasks.spawn(async move {
                    elsewhere.leave(PATIENCE).await;
                    Event::Gone(number)
                });
            }
            Step::DropStatic(digest) => {
                let Some(site) = self.resources.statics.remove(&digest) else { return };
                let number = self.leave(Some(digest));
                left.insert(Thing::Static(digest), number);
                self.tasks.spawn(async move {
                    let _ = tokio::time::timeout(PATIENCE, unshared(&site)).await;
                    Event::Gone(number)
                });
            }
            Step::DropArtifact(digest) => drop(self.resources.artifacts.remove(&digest)),
            Step::ForgetRelease(key) => {
                self.resources.releases.remove(&key);
                let path = selvedge_model::keys::release(&key.0, &key.1);
                self.unwrite(path).await;
            }
            _ => {}
        }
    }

    fn leave(&mut self, artifact: Option<Digest>) -> u64 {
        self.last_number += 1;
        self.leaving.insert(self.last_number, artifact);
        self.last_number
    }

    /// Epochs that are not wanted any more are draining while something of theirs has requests.
    fn note_draining(&mut self, desired: &Desired, left: &BTreeMap<Thing, u64>) {
        for (key, epoch) in &self.previous.epochs {
            if desired.epochs.contains_key(key) {
                continue;
            }
            let things = epoch.parts().map(|(_, part)| match part {
                Part::Static(artifact, _) => Thing::Static(artifact.digest),
                Part::Process(plan) => Thing::Workload(plan.id()),
                Part::Upstream(plan) => Thing::Upstream(plan.id()),
            });
            let left: BTreeSet<u64> = things.filter_map(|it| left.get(&it).copied()).collect();
            if !left.is_empty() {
                self.draining.insert(key.clone(), Draining { release: epoch.release, left });
            }
        }
        self.draining.retain(|key, _| !desired.epochs.contains_key(key));
    }

    fn note(&mut self, ended: Result<Event, tokio::task::JoinError>) {
        match ended {
            Ok(Event::Release(key, result)) => self.resources.releases.end(key, result),
            Ok(Event::Artifact(digest, result)) => self.resources.artifacts.end(digest, result),
            Ok(Event::Static(digest, result)) => self.resources.statics.end(digest, result),
            Ok(Event::Workload(id, Some(state))) => self.watch_workload(id, state),
            Ok(Event::Upstream(Some(problems))) => self.watch_upstream(problems),
            Ok(Event::Workload(_, None) | Event::Upstream(None)) => {}
            Ok(Event::Gone(number)) => {
                self.leaving.remove(&number);
                self.draining.retain(|_, it| {
                    it.left.remove(&number);
                    !it.left.is_empty()
                });
            }
            Ok(Event::Collected(result)) => {
                self.collecting = false;
                match result {
                    Ok(0) => {}
                    Ok(count) => tracing::info!(count, "unused artifacts removed"),
                    Err(error) => tracing::warn!("artifacts not collected: {}", Chain(&error)),
                }
            }
            Ok(Event::Probed(app, number, probe)) => self.probes.end(&app, number, probe),
            Err(error) if error.is_panic() => {
                tracing::error!("a task of the agent failed: {error}")
            }
            Err(_) => {}
        }
    }

    /// States which artifacts are needed here, those still in use included; must have gone well
    /// before one is unpacked. When fewer are needed than before, the rest is collected.
    async fn refer(&mut self, desired: &Desired) -> bool {
        let needed: BTreeSet<Digest> = desired
            .artifacts()
            .into_keys()
            .chain(self.leaving.values().copied().flatten())
            .chain(self.resources.artifacts.keys().copied())
            .collect();
        if self.referred.as_ref() != Some(&needed) {
            let (store, digests) = (self.setup.store.clone(), needed.clone());
            let result = blocking(move || store.refer(&digests)).await;
            if let Err(error) = result {
                let message = format!("artifacts can't be unpacked: {error}");
                self.disk.insert("artifacts", message);
                return false;
            }
            self.disk.remove("artifacts");
            let fewer = self.referred.as_ref().is_none_or(|old| !old.is_subset(&needed));
            self.referred = Some(needed);
            if fewer && !self.collecting {
                self.collecting = true;
                let store = self.setup.store.clone();
                self.tasks.spawn_blocking(move || Event::Collected(store.collect()));
            }
        }
        true
    }

    async fn unwrite(&mut self, key: String) {
        let ledger = self.setup.ledger.clone();
        // What can't be removed is forgotten again at the next start.
        let name = key.clone();
        if let Err(error) = blocking(move || ledger.remove(&key)).await {
            tracing::warn!(key = %name, "not removed from the ledger: {error}");
        }
    }

    /// Writes a floor; says whether it is durable.
    pub(crate) async fn write_floor(&mut self, app: &AppKey, floor: Epoch) -> bool {
        let (ledger, record) = (self.setup.ledger.clone(), crate::floors::record(app, floor));
        match blocking(move || ledger.write(&record)).await {
            Ok(()) => {
                self.disk.remove("ledger");
                self.floors.insert(app.clone(), floor);
                true
            }
            Err(error) => {
                let message = format!(
                    "the ledger can't be written, so {} stays at its last release: {error}",
                    app.0
                );
                tracing::error!("{message}");
                self.disk.insert("ledger", message);
                false
            }
        }
    }

    /// Forgets the floors of apps that are not assigned any more.
    pub(crate) async fn drop_floors(&mut self, documents: &Documents) {
        let gone: Vec<AppKey> = self
            .floors
            .keys()
            .filter(|app| !documents.assignments.contains_key(*app))
            .cloned()
            .collect();
        for app in gone {
            self.floors.remove(&app);
            self.unwrite(crate::floors::key(&app)).await;
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let disk = (!self.disk.is_empty()).then(|| now + RETRY);
        let times = [self.resources.retry_at(), self.probes.retry_at(), disk];
        times.into_iter().flatten().min().map(|at| at.max(now + PAUSE))
    }
}

async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, String>
where
    T: Send + 'static,
    E: std::error::Error + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| Chain(&error).to_string()),
        Err(error) => Err(error.to_string()),
    }
}
