//! The end of a pass: snapshots for the proxy and the DNS server, and the status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use selvedge_model::documents::{EpochReport, Installation, Probe};
use selvedge_model::pin::PinAuthority;
use selvedge_model::{AppReport, Digest, Epoch, EpochState, Generation, Host, hosts};
use selvedge_proxy::{AppView, EpochView, Snapshot, TlsPolicy};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::desired::{Desired, EpochKey, selected};
use crate::diff::state;
use crate::documents::{AppKey, Documents};
use crate::probe::{Asker, targets};
use crate::reconciler::{Event, Reconciler};
use crate::snapshot::{Form, active, app_view, floor, host_table};
use crate::status::Status;
use crate::tickets;

/// How long after a first bad answer the site asks itself again. Control repeats a failing probe for
/// a few seconds only before it takes the release for broken.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The longest pause between two questions; it doubles up to this.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(10);

/// What was published last.
#[derive(Default)]
pub(crate) struct Published {
    mark: Option<Mark>,
    zones: Option<BTreeMap<Host, Generation>>,
    views: BTreeMap<AppKey, PublishedApp>,
    /// What does not fit together, in words.
    problems: Vec<String>,
}

/// An app as the proxy has it.
struct PublishedApp {
    view: Arc<AppView>,
    activation: Option<Generation>,
}

/// The activation's generation, and the epochs with the addresses of their views.
type AppMark = (Option<Generation>, Vec<(Epoch, usize)>);

/// What tells two snapshots apart: equal marks, nothing to swap.
#[derive(PartialEq)]
struct Mark {
    apps: BTreeMap<AppKey, AppMark>,
    hosts: BTreeMap<Host, AppKey>,
    certificates: BTreeMap<Host, Digest>,
    pins: Option<Generation>,
    tickets: Option<Generation>,
}

/// The site's requests to itself, by app.
#[derive(Default)]
pub(crate) struct Probes {
    apps: BTreeMap<AppKey, AppProbe>,
    last_number: u64,
}

struct AppProbe {
    number: u64,
    /// What was asked about.
    about: (Epoch, Option<Generation>),
    task: AbortHandle,
    /// When the answer came; `None` while the question is under way.
    answered: Option<Instant>,
    /// The last answer, be it to an earlier question.
    last: Option<Probe>,
    /// How long to wait after a bad answer.
    pause: Duration,
}

impl AppProbe {
    /// A bad answer is asked for again after a while.
    fn retry_at(&self) -> Option<Instant> {
        let (at, probe) = (self.answered?, self.last.as_ref()?);
        let bad = probe.epoch != self.about.0 || !(1..500).contains(&probe.status);
        bad.then(|| at + self.pause)
    }

    /// The pause after the next question's answer: it grows while the same thing is asked about.
    fn next_pause(&self, about: (Epoch, Option<Generation>)) -> Duration {
        if self.about == about { (self.pause * 2).min(ASK_AGAIN_MAX) } else { ASK_AGAIN }
    }
}

impl Probes {
    /// Notes an answer, unless a newer question is under way.
    pub(crate) fn end(&mut self, app: &AppKey, number: u64, probe: Probe) {
        if let Some(state) = self.apps.get_mut(app)
            && state.number == number
        {
            tracing::info!(app = %app.0, epoch = %probe.epoch, status = probe.status, "probed: {}", probe.detail);
            state.answered = Some(Instant::now());
            state.last = Some(probe);
        }
    }

    /// When the next bad answer is old enough to ask again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.apps.values().filter_map(AppProbe::retry_at).min()
    }

    fn result(&self, app: &AppKey) -> Option<Probe> {
        self.apps.get(app)?.last.clone()
    }

    fn is_due(&self, app: &AppKey, about: (Epoch, Option<Generation>)) -> bool {
        self.apps.get(app).is_none_or(|state| {
            state.about != about || state.retry_at().is_some_and(|at| at <= Instant::now())
        })
    }
}

impl Reconciler {
    /// Swaps in what the proxy and the DNS server are to answer from, and asks the proxy what it
    /// makes of it.
    pub(crate) async fn publish(&mut self, documents: &Documents, desired: &Desired) {
        self.certificates.update(&documents.certificates);
        self.publish_zones(documents);
        self.drop_floors(documents).await;

        let shown: BTreeMap<EpochKey, Arc<EpochView>> =
            self.shown.iter().map(|(key, it)| (key.clone(), Arc::clone(&it.view))).collect();
        let apps: BTreeSet<&AppKey> =
            documents.assignments.keys().chain(self.shown.keys().map(|key| &key.app)).collect();
        let apps: BTreeSet<AppKey> = apps.into_iter().cloned().collect();
        self.published.views.retain(|app, _| apps.contains(app));
        for app in &apps {
            self.renew_view(app, documents, &shown).await;
        }
        let problems = self.swap(documents, desired);
        self.published.problems = problems;
        let installation = documents.installation.as_ref().map(|it| it.value.as_ref());
        self.ask(installation);
    }

    /// Works out an app's view. A newer epoch is answered with only when the ledger says that the
    /// older ones are over; until then the last view stays.
    async fn renew_view(
        &mut self,
        app: &AppKey,
        documents: &Documents,
        shown: &BTreeMap<EpochKey, Arc<EpochView>>,
    ) {
        let document = documents.activations.get(app);
        let activation = document.map(|it| Arc::clone(&it.value));
        let held = self.floors.get(app).copied();
        let mut view = app_view(app, activation.clone(), held, shown);
        let reached = floor(&self.setup.site, &view);
        if let Some(reached) = reached.filter(|reached| held.is_none_or(|held| *reached > held)) {
            if !self.write_floor(app, reached).await && self.published.views.contains_key(app) {
                return;
            }
            view = app_view(app, activation, Some(reached), shown);
        }
        let activation = document.map(|it| it.generation);
        self.published.views.insert(app.clone(), PublishedApp { view: Arc::new(view), activation });
    }

    fn swap(&mut self, documents: &Documents, desired: &Desired) -> Vec<String> {
        let forms = |app: &AppKey, published: &PublishedApp| -> Vec<Form<'_>> {
            let answering = active(&self.setup.site, &published.view);
            desired
                .epochs
                .iter()
                .filter(|(key, _)| &key.app == app)
                .filter_map(|(key, epoch)| {
                    let name = (app.0.clone(), epoch.release);
                    let release = self.resources.releases.ready(&name)?;
                    let answers = answering == Some(key.epoch);
                    let activated = published.activation.filter(|_| answers);
                    Some(Form { app: &release.app, activated })
                })
                .collect()
        };
        let installation = documents.installation.as_ref().map(|it| it.value.as_ref());
        let views = self.published.views.iter();
        let apps = views.map(|(app, it)| (Arc::clone(&it.view), forms(app, it)));
        let (hosts, problems) = host_table(apps, installation);
        let pins = documents.pin_keys.as_ref();
        let pins = pins.and_then(|keys| PinAuthority::new(&keys.value).ok());
        let key = |view: &AppView| (view.app.clone(), view.environment.clone());
        let epochs = |view: &AppView| {
            view.epochs.iter().map(|(epoch, it)| (*epoch, Arc::as_ptr(it) as usize)).collect()
        };
        let mark = Mark {
            apps: self
                .published
                .views
                .iter()
                .map(|(app, it)| (app.clone(), (it.activation, epochs(&it.view))))
                .collect(),
            hosts: hosts.iter().map(|(host, view)| (host.clone(), key(view))).collect(),
            certificates: self.certificates.fingerprints(),
            pins: documents.pin_keys.as_ref().map(|it| it.generation),
            tickets: documents.ticket_keys.as_ref().map(|it| it.generation),
        };
        if self.published.mark.as_ref() != Some(&mark) {
            self.published.mark = Some(mark);
            self.outputs.snapshot.send_replace(Arc::new(Snapshot {
                site: self.setup.site.clone(),
                pins,
                hosts,
                rest: None,
                certificates: self.certificates.keys(),
                default_certificate: None,
                tls: Arc::new(tls(documents)),
                explain: self.setup.explain,
                probe_key: Some(self.setup.probe_key.clone()),
            }));
        }
        problems
    }

    fn publish_zones(&mut self, documents: &Documents) {
        let generations: BTreeMap<Host, Generation> =
            documents.zones.iter().map(|(origin, it)| (origin.clone(), it.generation)).collect();
        if self.published.zones.as_ref() != Some(&generations) {
            self.published.zones = Some(generations);
            let zones = documents.zones.values().map(|it| Arc::clone(&it.value)).collect();
            self.outputs.dns.send_replace(Arc::new(selvedge_dns::Snapshot::new(zones)));
        }
    }

    /// Makes the site's own requests where the answering epoch or the activation is new.
    fn ask(&mut self, installation: Option<&Installation>) {
        let views = &self.published.views;
        self.probes.apps.retain(|app, state| {
            let kept = views.contains_key(app);
            if !kept {
                state.task.abort();
            }
            kept
        });
        for (app, published) in views {
            let Some(epoch) = active(&self.setup.site, &published.view) else { continue };
            let about = (epoch, published.activation);
            if !self.probes.is_due(app, about) {
                continue;
            }
            let Some(view) = published.view.epochs.get(&epoch) else { continue };
            let release = (app.0.clone(), view.release);
            let Some(release) = self.resources.releases.ready(&release) else { continue };
            let default_hosts =
                installation.map(|it| hosts::default_hosts(&app.0, it)).unwrap_or_default();
            let requests = targets(&release.app, &default_hosts);
            self.probes.last_number += 1;
            let (number, key) = (self.probes.last_number, app.clone());
            let asker = Asker { proxy: self.setup.proxy, key: self.setup.probe_key.clone() };
            let task = self.tasks.spawn(async move {
                Event::Probed(key, number, asker.probe(requests, epoch).await)
            });
            let earlier = self.probes.apps.remove(app);
            if let Some(earlier) = &earlier {
                earlier.task.abort();
            }
            let pause = earlier.as_ref().map_or(ASK_AGAIN, |it| it.next_pause(about));
            let last = earlier.and_then(|it| it.last);
            let asked = AppProbe { number, about, task, answered: None, last, pause };
            self.probes.apps.insert(app.clone(), asked);
        }
    }

    /// Says how everything is.
    pub(crate) fn publish_status(&mut self, documents: &Documents, desired: &Desired) {
        let actual = self.resources.actual(self.shown.keys().cloned().collect());
        let mut epochs: BTreeMap<AppKey, BTreeMap<Epoch, EpochReport>> = BTreeMap::new();
        for (key, draining) in &self.draining {
            let report = EpochReport { release: draining.release, state: EpochState::Draining };
            epochs.entry(key.app.clone()).or_default().insert(key.epoch, report);
        }
        for (key, epoch) in &desired.epochs {
            let report = EpochReport { release: epoch.release, state: state(key, epoch, &actual) };
            epochs.entry(key.app.clone()).or_default().insert(key.epoch, report);
        }
        let mut settled = true;
        let mut apps = BTreeMap::new();
        for (app, epochs) in epochs {
            let published = self.published.views.get(&app);
            let activation = published.and_then(|it| it.view.activation.as_deref());
            settled &= selected(&self.setup.site, activation)
                .filter_map(|epoch| epochs.get(&epoch))
                .all(|it| !matches!(it.state, EpochState::Fetching | EpochState::Starting));
            let active = published.and_then(|it| active(&self.setup.site, &it.view));
            let served =
                active.and_then(|epoch| desired.epochs.get(&EpochKey { app: app.clone(), epoch }));
            let report = AppReport {
                app: app.0.clone(),
                environment: app.1.clone(),
                site: self.setup.site.clone(),
                assignment: documents.assignments.get(&app).map(|it| it.generation),
                activation: published.and_then(|it| it.activation),
                epochs,
                active,
                probe: self.probes.result(&app),
                warnings: served.map(|it| self.resources.warnings(it)).unwrap_or_default(),
            };
            apps.insert(app, report);
        }
        let status = Status {
            apps,
            certificates: self.certificates.fingerprints(),
            zones: self.published.zones.clone().unwrap_or_default(),
            ticket_keys: self.published.mark.as_ref().and_then(|it| it.tickets),
            problems: self.problems(documents),
            settled,
        };
        let before = self.outputs.status.borrow().clone();
        if *before != status {
            for event in crate::events::between(&before, &status) {
                self.setup.log.event(event);
            }
            self.outputs.status.send_replace(Arc::new(status));
        }
    }

    fn problems(&self, documents: &Documents) -> Vec<String> {
        let site = &self.setup.site;
        let unknown =
            documents.topology.as_ref().is_some_and(|it| !it.value.sites.contains_key(site)).then(
                || format!("{site} is not a site of this installation, so nothing is placed here"),
            );
        self.setup
            .problems
            .iter()
            .chain(documents.refused.values())
            .chain(self.disk.values())
            .chain(&self.published.problems)
            .cloned()
            .chain(unknown)
            .chain(self.setup.log.journal().problem().borrow().clone())
            .collect()
    }
}

/// Without shared keys the proxy makes its own.
fn tls(documents: &Documents) -> TlsPolicy {
    let document = documents.ticket_keys.as_ref();
    let ticket_keys = document.and_then(|it| tickets::keys(&it.value).ok()).unwrap_or_default();
    TlsPolicy { ticket_keys, ..TlsPolicy::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bad_answer_is_asked_for_again_soon_and_then_less_often() {
        let about = (Epoch::new(1, 2), None);
        let task = tokio::spawn(async {}).abort_handle();
        let mut probe =
            AppProbe { number: 1, about, task, answered: None, last: None, pause: ASK_AGAIN };
        assert_eq!(probe.retry_at(), None, "the question is under way");
        let at = Instant::now();
        probe.answered = Some(at);
        let answer = |number, status| {
            let (epoch, detail) = (Epoch::new(1, number), String::new());
            Some(Probe { epoch, status, detail, at_ms: 0 })
        };
        for (number, status) in [(2, 500), (2, 0), (1, 200)] {
            probe.last = answer(number, status);
            assert_eq!(probe.retry_at(), Some(at + Duration::from_millis(250)));
        }
        probe.last = answer(2, 404);
        assert_eq!(probe.retry_at(), None, "a good answer stands");

        let mut pauses = Vec::new();
        while pauses.last() != Some(&10_000) {
            probe.pause = probe.next_pause(about);
            pauses.push(probe.pause.as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 10_000]);
        assert_eq!(probe.next_pause(about), ASK_AGAIN_MAX);
        assert_eq!(probe.next_pause((Epoch::new(1, 3), None)), ASK_AGAIN, "a new question");
    }
}
