//! Worlds for the planners: small ones made by hand and random ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use selvedge_model::documents::{EpochReport, Probe};
use selvedge_model::geo::{CITIES, City, DistanceModel, Point};
use selvedge_model::id::ProviderName;
use selvedge_model::topology::{Jurisdiction, Region};
use selvedge_model::{
    Activation, ActivationEntry, AppName, AppReport, Assignment, AssignmentEntry, Digest,
    EnvironmentName, Epoch, EpochState, Host, Placement, ReleaseId, Ring, ServiceName, Site,
    SiteId, SiteReport, Topology,
};
use selvedge_plan::placement::{self, Demand};
use selvedge_plan::rollout::Target;

use crate::random::Random;

pub(crate) fn id(text: &str) -> SiteId {
    SiteId::new(text).unwrap()
}

pub(crate) fn ids<const N: usize>(texts: [&str; N]) -> BTreeSet<SiteId> {
    texts.map(id).into()
}

pub(crate) fn app() -> AppName {
    AppName::new("shop").unwrap()
}

pub(crate) fn host(text: &str) -> Host {
    Host::new(text).unwrap()
}

pub(crate) fn epoch(number: u64) -> Epoch {
    Epoch::new(1, number)
}

pub(crate) fn release(number: u64) -> ReleaseId {
    ReleaseId(Digest::of(&number.to_be_bytes()))
}

pub(crate) fn service() -> ServiceName {
    ServiceName::new("web").unwrap()
}

/// The release of which the epoch's number is the seed.
pub(crate) fn target(number: u64) -> Target {
    Target { epoch: epoch(number), release: release(number), services: BTreeSet::from([service()]) }
}

pub(crate) fn entry(number: u64) -> AssignmentEntry {
    let Target { epoch, release, services } = target(number);
    AssignmentEntry { epoch, release, services }
}

pub(crate) fn assignment(site: &SiteId, numbers: &[u64]) -> Assignment {
    let entries = numbers.iter().copied().map(entry).collect();
    let environment = EnvironmentName::production();
    Assignment { app: app(), environment, site: site.clone(), entries }
}

pub(crate) fn activation_entry(number: u64, share: u16, sites: Ring) -> ActivationEntry {
    let releases = BTreeMap::from([(app(), release(number))]);
    ActivationEntry { epoch: epoch(number), releases, share, sites }
}

pub(crate) fn activation(number: u64) -> Activation {
    let releases = BTreeMap::from([(app(), release(number))]);
    Activation::everyone(app(), EnvironmentName::production(), epoch(number), releases)
}

pub(crate) fn report(site: &SiteId, states: &[(u64, EpochState)], active: u64) -> AppReport {
    let epochs = states.iter().map(|(number, state)| {
        (epoch(*number), EpochReport { release: release(*number), state: state.clone() })
    });
    AppReport {
        app: app(),
        environment: EnvironmentName::production(),
        site: site.clone(),
        assignment: None,
        activation: None,
        epochs: epochs.collect(),
        active: (active > 0).then(|| epoch(active)),
        probe: None,
        warnings: Vec::new(),
    }
}

pub(crate) fn probe(number: u64, status: u16) -> Option<Probe> {
    let detail = "GET http://shop.edge.test/".to_owned();
    Some(Probe { epoch: epoch(number), status, detail, at_ms: 0 })
}

pub(crate) fn failed() -> EpochState {
    EpochState::Failed {
        service: Some(service()),
        reason: "it exited with code 1 before it was ready".into(),
        last_lines: vec!["Error: no such file".into()],
    }
}

pub(crate) fn site_report(site: &SiteId, hosts: impl IntoIterator<Item = Host>) -> SiteReport {
    SiteReport {
        site: site.clone(),
        pid: 1,
        started_ms: 0,
        version: "0.1.0".into(),
        certificates: hosts.into_iter().map(|host| (host, Digest::of(b"leaf"))).collect(),
        zones: BTreeMap::new(),
        admin: String::new(),
        problems: Vec::new(),
        limitations: Vec::new(),
    }
}

pub(crate) fn site(city: &City, provider: &str, last_octet: u8) -> Site {
    Site {
        id: id(city.code),
        city: city.name.into(),
        country: city.country.into(),
        region: city.region,
        point: city.point,
        provider: ProviderName::new(provider).unwrap(),
        addresses: vec![IpAddr::V4(Ipv4Addr::new(127, 0, 1, last_octet))],
        http_port: 8080,
        https_port: 8443,
        memory_mib: 1024,
        draining: false,
    }
}

/// The first `count` built-in cities over three providers: what the box has.
pub(crate) fn topology(count: usize) -> Topology {
    let providers = ["alpha", "beta", "gamma"];
    let sites = CITIES.iter().take(count).enumerate().map(|(index, city)| {
        let site = site(city, providers[index % 3], index as u8 + 1);
        (site.id.clone(), site)
    });
    Topology { sites: sites.collect() }
}

/// Everything that placement depends on.
#[derive(Debug, Clone)]
pub(crate) struct PlacementWorld {
    pub(crate) topology: Topology,
    pub(crate) app: AppName,
    pub(crate) placement: Placement,
    pub(crate) need_mib: u64,
    pub(crate) used_mib: BTreeMap<SiteId, u64>,
    pub(crate) current: BTreeSet<SiteId>,
    pub(crate) demand: Vec<Demand>,
}

impl PlacementWorld {
    /// The box, without constraints.
    pub(crate) fn of_the_box() -> Self {
        Self {
            topology: topology(8),
            app: app(),
            placement: Placement::default(),
            need_mib: 256,
            used_mib: BTreeMap::new(),
            current: BTreeSet::new(),
            demand: Demand::cities(),
        }
    }

    pub(crate) fn input(&self) -> placement::Input<'_> {
        placement::Input {
            topology: &self.topology,
            app: &self.app,
            placement: &self.placement,
            need_mib: self.need_mib,
            used_mib: &self.used_mib,
            current: &self.current,
            demand: &self.demand,
            round_trips: &DistanceModel,
        }
    }

    /// A random world of at most ten sites.
    pub(crate) fn random(random: &mut Random) -> Self {
        let topology = random_topology(random);
        let names: Vec<SiteId> = topology.sites.keys().cloned().collect();
        let strict = random.chance(50);
        let named = |random: &mut Random, percent| {
            let mut named = random.some(if strict { percent } else { 0 }, names.iter().cloned());
            if random.chance(2) {
                named.insert(id("nowhere"));
            }
            named
        };
        let mut placement = Placement {
            min_sites: 1 + random.below(if strict { 5 } else { 2 }) as u32,
            max_sites: random.chance(60).then(|| 1 + random.below(6) as u32),
            include: named(random, 12),
            exclude: named(random, 12),
            ..Placement::default()
        };
        if strict && random.chance(30) {
            placement.regions = random.some(50, Region::ALL);
        }
        if strict && random.chance(30) {
            let areas = ["DE", "US", "EU", "JP", "GB"].map(|it| Jurisdiction::new(it).unwrap());
            placement.jurisdictions = random.some(50, areas);
        }
        let kept = random.pick(&[0, 30, 60]);
        let used = names.iter().map(|name| (name.clone(), random.below(900))).collect();
        Self {
            need_mib: random.pick(&[0, 64, 256, 512]),
            used_mib: used,
            current: random.some(kept, names),
            demand: random_demand(random),
            app: app(),
            topology,
            placement,
        }
    }
}

pub(crate) fn random_topology(random: &mut Random) -> Topology {
    let count = random.below(11) as usize;
    let mut sites = BTreeMap::new();
    while sites.len() < count {
        let provider = random.pick(&["alpha", "alpha", "beta", "gamma"]);
        let city = random.pick(&CITIES);
        let mut site = site(&city, provider, sites.len() as u8 + 1);
        site.draining = random.chance(8);
        if random.chance(5) {
            site.addresses.clear();
        }
        site.memory_mib = random.pick(&[512, 1024, 4096]);
        sites.insert(site.id.clone(), site);
    }
    Topology { sites }
}

fn random_demand(random: &mut Random) -> Vec<Demand> {
    let places = random.pick(&[0, 1, 5, 28]);
    let mut demand: Vec<_> = Demand::cities().into_iter().take(places).collect();
    if random.chance(50) {
        for place in &mut demand {
            place.weight = random.pick(&[0.0, 0.1, 1.0, 7.0]);
            place.point =
                Point { lat: random.unit() * 180.0 - 90.0, lon: random.unit() * 360.0 - 180.0 };
        }
    }
    demand
}

/// A random state of an epoch.
pub(crate) fn random_state(random: &mut Random) -> EpochState {
    let service = service();
    let (reason, last_lines) = ("it exited".to_owned(), Vec::new());
    match random.below(12) {
        0 => EpochState::Fetching,
        1 => EpochState::Starting,
        2 => EpochState::Draining,
        3 => EpochState::Degraded { service, reason, last_lines },
        4 => failed(),
        _ => EpochState::Warm,
    }
}

/// A random activation of epochs up to `newest`; shares and rings included, always for everybody.
pub(crate) fn random_activation(
    random: &mut Random,
    newest: u64,
    sites: &BTreeSet<SiteId>,
) -> Option<Activation> {
    if newest == 0 || random.chance(15) {
        return None;
    }
    let mut activation = activation(1 + random.below(newest));
    let base = activation.entries[0].epoch.number;
    if base < newest && random.chance(25) {
        let ring =
            if random.chance(50) { Ring::All } else { Ring::Sites(random.some(50, sites.clone())) };
        let share = random.pick(&[100, 5_000, 10_000]);
        activation.entries.insert(0, activation_entry(newest, share, ring));
    }
    Some(activation)
}
