//! Placement: what is chosen, what is said about it, and what the checker catches.

use std::collections::BTreeSet;

use selvedge_model::SiteId;
use selvedge_model::topology::{Jurisdiction, Region};
use selvedge_plan::check::placement::{Finding, findings};
use selvedge_plan::explain;
use selvedge_plan::placement::{self, Binding, Plan};

use crate::random::Random;
use crate::world::{PlacementWorld, id, ids, topology};

fn sites(world: &PlacementWorld) -> BTreeSet<SiteId> {
    placement::plan(&world.input()).0.unwrap().sites
}

fn explained(world: &PlacementWorld) -> String {
    explain::placement(&placement::plan(&world.input()).1).join("\n")
}

#[test]
fn without_limits_an_app_runs_everywhere() {
    let world = PlacementWorld::of_the_box();
    assert_eq!(sites(&world).len(), 8);
    insta::assert_snapshot!(explained(&world), @"
    shop runs at 8 sites of 3 providers:
      fra (Frankfurt, alpha): meets every constraint; mean round trip 106.4 ms with it alone
      sin (Singapore, gamma): meets every constraint; mean round trip 106.4 to 75.6 ms
      nyc (New York, beta): meets every constraint; mean round trip 75.6 to 50.9 ms
      sao (Sao Paulo, alpha): meets every constraint; mean round trip 50.9 to 43.1 ms
      syd (Sydney, beta): meets every constraint; mean round trip 43.1 to 36.3 ms
      jnb (Johannesburg, gamma): meets every constraint; mean round trip 36.3 to 30.3 ms
      tyo (Tokyo, alpha): meets every constraint; mean round trip 30.3 to 25.6 ms
      sfo (San Francisco, beta): meets every constraint; mean round trip 25.6 to 23.2 ms
    Clients are 23.2 ms from their nearest site on average, 95 % within 68.6 ms; the farthest is Dubai, 74 ms from fra.
    ");
}

#[test]
fn with_a_limit_the_sites_that_save_the_most_are_chosen() {
    let mut world = PlacementWorld::of_the_box();
    world.placement.max_sites = Some(3);
    world.placement.include = ids(["syd"]);
    world.placement.exclude = ids(["fra"]);
    world.used_mib.insert(id("nyc"), 800);
    world.topology.sites.get_mut(&id("jnb")).unwrap().draining = true;
    insta::assert_snapshot!(explained(&world), @"
    shop runs at 3 sites of 2 providers:
      syd (Sydney, beta): included by name; mean round trip 182.4 ms with it alone
      sfo (San Francisco, beta): chosen for its gain; mean round trip 182.4 to 108.4 ms
      sin (Singapore, gamma): chosen for its gain; mean round trip 108.4 to 85.5 ms
    Clients are 85.5 ms from their nearest site on average, 95 % within 157.5 ms; the farthest is Lagos, 168 ms from sin.
    Next would be sao (Sao Paulo), which would save 14.0 ms more (1 further site qualifies).
    Not possible at:
      fra: excluded by name
      jnb: it is draining
      nyc: it has 224 MiB of memory left and the app needs 256 MiB
    What binds:
      exclude alone rules out fra
      draining alone rules out jnb
      memory alone rules out nyc
      max_sites = 3, and 5 sites qualify
    ");
}

#[test]
fn conflicts_are_named_with_the_mend() {
    let mut world = PlacementWorld::of_the_box();
    world.placement.min_sites = 3;
    world.placement.jurisdictions = BTreeSet::from([Jurisdiction::new("EU").unwrap()]);
    insta::assert_snapshot!(explained(&world), @"
    shop can't be placed:
      min_sites is 3, but 1 of 8 sites qualifies: jurisdictions rules out 7; lower min_sites to 1, or allow more jurisdictions (8 sites qualify without this limit).
    ");

    world.placement.include = ids(["nyc", "mars"]);
    world.placement.max_sites = Some(1);
    world.topology.sites.get_mut(&id("fra")).unwrap().draining = true;
    insta::assert_snapshot!(explained(&world), @"
    shop can't be placed:
      include names the site mars, which does not exist: use fra, jnb, nyc, sao, sfo, sin, syd or tyo.
      include names nyc, but US is not in EU: take it out of include, or allow more jurisdictions.
      include names 2 sites, but max_sites is 1: raise max_sites to 2 or include fewer.
      min_sites is 3, but max_sites is 1: lower min_sites or raise max_sites.
      min_sites is 3, but 0 of 8 sites qualify: jurisdictions rules out 7 and draining rules out 1; allow more jurisdictions (7 sites qualify without this limit).
    ");

    world = PlacementWorld::of_the_box();
    world.placement.min_sites = 9;
    insta::assert_snapshot!(explained(&world), @"
    shop can't be placed:
      min_sites is 9, but there are only 8 sites: lower min_sites or add sites.
    ");
    world.topology.sites.clear();
    insta::assert_snapshot!(explained(&world), @"
    shop can't be placed:
      min_sites is 9, but there are no sites yet: add some.
    ");
}

#[test]
fn two_providers_are_taken_when_there_are_two() {
    let mut world = PlacementWorld::of_the_box();
    world.placement.max_sites = Some(2);
    for site in world.topology.sites.values_mut() {
        site.provider = if site.id == id("jnb") { "beta" } else { "alpha" }.parse().unwrap();
    }
    assert!(sites(&world).contains(&id("jnb")));
    let (_, report) = placement::plan(&world.input());
    assert!(report.binds.iter().any(|it| matches!(it, Binding::ProviderSpread { .. })));
    assert!(explained(&world).contains("two providers are taken for safety: "));

    // Sites that are asked for by name come first.
    world.placement.include = ids(["fra", "sin"]);
    assert_eq!(sites(&world), ids(["fra", "sin"]));
}

#[test]
fn equal_sites_go_to_a_new_provider() {
    let mut world = PlacementWorld::of_the_box();
    world.demand.clear();
    world.placement.max_sites = Some(3);
    let (_, report) = placement::plan(&world.input());
    assert_eq!(report.providers.len(), 3);
    assert_eq!(report.latency, None);
}

#[test]
fn a_standing_placement_moves_only_for_a_real_gain() {
    let mut world = PlacementWorld::of_the_box();
    world.placement.max_sites = Some(3);
    let best = sites(&world);

    // Twice the demand in one city changes the optimum by too little or not at all: nothing moves.
    world.current = best.clone();
    world.demand[0].weight = 2.0;
    assert_eq!(sites(&world), best);

    // A standing placement at the worst sites is left behind.
    world.demand[0].weight = 1.0;
    world.current =
        world.topology.sites.keys().filter(|id| !best.contains(id)).take(3).cloned().collect();
    let (plan, report) = placement::plan(&world.input());
    let moved = report.latency.unwrap().mean_ms;
    world.current = best.clone();
    let (_, report) = placement::plan(&world.input());
    assert!(moved <= report.latency.unwrap().mean_ms * 1.031, "{plan:?}");

    // A site that drains is replaced, the others stay.
    world.topology.sites.get_mut(best.first().unwrap()).unwrap().draining = true;
    assert_eq!(sites(&world).intersection(&best).count(), 2);
}

#[test]
fn a_report_says_when_moving_would_gain_too_little() {
    let mut world = PlacementWorld::of_the_box();
    world.topology = topology(12);
    world.placement.max_sites = Some(8);
    let best = sites(&world);
    let mut kept = 0;
    for spare in world.topology.sites.clone().into_keys().filter(|site| !best.contains(site)) {
        for taken in &best {
            world.current = best.iter().filter(|site| *site != taken).cloned().collect();
            world.current.insert(spare.clone());
            let (plan, report) = placement::plan(&world.input());
            let stands = plan.unwrap().sites == world.current;
            let stability = report.binds.iter().any(|it| matches!(it, Binding::Stability { .. }));
            assert_eq!(stability, stands, "{spare} for {taken}");
            assert_eq!(stability, explained(&world).contains("too little to move"));
            kept += u32::from(stability);
        }
    }
    assert!((1..32).contains(&kept), "{kept}");
}

/// The least mean round trip over every set of sites that keeps the rules.
fn optimum(world: &PlacementWorld, size: usize) -> f64 {
    let input = world.input();
    let names: Vec<_> = world.topology.sites.keys().collect();
    let mean = |set: &BTreeSet<SiteId>| {
        let nearest = |place: &placement::Demand| {
            let rtts = set
                .iter()
                .map(|id| input.round_trips.rtt_ms(place.point, world.topology.sites[id].point));
            rtts.fold(f64::MAX, f64::min) * place.weight
        };
        let weight: f64 = world.demand.iter().map(|place| place.weight).sum();
        world.demand.iter().map(nearest).sum::<f64>() / weight
    };
    (0_u32..1 << names.len())
        .filter(|bits| bits.count_ones() as usize == size)
        .map(|bits| {
            let chosen = names.iter().enumerate().filter(|(index, _)| bits & (1 << index) != 0);
            chosen.map(|(_, id)| (*id).clone()).collect::<BTreeSet<_>>()
        })
        .filter(|set| findings(&input, &Plan { sites: set.clone() }).is_empty())
        .map(|set| mean(&set))
        .fold(f64::MAX, f64::min)
}

#[test]
fn greedy_with_swaps_comes_close_to_the_optimum() {
    let mut random = Random(7);
    let (mut compared, mut equal) = (0, 0);
    while compared < 600 {
        let mut world = PlacementWorld::random(&mut random);
        world.placement.max_sites = Some(1 + random.below(5) as u32);
        world.current.clear();
        let (Ok(plan), report) = placement::plan(&world.input()) else { continue };
        let Some(latency) = report.latency else { continue };
        let best = optimum(&world, plan.sites.len());
        assert!(latency.mean_ms <= best * 1.05 + 0.001, "{} > {best}: {world:?}", latency.mean_ms);
        compared += 1;
        equal += usize::from(latency.mean_ms <= best + 0.001);
    }
    assert!(equal * 100 >= compared * 97, "{equal} of {compared}");
}

#[test]
fn each_rule_catches_a_broken_plan() {
    type Break = fn(&mut PlacementWorld, &mut Plan);
    let fra = || id("fra");
    let broken: [(Break, Finding); 11] = [
        (|_, plan| _ = plan.sites.insert(id("mars")), Finding::UnknownSite(id("mars"))),
        (|world, _| _ = world.placement.exclude.insert(id("fra")), Finding::Excluded(fra())),
        (
            |world, _| world.placement.regions = BTreeSet::from([Region::Asia]),
            Finding::Region(fra()),
        ),
        (
            |world, _| world.placement.jurisdictions = BTreeSet::from(["JP".parse().unwrap()]),
            Finding::Jurisdiction(fra()),
        ),
        (
            |world, _| world.topology.sites.get_mut(&id("fra")).unwrap().draining = true,
            Finding::Draining(fra()),
        ),
        (|world, _| _ = world.used_mib.insert(id("fra"), 1000), Finding::Capacity(fra())),
        (
            |world, plan| {
                world.placement.include = ids(["fra"]);
                plan.sites.remove(&id("fra"));
            },
            Finding::NotIncluded(fra()),
        ),
        (|world, _| world.placement.min_sites = 9, Finding::BelowMin { sites: 8 }),
        (|world, _| world.placement.max_sites = Some(7), Finding::AboveMax { sites: 8 }),
        (|_, plan| _ = plan.sites.remove(&id("fra")), Finding::LeftOut(fra())),
        (
            |world, plan| {
                world.placement.max_sites = Some(2);
                plan.sites = ids(["fra", "sao"]);
            },
            Finding::OneProvider,
        ),
    ];
    let clean = PlacementWorld::of_the_box();
    let plan = Plan { sites: sites(&clean) };
    assert_eq!(findings(&clean.input(), &plan), []);
    for (break_it, finding) in broken {
        let (mut world, mut plan) = (clean.clone(), plan.clone());
        break_it(&mut world, &mut plan);
        let found = findings(&world.input(), &plan);
        assert!(found.contains(&finding), "{finding:?} is not in {found:?}");
    }
}
