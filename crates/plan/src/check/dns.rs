//! What must hold of a zone.

use std::collections::BTreeSet;

use ipnet::IpNet;
use selvedge_model::{Activation, Epoch, EpochState, Host, Site, SiteId, Zone};

use crate::dns::{App, Input};

/// A rule that a zone breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The zone is of another apex.
    Origin,
    /// A host that is not in the zone is answered for.
    OutsideOrigin(Host),
    /// A host that no activated app has is answered for.
    Ghost(Host),
    /// A host of an activated app is not in the zone.
    HostMissing(Host),
    /// A site that does not exist is named.
    UnknownSite(Host, SiteId),
    /// A site that is not assigned the activated epoch is named.
    NotAssigned(Host, SiteId),
    /// A draining site is named.
    Draining(Host, SiteId),
    /// A site without an address is named.
    NoAddress(Host, SiteId),
    /// A site without the host's certificate is named.
    NoCertificate(Host, SiteId),
    /// A site that is not healthy is named although another is healthy.
    Unhealthy(Host, SiteId),
    /// A site that nothing speaks against is not named.
    LeftOut(Host, SiteId),
    /// No site is named although only health speaks against some.
    NotOpen(Host),
    /// The addresses of the sites differ from the topology's.
    Addresses,
    /// There is no ranking for clients that no prefix matches.
    NoDefaultRanking,
    /// A ranking does not name every site once.
    NotAPermutation {
        /// Its index.
        ranking: usize,
    },
    /// A location points to no ranking.
    NoRanking(IpNet),
    /// A location is not in the zone.
    LocationMissing(IpNet),
    /// A location's ranking is not by rising round trip.
    OutOfOrder(IpNet),
    /// The content differs from the zone before, but the serial is not greater (RFC 1982).
    SerialNotGrown,
    /// Nothing differs but the serial.
    SerialGrown,
}

/// Every rule that the zone breaks.
pub fn findings(input: &Input<'_>, zone: &Zone) -> Vec<Finding> {
    let mut findings = Vec::new();
    if zone.origin != *input.origin {
        findings.push(Finding::Origin);
    }
    let activated = |host: &Host| {
        let app = input.apps.iter().find(|app| app.hosts.contains(host));
        app.and_then(|app| Some((app, app.activation?)))
    };
    for (host, sites) in &zone.hosts {
        if !host.is_in(input.origin) {
            findings.push(Finding::OutsideOrigin(host.clone()));
        }
        match activated(host) {
            None => findings.push(Finding::Ghost(host.clone())),
            Some((app, activation)) => {
                findings.extend(host_findings(input, app, activation, host, sites));
            }
        }
    }
    for host in input.apps.iter().flat_map(|app| &app.hosts) {
        let belongs = host.is_in(input.origin) && activated(host).is_some();
        if belongs && !zone.hosts.contains_key(host) {
            findings.push(Finding::HostMissing(host.clone()));
        }
    }
    rankings(input, zone, &mut findings);
    if let Some(previous) = input.previous {
        let same = *previous == Zone { serial: previous.serial, ..zone.clone() };
        match (same, zone.serial.wrapping_sub(previous.serial)) {
            (true, 0) | (false, 1..0x8000_0000) => {}
            (true, _) => findings.push(Finding::SerialGrown),
            (false, _) => findings.push(Finding::SerialNotGrown),
        }
    }
    findings
}

type Rule = fn(Host, SiteId) -> Finding;

/// What can be said for a site as an answer for a host.
struct Standing<'a> {
    site: &'a Site,
    assigned: bool,
    certified: bool,
    healthy: bool,
    /// It was named before, or serves the newest epoch that it is to serve.
    current: bool,
}

impl Standing<'_> {
    /// All that never fails open.
    fn passes(&self) -> bool {
        self.assigned && self.certified && !self.site.draining && !self.site.addresses.is_empty()
    }
}

fn host_findings(
    input: &Input<'_>,
    app: &App<'_>,
    activation: &Activation,
    host: &Host,
    named: &BTreeSet<SiteId>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let standings: Vec<_> = (input.topology.sites.values())
        .map(|site| standing(input, app, activation, host, site))
        .collect();
    let any_well = standings.iter().any(|it| it.passes() && it.healthy);
    for id in named {
        let pair = (host.clone(), id.clone());
        let Some(it) = standings.iter().find(|it| it.site.id == *id) else {
            findings.push(Finding::UnknownSite(pair.0, pair.1));
            continue;
        };
        let rules: [(bool, Rule); 5] = [
            (!it.assigned, Finding::NotAssigned),
            (it.site.draining, Finding::Draining),
            (it.site.addresses.is_empty(), Finding::NoAddress),
            (!it.certified, Finding::NoCertificate),
            (!it.healthy && any_well, Finding::Unhealthy),
        ];
        let broken = rules.into_iter().filter(|(broken, _)| *broken);
        findings.extend(broken.map(|(_, new)| new(pair.0.clone(), pair.1.clone())));
    }
    for it in standings.iter().filter(|it| it.passes() && it.healthy && it.current) {
        if !named.contains(&it.site.id) {
            findings.push(Finding::LeftOut(host.clone(), it.site.id.clone()));
        }
    }
    if named.is_empty() && standings.iter().any(Standing::passes) {
        findings.push(Finding::NotOpen(host.clone()));
    }
    findings
}

fn standing<'a>(
    input: &Input<'_>,
    app: &App<'_>,
    activation: &Activation,
    host: &Host,
    site: &'a Site,
) -> Standing<'a> {
    let before = input.previous.and_then(|zone| zone.hosts.get(host));
    let named = before.is_some_and(|sites| sites.contains(&site.id));
    let epochs: Vec<Epoch> = (activation.entries.iter())
        .filter(|entry| entry.sites.contains(&site.id))
        .map(|entry| entry.epoch)
        .collect();
    let assigned = app.assigned.get(&site.id);
    let is_assigned = |epoch| assigned.is_some_and(|assigned| assigned.contains(epoch));
    let report = app.reports.get(&site.id);
    let is_warm = |epoch| {
        let epoch = report.and_then(|report| report.epochs.get(epoch));
        epoch.is_some_and(|epoch| epoch.state == EpochState::Warm)
    };
    let active = report.and_then(|report| report.active);
    Standing {
        site,
        assigned: !epochs.is_empty() && epochs.iter().all(is_assigned),
        certified: (input.site_reports.get(&site.id))
            .map_or(named, |report| report.certificates.contains_key(host)),
        healthy: input.leased.contains(&site.id) && report.is_some() && epochs.iter().all(is_warm),
        current: named || active.is_some() && active == epochs.iter().max().copied(),
    }
}

fn rankings(input: &Input<'_>, zone: &Zone, findings: &mut Vec<Finding>) {
    let sites = &input.topology.sites;
    let addresses = sites.iter().map(|(id, site)| (id, site.addresses.iter().copied().collect()));
    if !zone.sites.iter().map(|(id, addresses)| (id, addresses.clone())).eq(addresses) {
        findings.push(Finding::Addresses);
    }
    if zone.rankings.is_empty() {
        findings.push(Finding::NoDefaultRanking);
    }
    for (ranking, named) in zone.rankings.iter().enumerate() {
        let distinct: BTreeSet<_> = named.iter().collect();
        if named.len() != sites.len() || !distinct.into_iter().eq(sites.keys()) {
            findings.push(Finding::NotAPermutation { ranking });
        }
    }
    for (prefix, index) in &zone.locations {
        if usize::try_from(*index).ok().and_then(|index| zone.rankings.get(index)).is_none() {
            findings.push(Finding::NoRanking(*prefix));
        }
    }
    for location in input.locations {
        let prefix = location.prefix.trunc();
        let Some(index) = zone.locations.get(&prefix) else {
            findings.push(Finding::LocationMissing(prefix));
            continue;
        };
        let ranking = usize::try_from(*index).ok().and_then(|index| zone.rankings.get(index));
        let rtts_ms = ranking.into_iter().flatten().filter_map(|id| sites.get(id)).map(|site| {
            let rtt_ms = input.round_trips.rtt_ms(location.point, site.point);
            if rtt_ms.is_finite() { rtt_ms } else { f64::MAX }
        });
        if !rtts_ms.is_sorted() {
            findings.push(Finding::OutOfOrder(prefix));
        }
    }
}
