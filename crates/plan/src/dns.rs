//! Which sites DNS may name for each host, and in which order each location prefers them.
//!
//! Invariant 7: a site is named for a host only when it is assigned the activated release, has
//! reported the host's certificate, does not drain, and is healthy, which means that its lease runs
//! and the release is warm there. When *no* site is healthy, answers fail open to those that pass
//! everything else; certificate, placement and drain never fail open. A site enters the answers
//! when it serves the activated epoch; it does not leave them for the moment between a commit and
//! its own switch, since the epoch was warm there before the commit.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use selvedge_model::geo::{Point, RoundTrips};
use selvedge_model::{
    Activation, AppName, AppReport, EnvironmentName, Epoch, EpochState, Host, ServiceName, Site,
    SiteId, SiteReport, Topology, Zone,
};
use serde::{Deserialize, Serialize};

/// Where clients of a prefix are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// Their addresses.
    pub prefix: IpNet,
    /// Their place.
    pub point: Point,
}

impl Location {
    /// The built-in cities with their client subnets in the box.
    pub fn cities() -> Vec<Self> {
        let location = |city: &selvedge_model::geo::City| Self {
            prefix: city.subnet().into(),
            point: city.point,
        };
        selvedge_model::geo::CITIES.iter().map(location).collect()
    }
}

/// What the zone says apart from steering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Name servers with their addresses; see [`nameservers`].
    pub nameservers: BTreeMap<Host, BTreeSet<IpAddr>>,
    /// TTL of steered answers in seconds.
    pub ttl_s: u32,
    /// Negative TTL in seconds (SOA minimum, RFC 2308).
    pub negative_ttl_s: u32,
    /// How many sites an answer names.
    pub answers: u8,
}

/// An app in one environment.
#[derive(Debug, Clone)]
pub struct App<'a> {
    /// The app.
    pub app: &'a AppName,
    /// The environment.
    pub environment: &'a EnvironmentName,
    /// Its hosts; those outside the zone are left out and reported.
    pub hosts: BTreeSet<Host>,
    /// What is activated; without it the hosts do not exist.
    pub activation: Option<&'a Activation>,
    /// The epochs that each site is assigned.
    pub assigned: BTreeMap<SiteId, BTreeSet<Epoch>>,
    /// What each site says of it.
    pub reports: BTreeMap<SiteId, &'a AppReport>,
}

/// Everything that a zone depends on.
#[derive(Clone)]
pub struct Input<'a> {
    /// The zone's apex.
    pub origin: &'a Host,
    /// The sites.
    pub topology: &'a Topology,
    /// Sites whose lease runs.
    pub leased: &'a BTreeSet<SiteId>,
    /// What sites say of themselves.
    pub site_reports: &'a BTreeMap<SiteId, SiteReport>,
    /// The apps; no two have a host in common.
    pub apps: Vec<App<'a>>,
    /// Where clients are.
    pub locations: &'a [Location],
    /// Round trips between places. Measured ones must be smoothed by the caller: every change of
    /// order is a new zone.
    pub round_trips: &'a dyn RoundTrips,
    /// What the zone says apart from steering.
    pub settings: &'a Settings,
    /// The zone as it stands.
    pub previous: Option<&'a Zone>,
}

/// Why each host has the sites that it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The zone's hosts.
    pub hosts: BTreeMap<Host, HostReport>,
    /// Hosts of apps that are not in the zone.
    pub outside: BTreeSet<Host>,
    /// Hosts of apps that have no activation.
    pub not_activated: BTreeSet<Host>,
    /// Whether the zone differs from the one before.
    pub changed: bool,
}

/// Why a host has the sites that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostReport {
    /// The app.
    pub app: AppName,
    /// The environment.
    pub environment: EnvironmentName,
    /// Sites that are named.
    pub sites: BTreeSet<SiteId>,
    /// No site is healthy, so health is disregarded: these sites are named all the same.
    pub failed_open: bool,
    /// Every site that is not named, or named only because of `failed_open`, with the reasons.
    pub unfit: BTreeMap<SiteId, BTreeSet<Unfit>>,
}

/// Why a site is unfit to be named for a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "unfit", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Unfit {
    /// Placement did not choose it, or has not yet assigned the activated epoch. Never fails open.
    NotAssigned,
    /// It drains. Never fails open.
    Draining,
    /// It has no address. Never fails open.
    NoAddress,
    /// It has not reported the host's certificate. Never fails open.
    NoCertificate,
    /// Its lease has expired.
    NoLease,
    /// It has not reported the app.
    NoReport,
    /// The activated epoch is not warm there.
    NotWarm {
        /// The epoch.
        epoch: Epoch,
        /// The service to blame, if the site names one.
        service: Option<ServiceName>,
        /// How far it is, or what happened.
        state: String,
    },
    /// It answers with an older epoch, or with none, and was not named before.
    Behind {
        /// The epoch that it answers with.
        active: Option<Epoch>,
        /// The epoch that it is to answer with.
        activated: Epoch,
    },
}

impl Unfit {
    /// Whether the reason may be disregarded when nothing better is left: health only.
    pub fn may_fail_open(&self) -> bool {
        match self {
            Self::NotAssigned | Self::Draining | Self::NoAddress | Self::NoCertificate => false,
            Self::NoLease | Self::NoReport | Self::NotWarm { .. } | Self::Behind { .. } => true,
        }
    }
}

/// Name servers for a zone that lists none: `ns1.ORIGIN` to `nsN.ORIGIN`, at most `count`, at
/// sites of different providers as far as there are, in order of site id.
pub fn nameservers(
    origin: &Host,
    topology: &Topology,
    count: usize,
) -> BTreeMap<Host, BTreeSet<IpAddr>> {
    let mut seen = BTreeMap::<_, usize>::new();
    let mut sites: Vec<_> = topology
        .sites
        .values()
        .filter(|site| !site.addresses.is_empty())
        .map(|site| {
            let turn = seen.entry(&site.provider).or_default();
            *turn += 1;
            (*turn, site)
        })
        .collect();
    sites.sort_by(|(turn_a, a), (turn_b, b)| (turn_a, &a.id).cmp(&(turn_b, &b.id)));
    let name = |index: usize| Host::new(&format!("ns{}.{origin}", index + 1)).ok();
    sites
        .into_iter()
        .take(count)
        .enumerate()
        .filter_map(|(index, (_, site))| {
            Some((name(index)?, site.addresses.iter().copied().collect()))
        })
        .collect()
}

/// Decides the zone.
pub fn plan(input: &Input<'_>) -> (Zone, Report) {
    let mut report = Report::default();
    let mut hosts = BTreeMap::new();
    for app in &input.apps {
        let (inside, outside): (BTreeSet<&Host>, BTreeSet<&Host>) =
            app.hosts.iter().partition(|host| host.is_in(input.origin));
        report.outside.extend(outside.into_iter().cloned());
        match app.activation {
            None => report.not_activated.extend(inside.into_iter().cloned()),
            Some(activation) => {
                for host in inside {
                    let host_report = host_report(input, app, activation, host);
                    hosts.insert(host.clone(), host_report.sites.clone());
                    report.hosts.insert(host.clone(), host_report);
                }
            }
        }
    }
    let (locations, rankings) = rankings(input);
    let mut zone = Zone {
        origin: input.origin.clone(),
        serial: input.previous.map_or(1, |zone| zone.serial),
        nameservers: input.settings.nameservers.clone(),
        ttl_s: input.settings.ttl_s,
        negative_ttl_s: input.settings.negative_ttl_s,
        answers: input.settings.answers,
        sites: input
            .topology
            .sites
            .iter()
            .map(|(id, site)| (id.clone(), addresses(site)))
            .collect(),
        hosts,
        locations,
        rankings,
    };
    report.changed = input.previous != Some(&zone);
    if report.changed && input.previous.is_some() {
        zone.serial = next_serial(zone.serial);
    }
    (zone, report)
}

fn addresses(site: &Site) -> BTreeSet<IpAddr> {
    site.addresses.iter().copied().collect()
}

/// The serial after `serial` in the order of RFC 1982. Zero is passed over, since some software
/// takes it for "none".
pub fn next_serial(serial: u32) -> u32 {
    serial.wrapping_add(1).max(1)
}

fn host_report(
    input: &Input<'_>,
    app: &App<'_>,
    activation: &Activation,
    host: &Host,
) -> HostReport {
    let unfit: BTreeMap<_, _> = input
        .topology
        .sites
        .values()
        .map(|site| (site.id.clone(), unfit(input, app, activation, host, site)))
        .collect();
    let select = |fits: &dyn Fn(&BTreeSet<Unfit>) -> bool| -> BTreeSet<SiteId> {
        unfit.iter().filter(|(_, reasons)| fits(reasons)).map(|(site, _)| site.clone()).collect()
    };
    let mut sites = select(&|reasons| reasons.is_empty());
    let failed_open = sites.is_empty();
    if failed_open {
        // A site that is only behind answers well; one that is up but unwell may answer; one that
        // is away probably can't.
        let behind = |reason: &Unfit| matches!(reason, Unfit::Behind { .. });
        let open = |reasons: &BTreeSet<Unfit>| reasons.iter().all(Unfit::may_fail_open);
        sites = select(&|reasons| reasons.iter().all(behind));
        if sites.is_empty() {
            sites = select(&|reasons| open(reasons) && !reasons.contains(&Unfit::NoLease));
        }
        if sites.is_empty() {
            sites = select(&open);
        }
    }
    let failed_open = failed_open && !sites.is_empty();
    let unfit = unfit.into_iter().filter(|(_, reasons)| !reasons.is_empty()).collect();
    HostReport {
        app: app.app.clone(),
        environment: app.environment.clone(),
        sites,
        failed_open,
        unfit,
    }
}

fn unfit(
    input: &Input<'_>,
    app: &App<'_>,
    activation: &Activation,
    host: &Host,
    site: &Site,
) -> BTreeSet<Unfit> {
    let mut unfit = BTreeSet::new();
    let named = input
        .previous
        .and_then(|zone| zone.hosts.get(host))
        .is_some_and(|sites| sites.contains(&site.id));
    // A report ends with its lease. A site that was named has had the certificate and keeps it.
    let certified = match input.site_reports.get(&site.id) {
        Some(report) => report.certificates.contains_key(host),
        None => named,
    };
    let epochs: BTreeSet<Epoch> = activation
        .entries
        .iter()
        .filter(|entry| entry.sites.contains(&site.id))
        .map(|entry| entry.epoch)
        .collect();
    let assigned = app.assigned.get(&site.id);
    let has_all = assigned.is_some_and(|assigned| epochs.is_subset(assigned));
    if epochs.is_empty() || !has_all {
        unfit.insert(Unfit::NotAssigned);
    }
    if site.draining {
        unfit.insert(Unfit::Draining);
    }
    if site.addresses.is_empty() {
        unfit.insert(Unfit::NoAddress);
    }
    if !certified {
        unfit.insert(Unfit::NoCertificate);
    }
    if !input.leased.contains(&site.id) {
        unfit.insert(Unfit::NoLease);
    }
    match app.reports.get(&site.id) {
        None => {
            unfit.insert(Unfit::NoReport);
        }
        Some(report) => unwell(report, &epochs, named, &mut unfit),
    }
    unfit
}

/// Adds what `report` says against the release's health at a site that is to serve `epochs`.
fn unwell(report: &AppReport, epochs: &BTreeSet<Epoch>, named: bool, unfit: &mut BTreeSet<Unfit>) {
    for epoch in epochs {
        let (service, state) = match report.epochs.get(epoch).map(|it| &it.state) {
            Some(EpochState::Warm) => continue,
            None => (None, "not there".to_owned()),
            Some(EpochState::Fetching) => (None, "fetching".to_owned()),
            Some(EpochState::Starting) => (None, "starting".to_owned()),
            Some(EpochState::Draining) => (None, "draining".to_owned()),
            Some(EpochState::Degraded { service, reason, .. }) => {
                (Some(service.clone()), reason.clone())
            }
            Some(EpochState::Failed { service, reason, .. }) => (service.clone(), reason.clone()),
        };
        unfit.insert(Unfit::NotWarm { epoch: *epoch, service, state });
    }
    if let Some(&activated) = epochs.last()
        && report.active != Some(activated)
        && !named
    {
        unfit.insert(Unfit::Behind { active: report.active, activated });
    }
}

/// Rankings, each stated once; the first, used where no prefix matches, is by the mean over all
/// locations.
fn rankings(input: &Input<'_>) -> (BTreeMap<IpNet, u32>, Vec<Vec<SiteId>>) {
    let rtt = |from: Point, site: &Site| {
        let rtt_ms = input.round_trips.rtt_ms(from, site.point);
        if rtt_ms.is_finite() { rtt_ms } else { f64::MAX }
    };
    let rank = |cost: &dyn Fn(&Site) -> f64| -> Vec<SiteId> {
        let mut sites: Vec<_> =
            input.topology.sites.values().map(|site| (cost(site), &site.id)).collect();
        sites.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
        sites.into_iter().map(|(_, id)| id.clone()).collect()
    };
    let share = 1.0 / input.locations.len().max(1) as f64;
    let mean = |site: &Site| -> f64 {
        input.locations.iter().map(|location| rtt(location.point, site) * share).sum()
    };
    let mut rankings = vec![rank(&mean)];
    let mut indexes = BTreeMap::from([(rankings.concat(), 0)]);
    let mut locations = BTreeMap::new();
    for location in input.locations {
        let ranking = rank(&|site| rtt(location.point, site));
        let fresh = u32::try_from(rankings.len()).unwrap_or(0);
        let index = *indexes.entry(ranking.clone()).or_insert(fresh);
        if index == fresh && fresh != 0 {
            rankings.push(ranking);
        }
        locations.insert(location.prefix.trunc(), index);
    }
    (locations, rankings)
}
