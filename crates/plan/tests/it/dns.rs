//! Zones: who is named and who is not, rankings, serials, and what the checker catches.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::geo::DistanceModel;
use selvedge_model::{
    Activation, AppName, AppReport, EnvironmentName, Epoch, EpochState, Host, Ring, SiteId,
    SiteReport, Topology, Zone,
};
use selvedge_plan::check::dns::{Finding, findings};
use selvedge_plan::dns::{self, Location, Settings, Unfit};

use crate::world::{
    activation, activation_entry, app, epoch, failed, host, id, ids, report, site_report, topology,
};

/// One app, `shop`, at the sites of a topology.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) origin: Host,
    pub(crate) topology: Topology,
    pub(crate) leased: BTreeSet<SiteId>,
    pub(crate) site_reports: BTreeMap<SiteId, SiteReport>,
    pub(crate) app: AppName,
    pub(crate) environment: EnvironmentName,
    pub(crate) hosts: BTreeSet<Host>,
    pub(crate) activation: Option<Activation>,
    pub(crate) assigned: BTreeMap<SiteId, BTreeSet<Epoch>>,
    pub(crate) reports: BTreeMap<SiteId, AppReport>,
    pub(crate) locations: Vec<Location>,
    pub(crate) settings: Settings,
    pub(crate) previous: Option<Zone>,
}

pub(crate) fn settings(origin: &Host, topology: &Topology) -> Settings {
    let nameservers = dns::nameservers(origin, topology, 4);
    Settings { nameservers, ttl_s: 20, negative_ttl_s: 5, answers: 2 }
}

impl World {
    /// Everything is well at four sites, at epoch 1.
    fn new() -> Self {
        let (origin, topology) = (host("edge.test"), topology(4));
        let sites: BTreeSet<SiteId> = topology.sites.keys().cloned().collect();
        let shop = host("shop.edge.test");
        Self {
            site_reports: (sites.iter())
                .map(|site| (site.clone(), site_report(site, [shop.clone()])))
                .collect(),
            app: app(),
            environment: EnvironmentName::production(),
            hosts: BTreeSet::from([shop, host("shop.localhost")]),
            activation: Some(activation(1)),
            assigned: sites.iter().map(|site| (site.clone(), [epoch(1)].into())).collect(),
            reports: (sites.iter())
                .map(|site| (site.clone(), report(site, &[(1, EpochState::Warm)], 1)))
                .collect(),
            locations: Location::cities(),
            settings: settings(&origin, &topology),
            previous: None,
            leased: sites,
            origin,
            topology,
        }
    }

    pub(crate) fn input(&self) -> dns::Input<'_> {
        let app = dns::App {
            app: &self.app,
            environment: &self.environment,
            hosts: self.hosts.clone(),
            activation: self.activation.as_ref(),
            assigned: self.assigned.clone(),
            reports: self.reports.iter().map(|(site, report)| (site.clone(), report)).collect(),
        };
        dns::Input {
            origin: &self.origin,
            topology: &self.topology,
            leased: &self.leased,
            site_reports: &self.site_reports,
            apps: vec![app],
            locations: &self.locations,
            round_trips: &DistanceModel,
            settings: &self.settings,
            previous: self.previous.as_ref(),
        }
    }

    /// Plans, checks, writes the zone.
    pub(crate) fn step(&mut self) -> dns::Report {
        let (zone, report) = dns::plan(&self.input());
        assert_eq!(findings(&self.input(), &zone), [], "{zone:?} {self:?}");
        assert_eq!(report.changed, self.previous.as_ref() != Some(&zone));
        self.previous = Some(zone);
        report
    }

    fn named(&mut self) -> BTreeSet<SiteId> {
        self.step();
        self.previous.as_ref().unwrap().hosts[&host("shop.edge.test")].clone()
    }

    fn says(&mut self, site: &str, states: &[(u64, EpochState)], active: u64) {
        self.reports.insert(id(site), report(&id(site), states, active));
    }

    fn unfit(&mut self, site: &str) -> Vec<Unfit> {
        let mut report = self.step();
        let host = report.hosts.get_mut(&host("shop.edge.test")).unwrap();
        host.unfit.remove(&id(site)).unwrap_or_default().into_iter().collect()
    }
}

#[test]
fn a_site_is_named_when_nothing_speaks_against_it() {
    let mut world = World::new();
    let report = world.step();
    assert_eq!(world.named(), ids(["fra", "nyc", "sao", "sin"]));
    assert_eq!(report.outside, BTreeSet::from([host("shop.localhost")]));

    type Break = fn(&mut World);
    let cases: [(Break, Unfit); 9] = [
        (|world| _ = world.leased.remove(&id("fra")), Unfit::NoLease),
        (
            |world| world.topology.sites.get_mut(&id("fra")).unwrap().draining = true,
            Unfit::Draining,
        ),
        (
            |world| world.topology.sites.get_mut(&id("fra")).unwrap().addresses.clear(),
            Unfit::NoAddress,
        ),
        (
            |world| world.site_reports.get_mut(&id("fra")).unwrap().certificates.clear(),
            Unfit::NoCertificate,
        ),
        (|world| _ = world.assigned.remove(&id("fra")), Unfit::NotAssigned),
        (|world| _ = world.assigned.insert(id("fra"), [epoch(7)].into()), Unfit::NotAssigned),
        (|world| _ = world.reports.remove(&id("fra")), Unfit::NoReport),
        (
            |world| world.says("fra", &[(1, EpochState::Starting)], 1),
            Unfit::NotWarm { epoch: epoch(1), service: None, state: "starting".into() },
        ),
        (
            |world| {
                world.previous = None;
                world.says("fra", &[(1, EpochState::Warm)], 0);
            },
            Unfit::Behind { active: None, activated: epoch(1) },
        ),
    ];
    for (break_it, unfit) in cases {
        let mut broken = world.clone();
        break_it(&mut broken);
        assert_eq!(broken.unfit("fra"), [unfit]);
        assert_eq!(broken.named(), ids(["nyc", "sao", "sin"]));
    }

    world.activation = None;
    let report = world.step();
    assert_eq!(report.not_activated, BTreeSet::from([host("shop.edge.test")]));
    assert!(world.previous.unwrap().hosts.is_empty());
}

#[test]
fn only_health_fails_open() {
    let mut world = World::new();
    world.site_reports.get_mut(&id("fra")).unwrap().certificates.clear();
    world.topology.sites.get_mut(&id("nyc")).unwrap().draining = true;
    world.says("sin", &[(1, failed())], 0);
    world.leased.remove(&id("sao"));
    // One that is up but unwell goes before one that is away.
    assert_eq!(world.named(), ids(["sin"]));
    world.leased.clear();
    assert_eq!(world.named(), ids(["sao", "sin"]));
    let report = world.step();
    assert!(report.hosts[&host("shop.edge.test")].failed_open);

    for site in world.topology.sites.values_mut() {
        site.draining = true;
    }
    assert!(world.named().is_empty());
}

#[test]
fn a_commit_does_not_empty_the_answers() {
    let mut world = World::new();
    world.assigned.remove(&id("sao"));
    assert_eq!(world.named(), ids(["fra", "nyc", "sin"]));

    // Epoch 2 is committed; it is warm everywhere, and only Frankfurt has switched yet.
    world.activation = Some(activation(2));
    for site in ["fra", "nyc", "sao", "sin"] {
        world.assigned.insert(id(site), [epoch(1), epoch(2)].into());
        world.says(site, &[(1, EpochState::Warm), (2, EpochState::Warm)], 1);
    }
    world.says("fra", &[(1, EpochState::Draining), (2, EpochState::Warm)], 2);
    // The site that was not named before has to switch first.
    assert_eq!(world.named(), ids(["fra", "nyc", "sin"]));
    world.says("sao", &[(2, EpochState::Warm)], 2);
    assert_eq!(world.named(), ids(["fra", "nyc", "sao", "sin"]));
}

#[test]
fn losing_every_lease_and_report_changes_nothing() {
    let mut world = World::new();
    world.step();
    world.leased.clear();
    world.site_reports.clear();
    assert!(!world.step().changed);
    assert_eq!(world.named().len(), 4);
}

#[test]
fn rings_and_shares_ask_for_every_epoch_that_a_site_may_show() {
    let mut world = World::new();
    let entries = &mut world.activation.as_mut().unwrap().entries;
    entries.insert(0, activation_entry(2, 100, Ring::Sites(ids(["fra"]))));
    assert_eq!(world.unfit("fra")[0], Unfit::NotAssigned);
    assert_eq!(world.named(), ids(["nyc", "sao", "sin"]));
    world.assigned.insert(id("fra"), [epoch(1), epoch(2)].into());
    world.says("fra", &[(1, EpochState::Warm), (2, EpochState::Warm)], 2);
    assert_eq!(world.named().len(), 4);
}

#[test]
fn the_serial_grows_with_every_change_and_only_then() {
    let mut world = World::new();
    world.step();
    assert_eq!(world.previous.as_ref().unwrap().serial, 1);
    assert!(!world.step().changed);
    assert_eq!(world.previous.as_ref().unwrap().serial, 1);

    world.previous.as_mut().unwrap().serial = u32::MAX;
    world.leased.remove(&id("fra"));
    assert!(world.step().changed);
    assert_eq!(world.previous.as_ref().unwrap().serial, 1);
}

#[test]
fn each_location_has_its_ranking() {
    let mut world = World::new();
    world.step();
    let zone = world.previous.unwrap();
    let ranking = |city: &str| {
        let city = selvedge_model::geo::City::find(city).unwrap();
        let index = zone.locations[&city.subnet().into()];
        zone.rankings[index as usize].iter().map(SiteId::as_str).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ranking("Paris"), "fra nyc sao sin");
    assert_eq!(ranking("Chicago"), "nyc fra sao sin");
    assert_eq!(ranking("Tokyo"), "sin fra nyc sao");
    assert_eq!(zone.rankings[0][0], id("fra"));
    let distinct: BTreeSet<_> = zone.rankings.iter().collect();
    assert_eq!(distinct.len(), zone.rankings.len());
}

#[test]
fn name_servers_are_spread_over_providers() {
    let topology = topology(8);
    let servers = dns::nameservers(&host("edge.test"), &topology, 3);
    let names: Vec<_> = servers.keys().map(Host::as_str).collect();
    assert_eq!(names, ["ns1.edge.test", "ns2.edge.test", "ns3.edge.test"]);
    let provider = |address| {
        let mut sites = topology.sites.values();
        &sites.find(|site| site.addresses.contains(address)).unwrap().provider
    };
    assert_eq!(servers.values().flatten().map(provider).collect::<BTreeSet<_>>().len(), 3);
}

#[test]
fn each_rule_catches_a_broken_zone() {
    type Break = fn(&mut World, &mut Zone);
    let shop = || host("shop.edge.test");
    let fra = |finding: fn(Host, SiteId) -> Finding| finding(shop(), id("fra"));
    fn named(zone: &mut Zone) -> &mut BTreeSet<SiteId> {
        zone.hosts.get_mut(&host("shop.edge.test")).unwrap()
    }
    let prefix = Location::cities()[0].prefix;
    let broken: [(Break, Finding); 20] = [
        (|_, zone| zone.origin = host("edge.example"), Finding::Origin),
        (
            |_, zone| _ = zone.hosts.insert(host("shop.localhost"), ids(["fra"])),
            Finding::OutsideOrigin(host("shop.localhost")),
        ),
        (|world, _| world.activation = None, Finding::Ghost(shop())),
        (|_, zone| zone.hosts.clear(), Finding::HostMissing(shop())),
        (|_, zone| _ = named(zone).insert(id("mars")), Finding::UnknownSite(shop(), id("mars"))),
        (|world, _| world.activation = Some(activation(2)), fra(Finding::NotAssigned)),
        (
            |world, _| world.topology.sites.get_mut(&id("fra")).unwrap().draining = true,
            fra(Finding::Draining),
        ),
        (
            |world, _| world.topology.sites.get_mut(&id("fra")).unwrap().addresses.clear(),
            fra(Finding::NoAddress),
        ),
        (
            |world, _| world.site_reports.get_mut(&id("fra")).unwrap().certificates.clear(),
            fra(Finding::NoCertificate),
        ),
        (|world, _| _ = world.leased.remove(&id("fra")), fra(Finding::Unhealthy)),
        (|world, _| world.says("fra", &[(1, failed())], 1), fra(Finding::Unhealthy)),
        (|_, zone| _ = named(zone).remove(&id("fra")), fra(Finding::LeftOut)),
        (
            |world, zone| {
                world.leased.clear();
                named(zone).clear();
            },
            Finding::NotOpen(shop()),
        ),
        (|_, zone| _ = zone.sites.remove(&id("fra")), Finding::Addresses),
        (|_, zone| zone.rankings.clear(), Finding::NoDefaultRanking),
        (
            |_, zone| zone.rankings[0][1] = zone.rankings[0][0].clone(),
            Finding::NotAPermutation { ranking: 0 },
        ),
        (
            |_, zone| zone.rankings.iter_mut().for_each(|it| it.reverse()),
            Finding::OutOfOrder(prefix),
        ),
        (
            |_, zone| _ = zone.locations.insert(Location::cities()[0].prefix, 99),
            Finding::NoRanking(prefix),
        ),
        (|_, zone| zone.locations.clear(), Finding::LocationMissing(prefix)),
        (|_, zone| zone.ttl_s += 1, Finding::SerialNotGrown),
    ];
    let mut clean = World::new();
    clean.step();
    let zone = clean.previous.clone().unwrap();
    assert_eq!(findings(&clean.input(), &zone), []);
    for (break_it, finding) in broken {
        let (mut world, mut zone) = (clean.clone(), zone.clone());
        break_it(&mut world, &mut zone);
        let found = findings(&world.input(), &zone);
        assert!(found.contains(&finding), "{finding:?} is not in {found:?}");
    }
    let grown = Zone { serial: zone.serial + 1, ..zone.clone() };
    assert_eq!(findings(&clean.input(), &grown), [Finding::SerialGrown]);
    let back = Zone { serial: zone.serial - 1, ttl_s: 1, ..zone };
    assert_eq!(findings(&clean.input(), &back), [Finding::SerialNotGrown]);
}
