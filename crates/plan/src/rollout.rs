//! The decisions of a push once its release is published: what each site is to have warm, when to
//! commit, and whether the release is live.
//!
//! The pipeline calls [`plan`] whenever a document, a lease or the time may have changed, writes
//! what it returns and acts on the verdict. The phase follows from the activation alone: until it
//! names the target's epoch sites are warmed, afterwards they are verified. Sites without a lease
//! never block; they catch up when they are back. A site that was away when the release was
//! committed neither blocks nor fails its verification, whatever becomes of it there: the sites
//! that were warm have shown what the release is worth.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::documents::Probe;
use selvedge_model::{
    Activation, AppName, AppReport, Assignment, AssignmentEntry, EnvironmentName, Epoch,
    EpochState, ReleaseId, ServiceName, SiteId,
};
use serde::{Deserialize, Serialize};

/// A release at an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Reserved before warming.
    pub epoch: Epoch,
    /// What is released.
    pub release: ReleaseId,
    /// The release's services.
    pub services: BTreeSet<ServiceName>,
}

impl Target {
    fn entry(&self) -> AssignmentEntry {
        AssignmentEntry {
            epoch: self.epoch,
            release: self.release,
            services: self.services.clone(),
        }
    }
}

/// Everything that a roll-out depends on.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// The app, which is its activation group too.
    pub app: &'a AppName,
    /// The environment.
    pub environment: &'a EnvironmentName,
    /// What is to become live.
    pub target: &'a Target,
    /// The sites that placement chose for it.
    pub sites: &'a BTreeSet<SiteId>,
    /// The app's assignments as they stand, at any site.
    pub assignments: &'a BTreeMap<SiteId, Assignment>,
    /// The activation as it stands.
    pub activation: Option<&'a Activation>,
    /// Sites whose lease runs.
    pub leased: &'a BTreeSet<SiteId>,
    /// While verifying, the sites that were warm when the activation was written: the only ones
    /// that can fail the roll-out now.
    pub warm_at_commit: &'a BTreeSet<SiteId>,
    /// What sites say of the app.
    pub reports: &'a BTreeMap<SiteId, AppReport>,
    /// Now, on the clock of the two below.
    pub now_ms: u64,
    /// When the present phase (warming or verifying) is to be over.
    pub deadline_ms: u64,
    /// While verifying, until when a failing probe may still be repeated before it counts. Users
    /// see the failure for as long, so it is well before the deadline.
    pub probe_retry_until_ms: u64,
}

/// What to write, and how the roll-out stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Assignments to replace, whole; only those that differ from what stands.
    pub assignments: BTreeMap<SiteId, Assignment>,
    /// The activation that commits the roll-out. Only with [`Verdict::ReadyToActivate`].
    pub activation: Option<Activation>,
    /// How it stands.
    pub verdict: Verdict,
}

/// How a roll-out stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verdict {
    /// Sites fetch and start the release.
    Warming {
        /// The sites waited for.
        waiting: Vec<Waiting>,
    },
    /// Every leased site of the plan is warm and at least one is leased.
    ReadyToActivate,
    /// The activation is written; sites switch over and probe themselves.
    Verifying {
        /// The sites waited for.
        waiting: Vec<Waiting>,
    },
    /// Every leased site that was warm at the commit, and at least one site, serves the epoch and
    /// answered its own probe.
    Live,
    /// It will not become live: undo it before the commit point, restore the previous release after.
    Failed(Failure),
}

/// A site that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// The site.
    pub site: SiteId,
    /// What it still lacks.
    pub why: Lack,
}

/// What a site still lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "lack", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Lack {
    /// Its lease; named only while no site of the plan that counts has one.
    Lease,
    /// Any report of the epoch.
    Report,
    /// Artifacts.
    Artifacts,
    /// Services that are ready.
    Readiness,
    /// A service that was ready and is not any more.
    Service {
        /// The service.
        service: ServiceName,
        /// What happened, in words.
        reason: String,
        /// The last lines of its output.
        last_lines: Vec<String>,
    },
    /// It answers with another epoch, or none.
    Switch {
        /// The epoch that it answers with.
        active: Option<Epoch>,
    },
    /// A probe of the epoch.
    Probe,
    /// A probe that succeeds.
    GoodProbe {
        /// The worst status over the app's routes; 0 when no response came.
        status: u16,
        /// What was requested, and the error if there was no response.
        detail: String,
    },
}

/// Why a roll-out failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// The first site (by id) where it failed.
    pub site: Option<SiteId>,
    /// How many further sites failed too.
    pub other_sites: usize,
    /// The service, where one is to blame.
    pub service: Option<ServiceName>,
    /// What happened, in words.
    pub reason: String,
    /// The last lines of the service's output.
    pub last_lines: Vec<String>,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// A site reported that the release can't be made warm.
    Start,
    /// A leased site that counts lacked something at the deadline.
    Deadline,
    /// No site of the plan that counts had a lease by the deadline. After the commit point this says nothing
    /// about the release.
    NoSite,
    /// A site's own request was answered with 500 or more, or not at all.
    Probe,
    /// The activation names a newer epoch.
    Superseded,
}

/// How far each site of the plan is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The target's epoch.
    pub epoch: Epoch,
    /// Every site of the plan.
    pub sites: BTreeMap<SiteId, Progress>,
}

/// How far a site is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "progress", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Progress {
    /// No lease: it does not count and catches up later.
    Away,
    /// Its lease runs again, but it was not warm when the release was committed and does not serve
    /// it yet: it does not count either.
    CatchingUp,
    /// It lacks something.
    Lacks {
        /// What.
        lack: Lack,
    },
    /// It has what the phase asks for: it is warm, or it serves the epoch and its probe is good.
    Done,
    /// It reported that it can't.
    Failed {
        /// The service, where one is to blame.
        service: Option<ServiceName>,
        /// What happened, in words.
        reason: String,
        /// The last lines of the service's output.
        last_lines: Vec<String>,
    },
}

/// Decides the next step of a roll-out.
pub fn plan(input: &Input<'_>) -> (Plan, Report) {
    let epoch = input.target.epoch;
    let activated = input.activation.and_then(Activation::newest);
    let verifying = activated == Some(epoch);
    let sites: BTreeMap<_, _> = input
        .sites
        .iter()
        .map(|site| {
            let late = verifying && !input.warm_at_commit.contains(site);
            let progress = match progress(input, site, verifying) {
                Progress::Lacks { .. } | Progress::Failed { .. } if late => Progress::CatchingUp,
                progress => progress,
            };
            (site.clone(), progress)
        })
        .collect();
    let mut plan = Plan {
        assignments: BTreeMap::new(),
        activation: None,
        verdict: verdict(input, &sites, verifying),
    };
    if activated > Some(epoch) {
        plan.verdict = Verdict::Failed(superseded(activated));
    } else if !verifying && !matches!(plan.verdict, Verdict::Failed(_)) {
        plan.assignments = changed(input.assignments, warming(input));
        if plan.verdict == Verdict::ReadyToActivate {
            plan.activation = Some(commit(input.app, input.environment, input.target));
        }
    }
    (plan, Report { epoch, sites })
}

/// The activation that makes `target` what everybody sees.
pub fn commit(app: &AppName, environment: &EnvironmentName, target: &Target) -> Activation {
    let releases = BTreeMap::from([(app.clone(), target.release)]);
    Activation::everyone(app.clone(), environment.clone(), target.epoch, releases)
}

/// The assignments to replace so that nothing of `epoch` is left. None if the activation names the
/// epoch: what is committed can't be undone.
pub fn undo(
    assignments: &BTreeMap<SiteId, Assignment>,
    activation: Option<&Activation>,
    epoch: Epoch,
) -> BTreeMap<SiteId, Assignment> {
    if activation.is_some_and(|it| it.entries.iter().any(|entry| entry.epoch == epoch)) {
        return BTreeMap::new();
    }
    let without = |assignment: &Assignment| {
        let entries = assignment.entries.iter().filter(|entry| entry.epoch != epoch).cloned();
        Assignment { entries: entries.collect(), ..assignment.clone() }
    };
    let wanted = assignments.iter().map(|(site, it)| (site.clone(), without(it))).collect();
    changed(assignments, wanted)
}

/// What a live release needs at every site: see [`retire`].
#[derive(Debug, Clone)]
pub struct RetireInput<'a> {
    /// The app.
    pub app: &'a AppName,
    /// The environment.
    pub environment: &'a EnvironmentName,
    /// What is live.
    pub live: &'a Target,
    /// The sites that placement chose for it.
    pub sites: &'a BTreeSet<SiteId>,
    /// The app's assignments as they stand, at any site.
    pub assignments: &'a BTreeMap<SiteId, Assignment>,
    /// Now.
    pub now_ms: u64,
    /// When sites that placement did not choose may let go of the app: when DNS stopped naming
    /// them, plus TTL, plus grace.
    pub leave_at_ms: u64,
}

/// What [`retire`] decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retirement {
    /// Assignments to replace, whole. Empty entries: the document may be deleted instead.
    pub assignments: BTreeMap<SiteId, Assignment>,
    /// Sites that keep the app until [`RetireInput::leave_at_ms`].
    pub leaving: BTreeSet<SiteId>,
}

/// After a release went live: every site of the plan is to have it and nothing else, and the other
/// sites nothing, once no client can still be sent there. It also gives a live release to a site
/// that joins the plan later.
pub fn retire(input: &RetireInput<'_>) -> Retirement {
    let assignment = |site: &SiteId, entries| Assignment {
        app: input.app.clone(),
        environment: input.environment.clone(),
        site: site.clone(),
        entries,
    };
    let mut wanted: BTreeMap<_, _> = input
        .sites
        .iter()
        .map(|site| (site.clone(), assignment(site, vec![input.live.entry()])))
        .collect();
    let mut leaving = BTreeSet::new();
    for (site, standing) in input.assignments {
        if input.sites.contains(site) || standing.entries.is_empty() {
            continue;
        }
        if input.now_ms < input.leave_at_ms {
            leaving.insert(site.clone());
        } else {
            wanted.insert(site.clone(), assignment(site, Vec::new()));
        }
    }
    Retirement { assignments: changed(input.assignments, wanted), leaving }
}

/// Those of `wanted` that differ from what stands.
fn changed(
    standing: &BTreeMap<SiteId, Assignment>,
    wanted: BTreeMap<SiteId, Assignment>,
) -> BTreeMap<SiteId, Assignment> {
    wanted.into_iter().filter(|(site, assignment)| standing.get(site) != Some(assignment)).collect()
}

/// What each site of the plan is to have while the target is warmed: the target and what the
/// activation names. Leftovers of roll-outs that were cut short go, unless they are all that the
/// site has to answer with.
fn warming(input: &Input<'_>) -> BTreeMap<SiteId, Assignment> {
    let activated: BTreeSet<Epoch> =
        input.activation.iter().flat_map(|it| &it.entries).map(|entry| entry.epoch).collect();
    let newest = activated.last().copied();
    let assignment = |site: &SiteId| {
        let standing = input.assignments.get(site).map_or(&[][..], |it| &it.entries);
        let has_activated = standing.iter().any(|entry| activated.contains(&entry.epoch));
        let keep = |entry: &&AssignmentEntry| {
            entry.epoch != input.target.epoch
                && if has_activated {
                    activated.contains(&entry.epoch)
                } else {
                    Some(entry.epoch) <= newest
                }
        };
        let mut entries: Vec<_> = standing.iter().filter(keep).cloned().collect();
        entries.push(input.target.entry());
        entries.sort_by_key(|entry| entry.epoch);
        entries.dedup_by_key(|entry| entry.epoch);
        Assignment {
            app: input.app.clone(),
            environment: input.environment.clone(),
            site: site.clone(),
            entries,
        }
    };
    input.sites.iter().map(|site| (site.clone(), assignment(site))).collect()
}

fn progress(input: &Input<'_>, site: &SiteId, verifying: bool) -> Progress {
    if !input.leased.contains(site) {
        return Progress::Away;
    }
    let lacks = |lack| Progress::Lacks { lack };
    let epoch = input.target.epoch;
    let report = input.reports.get(site);
    let Some(report) = report.filter(|it| it.app == *input.app) else {
        return lacks(Lack::Report);
    };
    match report.epochs.get(&epoch).filter(|it| it.release == input.target.release) {
        None => lacks(Lack::Report),
        Some(it) => match &it.state {
            EpochState::Fetching => lacks(Lack::Artifacts),
            EpochState::Starting | EpochState::Draining => lacks(Lack::Readiness),
            EpochState::Degraded { service, reason, last_lines } => lacks(Lack::Service {
                service: service.clone(),
                reason: reason.clone(),
                last_lines: last_lines.clone(),
            }),
            EpochState::Failed { service, reason, last_lines } => Progress::Failed {
                service: service.clone(),
                reason: reason.clone(),
                last_lines: last_lines.clone(),
            },
            EpochState::Warm if !verifying => Progress::Done,
            EpochState::Warm if report.active != Some(epoch) => {
                lacks(Lack::Switch { active: report.active })
            }
            EpochState::Warm => probed(report.probe.as_ref(), epoch),
        },
    }
}

fn probed(probe: Option<&Probe>, epoch: Epoch) -> Progress {
    let lack = match probe.filter(|probe| probe.epoch == epoch) {
        None => Lack::Probe,
        Some(probe) if (1..500).contains(&probe.status) => return Progress::Done,
        Some(probe) => Lack::GoodProbe { status: probe.status, detail: probe.detail.clone() },
    };
    Progress::Lacks { lack }
}

fn verdict(input: &Input<'_>, sites: &BTreeMap<SiteId, Progress>, verifying: bool) -> Verdict {
    let overdue = input.now_ms >= input.deadline_ms;
    let probes_count = input.now_ms >= input.probe_retry_until_ms;
    let mut failed = Vec::new();
    let mut waiting = Vec::new();
    for (site, progress) in sites {
        match progress {
            Progress::Away | Progress::CatchingUp | Progress::Done => {}
            Progress::Failed { service, reason, last_lines } => failed.push(Failure {
                kind: FailureKind::Start,
                site: Some(site.clone()),
                other_sites: 0,
                service: service.clone(),
                reason: reason.clone(),
                last_lines: last_lines.clone(),
            }),
            Progress::Lacks { lack } => {
                let counts = probes_count && matches!(lack, Lack::GoodProbe { .. });
                if overdue || counts {
                    failed.push(lacking(site, lack));
                } else {
                    waiting.push(Waiting { site: site.clone(), why: lack.clone() });
                }
            }
        }
    }
    let counts = |progress| !matches!(progress, &Progress::Away | &Progress::CatchingUp);
    let nobody = !sites.values().any(counts);
    if let Some(failure) = worst(failed) {
        return Verdict::Failed(failure);
    }
    if nobody && overdue {
        return Verdict::Failed(nobody_there());
    }
    if nobody {
        let why = |progress: &Progress| match progress {
            Progress::CatchingUp => Lack::Readiness,
            _ => Lack::Lease,
        };
        waiting = sites
            .iter()
            .map(|(site, progress)| Waiting { site: site.clone(), why: why(progress) })
            .collect();
    }
    match (verifying, waiting.is_empty() && !nobody) {
        (false, false) => Verdict::Warming { waiting },
        (false, true) => Verdict::ReadyToActivate,
        (true, false) => Verdict::Verifying { waiting },
        (true, true) => Verdict::Live,
    }
}

/// The failure that says most: a service's own account before a bare deadline.
fn worst(failures: Vec<Failure>) -> Option<Failure> {
    let other_sites = failures.len().saturating_sub(1);
    let telling = |failure: &Failure| match failure.kind {
        FailureKind::Start => 0,
        FailureKind::Probe => 1,
        _ if failure.service.is_some() => 2,
        _ => 3,
    };
    let first = failures.into_iter().min_by_key(telling)?;
    Some(Failure { other_sites, ..first })
}

/// The failure of a site that still lacks something when time is up.
fn lacking(site: &SiteId, lack: &Lack) -> Failure {
    let mut failure = Failure {
        kind: FailureKind::Deadline,
        site: Some(site.clone()),
        other_sites: 0,
        service: None,
        reason: String::new(),
        last_lines: Vec::new(),
    };
    failure.reason = match lack {
        Lack::Lease => "it has no lease".to_owned(),
        Lack::Report => "it has not reported the release in time".to_owned(),
        Lack::Artifacts => "it has not fetched the release in time".to_owned(),
        Lack::Readiness => "its services were not ready in time".to_owned(),
        Lack::Switch { active: None } => "it did not switch to the release in time".to_owned(),
        Lack::Switch { active: Some(active) } => {
            format!("it did not switch to the release in time and answers with epoch {active}")
        }
        Lack::Probe => "it did not probe the release in time".to_owned(),
        Lack::Service { service, reason, last_lines } => {
            failure.service = Some(service.clone());
            failure.last_lines.clone_from(last_lines);
            reason.clone()
        }
        Lack::GoodProbe { status: 0, detail } => {
            failure.kind = FailureKind::Probe;
            format!("its own request got no response: {detail}")
        }
        Lack::GoodProbe { status, detail } => {
            failure.kind = FailureKind::Probe;
            format!("its own request was answered with {status}: {detail}")
        }
    };
    failure
}

fn nobody_there() -> Failure {
    Failure {
        kind: FailureKind::NoSite,
        site: None,
        other_sites: 0,
        service: None,
        reason: "no site of the plan is up; see `selvedge sites`".to_owned(),
        last_lines: Vec::new(),
    }
}

fn superseded(activated: Option<Epoch>) -> Failure {
    let newer = activated.map(|epoch| format!(" (epoch {epoch})")).unwrap_or_default();
    Failure {
        kind: FailureKind::Superseded,
        site: None,
        other_sites: 0,
        service: None,
        reason: format!("a newer release{newer} is live already"),
        last_lines: Vec::new(),
    }
}
