//! The stages that wait for sites: *warm* and *verify*. What to write and what to make of the
//! sites' reports is decided by `plan::rollout`; this keeps its input up to date and acts on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use selvedge_api::{PushEvent, SiteProgress};
use selvedge_fabric::{Change, FabricError, Lease, Step, Watch};
use selvedge_model::{
    Activation, AppName, AppReport, Assignment, EnvironmentName, Release, ServiceKind, SiteId,
    Stage, keys,
};
use selvedge_plan::rollout::{self, Failure, Lack, Target, Verdict};
use tokio::sync::watch;

use super::Shared;
use super::place::count;
use super::run::{Refusal, Run, broken};
use crate::now_ms;
use crate::running::{LOOK, RunningTime};
use crate::world::Slot;

/// An app on its way to its sites.
pub(super) struct Rollout {
    pub(super) release: Release,
    pub(super) target: Target,
    pub(super) sites: BTreeSet<SiteId>,
    warm: BTreeSet<SiteId>,
    assignments: BTreeMap<SiteId, Assignment>,
    activation: Option<Activation>,
}

impl Rollout {
    pub(super) fn app(&self) -> &AppName {
        &self.release.app.name
    }
}

/// Why a roll-out did not succeed.
pub(super) enum Stop {
    /// The release does not work at a site.
    Failed(AppName, Failure),
    /// Control itself does not work.
    Broken(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Broken(refusal)
    }
}

impl Stop {
    pub(super) fn into_refusal(self) -> Refusal {
        match self {
            Self::Broken(refusal) => refusal,
            Self::Failed(app, failure) => words(&app, failure),
        }
    }
}

/// A site's failure as the pusher reads it.
fn words(app: &AppName, failure: Failure) -> Refusal {
    let mut reason = app.to_string();
    if let Some(service) = &failure.service {
        reason.push_str(&format!(", service {service}"));
    }
    if let Some(site) = &failure.site {
        reason.push_str(&format!(", at {site}"));
    }
    if failure.other_sites > 0 {
        reason.push_str(&format!(" and {}", count(failure.other_sites, "other site")));
    }
    Refusal { reason: format!("{reason}: {}", failure.reason), last_lines: failure.last_lines }
}

/// What sites say, as it comes.
struct Sightings {
    watch: Watch,
    leases: watch::Receiver<Vec<Lease>>,
    reports: BTreeMap<AppName, BTreeMap<SiteId, AppReport>>,
}

impl Sightings {
    async fn open(shared: &Shared) -> Result<Self, FabricError> {
        let watch = shared.store.0.watch(keys::APP_REPORTS, None).await?;
        let leases = shared.store.0.watch_leases(keys::SITE_LEASES).await?;
        let mut sightings = Self { watch, leases, reports: BTreeMap::new() };
        while let Some(change) = sightings.watch.next().await {
            if matches!(change, Change::Current(_)) {
                break;
            }
            sightings.take(change);
        }
        Ok(sightings)
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Put(document) => match document.parse::<AppReport>() {
                Ok(report) => {
                    let of_app = self.reports.entry(report.app.clone()).or_default();
                    of_app.insert(report.site.clone(), report);
                }
                Err(error) => tracing::warn!(%error, "a site's report can't be read"),
            },
            Change::Delete { key, .. } => {
                if let Some(Slot::AppReport(site, app, _)) = Slot::of(&key)
                    && let Some(of_app) = self.reports.get_mut(&app)
                {
                    of_app.remove(&site);
                }
            }
            Change::Reset => self.reports.clear(),
            Change::Current(_) => {}
        }
    }

    fn leased(&mut self) -> BTreeSet<SiteId> {
        self.leases
            .borrow_and_update()
            .iter()
            .filter_map(|lease| keys::leased_site(&lease.name))
            .collect()
    }

    /// Waits for anything new, at most `limit`. What comes together is taken together.
    async fn changed(&mut self, limit: Duration) {
        tokio::select! {
            change = self.watch.next() => match change {
                Some(change) => self.take(change),
                None => tokio::time::sleep(limit).await,
            },
            changed = self.leases.changed() => if changed.is_err() {
                tokio::time::sleep(limit).await;
            },
            () = tokio::time::sleep(limit) => {}
        }
        while let Some(Some(change)) = self.watch.next().now_or_never() {
            self.take(change);
        }
    }
}

/// The sites where each app is warm, or live.
type Reached = BTreeMap<AppName, BTreeSet<SiteId>>;

/// `8 sites`, or `7 of 8 sites, without nyc`.
fn reached(rollouts: &[Rollout], reached: &Reached) -> String {
    let planned: BTreeSet<_> = rollouts.iter().flat_map(|it| &it.sites).collect();
    if planned.is_empty() {
        return "nothing changes".to_owned();
    }
    let lacks = |site: &SiteId, it: &Rollout| {
        it.sites.contains(site) && !reached.get(it.app()).is_some_and(|sites| sites.contains(site))
    };
    let away: Vec<_> = planned
        .iter()
        .filter(|site| rollouts.iter().any(|it| lacks(site, it)))
        .map(|site| site.as_str())
        .collect();
    if away.is_empty() {
        return count(planned.len(), "site");
    }
    let here = planned.len() - away.len();
    format!("{here} of {}, without {}", count(planned.len(), "site"), away.join(", "))
}

/// The bounds of a phase, in time that this process runs.
struct Phase {
    done: fn(&Verdict) -> bool,
    reached: SiteProgress,
    deadline_ms: u64,
    probe_retry_until_ms: u64,
}

impl Run {
    /// What the push changes, from its record alone.
    pub(super) async fn rollouts(&self) -> Result<Vec<Rollout>, Refusal> {
        let mut rollouts = Vec::new();
        for planned in &self.push.apps {
            let Some(epoch) = planned.epoch else { continue };
            let failed = "read what is released";
            let key = keys::release(&planned.app, &planned.release);
            let release: Option<Release> =
                self.shared.store.get(&key).await.map_err(broken(failed))?;
            let release = release.ok_or_else(|| {
                Refusal::new(format!(
                    "release {} of {} is not stored",
                    planned.release.0.short(),
                    planned.app
                ))
            })?;
            let services = release.app.services.iter().map(|service| service.name.clone());
            let target = Target { epoch, release: planned.release, services: services.collect() };
            let assignments = self.shared.assignments(&planned.app).await?;
            let key = keys::activation(&planned.app, &EnvironmentName::production());
            let activation = self.shared.store.get(&key).await.map_err(broken(failed))?;
            let (sites, warm) = (planned.sites.clone(), planned.warm.clone());
            rollouts.push(Rollout { release, target, sites, warm, assignments, activation });
        }
        Ok(rollouts)
    }

    /// Has every site fetch and start what is new.
    pub(super) async fn warm(&mut self) -> Result<(), Refusal> {
        self.begin(Stage::Warm).await?;
        let mut rollouts = self.rollouts().await?;
        let starting = rollouts.iter().map(|it| start_timeout(&it.release)).max();
        let limit = self.shared.limits.fetch + starting.unwrap_or_default();
        let phase = Phase {
            done: |verdict| *verdict == Verdict::ReadyToActivate,
            reached: SiteProgress::Warm,
            deadline_ms: millis(limit),
            probe_retry_until_ms: 0,
        };
        let mut warm = self.follow(&mut rollouts, &phase).await.map_err(Stop::into_refusal)?;
        let note = reached(&rollouts, &warm);
        // Recorded with the commit: a restarted control judges by it too.
        for planned in &mut self.push.apps {
            planned.warm = warm.remove(&planned.app).unwrap_or_default();
        }
        self.end(Some(note));
        Ok(())
    }

    /// Waits until every site serves what was activated. Returns the stage's note.
    pub(super) async fn verify(&mut self, rollouts: &mut [Rollout]) -> Result<String, Stop> {
        let limits = &self.shared.limits;
        let phase = Phase {
            done: |verdict| *verdict == Verdict::Live,
            reached: SiteProgress::Live,
            deadline_ms: millis(limits.verify),
            probe_retry_until_ms: millis(limits.probe_retry),
        };
        let live = self.follow(rollouts, &phase).await?;
        Ok(reached(rollouts, &live))
    }

    /// Acts on the planner's verdicts until all roll-outs are done or one has failed. Returns the
    /// sites where each app has got as far.
    async fn follow(&self, rollouts: &mut [Rollout], phase: &Phase) -> Result<Reached, Stop> {
        let shared = &self.shared;
        let (mut shown, mut warned) = (BTreeMap::new(), BTreeSet::new());
        let mut sightings = Sightings::open(shared).await.map_err(broken("watch the sites"))?;
        let environment = EnvironmentName::production();
        let none = BTreeMap::new();
        let mut time = RunningTime::start(Instant::now());
        loop {
            let leased = sightings.leased();
            let now = millis(time.look(Instant::now()));
            let mut all_done = true;
            let mut reached = Reached::new();
            let settled = self.settles_in(&time).is_zero()
                || rollouts.iter().all(|rollout| rollout.sites.is_subset(&leased));
            for rollout in rollouts.iter_mut() {
                let app = rollout.app().clone();
                let (plan, report) = rollout::plan(&rollout::Input {
                    app: &app,
                    environment: &environment,
                    target: &rollout.target,
                    sites: &rollout.sites,
                    assignments: &rollout.assignments,
                    activation: rollout.activation.as_ref(),
                    leased: &leased,
                    warm_at_commit: &rollout.warm,
                    reports: sightings.reports.get(&app).unwrap_or(&none),
                    now_ms: now,
                    deadline_ms: phase.deadline_ms,
                    probe_retry_until_ms: phase.probe_retry_until_ms,
                });
                self.show(&app, &report, &phase.reached, &mut shown);
                self.warn(rollout, sightings.reports.get(&app).unwrap_or(&none), &mut warned);
                write(shared, rollout, plan.assignments).await?;
                if let Verdict::Failed(failure) = plan.verdict {
                    return Err(Stop::Failed(app, failure));
                }
                all_done &= (phase.done)(&plan.verdict);
                let done = report.sites.into_iter();
                let done = done.filter(|(_, progress)| *progress == rollout::Progress::Done);
                reached.insert(app, done.map(|(site, _)| site).collect());
            }
            if all_done && settled {
                return Ok(reached);
            }
            sightings.changed(self.patience(phase, now, &time)).await;
        }
    }

    /// How long sites that were there have to take their leases anew: after a start of control, and
    /// after everything was stopped.
    fn settles_in(&self, time: &RunningTime) -> Duration {
        let settle = self.shared.limits.settle;
        let since = self.shared.started.elapsed();
        settle.saturating_sub(time.since_resumed().map_or(since, |resumed| resumed.min(since)))
    }

    /// How long nothing new may come before time itself changes the verdict.
    fn patience(&self, phase: &Phase, now: u64, time: &RunningTime) -> Duration {
        let moments = [phase.deadline_ms, phase.probe_retry_until_ms];
        let ahead = moments.into_iter().filter(|moment| *moment > now);
        let ahead = ahead.map(|moment| Duration::from_millis(moment - now));
        let settles = Some(self.settles_in(time)).filter(|rest| !rest.is_zero());
        ahead.chain(settles).min().unwrap_or(LOOK).min(LOOK)
    }

    /// Tells the pusher what is not well although the release is, once for all sites.
    fn warn(
        &self,
        rollout: &Rollout,
        reports: &BTreeMap<SiteId, AppReport>,
        warned: &mut BTreeSet<String>,
    ) {
        for (site, report) in reports {
            if report.active != Some(rollout.target.epoch) {
                continue;
            }
            for warning in &report.warnings {
                if warned.insert(warning.clone()) {
                    let app = rollout.app();
                    self.say(format_args!("warning: {app}, {warning} (from {site})"));
                }
            }
        }
    }

    /// Tells the pusher's client which site got further.
    fn show(
        &self,
        app: &AppName,
        report: &rollout::Report,
        reached: &SiteProgress,
        shown: &mut BTreeMap<(AppName, SiteId), SiteProgress>,
    ) {
        for (site, progress) in &report.sites {
            let progress = match progress {
                rollout::Progress::Done => reached.clone(),
                rollout::Progress::Failed { reason, .. } => SiteProgress::Failed(reason.clone()),
                rollout::Progress::Lacks { lack: Lack::Artifacts } => SiteProgress::Fetching,
                rollout::Progress::Lacks { lack: Lack::Readiness } => SiteProgress::Starting,
                rollout::Progress::Lacks { .. }
                | rollout::Progress::CatchingUp
                | rollout::Progress::Away => continue,
            };
            let key = (app.clone(), site.clone());
            if shown.get(&key) != Some(&progress) {
                shown.insert(key, progress.clone());
                self.log.add(PushEvent::Site {
                    app: app.clone(),
                    site: site.clone(),
                    epoch: report.epoch,
                    progress,
                    after_ms: now_ms().saturating_sub(self.push.received_ms),
                });
            }
        }
    }
}

/// Writes assignments, all at once. One that is not as expected is taken over, to be planned anew.
async fn write(
    shared: &Shared,
    rollout: &mut Rollout,
    wanted: BTreeMap<SiteId, Assignment>,
) -> Result<(), Refusal> {
    let app = rollout.app().clone();
    let standing = &rollout.assignments;
    let writes = wanted.into_iter().map(|(site, assignment)| {
        let expected = standing.get(&site).cloned();
        let key = keys::assignment(&site, &app, &EnvironmentName::production());
        async move {
            let written = shared.store.update(&key, |standing: Option<Assignment>| {
                if standing == expected {
                    (Step::Put(assignment.clone()), Some(assignment.clone()))
                } else {
                    (Step::Keep, standing)
                }
            });
            (site, written.await)
        }
    });
    for (site, written) in join_all(writes).await {
        match written.map_err(broken("tell a site what to have"))? {
            Some(assignment) => rollout.assignments.insert(site, assignment),
            None => rollout.assignments.remove(&site),
        };
    }
    Ok(())
}

/// The longest that one of the release's services may take to be ready.
fn start_timeout(release: &Release) -> Duration {
    let seconds = release.app.services.iter().map(|service| match &service.kind {
        ServiceKind::Static { .. } | ServiceKind::Upstream { .. } => 0,
        ServiceKind::Process { start_timeout_s, .. } => *start_timeout_s,
    });
    Duration::from_secs(seconds.max().unwrap_or_default().into())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
