//! What must hold of a certificate plan.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::{Host, SiteId};

use crate::certs::{Input, Leaf, Plan};

/// A rule that a certificate plan breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A site that serves the host would be left without a bundle.
    Missing(SiteId, Host),
    /// A site that serves the host would be left with a bundle that is invalid or due.
    Stale(SiteId, Host),
    /// A bundle would be brought to a site that does not want it.
    Unwanted(SiteId, Host),
    /// A bundle would be copied from a site that does not have it.
    NoSource(SiteId, Host),
    /// A new leaf would be ordered although there is a fresh one.
    NeedlessIssue(Host),
    /// A bundle would be removed from a site that serves the host.
    RemovesWanted(SiteId, Host),
    /// A bundle would be removed before its grace period is over.
    RemovesEarly(SiteId, Host),
    /// A bundle that is not there would be removed.
    RemovesNothing(SiteId, Host),
    /// A bundle that nobody wants would be neither removed nor remembered.
    Forgotten(SiteId, Host),
}

/// Every rule that the plan breaks.
pub fn findings(input: &Input<'_>, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    covered(input, plan, &mut findings);
    brought(input, plan, &mut findings);
    removed(input, plan, &mut findings);
    findings
}

fn has<T: Ord>(map: &BTreeMap<SiteId, BTreeSet<T>>, site: &SiteId, item: &T) -> bool {
    map.get(site).is_some_and(|items| items.contains(item))
}

fn leaf<'a>(input: &Input<'a>, site: &SiteId, host: &Host) -> Option<&'a Leaf> {
    input.bundles.get(site).and_then(|bundles| bundles.get(host))
}

fn is_fresh(input: &Input<'_>, leaf: &Leaf) -> bool {
    let life = leaf.not_after_ms.saturating_sub(leaf.not_before_ms);
    let age = input.now_ms.checked_sub(leaf.not_before_ms);
    let renew_at = u128::from(input.policy.renew_at_permille.min(1000));
    // Rounded down to a millisecond, as a due time is.
    age.is_some_and(|age| u128::from(age) < u128::from(life) * renew_at / 1000)
}

/// Every wanted pair ends up with a fresh bundle.
fn covered(input: &Input<'_>, plan: &Plan, findings: &mut Vec<Finding>) {
    for (site, hosts) in input.wanted {
        for host in hosts {
            if plan.issue.get(host).is_some_and(|sites| sites.contains(site)) {
                continue;
            }
            let copied = plan.deliver.get(host).filter(|delivery| delivery.to.contains(site));
            let source = copied.map_or(site, |delivery| &delivery.from);
            match leaf(input, source, host) {
                None => findings.push(Finding::Missing(site.clone(), host.clone())),
                Some(leaf) if is_fresh(input, leaf) => {}
                Some(_) => findings.push(Finding::Stale(site.clone(), host.clone())),
            }
        }
    }
}

/// Bundles are ordered only if need be, copied from where they are, and go only where wanted.
fn brought(input: &Input<'_>, plan: &Plan, findings: &mut Vec<Finding>) {
    for (host, sites) in &plan.issue {
        let mut leaves = input.bundles.values().filter_map(|bundles| bundles.get(host));
        if leaves.any(|leaf| is_fresh(input, leaf)) {
            findings.push(Finding::NeedlessIssue(host.clone()));
        }
        let unwanted = sites.iter().filter(|site| !has(input.wanted, site, host));
        findings.extend(unwanted.map(|site| Finding::Unwanted(site.clone(), host.clone())));
    }
    for (host, delivery) in &plan.deliver {
        let source = leaf(input, &delivery.from, host);
        if source.is_none_or(|leaf| leaf.fingerprint != delivery.fingerprint) {
            findings.push(Finding::NoSource(delivery.from.clone(), host.clone()));
        }
        let unwanted = delivery.to.iter().filter(|site| !has(input.wanted, site, host));
        findings.extend(unwanted.map(|site| Finding::Unwanted(site.clone(), host.clone())));
    }
}

/// Bundles go only when nobody has wanted them for the grace period, and then they do go.
fn removed(input: &Input<'_>, plan: &Plan, findings: &mut Vec<Finding>) {
    for (site, hosts) in &plan.remove {
        for host in hosts {
            let pair = (site.clone(), host.clone());
            let since = input.unwanted_since_ms.get(site).and_then(|hosts| hosts.get(host));
            let since_ms = since.copied().unwrap_or(input.now_ms);
            if leaf(input, site, host).is_none() {
                findings.push(Finding::RemovesNothing(pair.0, pair.1));
            } else if has(input.wanted, site, host) {
                findings.push(Finding::RemovesWanted(pair.0, pair.1));
            } else if input.now_ms.saturating_sub(since_ms) < input.policy.grace_ms {
                findings.push(Finding::RemovesEarly(pair.0, pair.1));
            }
        }
    }
    for (site, bundles) in input.bundles {
        for host in bundles.keys() {
            let remembered =
                plan.unwanted_since_ms.get(site).is_some_and(|hosts| hosts.contains_key(host));
            let settled = has(input.wanted, site, host) || has(&plan.remove, site, host);
            if !settled && !remembered {
                findings.push(Finding::Forgotten(site.clone(), host.clone()));
            }
        }
    }
}
