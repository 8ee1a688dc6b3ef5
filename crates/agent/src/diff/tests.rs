use selvedge_model::{AppName, EnvironmentName, Epoch, ReleaseId};

use super::*;

fn key(number: u64) -> EpochKey {
    EpochKey {
        app: (AppName::new("shop").unwrap(), EnvironmentName::production()),
        epoch: Epoch::new(1, number),
    }
}

fn artifact(name: &str) -> Artifact {
    Artifact { digest: Digest::of(name.as_bytes()), size: 1 }
}

fn plan(name: &str, release: &str) -> WorkloadPlan {
    WorkloadPlan {
        name: "fra/shop/production/api".into(),
        tenant: "shop".into(),
        label: crate::log::Label {
            app: AppName::new("shop").unwrap(),
            environment: EnvironmentName::production(),
            service: ServiceName::new("api").unwrap(),
            release: release.into(),
        },
        artifact: artifact(name),
        command: "serve".into(),
        environment: BTreeMap::from([("SELVEDGE_RELEASE".into(), release.into())]),
        health: None,
        start_timeout_s: 1,
        stop_timeout_s: 1,
        memory_mib: 64,
        limits: selvedge_model::manifest::ProcessLimits::default(),
    }
}

fn release(name: &str) -> ReleaseId {
    ReleaseId(Digest::of(name.as_bytes()))
}

/// A front and an API, as they are in release `name`.
fn storefront(name: &str, api: &WorkloadPlan) -> DesiredEpoch {
    let parts = BTreeMap::from([
        (ServiceName::new("web").unwrap(), Part::Static(artifact(&format!("web-{name}")), None)),
        (ServiceName::new("api").unwrap(), Part::Process(Box::new(api.clone()))),
    ]);
    DesiredEpoch { release: release(name), content: Content::Known(parts) }
}

fn desired(epochs: &[(u64, DesiredEpoch)]) -> Desired {
    Desired { epochs: epochs.iter().map(|(n, epoch)| (key(*n), epoch.clone())).collect() }
}

/// Carries steps out at once, as a machine on which everything works.
fn apply(steps: &[Step], actual: &mut Actual) {
    for step in steps {
        match step.clone() {
            Step::Reach(id, _) => drop(actual.upstreams.insert(id)),
            Step::Leave(id) => drop(actual.upstreams.remove(&id)),
            Step::FetchRelease(key) => drop(actual.releases.insert(key, Progress::Ready)),
            Step::Unpack(it) => drop(actual.artifacts.insert(it.digest, Progress::Ready)),
            Step::LoadStatic(digest) => drop(actual.statics.insert(digest, Progress::Ready)),
            Step::Start(id, _) => drop(actual.workloads.insert(id, WorkloadState::Ready)),
            Step::Show(key) => drop(actual.shown.insert(key)),
            Step::Retire(key) => drop(actual.shown.remove(&key)),
            Step::Stop(id) => drop(actual.workloads.remove(&id)),
            Step::DropStatic(digest) => drop(actual.statics.remove(&digest)),
            Step::DropArtifact(digest) => drop(actual.artifacts.remove(&digest)),
            Step::ForgetRelease(key) => drop(actual.releases.remove(&key)),
        }
    }
}

/// Applies steps until there are none, and returns all of them.
fn settle(desired: &Desired, actual: &mut Actual) -> Vec<Step> {
    let mut all = Vec::new();
    for _ in 0..10 {
        let steps = diff(desired, actual);
        if steps.is_empty() {
            return all;
        }
        apply(&steps, actual);
        all.extend(steps);
    }
    panic!("no end of steps: {all:?}");
}

#[test]
fn an_epoch_is_shown_when_all_of_it_is_there_and_leaves_nothing_behind() {
    let mut actual = Actual::default();
    let one = desired(&[(1, storefront("a", &plan("api", "a")))]);
    let first = diff(&one, &actual);
    assert!(first.iter().all(|it| matches!(it, Step::FetchRelease(_) | Step::Unpack(_))));
    settle(&one, &mut actual);
    assert_eq!(actual.shown, BTreeSet::from([key(1)]));
    assert_eq!((actual.artifacts.len(), actual.statics.len(), actual.workloads.len()), (2, 1, 1));

    let steps = settle(&Desired::default(), &mut actual);
    assert_eq!(actual, Actual::default());
    let retire = steps.iter().position(|it| matches!(it, Step::Retire(_))).unwrap();
    assert!(steps.iter().take(retire).all(|it| !it.takes_away()));
}

#[test]
fn an_unchanged_workload_goes_on_into_the_next_epoch() {
    let mut actual = Actual::default();
    let same = plan("api", "a");
    settle(&desired(&[(1, storefront("a", &same))]), &mut actual);
    let both = desired(&[(1, storefront("a", &same)), (3, storefront("a", &same))]);
    assert_eq!(settle(&both, &mut actual), [Step::Show(key(3))]);
    let only = desired(&[(3, storefront("a", &same))]);
    assert_eq!(settle(&only, &mut actual), [Step::Retire(key(1))]);
    assert_eq!(actual.workloads.len(), 1);
}

#[test]
fn a_new_release_starts_beside_the_old_one() {
    let mut actual = Actual::default();
    let (old, new) = (plan("api", "a"), plan("api", "b"));
    settle(&desired(&[(1, storefront("a", &old))]), &mut actual);
    let both = desired(&[(1, storefront("a", &old)), (2, storefront("b", &new))]);
    settle(&both, &mut actual);
    assert_eq!(actual.workloads.len(), 2);
    let steps = settle(&desired(&[(2, storefront("b", &new))]), &mut actual);
    assert!(steps.contains(&Step::Stop(old.id())));
    assert!(!steps.contains(&Step::DropArtifact(old.artifact.digest)), "the new one uses it");
}

#[test]
fn states_tell_warming_failure_and_degradation_apart() {
    let mut actual = Actual::default();
    let api = plan("api", "a");
    let epoch = storefront("a", &api);
    let all = desired(&[(1, epoch.clone())]);
    let unknown = DesiredEpoch { content: Content::Unknown, ..epoch.clone() };
    assert_eq!(state(&key(1), &unknown, &actual), EpochState::Fetching);
    assert_eq!(state(&key(1), &epoch, &actual), EpochState::Fetching);

    apply(&diff(&all, &actual), &mut actual);
    let front = artifact("web-a").digest;
    let broken = Progress::Failed { reason: "damaged".into(), retry: false };
    actual.artifacts.insert(front, broken);
    let says = |actual: &Actual| match state(&key(1), &epoch, actual) {
        EpochState::Failed { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(says(&actual), "damaged");
    assert!(!diff(&all, &actual).contains(&Step::Unpack(artifact("web-a"))));
    let rested = Progress::Failed { reason: "damaged".into(), retry: true };
    actual.artifacts.insert(front, rested);
    assert!(diff(&all, &actual).contains(&Step::Unpack(artifact("web-a"))));
    actual.artifacts.insert(front, Progress::Working { failure: Some("damaged".into()) });
    assert_eq!(says(&actual), "damaged");

    actual.artifacts.insert(front, Progress::Ready);
    actual.statics.insert(front, Progress::Ready);
    assert_eq!(state(&key(1), &epoch, &actual), EpochState::Starting);
    let crash = WorkloadState::CrashLoop { reason: "exit 1".into(), last_lines: vec!["no".into()] };
    actual.workloads.insert(api.id(), crash);
    assert_eq!(says(&actual), "exit 1");
    actual.shown.insert(key(1));
    assert!(matches!(state(&key(1), &epoch, &actual), EpochState::Degraded { .. }));
    assert_eq!(diff(&all, &actual), [], "a degraded epoch stays shown");
    actual.workloads.insert(api.id(), WorkloadState::Ready);
    assert_eq!(state(&key(1), &epoch, &actual), EpochState::Warm);
}
