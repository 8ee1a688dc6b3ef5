//! Ten thousand random worlds: every plan passes `check`, planning on the result changes nothing,
//! and what is called infeasible is.
//!
//! A failing world prints its seed, which alone makes it again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use selvedge_model::{Assignment, EnvironmentName, EpochState, Placement, Site, SiteId};
use selvedge_plan::certs;
use selvedge_plan::check;
use selvedge_plan::placement::{self, Conflict, Constraint, SiteList};
use selvedge_plan::rollout::{self, RetireInput, Verdict};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::random::Random;
use crate::rollout::DEADLINE_MS;
use crate::world::{
    PlacementWorld, app, assignment, epoch, host, probe, random_activation, random_state,
    random_topology, report, site_report, target,
};

const WORLDS: u64 = 10_000;

fn each_world(mut test: impl FnMut(&mut Random)) {
    for seed in 0..WORLDS {
        let world = std::panic::AssertUnwindSafe(|| test(&mut Random(seed)));
        if let Err(panic) = std::panic::catch_unwind(world) {
            println!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Whether `site` meets the placement's constraints, the one given left out.
fn qualifies(world: &PlacementWorld, site: &Site, without: Option<Constraint>) -> bool {
    let Placement { exclude, regions, jurisdictions, .. } = &world.placement;
    let used = world.used_mib.get(&site.id).copied().unwrap_or(0);
    let ok = |constraint| match constraint {
        Constraint::Exclude => !exclude.contains(&site.id),
        Constraint::Regions => regions.is_empty() || regions.contains(&site.region),
        Constraint::Jurisdictions => {
            jurisdictions.is_empty() || jurisdictions.iter().any(|it| it.contains(&site.country))
        }
        Constraint::Draining => !site.draining,
        Constraint::Capacity => world.need_mib <= site.memory_mib.saturating_sub(used),
    };
    Constraint::ALL.into_iter().all(|constraint| Some(constraint) == without || ok(constraint))
}

/// Tries every set of sites.
fn is_feasible(world: &PlacementWorld) -> bool {
    let Placement { include, exclude, min_sites, max_sites, .. } = &world.placement;
    let sites: Vec<_> = world.topology.sites.values().collect();
    let exists = |id: &SiteId| world.topology.sites.contains_key(id);
    let bits = |wanted: &dyn Fn(&Site) -> bool| -> u32 {
        let chosen = sites.iter().enumerate().filter(|(_, site)| wanted(site));
        chosen.map(|(index, _)| 1 << index).sum()
    };
    let included = bits(&|site| include.contains(&site.id));
    let barred = bits(&|site| !qualifies(world, site, None));
    include.iter().chain(exclude).all(exists)
        && (0_u32..1 << sites.len()).any(|set| {
            set & included == included
                && set & barred == 0
                && set.count_ones() >= *min_sites
                && set.count_ones() <= max_sites.unwrap_or(u32::MAX)
        })
}

fn is_real(world: &PlacementWorld, conflict: &Conflict) -> bool {
    let Placement { include, exclude, min_sites: min, max_sites: max, .. } = &world.placement;
    let sites = &world.topology.sites;
    let qualify =
        |without| sites.values().filter(|site| qualifies(world, site, without)).count() as u32;
    match conflict {
        Conflict::UnknownSite { list: SiteList::Include, site, .. } => {
            include.contains(site) && !sites.contains_key(site)
        }
        Conflict::UnknownSite { list: SiteList::Exclude, site, .. } => {
            exclude.contains(site) && !sites.contains_key(site)
        }
        Conflict::Included { site, reasons } => {
            include.contains(site) && !reasons.is_empty() && !qualifies(world, &sites[site], None)
        }
        Conflict::IncludeAboveMax { include: number, max_sites } => {
            include.len() as u32 == *number && *max == Some(*max_sites) && number > max_sites
        }
        Conflict::MinAboveMax { min_sites, max_sites } => {
            min == min_sites && *max == Some(*max_sites) && min_sites > max_sites
        }
        Conflict::TooFew { min_sites, feasible, total, limits } => {
            let counts = (qualify(None), *min, sites.len() as u32);
            counts == (*feasible, *min_sites, *total)
                && feasible < min_sites
                && limits.iter().all(|it| it.feasible_without == qualify(Some(it.constraint)))
        }
    }
}

#[test]
fn placements() {
    let (mut feasible, mut infeasible) = (0, 0);
    each_world(|random| {
        let mut world = PlacementWorld::random(random);
        let (plan, report) = placement::plan(&world.input());
        assert_eq!(plan.is_ok(), is_feasible(&world), "{world:?} {plan:?}");
        match plan {
            Ok(plan) => {
                assert_eq!(check::placement::findings(&world.input(), &plan), [], "{world:?}");
                world.current = plan.sites.clone();
                let (again, _) = placement::plan(&world.input());
                assert_eq!(again.unwrap(), plan, "{world:?}");
                assert!(
                    report
                        .chosen
                        .iter()
                        .map(|it| &it.site)
                        .collect::<BTreeSet<_>>()
                        .into_iter()
                        .eq(&plan.sites)
                );
                feasible += 1;
            }
            Err(why) => {
                assert!(!why.conflicts.is_empty() && why.conflicts == report.conflicts);
                for conflict in &why.conflicts {
                    assert!(is_real(&world, conflict), "{conflict:?} {world:?}");
                }
                infeasible += 1;
            }
        }
    });
    assert!(feasible > 2_000 && infeasible > 2_000, "{feasible} {infeasible}");
}

fn survives_json<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let json = serde_json::to_string(value).unwrap();
    assert_eq!(serde_json::from_str::<T>(&json).unwrap(), *value, "{json}");
}

#[test]
fn plans_and_reports_survive_json() {
    for seed in 0..200 {
        let random = &mut Random(seed);
        let (plan, report) = placement::plan(&PlacementWorld::random(random).input());
        survives_json(&report);
        survives_json(&plan.map_err(|why| why.conflicts));
        survives_json(&selvedge_plan::dns::plan(&random_zone_world(random).input()).1);
        let mut world = random_roll_out(random);
        for site in world.sites.clone() {
            advance(random, &mut world, &site, 50);
        }
        survives_json(&rollout::plan(&world.input()));
        survives_json(&certs::plan(&random_certificates(random).input()));
    }
}

fn random_zone_world(random: &mut Random) -> crate::dns::World {
    let topology = random_topology(random);
    let sites: BTreeSet<SiteId> = topology.sites.keys().cloned().collect();
    let origin = host("edge.test");
    let hosts = ["shop.edge.test", "www.shop.edge.test", "shop.localhost"].map(host);
    let mut world = crate::dns::World {
        leased: BTreeSet::new(),
        site_reports: BTreeMap::new(),
        app: app(),
        environment: EnvironmentName::production(),
        hosts: random.some(80, hosts),
        activation: None,
        assigned: BTreeMap::new(),
        reports: BTreeMap::new(),
        locations: selvedge_plan::dns::Location::cities(),
        settings: crate::dns::settings(&origin, &topology),
        previous: None,
        origin,
        topology,
    };
    world.locations.truncate(random.pick(&[0, 1, 4]));
    stir(random, &mut world, &sites);
    world
}

/// Changes what is observed.
fn stir(random: &mut Random, world: &mut crate::dns::World, sites: &BTreeSet<SiteId>) {
    let up = random.pick(&[0, 20, 90, 100]);
    world.leased = random.some(up, sites.clone());
    world.activation = random_activation(random, 3, sites);
    for site in sites {
        let hosts = random.some(85, world.hosts.clone());
        world.site_reports.insert(site.clone(), site_report(site, hosts));
        if random.chance(15) {
            world.site_reports.remove(site);
        }
        let states: Vec<_> = (1..=3)
            .filter(|_| random.chance(90))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|number| (number, random_state(random)))
            .collect();
        let active = random.below(4);
        world.reports.insert(site.clone(), report(site, &states, active));
        if random.chance(10) {
            world.reports.remove(site);
        }
        world.assigned.insert(site.clone(), random.some(85, (1..=3).map(epoch)));
    }
}

#[test]
fn zones() {
    let mut failed_open = 0;
    each_world(|random| {
        let mut world = random_zone_world(random);
        let sites = world.topology.sites.keys().cloned().collect();
        for _ in 0..2 {
            let report = world.step();
            failed_open += report.hosts.values().filter(|host| host.failed_open).count();
            assert!(!world.step().changed, "{world:?}");
            stir(random, &mut world, &sites);
        }
    });
    assert!(failed_open > 1_000, "{failed_open}");
}

const CERTIFIED: [&str; 3] = ["a.edge.test", "b.edge.test", "c.edge.test"];

fn random_certificates(random: &mut Random) -> crate::certs::World {
    let mut world = crate::certs::World { now_ms: 1_000, ..Default::default() };
    for site in random_topology(random).sites.into_keys() {
        for host in random.some(40, CERTIFIED.map(host)) {
            let made_ms = 600 + random.below(500);
            let leaf = crate::certs::leaf(&format!("{host} {made_ms}"), made_ms);
            world.bundles.entry(site.clone()).or_default().insert(host, leaf);
        }
        world.wanted.insert(site, random.some(60, CERTIFIED.map(host)));
    }
    world
}

#[test]
fn certificates() {
    each_world(|random| {
        let mut world = random_certificates(random);
        for _ in 0..4 {
            for wanted in world.wanted.values_mut() {
                *wanted = random.some(60, CERTIFIED.map(host));
            }
            world.step();
            let (again, report) = certs::plan(&world.input());
            assert!(again.is_noop(), "{again:?} {world:?}");
            assert_eq!(again.unwanted_since_ms, world.unwanted_since_ms);
            // Nothing is due before the time that the report names.
            if let Some(next_ms) = report.next_ms {
                world.now_ms = world.now_ms.max(next_ms - 1);
                assert!(certs::plan(&world.input()).0.is_noop(), "{world:?}");
            }
            world.now_ms += random.below(crate::certs::LIFE_MS);
        }
    });
}

fn random_roll_out(random: &mut Random) -> crate::rollout::World {
    let sites: BTreeSet<SiteId> = random_topology(random).sites.into_keys().collect();
    let newest = random.below(4);
    let mut assignments: BTreeMap<SiteId, Assignment> = BTreeMap::new();
    for site in &sites {
        let numbers: Vec<u64> = random.some(60, 1..=newest + 1).into_iter().collect();
        if random.chance(80) {
            assignments.insert(site.clone(), assignment(site, &numbers));
        }
    }
    crate::rollout::World {
        app: app(),
        environment: EnvironmentName::production(),
        target: target(newest + 1),
        activation: random_activation(random, newest, &sites),
        assignments,
        leased: random.some(85, sites.clone()),
        warm_at_commit: BTreeSet::new(),
        reports: BTreeMap::new(),
        now_ms: 0,
        sites: random.some(80, sites),
    }
}

/// Lets a site do something.
fn advance(random: &mut Random, world: &mut crate::rollout::World, site: &SiteId, fault: u64) {
    let number = world.target.epoch.number;
    let before = world.reports.get(site).and_then(|it| it.epochs.get(&epoch(number)));
    let mut state = match before.map(|it| it.state.clone()) {
        None => EpochState::Fetching,
        Some(EpochState::Fetching) => EpochState::Starting,
        Some(EpochState::Starting) => EpochState::Warm,
        Some(state) => state,
    };
    if random.chance(fault) {
        state = random_state(random);
    }
    let committed = world.activation.as_ref().and_then(|it| it.newest()) == Some(epoch(number));
    let active = if committed && random.chance(80) { number } else { number - 1 };
    let mut report = report(site, &[(number, state)], active);
    if active == number && random.chance(80) {
        report.probe = probe(number, if random.chance(fault) { 502 } else { 200 });
    }
    world.reports.insert(site.clone(), report);
}

#[test]
fn roll_outs() {
    let mut ends = BTreeMap::<&str, u32>::new();
    each_world(|random| {
        let mut world = random_roll_out(random);
        let fault = random.pick(&[0, 0, 2, 10]);
        let before = world.clone();
        let end = loop {
            let verdict = world.step();
            let again = rollout::plan(&world.input()).0;
            assert!(again.assignments.is_empty() && again.activation.is_none(), "{world:?}");
            match verdict {
                Verdict::Live | Verdict::Failed(_) => break verdict,
                _ => assert!(world.now_ms < 2 * DEADLINE_MS, "{world:?}"),
            }
            world.now_ms += 1 + random.below(24);
            for site in random.some(60, world.sites.clone()) {
                advance(random, &mut world, &site, fault);
            }
            if random.chance(fault) {
                world.leased = random.some(80, world.sites.clone());
            }
        };
        let activated = world.activation.as_ref().and_then(|it| it.newest());
        let committed = activated == Some(world.target.epoch);
        let name = match (&end, committed) {
            (Verdict::Live, true) => "live",
            (_, true) => "failed after the commit",
            (_, false) => "failed before the commit",
        };
        *ends.entry(name).or_default() += 1;
        if committed {
            retired(random, &mut world);
        } else {
            undone(&before, &mut world);
        }
    });
    assert_eq!(ends.len(), 3, "{ends:?}");
    assert!(ends.values().all(|number| *number > 200), "{ends:?}");
}

/// Undoing leaves nothing of the epoch, and what was activated is where it was.
fn undone(before: &crate::rollout::World, world: &mut crate::rollout::World) {
    let epoch = world.target.epoch;
    let activation = world.activation.as_ref();
    let undone = rollout::undo(&world.assignments, activation, epoch);
    world.assignments.extend(undone);
    assert!(rollout::undo(&world.assignments, activation, epoch).is_empty());
    assert_eq!(world.activation, before.activation);
    for (site, assignment) in &world.assignments {
        assert!(assignment.entries.iter().all(|entry| entry.epoch != epoch), "{site}");
    }
    let Some(activation) = &world.activation else { return };
    for (site, old) in &before.assignments {
        for entry in &old.entries {
            if activation.entries.iter().any(|it| it.epoch == entry.epoch) {
                assert!(world.assignments[site].entries.contains(entry), "{site} {before:?}");
            }
        }
    }
}

/// After a commit the live epoch alone is left, and at the sites of the plan alone.
fn retired(random: &mut Random, world: &mut crate::rollout::World) {
    let leave_at_ms = world.now_ms + random.below(2);
    for now_ms in [world.now_ms, leave_at_ms] {
        let retirement = rollout::retire(&RetireInput {
            app: &world.app,
            environment: &world.environment,
            live: &world.target,
            sites: &world.sites,
            assignments: &world.assignments,
            now_ms,
            leave_at_ms,
        });
        world.assignments.extend(retirement.assignments);
    }
    let (app, environment) = (&world.app, &world.environment);
    assert_eq!(check::rollout::assignments(app, environment, &world.assignments), []);
    for (site, assignment) in &world.assignments {
        let epochs: Vec<_> = assignment.entries.iter().map(|entry| entry.epoch).collect();
        let expected: &[_] = if world.sites.contains(site) { &[world.target.epoch] } else { &[] };
        assert_eq!(epochs, expected, "{site}");
    }
}
