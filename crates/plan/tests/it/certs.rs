//! Certificates: renewed in time, brought where wanted, removed late, and what the checker catches.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::{Digest, Host, SiteId};
use selvedge_plan::certs::{self, Bundles, Leaf, Need, Plan, Policy};
use selvedge_plan::check::certs::{Finding, findings};

use crate::world::{host, id, ids};

#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) wanted: BTreeMap<SiteId, BTreeSet<Host>>,
    pub(crate) bundles: Bundles,
    pub(crate) unwanted_since_ms: BTreeMap<SiteId, BTreeMap<Host, u64>>,
    pub(crate) now_ms: u64,
}

pub(crate) const LIFE_MS: u64 = 300;

impl World {
    pub(crate) fn input(&self) -> certs::Input<'_> {
        certs::Input {
            wanted: &self.wanted,
            bundles: &self.bundles,
            unwanted_since_ms: &self.unwanted_since_ms,
            now_ms: self.now_ms,
            policy: Policy { renew_at_permille: 667, grace_ms: 50 },
        }
    }

    /// Plans, checks, does what is planned.
    pub(crate) fn step(&mut self) -> (Plan, certs::Report) {
        let (plan, report) = certs::plan(&self.input());
        assert_eq!(findings(&self.input(), &plan), [], "{plan:?} {self:?}");
        for (host, sites) in &plan.issue {
            let leaf = leaf(&format!("{host} {}", self.now_ms), self.now_ms);
            for site in sites {
                let bundles = self.bundles.entry(site.clone()).or_default();
                bundles.insert(host.clone(), leaf.clone());
            }
        }
        for (host, delivery) in &plan.deliver {
            let leaf = self.bundles[&delivery.from][host].clone();
            for site in &delivery.to {
                let bundles = self.bundles.entry(site.clone()).or_default();
                bundles.insert(host.clone(), leaf.clone());
            }
        }
        for (site, hosts) in &plan.remove {
            self.bundles.get_mut(site).unwrap().retain(|host, _| !hosts.contains(host));
        }
        self.unwanted_since_ms = plan.unwanted_since_ms.clone();
        (plan, report)
    }
}

pub(crate) fn leaf(name: &str, from_ms: u64) -> Leaf {
    let fingerprint = Digest::of(name.as_bytes());
    Leaf { fingerprint, not_before_ms: from_ms, not_after_ms: from_ms + LIFE_MS }
}

fn shop() -> Host {
    host("shop.edge.test")
}

fn world() -> World {
    let wanted = [id("fra"), id("nyc")].map(|site| (site, BTreeSet::from([shop()])));
    World { wanted: wanted.into(), now_ms: 1000, ..World::default() }
}

#[test]
fn a_host_has_one_leaf_everywhere_through_its_life() {
    let mut world = world();
    let (plan, report) = world.step();
    assert_eq!(plan.issue, BTreeMap::from([(shop(), ids(["fra", "nyc"]))]));
    assert_eq!(report.needs[&id("fra")][&shop()], Need::Missing);
    let (plan, report) = world.step();
    assert!(plan.is_noop());
    assert_eq!((report.fresh, report.next_ms), (2, Some(1200)));

    // Another site gets the same leaf.
    world.wanted.insert(id("sin"), BTreeSet::from([shop()]));
    let (plan, _) = world.step();
    assert!(plan.issue.is_empty());
    assert_eq!(plan.deliver[&shop()].to, ids(["sin"]));
    assert_eq!(world.bundles[&id("sin")], world.bundles[&id("fra")]);

    // At two thirds of its life it is renewed everywhere.
    world.now_ms = 1199;
    assert!(world.step().0.is_noop());
    world.now_ms = 1200;
    let (plan, report) = world.step();
    assert_eq!(plan.issue[&shop()].len(), 3);
    assert_eq!(report.needs[&id("nyc")][&shop()], Need::Due { since_ms: 1200 });
}

#[test]
fn a_site_keeps_what_is_not_wanted_for_the_grace_period() {
    let mut world = world();
    world.step();
    world.wanted.remove(&id("nyc"));
    let (plan, report) = world.step();
    assert!(plan.is_noop());
    assert_eq!(report.next_ms, Some(1050));
    // Wanted again in between: the time starts anew.
    world.wanted.insert(id("nyc"), BTreeSet::from([shop()]));
    world.now_ms = 1040;
    assert!(world.step().0.is_noop());
    world.wanted.remove(&id("nyc"));
    world.step();
    world.now_ms = 1089;
    assert!(world.step().0.is_noop());
    world.now_ms = 1090;
    assert_eq!(world.step().0.remove, BTreeMap::from([(id("nyc"), BTreeSet::from([shop()]))]));
    assert!(world.step().0.is_noop());
}

#[test]
fn a_clock_that_jumps_costs_one_leaf_each_time_it_makes_one_invalid() {
    let mut world = world();
    let issued = |world: &mut World, now_ms: u64| {
        world.now_ms = now_ms;
        let (plan, _) = world.step();
        let (again, _) = world.step();
        assert!(again.issue.is_empty() && again.remove.is_empty(), "no end of it: {again:?}");
        let leaf = &world.bundles[&id("fra")][&shop()];
        assert!(leaf.not_before_ms <= now_ms && now_ms < leaf.not_after_ms);
        plan.issue.len()
    };
    assert_eq!(issued(&mut world, 1_000), 1);
    assert_eq!(issued(&mut world, 400), 1, "not valid yet");
    assert_eq!(issued(&mut world, 450), 0);
    assert_eq!(issued(&mut world, 90_000), 1, "expired long ago");
    assert_eq!(issued(&mut world, 1_000), 1, "not valid yet");
}

#[test]
fn each_rule_catches_a_broken_plan() {
    type Break = fn(&mut World, &mut Plan);
    let pair = || (id("fra"), shop());
    let with = |finding: fn(SiteId, Host) -> Finding| finding(pair().0, pair().1);
    let broken: [(Break, Finding); 9] = [
        (|_, plan| plan.deliver.clear(), Finding::Missing(id("nyc"), shop())),
        (|world, _| world.now_ms = 1200, with(Finding::Stale)),
        (|world, _| _ = world.wanted.remove(&id("nyc")), Finding::Unwanted(id("nyc"), shop())),
        (
            |_, plan| plan.deliver.get_mut(&shop()).unwrap().fingerprint = Digest::of(b"other"),
            with(Finding::NoSource),
        ),
        (|_, plan| _ = plan.issue.insert(shop(), ids(["nyc"])), Finding::NeedlessIssue(shop())),
        (
            |_, plan| _ = plan.remove.insert(id("fra"), BTreeSet::from([shop()])),
            with(Finding::RemovesWanted),
        ),
        (
            |world, plan| {
                world.wanted.remove(&id("fra"));
                plan.remove.insert(id("fra"), BTreeSet::from([shop()]));
            },
            with(Finding::RemovesEarly),
        ),
        (
            |_, plan| _ = plan.remove.insert(id("sin"), BTreeSet::from([shop()])),
            Finding::RemovesNothing(id("sin"), shop()),
        ),
        (|world, _| _ = world.wanted.remove(&id("fra")), with(Finding::Forgotten)),
    ];
    let mut clean = world();
    clean.bundles = BTreeMap::from([(id("fra"), BTreeMap::from([(shop(), leaf("leaf", 1000))]))]);
    let (plan, _) = certs::plan(&clean.input());
    assert_eq!(findings(&clean.input(), &plan), []);
    for (break_it, finding) in broken {
        let (mut world, mut plan) = (clean.clone(), plan.clone());
        break_it(&mut world, &mut plan);
        let found = findings(&world.input(), &plan);
        assert!(found.contains(&finding), "{finding:?} is not in {found:?}");
    }
}
