//! Played sites: they report what their documents ask for. What goes wrong is asked for by the
//! subject of the released commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use selvedge_fabric::{Change, Expect, SharedFabric, Typed};
use selvedge_model::documents::{EpochReport, Probe};
use selvedge_model::{
    Activation, AppName, AppReport, Assignment, EnvironmentName, Epoch, EpochState, Release,
    SiteId, keys,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A commit whose release fails to start.
pub(crate) const CRASHES: &str = "crashes at start";
/// A commit whose release answers with 500.
pub(crate) const ANSWERS_500: &str = "answers 500";
/// A commit whose release answers with 500 while the sites are held.
pub(crate) const FAILS_LATER: &str = "fails later";
/// A commit whose release is not ready while the sites are held.
pub(crate) const SLOW_START: &str = "slow start";
/// A commit whose release does not switch over while the sites are held.
pub(crate) const SLOW_SWITCH: &str = "slow switch";

pub(crate) struct Sites {
    /// Whether slow releases are to wait.
    pub(crate) held: watch::Sender<bool>,
    _stop: tokio_util::sync::DropGuard,
}

impl Sites {
    pub(crate) fn start(fabric: &SharedFabric, ids: &[SiteId]) -> Self {
        let token = CancellationToken::new();
        let held = watch::Sender::new(false);
        for id in ids {
            let site = Site { id: id.clone(), fabric: Arc::clone(fabric), held: held.subscribe() };
            tokio::spawn(token.clone().run_until_cancelled_owned(site.run()));
        }
        Self { held, _stop: token.drop_guard() }
    }
}

struct Site {
    id: SiteId,
    fabric: SharedFabric,
    held: watch::Receiver<bool>,
}

impl Site {
    async fn run(mut self) {
        let mut assigned = self.fabric.watch(&keys::assignments(&self.id), None).await.unwrap();
        let mut activated = self.fabric.watch(keys::ACTIVATIONS, None).await.unwrap();
        let mut assignments: BTreeMap<AppName, Assignment> = BTreeMap::new();
        let mut activations: BTreeMap<AppName, Activation> = BTreeMap::new();
        let mut renew = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                _ = renew.tick() => {
                    let name = keys::site_lease(&self.id);
                    self.fabric.lease(&name, "a", Duration::from_secs(3)).await.unwrap();
                    continue;
                }
                change = assigned.next() => match change.unwrap() {
                    Change::Put(document) => {
                        let assignment: Assignment = document.parse().unwrap();
                        assignments.insert(assignment.app.clone(), assignment);
                    }
                    Change::Delete { key, .. } => {
                        let app = AppName::new(key.split('/').nth(2).unwrap()).unwrap();
                        assignments.remove(&app);
                        let environment = EnvironmentName::production();
                        let key = keys::app_report(&self.id, &app, &environment);
                        self.fabric.delete(&key, Expect::Any).await.unwrap();
                    }
                    _ => {}
                },
                change = activated.next() => match change.unwrap() {
                    Change::Put(document) => {
                        let activation: Activation = document.parse().unwrap();
                        activations.insert(activation.group.clone(), activation);
                    }
                    Change::Delete { key, .. } => {
                        let app = AppName::new(key.split('/').nth(1).unwrap()).unwrap();
                        activations.remove(&app);
                    }
                    _ => {}
                },
                _ = self.held.changed() => {}
            }
            for assignment in assignments.values() {
                self.report(assignment, activations.get(&assignment.app)).await;
            }
        }
    }

    async fn report(&self, assignment: &Assignment, activation: Option<&Activation>) {
        let held = *self.held.borrow();
        let mut epochs = BTreeMap::new();
        let mut subjects: BTreeMap<Epoch, String> = BTreeMap::new();
        for entry in &assignment.entries {
            let key = keys::release(&assignment.app, &entry.release);
            let release: Option<(_, Release)> = Typed(&*self.fabric).get(&key).await.unwrap();
            // Collected meanwhile: the next assignment says so.
            let Some((_, release)) = release else { return };
            for artifact in release.artifacts.values() {
                assert!(self.fabric.has_blob(&artifact.digest).await.unwrap());
            }
            let state = if release.subject == CRASHES {
                EpochState::Failed {
                    service: None,
                    reason: "it ended with exit code 3".to_owned(),
                    last_lines: vec!["no such module".to_owned()],
                }
            } else if held && release.subject == SLOW_START {
                EpochState::Starting
            } else {
                EpochState::Warm
            };
            subjects.insert(entry.epoch, release.subject);
            epochs.insert(entry.epoch, EpochReport { release: entry.release, state });
        }
        let is_warm =
            |epoch: &Epoch| epochs.get(epoch).is_some_and(|it| it.state == EpochState::Warm);
        let waits = |epoch: &Epoch| held && subjects.get(epoch).is_some_and(|it| it == SLOW_SWITCH);
        let active =
            activation.and_then(Activation::newest).filter(|epoch| is_warm(epoch) && !waits(epoch));
        let fails = |subject: &str| subject == ANSWERS_500 || held && subject == FAILS_LATER;
        let probe = active.map(|epoch| Probe {
            epoch,
            status: if fails(&subjects[&epoch]) { 500 } else { 200 },
            detail: "GET /".to_owned(),
            at_ms: 0,
        });
        let report = AppReport {
            app: assignment.app.clone(),
            environment: assignment.environment.clone(),
            site: self.id.clone(),
            assignment: None,
            activation: None,
            epochs,
            active,
            probe,
            warnings: Vec::new(),
        };
        let key = keys::app_report(&self.id, &assignment.app, &assignment.environment);
        Typed(&*self.fabric).put(&key, &report, Expect::Any).await.unwrap();
    }
}
