//! Where an app runs.
//!
//! Without `max_sites`: at every site that meets the constraints. With it: at the sites that give
//! the demand the least mean round trip (the k-median problem), found by greedy choice and swaps.
//! Rules, in order: sites that must be included are; sites of at least two providers are taken
//! whenever the constraints allow it; then the mean round trip decides; equal means go to a
//! provider that is not taken yet, then to the smaller site id. A placement that stands is changed
//! only for a gain of [`GAIN_THRESHOLD`].

mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use selvedge_model::geo::{CITIES, Point, RoundTrips};
use selvedge_model::id::ProviderName;
use selvedge_model::manifest::App;
use selvedge_model::topology::{Jurisdiction, Region};
use selvedge_model::{AppName, Placement, ServiceKind, Site, SiteId, Topology};
use serde::{Deserialize, Serialize};

use search::{Search, rounded};

/// The least part of the mean round trip that a change of a standing placement must save.
pub const GAIN_THRESHOLD: f64 = 0.03;

/// Clients at a place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    /// For people.
    pub name: String,
    /// Where they are.
    pub point: Point,
    /// How many, in any unit. Negative and non-finite weights count as none.
    pub weight: f64,
}

impl Demand {
    /// The built-in cities with equal weight: what is assumed until there is traffic.
    pub fn cities() -> Vec<Self> {
        let demand = |city: &selvedge_model::geo::City| Self {
            name: city.name.into(),
            point: city.point,
            weight: 1.0,
        };
        CITIES.iter().map(demand).collect()
    }
}

/// Everything that a placement depends on.
#[derive(Clone)]
pub struct Input<'a> {
    /// The sites.
    pub topology: &'a Topology,
    /// The app.
    pub app: &'a AppName,
    /// Its constraints.
    pub placement: &'a Placement,
    /// The memory that the app needs at a site, in MiB; see [`need_mib`].
    pub need_mib: u64,
    /// The memory that other apps have at each site, in MiB.
    pub used_mib: &'a BTreeMap<SiteId, u64>,
    /// Where the app is now.
    pub current: &'a BTreeSet<SiteId>,
    /// Where its clients are; see [`Demand::cities`].
    pub demand: &'a [Demand],
    /// Round trips between places.
    pub round_trips: &'a dyn RoundTrips,
}

/// The memory that an app's processes may take at a site, in MiB. While a release replaces
/// another both are there, which a site's memory figure has to leave room for.
pub fn need_mib(app: &App) -> u64 {
    let need = |kind: &ServiceKind| match kind {
        ServiceKind::Static { .. } | ServiceKind::Upstream { .. } => 0,
        ServiceKind::Process { memory_mib, .. } => u64::from(*memory_mib),
    };
    app.services.iter().map(|service| need(&service.kind)).sum()
}

/// Where the app is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The sites.
    pub sites: BTreeSet<SiteId>,
}

/// No set of sites meets the constraints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Infeasible {
    /// Every conflict found; at least one.
    pub conflicts: Vec<Conflict>,
}

impl fmt::Display for Infeasible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the placement can't be met: ")?;
        let conflicts: Vec<_> = self.conflicts.iter().map(Conflict::to_string).collect();
        f.write_str(&conflicts.join("; "))
    }
}

impl std::error::Error for Infeasible {}

/// Constraints that can't be met together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "conflict", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Conflict {
    /// A site that the installation doesn't have is named.
    UnknownSite {
        /// The key that names it.
        list: SiteList,
        /// The site.
        site: SiteId,
        /// The sites there are.
        known: BTreeSet<SiteId>,
    },
    /// A site must be included and must not be chosen.
    Included {
        /// The site.
        site: SiteId,
        /// Why it must not be chosen.
        reasons: Vec<Reason>,
    },
    /// More sites must be included than may be chosen.
    IncludeAboveMax {
        /// How many `include` names.
        include: u32,
        /// `max_sites`.
        max_sites: u32,
    },
    /// More sites are required than may be chosen.
    MinAboveMax {
        /// `min_sites`.
        min_sites: u32,
        /// `max_sites`.
        max_sites: u32,
    },
    /// Fewer sites qualify than are required.
    TooFew {
        /// `min_sites`.
        min_sites: u32,
        /// Sites that qualify.
        feasible: u32,
        /// Sites there are.
        total: u32,
        /// Every constraint that rules out a site.
        limits: Vec<Limit>,
    },
}

/// What a constraint does to the number of sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// The constraint.
    pub constraint: Constraint,
    /// How many sites it rules out, whatever the others do.
    pub rules_out: u32,
    /// How many sites would qualify without it.
    pub feasible_without: u32,
}

/// The keys of `[placement]` that list sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiteList {
    /// `include`
    Include,
    /// `exclude`
    Exclude,
}

/// What can rule out a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Constraint {
    /// `exclude`
    Exclude,
    /// `regions`
    Regions,
    /// `jurisdictions`
    Jurisdictions,
    /// The site drains.
    Draining,
    /// The site's memory.
    Capacity,
}

impl Constraint {
    /// Every constraint.
    pub const ALL: [Self; 5] =
        [Self::Exclude, Self::Regions, Self::Jurisdictions, Self::Draining, Self::Capacity];
}

/// Why a site must not be chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reason {
    /// `exclude` names it.
    Excluded,
    /// It lies in another region than those allowed.
    Region {
        /// Where it lies.
        region: Region,
        /// Where it may lie.
        allowed: BTreeSet<Region>,
    },
    /// It lies in none of the jurisdictions allowed.
    Jurisdiction {
        /// The country it lies in.
        country: String,
        /// Where it may lie.
        allowed: BTreeSet<Jurisdiction>,
    },
    /// It drains, and gets no app.
    Draining,
    /// It has too little memory left.
    Capacity {
        /// What the app needs.
        need_mib: u64,
        /// What the site has left.
        free_mib: u64,
    },
}

impl Reason {
    /// The constraint behind the reason.
    pub fn constraint(&self) -> Constraint {
        match self {
            Self::Excluded => Constraint::Exclude,
            Self::Region { .. } => Constraint::Regions,
            Self::Jurisdiction { .. } => Constraint::Jurisdictions,
            Self::Draining => Constraint::Draining,
            Self::Capacity { .. } => Constraint::Capacity,
        }
    }
}

/// Why the placement is what it is. Times are round trips in ms, weighted by demand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The app.
    pub app: AppName,
    /// The sites chosen: included ones first, then by falling gain.
    pub chosen: Vec<Chosen>,
    /// Sites that meet the constraints and were left out by `max_sites`, best first.
    pub spare: Vec<Spare>,
    /// Sites that a constraint rules out.
    pub rejected: BTreeMap<SiteId, Vec<Reason>>,
    /// What keeps the placement from being larger or faster.
    pub binds: Vec<Binding>,
    /// How the demand is served; `None` without demand or sites.
    pub latency: Option<Latency>,
    /// How many of the sites each provider has.
    pub providers: BTreeMap<ProviderName, u32>,
    /// Why there is no placement; empty when there is one.
    pub conflicts: Vec<Conflict>,
}

/// A chosen site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chosen {
    /// The site.
    pub site: SiteId,
    /// Its city.
    pub city: String,
    /// Its provider.
    pub provider: ProviderName,
    /// Why.
    pub why: Why,
    /// Mean round trip before and after it, in the order of [`Report::chosen`]; before the first
    /// there is none.
    pub mean_ms: Option<Gain>,
}

/// What a site does to the mean round trip.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gain {
    /// Without it; `None` for the first site.
    pub before_ms: Option<f64>,
    /// With it.
    pub after_ms: f64,
}

/// Why a site was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// `include` names it.
    Included,
    /// It meets all constraints, and there is room for every site that does.
    MeetsConstraints,
    /// It saves the most of those that meet the constraints.
    Gain,
}

/// A site that qualifies and was not chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spare {
    /// The site.
    pub site: SiteId,
    /// Its city.
    pub city: String,
    /// What it would take off the mean round trip as one site more, in ms.
    pub gain_ms: f64,
}

/// What keeps a placement from being larger or faster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "binding", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Binding {
    /// `max_sites` leaves out sites that qualify.
    MaxSites {
        /// `max_sites`.
        max_sites: u32,
        /// How many sites qualify.
        feasible: u32,
    },
    /// No site could be lost without breaking `min_sites`.
    MinSites {
        /// `min_sites`.
        min_sites: u32,
    },
    /// A constraint alone rules out sites that would qualify without it.
    Constraint {
        /// The constraint.
        constraint: Constraint,
        /// The sites.
        sites: BTreeSet<SiteId>,
    },
    /// Taking two providers costs round trips.
    ProviderSpread {
        /// The mean round trip with it.
        mean_ms: f64,
        /// The mean round trip without it.
        without_ms: f64,
    },
    /// Other sites would be faster, but not by enough to move.
    Stability {
        /// The mean round trip as it is.
        mean_ms: f64,
        /// The mean round trip of the faster sites.
        could_be_ms: f64,
    },
}

/// How demand is served when every client reaches its nearest chosen site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Mean round trip.
    pub mean_ms: f64,
    /// 95 % of demand has at most this round trip.
    pub p95_ms: f64,
    /// Each place of demand with its nearest chosen site.
    pub demand: Vec<Served>,
}

/// A place of demand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    /// The place.
    pub name: String,
    /// Its nearest chosen site.
    pub site: SiteId,
    /// The round trip.
    pub rtt_ms: f64,
}

/// How many chosen sites a report orders by gain; beyond, they stand in order of id.
const EXPLAINED_SITES: usize = 64;

/// Decides where the app runs.
pub fn plan(input: &Input<'_>) -> (Result<Plan, Infeasible>, Report) {
    let rejected: BTreeMap<SiteId, Vec<Reason>> = input
        .topology
        .sites
        .values()
        .map(|site| (site.id.clone(), reasons(input, site)))
        .filter(|(_, reasons)| !reasons.is_empty())
        .collect();
    let conflicts = conflicts(input, &rejected);
    let mut report = Report {
        app: input.app.clone(),
        chosen: Vec::new(),
        spare: Vec::new(),
        binds: constraints_that_bind(&rejected),
        rejected,
        latency: None,
        providers: BTreeMap::new(),
        conflicts: conflicts.clone(),
    };
    if !conflicts.is_empty() {
        return (Err(Infeasible { conflicts }), report);
    }
    let mut search = Search::new(
        input.topology.sites.values().filter(|site| !report.rejected.contains_key(&site.id)),
        |site| input.placement.include.contains(&site.id),
        input.placement.max_sites,
        input.demand,
        input.round_trips,
    );
    let current = search.select(|site| input.current.contains(&site.id));
    let (set, faster) = search.settle(&current);
    describe(input, &search, &set, &mut report);
    if let Some(faster) = faster {
        let mean_ms = rounded(search.cost(&set));
        let could_be_ms = rounded(search.cost(&faster));
        report.binds.push(Binding::Stability { mean_ms, could_be_ms });
    } else if search.spread && !search.takes_all() && report.providers.len() == 2 {
        search.spread = false;
        let mean_ms = rounded(search.cost(&set));
        let without_ms = rounded(search.cost(&search.fresh()));
        if without_ms < mean_ms {
            report.binds.push(Binding::ProviderSpread { mean_ms, without_ms });
        }
    }
    let sites = search.members(&set).map(|candidate| candidate.site.id.clone()).collect();
    (Ok(Plan { sites }), report)
}

/// Why the app must not run at `site`.
fn reasons(input: &Input<'_>, site: &Site) -> Vec<Reason> {
    let Placement { exclude, regions, jurisdictions, .. } = input.placement;
    let mut reasons = Vec::new();
    if exclude.contains(&site.id) {
        reasons.push(Reason::Excluded);
    }
    if !regions.is_empty() && !regions.contains(&site.region) {
        reasons.push(Reason::Region { region: site.region, allowed: regions.clone() });
    }
    if !jurisdictions.is_empty() && !jurisdictions.iter().any(|it| it.contains(&site.country)) {
        let (country, allowed) = (site.country.clone(), jurisdictions.clone());
        reasons.push(Reason::Jurisdiction { country, allowed });
    }
    if site.draining {
        reasons.push(Reason::Draining);
    }
    let used_mib = input.used_mib.get(&site.id).copied().unwrap_or(0);
    let free_mib = site.memory_mib.saturating_sub(used_mib);
    if input.need_mib > free_mib {
        reasons.push(Reason::Capacity { need_mib: input.need_mib, free_mib });
    }
    reasons
}

fn conflicts(input: &Input<'_>, rejected: &BTreeMap<SiteId, Vec<Reason>>) -> Vec<Conflict> {
    let Placement { include, exclude, max_sites, .. } = input.placement;
    let sites = &input.topology.sites;
    let mut conflicts = Vec::new();
    for (list, names) in [(SiteList::Include, include), (SiteList::Exclude, exclude)] {
        for site in names.iter().filter(|site| !sites.contains_key(site)) {
            let known = sites.keys().cloned().collect();
            conflicts.push(Conflict::UnknownSite { list, site: site.clone(), known });
        }
    }
    for site in include {
        if let Some(reasons) = rejected.get(site) {
            conflicts.push(Conflict::Included { site: site.clone(), reasons: reasons.clone() });
        }
    }
    let min_sites = input.placement.min_sites.max(1);
    if let Some(max_sites) = *max_sites {
        if count(include.len()) > max_sites {
            let include = count(include.len());
            conflicts.push(Conflict::IncludeAboveMax { include, max_sites });
        }
        if min_sites > max_sites {
            conflicts.push(Conflict::MinAboveMax { min_sites, max_sites });
        }
    }
    let feasible = count(sites.len() - rejected.len());
    if feasible < min_sites {
        let (total, limits) = (count(sites.len()), limits(feasible, rejected));
        conflicts.push(Conflict::TooFew { min_sites, feasible, total, limits });
    }
    conflicts
}

fn limits(feasible: u32, rejected: &BTreeMap<SiteId, Vec<Reason>>) -> Vec<Limit> {
    let limit = |constraint: Constraint| {
        let by = |reason: &Reason| reason.constraint() == constraint;
        let rules_out = rejected.values().filter(|reasons| reasons.iter().any(by)).count();
        let alone = rejected.values().filter(|reasons| reasons.iter().all(by)).count();
        let feasible_without = feasible.saturating_add(count(alone));
        Limit { constraint, rules_out: count(rules_out), feasible_without }
    };
    Constraint::ALL.into_iter().map(limit).filter(|limit| limit.rules_out > 0).collect()
}

fn constraints_that_bind(rejected: &BTreeMap<SiteId, Vec<Reason>>) -> Vec<Binding> {
    let binding = |constraint: Constraint| {
        let alone = |reasons: &[Reason]| reasons.iter().all(|it| it.constraint() == constraint);
        let sites: BTreeSet<SiteId> = rejected
            .iter()
            .filter(|(_, reasons)| alone(reasons))
            .map(|(site, _)| site.clone())
            .collect();
        (!sites.is_empty()).then_some(Binding::Constraint { constraint, sites })
    };
    Constraint::ALL.into_iter().filter_map(binding).collect()
}

fn describe(input: &Input<'_>, search: &Search<'_>, set: &BTreeSet<usize>, report: &mut Report) {
    let has_demand = search.weights.iter().any(|weight| *weight > 0.0);
    let explained = set.len() <= EXPLAINED_SITES;
    let order = if explained { search.order(set) } else { set.iter().copied().collect() };
    let mut so_far = BTreeSet::new();
    let mut before_ms = None;
    for index in order {
        let Some(candidate) = search.candidates.get(index) else { continue };
        let site = candidate.site;
        so_far.insert(index);
        let mean_ms = (explained && has_demand).then(|| {
            let gain = Gain { before_ms, after_ms: rounded(search.cost(&so_far)) };
            before_ms = Some(gain.after_ms);
            gain
        });
        let why = match (input.placement.include.contains(&site.id), search.takes_all()) {
            (true, _) => Why::Included,
            (false, true) => Why::MeetsConstraints,
            (false, false) => Why::Gain,
        };
        *report.providers.entry(site.provider.clone()).or_default() += 1;
        let (city, provider) = (site.city.clone(), site.provider.clone());
        report.chosen.push(Chosen { site: site.id.clone(), city, provider, why, mean_ms });
    }
    let spare = |(site, gain_ms): (&Site, f64)| Spare {
        site: site.id.clone(),
        city: site.city.clone(),
        gain_ms: rounded(gain_ms),
    };
    report.spare = search.gains(set).into_iter().map(spare).collect();
    report.latency = search.latency(set, input.demand);
    if let Some(max_sites) = input.placement.max_sites.filter(|_| !search.takes_all()) {
        let feasible = count(search.candidates.len());
        report.binds.push(Binding::MaxSites { max_sites, feasible });
    }
    let min_sites = input.placement.min_sites.max(1);
    if min_sites > 1 && count(set.len()) == min_sites {
        report.binds.push(Binding::MinSites { min_sites });
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
