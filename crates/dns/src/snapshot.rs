//! Zones compiled for lookup.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use selvedge_model::{Host, SiteId, Zone};

use crate::location::Locations;

/// Zones, immutable; swapped whole.
#[derive(Debug, Default)]
pub struct Snapshot {
    zones: Vec<CompiledZone>,
}

/// A zone with everything that a lookup needs at hand.
#[derive(Debug)]
pub(crate) struct CompiledZone {
    zone: Arc<Zone>,
    locations: Locations,
    /// The host's sites in a set, by lower-case name.
    hosts: HashMap<String, BTreeSet<SiteId>>,
    nameservers: HashMap<String, BTreeSet<IpAddr>>,
    /// Names that exist only because something is below them (empty non-terminals, RFC 4592).
    above: HashSet<String>,
}

/// What a name in a zone is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// The zone's apex.
    Apex,
    /// A name server of the zone.
    Nameserver(&'a BTreeSet<IpAddr>),
    /// A host that is steered to these sites.
    Host(&'a BTreeSet<SiteId>),
    /// Nothing itself, but something is below it.
    Empty,
    /// Nothing.
    Absent,
}

impl Snapshot {
    /// Compiles zones.
    pub fn new(zones: Vec<Arc<Zone>>) -> Self {
        let mut zones: Vec<CompiledZone> = zones.into_iter().map(CompiledZone::new).collect();
        // The most specific zone answers.
        zones.sort_by_key(|zone| std::cmp::Reverse(zone.zone.origin.as_str().len()));
        Self { zones }
    }

    /// The zone that `name` (lower case, no dot at the end) lies in.
    pub(crate) fn zone_of(&self, name: &str) -> Option<&CompiledZone> {
        self.zones.iter().find(|zone| is_in(name, zone.zone.origin.as_str()))
    }
}

fn is_in(name: &str, origin: &str) -> bool {
    name.strip_suffix(origin).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl CompiledZone {
    fn new(zone: Arc<Zone>) -> Self {
        let inside = |host: &&Host| host.is_in(&zone.origin);
        let mut above = HashSet::new();
        for host in zone.hosts.keys().chain(zone.nameservers.keys()).filter(inside) {
            let mut name = host.as_str();
            while let Some((_, parent)) = name.split_once('.') {
                if !is_in(parent, zone.origin.as_str()) || parent == zone.origin.as_str() {
                    break;
                }
                above.insert(parent.to_owned());
                name = parent;
            }
        }
        let hosts = zone.hosts.iter().filter(|(host, _)| inside(host));
        let nameservers = zone.nameservers.iter().filter(|(host, _)| inside(host));
        Self {
            locations: Locations::new(&zone.locations),
            hosts: hosts.map(|(host, sites)| (host.to_string(), sites.clone())).collect(),
            nameservers: nameservers.map(|(host, ips)| (host.to_string(), ips.clone())).collect(),
            above,
            zone,
        }
    }

    pub(crate) fn zone(&self) -> &Zone {
        &self.zone
    }

    pub(crate) fn locations(&self) -> &Locations {
        &self.locations
    }

    pub(crate) fn find(&self, name: &str) -> Found<'_> {
        if name == self.zone.origin.as_str() && !self.hosts.contains_key(name) {
            return Found::Apex;
        }
        if let Some(sites) = self.hosts.get(name) {
            return Found::Host(sites);
        }
        if let Some(addresses) = self.nameservers.get(name) {
            return Found::Nameserver(addresses);
        }
        if self.above.contains(name) { Found::Empty } else { Found::Absent }
    }

    /// Addresses of the first sites of `location`'s ranking that are among `sites`.
    pub(crate) fn steer<'a>(
        &'a self,
        sites: &'a BTreeSet<SiteId>,
        location: Option<u32>,
    ) -> impl Iterator<Item = IpAddr> + 'a {
        let nowhere: &'a [SiteId] = &[];
        let index = location.map_or(0, |location| location as usize);
        let ranking = self.zone.rankings.get(index).or(self.zone.rankings.first());
        ranking
            .map_or(nowhere, Vec::as_slice)
            .iter()
            .filter(|site| sites.contains(site))
            .filter_map(|site| self.zone.sites.get(site))
            .take(usize::from(self.zone.answers.max(1)))
            .flatten()
            .copied()
    }
}
