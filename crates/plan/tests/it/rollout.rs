//! Roll-outs: step by step, what fails them, and what the checker catches.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::{
    Activation, AppName, AppReport, Assignment, EnvironmentName, EpochState, Ring, SiteId,
};
use selvedge_plan::check::rollout::{self as check, Finding};
use selvedge_plan::rollout::{
    self, FailureKind, Lack, Plan, Progress, RetireInput, Target, Verdict, Waiting,
};

use crate::world::{
    activation, activation_entry, app, assignment, epoch, failed, id, ids, probe, release, report,
    target,
};

/// A roll-out of epoch 2 over epoch 1 at two sites.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) app: AppName,
    pub(crate) environment: EnvironmentName,
    pub(crate) target: Target,
    pub(crate) sites: BTreeSet<SiteId>,
    pub(crate) assignments: BTreeMap<SiteId, Assignment>,
    pub(crate) activation: Option<Activation>,
    pub(crate) leased: BTreeSet<SiteId>,
    pub(crate) warm_at_commit: BTreeSet<SiteId>,
    pub(crate) reports: BTreeMap<SiteId, AppReport>,
    pub(crate) now_ms: u64,
}

pub(crate) const DEADLINE_MS: u64 = 100;
const PROBE_RETRY_UNTIL_MS: u64 = 50;

impl World {
    fn new() -> Self {
        let sites = ids(["fra", "nyc"]);
        let each = |site: &SiteId| (site.clone(), assignment(site, &[1]));
        Self {
            app: app(),
            environment: EnvironmentName::production(),
            target: target(2),
            assignments: sites.iter().map(each).collect(),
            activation: Some(activation(1)),
            leased: sites.clone(),
            warm_at_commit: BTreeSet::new(),
            reports: BTreeMap::new(),
            now_ms: 0,
            sites,
        }
    }

    pub(crate) fn input(&self) -> rollout::Input<'_> {
        rollout::Input {
            app: &self.app,
            environment: &self.environment,
            target: &self.target,
            sites: &self.sites,
            assignments: &self.assignments,
            activation: self.activation.as_ref(),
            leased: &self.leased,
            warm_at_commit: &self.warm_at_commit,
            reports: &self.reports,
            now_ms: self.now_ms,
            deadline_ms: DEADLINE_MS,
            probe_retry_until_ms: PROBE_RETRY_UNTIL_MS,
        }
    }

    /// Plans, checks, writes what is planned.
    pub(crate) fn step(&mut self) -> Verdict {
        let (plan, report) = rollout::plan(&self.input());
        assert_eq!(check::findings(&self.input(), &plan), [], "{plan:?} {self:?}");
        assert!(report.sites.keys().eq(&self.sites));
        self.assignments.extend(plan.assignments);
        if plan.activation.is_some() {
            self.activation = plan.activation;
            self.warm_at_commit = self.sites.intersection(&self.leased).cloned().collect();
        }
        plan.verdict
    }

    fn says(&mut self, site: &str, state: EpochState, active: u64) {
        let states = [(1, EpochState::Warm), (2, state)];
        self.reports.insert(id(site), report(&id(site), &states, active));
    }

    fn failure(&mut self) -> rollout::Failure {
        match self.step() {
            Verdict::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }
}

fn waiting<const N: usize>(sites: [(&str, Lack); N]) -> Vec<Waiting> {
    sites.map(|(site, why)| Waiting { site: id(site), why }).into()
}

#[test]
fn a_release_goes_live_step_by_step() {
    let mut world = World::new();
    let nobody = waiting([("fra", Lack::Report), ("nyc", Lack::Report)]);
    assert_eq!(world.step(), Verdict::Warming { waiting: nobody });
    assert_eq!(world.assignments[&id("fra")], assignment(&id("fra"), &[1, 2]));

    world.says("fra", EpochState::Warm, 1);
    world.says("nyc", EpochState::Starting, 1);
    let starting = waiting([("nyc", Lack::Readiness)]);
    assert_eq!(world.step(), Verdict::Warming { waiting: starting });

    world.says("nyc", EpochState::Warm, 1);
    assert_eq!(world.step(), Verdict::ReadyToActivate);
    assert_eq!(world.activation, Some(activation(2)));

    world.says("fra", EpochState::Warm, 2);
    world.reports.get_mut(&id("fra")).unwrap().probe = probe(2, 404);
    let behind = waiting([("nyc", Lack::Switch { active: Some(epoch(1)) })]);
    assert_eq!(world.step(), Verdict::Verifying { waiting: behind });
    world.says("nyc", EpochState::Warm, 2);
    let unproved = waiting([("nyc", Lack::Probe)]);
    assert_eq!(world.step(), Verdict::Verifying { waiting: unproved });
    world.reports.get_mut(&id("nyc")).unwrap().probe = probe(2, 200);
    assert_eq!(world.step(), Verdict::Live);

    // Verified late is verified all the same.
    world.now_ms = DEADLINE_MS;
    assert_eq!(world.step(), Verdict::Live);
}

#[test]
fn a_site_without_a_lease_does_not_block() {
    let mut world = World::new();
    world.leased = ids(["nyc"]);
    world.says("nyc", EpochState::Warm, 1);
    world.says("fra", failed(), 1);
    assert_eq!(world.step(), Verdict::ReadyToActivate);
    assert_eq!(world.assignments[&id("fra")], assignment(&id("fra"), &[1, 2]));
}

#[test]
fn a_site_that_was_away_at_the_commit_can_not_fail_the_release() {
    let mut world = World::new();
    world.leased = ids(["nyc"]);
    world.says("nyc", EpochState::Warm, 1);
    assert_eq!(world.step(), Verdict::ReadyToActivate);
    world.says("nyc", EpochState::Warm, 2);

    // It is back while the other site is verified.
    world.leased = ids(["fra", "nyc"]);
    let committed = world.clone();
    let unproved = || Verdict::Verifying { waiting: waiting([("nyc", Lack::Probe)]) };
    assert_eq!(world.step(), unproved(), "it has not reported");
    world.says("fra", failed(), 1);
    assert_eq!(world.step(), unproved(), "it can't start the release");
    world.says("fra", EpochState::Warm, 2);
    world.reports.get_mut(&id("fra")).unwrap().probe = probe(2, 500);
    world.now_ms = PROBE_RETRY_UNTIL_MS;
    assert_eq!(world.step(), unproved(), "it gets bad answers");
    let (_, report) = rollout::plan(&world.input());
    assert_eq!(report.sites[&id("fra")], Progress::CatchingUp);
    world.reports.get_mut(&id("nyc")).unwrap().probe = probe(2, 200);
    assert_eq!(world.step(), Verdict::Live);

    // Alone it can confirm the release, and neither fail it nor be taken for a confirmation.
    let mut world = committed;
    world.leased = ids(["fra"]);
    world.says("fra", EpochState::Starting, 1);
    let nobody = waiting([("fra", Lack::Readiness), ("nyc", Lack::Lease)]);
    assert_eq!(world.step(), Verdict::Verifying { waiting: nobody });
    world.now_ms = DEADLINE_MS;
    assert_eq!(world.failure().kind, FailureKind::NoSite);
    world.says("fra", EpochState::Warm, 2);
    world.reports.get_mut(&id("fra")).unwrap().probe = probe(2, 200);
    assert_eq!(world.step(), Verdict::Live);

    // Where the release was warm, its end counts.
    world.leased = ids(["fra", "nyc"]);
    world.says("nyc", failed(), 2);
    let failure = world.failure();
    assert_eq!((failure.kind, failure.site), (FailureKind::Start, Some(id("nyc"))));
}

#[test]
fn nothing_is_committed_while_no_site_is_up() {
    let mut world = World::new();
    world.leased.clear();
    let nobody = waiting([("fra", Lack::Lease), ("nyc", Lack::Lease)]);
    assert_eq!(world.step(), Verdict::Warming { waiting: nobody });
    world.now_ms = DEADLINE_MS;
    assert_eq!(world.failure().kind, FailureKind::NoSite);
}

#[test]
fn failures_say_where_and_why() {
    let mut world = World::new();
    world.says("nyc", failed(), 1);
    let failure = world.failure();
    assert_eq!((failure.kind, failure.site), (FailureKind::Start, Some(id("nyc"))));
    assert_eq!(failure.last_lines, ["Error: no such file"]);
    assert_eq!(failure.reason, "it exited with code 1 before it was ready");

    world.says("nyc", EpochState::Starting, 1);
    world.now_ms = DEADLINE_MS;
    let failure = world.failure();
    assert_eq!((failure.kind, failure.other_sites), (FailureKind::Deadline, 1));

    // A probe may fail for a while, not for long.
    world.activation = Some(activation(2));
    world.warm_at_commit = world.sites.clone();
    world.now_ms = 0;
    for site in ["fra", "nyc"] {
        world.says(site, EpochState::Warm, 2);
        world.reports.get_mut(&id(site)).unwrap().probe = probe(2, 500);
    }
    assert!(matches!(world.step(), Verdict::Verifying { .. }));
    world.now_ms = PROBE_RETRY_UNTIL_MS;
    let failure = world.failure();
    assert_eq!((failure.kind, failure.other_sites), (FailureKind::Probe, 1));
    assert_eq!(failure.reason, "its own request was answered with 500: GET http://shop.edge.test/");

    world.activation = Some(activation(3));
    assert_eq!(world.failure().kind, FailureKind::Superseded);
}

#[test]
fn leftovers_of_earlier_roll_outs_go_unless_nothing_else_answers() {
    let mut world = World::new();
    world.target = target(9);
    world.activation = Some(activation(4));
    world.assignments = BTreeMap::from([
        (id("fra"), assignment(&id("fra"), &[3, 4, 5])),
        (id("nyc"), assignment(&id("nyc"), &[3, 5])),
    ]);
    world.step();
    assert_eq!(world.assignments[&id("fra")], assignment(&id("fra"), &[4, 9]));
    assert_eq!(world.assignments[&id("nyc")], assignment(&id("nyc"), &[3, 9]));
}

#[test]
fn undo_takes_the_epoch_away_until_it_is_committed() {
    let mut world = World::new();
    let before = world.assignments.clone();
    world.step();
    assert!(rollout::undo(&world.assignments, Some(&activation(2)), epoch(2)).is_empty());
    let undone = rollout::undo(&world.assignments, Some(&activation(1)), epoch(2));
    world.assignments.extend(undone);
    assert_eq!(world.assignments, before);
    assert!(rollout::undo(&world.assignments, Some(&activation(1)), epoch(2)).is_empty());
}

#[test]
fn what_is_live_stays_and_the_rest_retires() {
    let sites = ids(["fra", "sin"]);
    let mut assignments = BTreeMap::from([
        (id("fra"), assignment(&id("fra"), &[1, 2])),
        (id("nyc"), assignment(&id("nyc"), &[1])),
    ]);
    let (app, environment, live) = (app(), EnvironmentName::production(), target(2));
    let retire = |assignments: &BTreeMap<SiteId, Assignment>, now_ms| {
        rollout::retire(&RetireInput {
            app: &app,
            environment: &environment,
            live: &live,
            sites: &sites,
            assignments,
            now_ms,
            leave_at_ms: 10,
        })
    };
    let early = retire(&assignments, 9);
    assert_eq!(early.leaving, ids(["nyc"]));
    assignments.extend(early.assignments);
    assert_eq!(assignments[&id("fra")], assignment(&id("fra"), &[2]));
    assert_eq!(assignments[&id("sin")], assignment(&id("sin"), &[2]));
    assert_eq!(assignments[&id("nyc")], assignment(&id("nyc"), &[1]));

    assignments.extend(retire(&assignments, 10).assignments);
    assert_eq!(assignments[&id("nyc")], assignment(&id("nyc"), &[]));
    assert!(retire(&assignments, 11).assignments.is_empty());
    assert_eq!(check::assignments(&app, &environment, &assignments), []);
}

#[test]
fn each_rule_catches_a_broken_plan() {
    type Break = fn(&mut World, &mut Plan);
    fn edit(plan: &mut Plan, edit: fn(&mut Activation)) {
        edit(plan.activation.as_mut().unwrap());
    }
    let fra = || id("fra");
    let broken: [(Break, Finding); 14] = [
        (
            |_, plan| plan.assignments.get_mut(&id("fra")).unwrap().site = id("nyc"),
            Finding::Misplaced(fra()),
        ),
        (
            |_, plan| plan.assignments.get_mut(&id("fra")).unwrap().entries.reverse(),
            Finding::Unsorted(fra()),
        ),
        (
            |_, plan| _ = plan.assignments.insert(id("fra"), assignment(&id("fra"), &[1, 2, 2])),
            Finding::Unsorted(fra()),
        ),
        (
            |_, plan| plan.assignments.get_mut(&id("fra")).unwrap().entries[1].services.clear(),
            Finding::NoService(fra(), epoch(2)),
        ),
        (
            |_, plan| _ = plan.assignments.insert(id("fra"), assignment(&id("fra"), &[2])),
            Finding::DropsActivated(fra(), epoch(1)),
        ),
        (|_, plan| plan.assignments.clear(), Finding::NotAssigned(fra(), epoch(2))),
        (|_, plan| plan.assignments.clear(), Finding::ActivatesUnassigned(fra(), epoch(2))),
        (
            |_, plan| edit(plan, |it| it.entries[0].sites = Ring::Sites(ids(["fra", "nyc"]))),
            Finding::NotEverybody,
        ),
        (
            |_, plan| {
                edit(plan, |it| it.entries.push(activation_entry(3, 10_001, Ring::All)));
            },
            Finding::NotNewestFirst,
        ),
        (|_, plan| edit(plan, |it| it.entries[0].share = 10_001), Finding::ShareAboveAll(epoch(2))),
        (
            |world, _| world.says("fra", EpochState::Starting, 1),
            Finding::ActivatesCold(fra(), epoch(2)),
        ),
        (|world, _| world.leased.clear(), Finding::ActivatesNowhere(epoch(2))),
        (
            |world, _| world.activation = Some(activation(3)),
            Finding::GoesBack { from: epoch(3), to: epoch(2) },
        ),
        (|_, plan| plan.activation = None, Finding::Verdict),
    ];
    let mut clean = World::new();
    clean.says("fra", EpochState::Warm, 1);
    clean.says("nyc", EpochState::Warm, 1);
    let (plan, _) = rollout::plan(&clean.input());
    assert_eq!(check::findings(&clean.input(), &plan), []);
    for (break_it, finding) in broken {
        let (mut world, mut plan) = (clean.clone(), plan.clone());
        break_it(&mut world, &mut plan);
        let found = check::findings(&world.input(), &plan);
        assert!(found.contains(&finding), "{finding:?} is not in {found:?}");
    }
    let mut reused = activation(1);
    reused.entries[0].releases.insert(app(), release(7));
    let found = check::activation(&reused, Some(&activation(1)), &BTreeMap::new(), &ids([]));
    assert_eq!(found, [Finding::EpochReused(epoch(1))]);
}

#[test]
fn each_rule_catches_a_wrong_end() {
    let mut live = World::new();
    live.says("fra", EpochState::Warm, 1);
    live.says("nyc", EpochState::Warm, 1);
    assert_eq!(live.step(), Verdict::ReadyToActivate);
    for site in ["fra", "nyc"] {
        live.says(site, EpochState::Warm, 2);
        live.reports.get_mut(&id(site)).unwrap().probe = probe(2, 200);
    }
    let (plan, _) = rollout::plan(&live.input());
    assert_eq!((&plan.verdict, check::findings(&live.input(), &plan)), (&Verdict::Live, vec![]));
    live.says("fra", failed(), 1);
    let found = check::findings(&live.input(), &plan);
    assert_eq!(found, [Finding::LiveWithout(id("fra"))]);
    let (plan, _) = rollout::plan(&live.input());
    live.warm_at_commit.clear();
    let found = check::findings(&live.input(), &plan);
    assert_eq!(found, [Finding::BlamesLatecomer(id("fra"))]);
    let nowhere = Plan { verdict: Verdict::Live, ..plan };
    live.leased.remove(&id("nyc"));
    let found = check::findings(&live.input(), &nowhere);
    assert_eq!(found, [Finding::LiveNowhere(epoch(2))]);
}
