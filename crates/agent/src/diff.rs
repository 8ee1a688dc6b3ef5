//! The difference between what a site is to have and what it has, as steps. Pure: the reconciler
//! carries the steps out and asks again.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::{Artifact, Digest, EpochState, ServiceName};
use selvedge_runtime::WorkloadState;

use crate::desired::{
    Content, Desired, DesiredEpoch, EpochKey, Part, ReleaseKey, UpstreamId, UpstreamPlan,
    WorkloadId, WorkloadPlan,
};

/// How far something that takes time is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Under way. `failure` is how the last attempt ended, if there was one.
    Working {
        failure: Option<String>,
    },
    Ready,
    /// `retry`: it has rested long enough to be tried again.
    Failed {
        reason: String,
        retry: bool,
    },
}

/// How many of a workload's last lines a report carries, and how much of each: reports are
/// documents and have a document's limit.
const REPORT_LINES: usize = 40;
const REPORT_LINE_CHARS: usize = 400;

/// What a site has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Actual {
    pub(crate) releases: BTreeMap<ReleaseKey, Progress>,
    pub(crate) artifacts: BTreeMap<Digest, Progress>,
    pub(crate) statics: BTreeMap<Digest, Progress>,
    pub(crate) workloads: BTreeMap<WorkloadId, WorkloadState>,
    pub(crate) upstreams: BTreeSet<UpstreamId>,
    /// The epochs that the proxy can answer with.
    pub(crate) shown: BTreeSet<EpochKey>,
}

/// Something to do. Steps that take away come after the proxy has let go of what they take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    FetchRelease(ReleaseKey),
    Unpack(Artifact),
    LoadStatic(Digest),
    Start(WorkloadId, Box<WorkloadPlan>),
    Reach(UpstreamId, Box<UpstreamPlan>),
    Show(EpochKey),
    Retire(EpochKey),
    Stop(WorkloadId),
    Leave(UpstreamId),
    DropStatic(Digest),
    DropArtifact(Digest),
    ForgetRelease(ReleaseKey),
}

impl Step {
    /// Whether the step takes away what requests may still be using.
    pub(crate) fn takes_away(&self) -> bool {
        matches!(
            self,
            Self::Stop(_)
                | Self::Leave(_)
                | Self::DropStatic(_)
                | Self::DropArtifact(_)
                | Self::ForgetRelease(_)
        )
    }
}

/// The steps from `actual` towards `desired`. Empty when there is nothing to do but wait.
pub(crate) fn diff(desired: &Desired, actual: &Actual) -> Vec<Step> {
    let (releases, artifacts) = (desired.releases(), desired.artifacts());
    let (statics, workloads) = (desired.statics(), desired.workloads());
    let upstreams = desired.upstreams();
    let unpacked = |digest: &Digest| actual.artifacts.get(digest) == Some(&Progress::Ready);
    let mut steps = Vec::new();

    for key in &releases {
        if to_begin(actual.releases.get(key)) {
            steps.push(Step::FetchRelease(key.clone()));
        }
    }
    for (digest, artifact) in &artifacts {
        if to_begin(actual.artifacts.get(digest)) {
            steps.push(Step::Unpack((*artifact).clone()));
        }
    }
    for digest in &statics {
        if unpacked(digest) && to_begin(actual.statics.get(digest)) {
            steps.push(Step::LoadStatic(*digest));
        }
    }
    for (id, plan) in &workloads {
        if unpacked(&plan.artifact.digest) && !actual.workloads.contains_key(id) {
            steps.push(Step::Start(*id, Box::new((*plan).clone())));
        }
    }
    for (id, plan) in &upstreams {
        if !actual.upstreams.contains(id) {
            steps.push(Step::Reach(*id, Box::new((*plan).clone())));
        }
    }
    for (key, epoch) in &desired.epochs {
        if !actual.shown.contains(key) && state(key, epoch, actual) == EpochState::Warm {
            steps.push(Step::Show(key.clone()));
        }
    }

    let gone = actual.shown.iter().filter(|key| !desired.epochs.contains_key(key));
    steps.extend(gone.cloned().map(Step::Retire));
    let gone = actual.workloads.keys().filter(|id| !workloads.contains_key(id));
    steps.extend(gone.copied().map(Step::Stop));
    let gone = actual.upstreams.iter().filter(|id| !upstreams.contains_key(id));
    steps.extend(gone.copied().map(Step::Leave));
    let gone = actual.statics.keys().filter(|digest| !statics.contains(digest));
    steps.extend(gone.copied().map(Step::DropStatic));
    let gone = actual.artifacts.keys().filter(|digest| !artifacts.contains_key(digest));
    steps.extend(gone.copied().map(Step::DropArtifact));
    let gone = actual.releases.keys().filter(|key| !releases.contains(key));
    steps.extend(gone.cloned().map(Step::ForgetRelease));
    steps
}

fn to_begin(progress: Option<&Progress>) -> bool {
    matches!(progress, None | Some(Progress::Failed { retry: true, .. }))
}

/// How far the site is with an epoch that it is to have.
pub(crate) fn state(key: &EpochKey, epoch: &DesiredEpoch, actual: &Actual) -> EpochState {
    let parts = match &epoch.content {
        Content::Impossible { service, reason } => {
            return failed(Some(service), reason.clone(), Vec::new());
        }
        Content::Unknown => {
            let release = actual.releases.get(&(key.app.0.clone(), epoch.release));
            return match failure(release) {
                Some(reason) => failed(None, reason.to_owned(), Vec::new()),
                None => EpochState::Fetching,
            };
        }
        Content::Known(parts) => parts,
    };
    let mut state = EpochState::Warm;
    for (service, part) in parts {
        state = worse(state, part_state(key, service, part, actual));
    }
    state
}

fn part_state(key: &EpochKey, service: &ServiceName, part: &Part, actual: &Actual) -> EpochState {
    if let Part::Upstream(plan) = part {
        // Whether it answers is not the release's doing: a warning says so, and nothing waits.
        return match actual.upstreams.contains(&plan.id()) {
            true => EpochState::Warm,
            false => EpochState::Starting,
        };
    }
    let artifact = part.artifact();
    let mut needed: Vec<_> =
        artifact.map(|it| actual.artifacts.get(&it.digest)).into_iter().collect();
    if let Part::Static(artifact, _) = part {
        needed.push(actual.statics.get(&artifact.digest));
    }
    for progress in needed {
        if let Some(reason) = failure(progress) {
            return failed(Some(service), reason.to_owned(), Vec::new());
        }
        if progress != Some(&Progress::Ready) {
            return EpochState::Fetching;
        }
    }
    let Part::Process(plan) = part else { return EpochState::Warm };
    let shown = actual.shown.contains(key);
    match actual.workloads.get(&plan.id()) {
        Some(WorkloadState::Ready) => EpochState::Warm,
        Some(WorkloadState::CrashLoop { reason, last_lines }) if !shown => {
            failed(Some(service), reason.clone(), tail(last_lines))
        }
        Some(
            WorkloadState::CrashLoop { reason, last_lines }
            | WorkloadState::BackingOff { reason, last_lines, .. },
        ) if shown => EpochState::Degraded {
            service: service.clone(),
            reason: reason.clone(),
            last_lines: tail(last_lines),
        },
        _ if shown => EpochState::Degraded {
            service: service.clone(),
            reason: "it is being started again".to_owned(),
            last_lines: Vec::new(),
        },
        _ => EpochState::Starting,
    }
}

pub(crate) fn tail(lines: &[String]) -> Vec<String> {
    let skipped = lines.len().saturating_sub(REPORT_LINES);
    lines.iter().skip(skipped).map(|it| it.chars().take(REPORT_LINE_CHARS).collect()).collect()
}

fn failure(progress: Option<&Progress>) -> Option<&str> {
    match progress {
        Some(Progress::Failed { reason, .. }) => Some(reason),
        Some(Progress::Working { failure }) => failure.as_deref(),
        _ => None,
    }
}

fn failed(service: Option<&ServiceName>, reason: String, last_lines: Vec<String>) -> EpochState {
    EpochState::Failed { service: service.cloned(), reason, last_lines }
}

/// An epoch is as far as the least of its services; of two failures the first one counts.
fn worse(a: EpochState, b: EpochState) -> EpochState {
    let rank = |state: &EpochState| match state {
        EpochState::Failed { .. } => 0,
        EpochState::Fetching => 1,
        EpochState::Starting => 2,
        EpochState::Degraded { .. } => 3,
        EpochState::Warm | EpochState::Draining => 4,
    };
    if rank(&b) < rank(&a) { b } else { a }
}

#[cfg(test)]
mod tests;
