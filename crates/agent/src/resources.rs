//! What a site has, or is getting: releases, artifacts, static sites and workloads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use selvedge_fabric::{FabricError, SharedFabric};
use selvedge_model::{Digest, Release, ServiceName, keys};
use selvedge_proxy::Target;
use selvedge_proxy::files::StaticSite;
use selvedge_telemetry::logging::Chain;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::artifacts::Store;
use crate::desired::{DesiredEpoch, EpochKey, Part, ReleaseKey, UpstreamId, WorkloadId};
use crate::diff::{Actual, Progress};
use crate::elsewhere::Elsewhere;
use crate::ledger::{Ledger, Record};
use crate::workloads::Running;

/// How long something that failed rests before it is tried again.
const REST: Duration = Duration::from_secs(3);

/// How long to wait before a fabric that can't be reached is asked again, at first and at most.
const UNREACHABLE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Something that takes time to get.
pub(crate) enum Resource<T> {
    Working { task: AbortHandle, failure: Option<String> },
    Ready(T),
    Failed { reason: String, since: Instant },
}

impl<T> Resource<T> {
    pub(crate) fn ready(&self) -> Option<&T> {
        match self {
            Self::Ready(value) => Some(value),
            _ => None,
        }
    }

    fn progress(&self, now: Instant) -> Progress {
        match self {
            Self::Working { failure, .. } => Progress::Working { failure: failure.clone() },
            Self::Ready(_) => Progress::Ready,
            Self::Failed { reason, since } => {
                Progress::Failed { reason: reason.clone(), retry: now >= *since + REST }
            }
        }
    }

    fn retry_at(&self) -> Option<Instant> {
        match self {
            Self::Failed { since, .. } => Some(*since + REST),
            _ => None,
        }
    }
}

/// Resources of one kind.
pub(crate) struct Set<K, T>(BTreeMap<K, Resource<T>>);

impl<K, T> Default for Set<K, T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, T> Set<K, T> {
    pub(crate) fn ready(&self, key: &K) -> Option<&T> {
        self.0.get(key).and_then(Resource::ready)
    }

    pub(crate) fn insert(&mut self, key: K, value: T) {
        self.0.insert(key, Resource::Ready(value));
    }

    /// Notes that `task` is getting the resource.
    pub(crate) fn begin(&mut self, key: K, task: AbortHandle) {
        let failure = match self.0.remove(&key) {
            Some(Resource::Failed { reason, .. }) => Some(reason),
            _ => None,
        };
        self.0.insert(key, Resource::Working { task, failure });
    }

    /// Notes how getting it ended. Of no effect if nobody wants it any more.
    pub(crate) fn end(&mut self, key: K, result: Result<T, String>) {
        if let Some(slot) = self.0.get_mut(&key) {
            *slot = match result {
                Ok(value) => Resource::Ready(value),
                Err(reason) => Resource::Failed { reason, since: Instant::now() },
            };
        }
    }

    /// Lets go of it, and of getting it.
    pub(crate) fn remove(&mut self, key: &K) -> Option<T> {
        match self.0.remove(key)? {
            Resource::Ready(value) => Some(value),
            Resource::Working { task, .. } => {
                task.abort();
                None
            }
            Resource::Failed { .. } => None,
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    fn progress(&self, now: Instant) -> BTreeMap<K, Progress> {
        self.0.iter().map(|(key, it)| (key.clone(), it.progress(now))).collect()
    }

    fn retry_at(&self) -> Option<Instant> {
        self.0.values().filter_map(Resource::retry_at).min()
    }
}

/// Everything that a site has.
#[derive(Default)]
pub(crate) struct Resources {
    pub(crate) releases: Set<ReleaseKey, Arc<Release>>,
    pub(crate) artifacts: Set<Digest, PathBuf>,
    pub(crate) statics: Set<Digest, Arc<StaticSite>>,
    pub(crate) workloads: BTreeMap<WorkloadId, Running>,
    pub(crate) upstreams: BTreeMap<UpstreamId, Elsewhere>,
}

impl Resources {
    /// For the diff.
    pub(crate) fn actual(&self, shown: BTreeSet<EpochKey>) -> Actual {
        let now = Instant::now();
        let workloads =
            self.workloads.iter().map(|(id, it)| (*id, it.state().borrow().clone())).collect();
        Actual {
            releases: self.releases.progress(now),
            artifacts: self.artifacts.progress(now),
            statics: self.statics.progress(now),
            workloads,
            upstreams: self.upstreams.keys().copied().collect(),
            shown,
        }
    }

    /// Who answers for each service of an epoch, as far as it is there.
    pub(crate) fn targets(&self, epoch: &DesiredEpoch) -> BTreeMap<ServiceName, Target> {
        epoch
            .parts()
            .filter_map(|(name, part)| {
                let target = match part {
                    Part::Static(artifact, fallback) => {
                        let site = Arc::clone(self.statics.ready(&artifact.digest)?);
                        match fallback {
                            Some(file) => Target::Fallback(site, file.as_str().into()),
                            None => Target::Static(site),
                        }
                    }
                    Part::Upstream(plan) => {
                        Target::Workload(self.upstreams.get(&plan.id())?.upstream())
                    }
                    Part::Process(plan) => {
                        Target::Workload(self.workloads.get(&plan.id())?.upstream())
                    }
                };
                Some((name.clone(), target))
            })
            .collect()
    }

    /// What is wrong with an epoch's upstreams, in words.
    pub(crate) fn warnings(&self, epoch: &DesiredEpoch) -> Vec<String> {
        let of_part = |(name, part): (&ServiceName, &Part)| {
            let Part::Upstream(plan) = part else { return Vec::new() };
            let problems = self.upstreams.get(&plan.id()).map(Elsewhere::problems);
            let problems = problems.map(|it| it.borrow().clone()).unwrap_or_default();
            problems.iter().map(|problem| format!("service {name}: {problem}")).collect()
        };
        epoch.parts().flat_map(of_part).collect()
    }

    /// When the next thing that failed has rested long enough.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        let times = [self.releases.retry_at(), self.artifacts.retry_at(), self.statics.retry_at()];
        times.into_iter().flatten().min()
    }
}

/// Gets a release from the fabric into the ledger.
pub(crate) async fn fetch_release(
    fabric: SharedFabric,
    ledger: Ledger,
    (app, id): ReleaseKey,
) -> Result<Arc<Release>, String> {
    let key = keys::release(&app, &id);
    let document =
        patiently(|| fabric.get(&key), |error| matches!(error, FabricError::Unreachable(_)))
            .await
            .map_err(|error| format!("release {id} can't be fetched: {}", Chain(&error)))?
            .ok_or_else(|| format!("release {id} of {app} is not stored"))?;
    let release: Release = document
        .parse()
        .map_err(|error| format!("release {id} can't be read: {}", Chain(&error)))?;
    if release.id != id || release.app.name != app {
        return Err(format!("what is stored as release {id} of {app} is another release"));
    }
    let record = Record { key, generation: document.generation, value: document.value.to_vec() };
    let written = tokio::task::spawn_blocking(move || ledger.write(&record)).await;
    match written.map_err(std::io::Error::other).flatten() {
        Ok(()) => Ok(Arc::new(release)),
        Err(error) => Err(format!("release {id} can't be written to the ledger: {error}")),
    }
}

/// Gets an artifact's files onto the machine.
pub(crate) async fn unpack(
    fabric: SharedFabric,
    store: Store,
    digest: Digest,
) -> Result<PathBuf, String> {
    patiently(|| store.ensure(&fabric, digest), crate::artifacts::StoreError::is_unreachable)
        .await
        .map_err(|error| format!("artifact {}: {}", digest.short(), Chain(&error)))
}

/// Indexes a static site's files.
pub(crate) async fn load_static(root: PathBuf) -> Result<Arc<StaticSite>, String> {
    let loaded = tokio::task::spawn_blocking(move || StaticSite::load(&root)).await;
    match loaded.map_err(std::io::Error::other).flatten() {
        Ok(site) => Ok(Arc::new(site)),
        Err(error) => Err(format!("the static files can't be read: {error}")),
    }
}

/// Tries until it succeeds or fails for another reason than a fabric that can't be reached.
async fn patiently<T, E, F>(
    mut attempt: impl FnMut() -> F,
    unreachable: impl Fn(&E) -> bool,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let (mut pause, most) = UNREACHABLE;
    loop {
        match attempt().await {
            Err(error) if unreachable(&error) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(most);
            }
            result => return result,
        }
    }
}
