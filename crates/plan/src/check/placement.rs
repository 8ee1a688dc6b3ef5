//! What must hold of a placement.

use std::collections::BTreeSet;

use selvedge_model::{Site, SiteId};

use crate::placement::{Input, Plan};

/// A rule that a placement breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A site that does not exist is chosen.
    UnknownSite(SiteId),
    /// A site that `exclude` names is chosen.
    Excluded(SiteId),
    /// A site in another region is chosen.
    Region(SiteId),
    /// A site in another jurisdiction is chosen.
    Jurisdiction(SiteId),
    /// A draining site is chosen.
    Draining(SiteId),
    /// A site without the memory is chosen.
    Capacity(SiteId),
    /// A site that `include` names is not chosen.
    NotIncluded(SiteId),
    /// There are fewer sites than `min_sites`.
    BelowMin {
        /// How many there are.
        sites: usize,
    },
    /// There are more sites than `max_sites`.
    AboveMax {
        /// How many there are.
        sites: usize,
    },
    /// A site that qualifies is not chosen although there is room for it.
    LeftOut(SiteId),
    /// All sites are of one provider although the constraints allow two.
    OneProvider,
}

/// Every rule that the plan breaks.
pub fn findings(input: &Input<'_>, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    let sites = &input.topology.sites;
    for id in &plan.sites {
        match sites.get(id) {
            None => findings.push(Finding::UnknownSite(id.clone())),
            Some(site) => findings.extend(violations(input, site)),
        }
    }
    for id in input.placement.include.difference(&plan.sites) {
        findings.push(Finding::NotIncluded(id.clone()));
    }
    let min_sites = usize::try_from(input.placement.min_sites).unwrap_or(usize::MAX).max(1);
    let max_sites = input.placement.max_sites.and_then(|max| usize::try_from(max).ok());
    if plan.sites.len() < min_sites {
        findings.push(Finding::BelowMin { sites: plan.sites.len() });
    }
    if max_sites.is_some_and(|max_sites| plan.sites.len() > max_sites) {
        findings.push(Finding::AboveMax { sites: plan.sites.len() });
    }
    let qualify: Vec<&Site> =
        sites.values().filter(|site| violations(input, site).is_empty()).collect();
    if max_sites.is_none_or(|max_sites| plan.sites.len() < max_sites) {
        let left_out = qualify.iter().filter(|site| !plan.sites.contains(&site.id));
        findings.extend(left_out.map(|site| Finding::LeftOut(site.id.clone())));
    }
    let providers: BTreeSet<_> =
        plan.sites.iter().filter_map(|id| sites.get(id)).map(|site| &site.provider).collect();
    // Two providers are possible if a site that nobody asked for can give way to one of another.
    let optional = plan.sites.iter().any(|id| !input.placement.include.contains(id));
    let other = qualify.iter().any(|site| !providers.contains(&site.provider));
    if plan.sites.len() >= 2 && providers.len() == 1 && optional && other {
        findings.push(Finding::OneProvider);
    }
    findings
}

type Rule = fn(SiteId) -> Finding;

fn violations(input: &Input<'_>, site: &Site) -> Vec<Finding> {
    let wanted = input.placement;
    let free_mib = site.memory_mib.saturating_sub(*input.used_mib.get(&site.id).unwrap_or(&0));
    let lies_in = |it: &selvedge_model::topology::Jurisdiction| it.contains(&site.country);
    let rules: [(bool, Rule); 5] = [
        (wanted.exclude.contains(&site.id), Finding::Excluded),
        (!(wanted.regions.is_empty() || wanted.regions.contains(&site.region)), Finding::Region),
        (
            !(wanted.jurisdictions.is_empty() || wanted.jurisdictions.iter().any(lies_in)),
            Finding::Jurisdiction,
        ),
        (site.draining, Finding::Draining),
        (free_mib < input.need_mib, Finding::Capacity),
    ];
    rules.into_iter().filter(|(broken, _)| *broken).map(|(_, new)| new(site.id.clone())).collect()
}
