//! What must hold of assignments and activations.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::documents::BUCKETS;
use selvedge_model::{
    Activation, AppName, Assignment, EnvironmentName, Epoch, EpochState, Ring, SiteId,
};

use crate::rollout::{Failure, Input, Plan, Verdict};

/// A rule that a roll-out breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// An assignment is of another app, environment or site than the one it is written for.
    Misplaced(SiteId),
    /// An assignment's entries are not in rising order of epoch, each once.
    Unsorted(SiteId),
    /// An assignment names no service to keep warm.
    NoService(SiteId, Epoch),
    /// An activated epoch that the site has would be taken away.
    DropsActivated(SiteId, Epoch),
    /// A site of the plan is not to have the target while it is warmed.
    NotAssigned(SiteId, Epoch),
    /// The activation has no entry, or some client at some site would see none.
    NotEverybody,
    /// The activation's entries are not newest first, each epoch once.
    NotNewestFirst,
    /// An entry's share is more than everybody.
    ShareAboveAll(Epoch),
    /// The activation names an epoch that a leased site of its ring is not assigned.
    ActivatesUnassigned(SiteId, Epoch),
    /// The activation names the target although a leased site of its ring is not warm.
    ActivatesCold(SiteId, Epoch),
    /// No leased site is warm.
    ActivatesNowhere(Epoch),
    /// A site that was not warm at the commit fails the roll-out after it.
    BlamesLatecomer(SiteId),
    /// The release is called live although this leased site, warm at the commit, does not serve it.
    LiveWithout(SiteId),
    /// The release is called live although no leased site serves it.
    LiveNowhere(Epoch),
    /// The activation's epoch is older than the one that stands.
    GoesBack {
        /// What stands.
        from: Epoch,
        /// What would follow.
        to: Epoch,
    },
    /// An epoch would stand for another release than before.
    EpochReused(Epoch),
    /// An activation comes with a verdict that does not call for one, or the other way round.
    Verdict,
}

/// Every rule that the plan of a roll-out breaks.
pub fn findings(input: &Input<'_>, plan: &Plan) -> Vec<Finding> {
    let target = input.target.epoch;
    let mut findings = assignments(input.app, input.environment, &plan.assignments);
    let mut after = input.assignments.clone();
    after.extend(plan.assignments.clone());
    if let Some(standing) = input.activation {
        findings.extend(drops(standing, input.assignments, &after));
    }
    let has_target = |site: &SiteId| {
        after.get(site).is_some_and(|it| it.entries.iter().any(|entry| entry.epoch == target))
    };
    if matches!(plan.verdict, Verdict::Warming { .. } | Verdict::ReadyToActivate) {
        let lacking = input.sites.iter().filter(|site| !has_target(site));
        findings.extend(lacking.map(|site| Finding::NotAssigned(site.clone(), target)));
    }
    if plan.activation.is_some() != (plan.verdict == Verdict::ReadyToActivate) {
        findings.push(Finding::Verdict);
    }
    if let Some(activation) = &plan.activation {
        let leased = input.sites.intersection(input.leased).cloned().collect();
        findings.extend(self::activation(activation, input.activation, &after, &leased));
        let is_warm = |site: &SiteId| {
            let report = input.reports.get(site).and_then(|it| it.epochs.get(&target));
            report.is_some_and(|it| it.state == EpochState::Warm)
        };
        let cold = leased.iter().filter(|site| !is_warm(site));
        findings.extend(cold.map(|site| Finding::ActivatesCold(site.clone(), target)));
        if !leased.iter().any(is_warm) {
            findings.push(Finding::ActivatesNowhere(target));
        }
    }
    findings.extend(verification(input, &plan.verdict));
    findings
}

/// Every rule that the end of a verification breaks.
fn verification(input: &Input<'_>, verdict: &Verdict) -> Vec<Finding> {
    let target = input.target.epoch;
    let mut findings = Vec::new();
    let verifying = input.activation.and_then(Activation::newest) == Some(target);
    let late = |site: &SiteId| !input.warm_at_commit.contains(site);
    match verdict {
        Verdict::Failed(Failure { site: Some(site), .. }) if verifying && late(site) => {
            findings.push(Finding::BlamesLatecomer(site.clone()));
        }
        Verdict::Live => {
            let serves = |site: &SiteId| {
                input.reports.get(site).is_some_and(|report| report.active == Some(target))
            };
            let leased = || input.sites.intersection(input.leased);
            let without = leased().filter(|site| !late(site) && !serves(site));
            findings.extend(without.cloned().map(Finding::LiveWithout));
            if !leased().any(serves) {
                findings.push(Finding::LiveNowhere(target));
            }
        }
        _ => {}
    }
    findings
}

/// Every rule that assignments of one app and environment break, each for itself.
pub fn assignments(
    app: &AppName,
    environment: &EnvironmentName,
    assignments: &BTreeMap<SiteId, Assignment>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (site, assignment) in assignments {
        let Assignment { app: of_app, environment: of_environment, site: of_site, entries } =
            assignment;
        if (of_app, of_environment, of_site) != (app, environment, site) {
            findings.push(Finding::Misplaced(site.clone()));
        }
        if !entries.is_sorted_by(|a, b| a.epoch < b.epoch) {
            findings.push(Finding::Unsorted(site.clone()));
        }
        for entry in entries.iter().filter(|entry| entry.services.is_empty()) {
            findings.push(Finding::NoService(site.clone(), entry.epoch));
        }
    }
    findings
}

/// Activated epochs that a site has before and not after.
fn drops(
    activation: &Activation,
    before: &BTreeMap<SiteId, Assignment>,
    after: &BTreeMap<SiteId, Assignment>,
) -> Vec<Finding> {
    let epochs = |assignments: &BTreeMap<SiteId, Assignment>, site: &SiteId| -> BTreeSet<Epoch> {
        let entries = assignments.get(site).map(|it| it.entries.iter());
        entries.into_iter().flatten().map(|entry| entry.epoch).collect()
    };
    let mut findings = Vec::new();
    for site in before.keys() {
        let lost = &epochs(before, site) - &epochs(after, site);
        let activated = activation.entries.iter().map(|entry| entry.epoch);
        let lost = activated.filter(|epoch| lost.contains(epoch));
        findings.extend(lost.map(|epoch| Finding::DropsActivated(site.clone(), epoch)));
    }
    findings
}

/// Every rule that `new` breaks as the successor of `old`, given the assignments and the leased
/// sites that count.
pub fn activation(
    new: &Activation,
    old: Option<&Activation>,
    assignments: &BTreeMap<SiteId, Assignment>,
    leased: &BTreeSet<SiteId>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Sites to come are in no list of sites, so only an entry for all of them covers them.
    if !new.entries.iter().any(|entry| entry.sites == Ring::All && entry.share >= BUCKETS) {
        findings.push(Finding::NotEverybody);
    }
    if !new.entries.is_sorted_by(|a, b| a.epoch > b.epoch) {
        findings.push(Finding::NotNewestFirst);
    }
    for entry in &new.entries {
        if entry.share > BUCKETS {
            findings.push(Finding::ShareAboveAll(entry.epoch));
        }
        let is_assigned = |site: &SiteId| {
            let assignment = assignments.get(site);
            assignment.is_some_and(|it| it.entries.iter().any(|it| it.epoch == entry.epoch))
        };
        let unassigned =
            leased.iter().filter(|site| entry.sites.contains(site) && !is_assigned(site));
        findings
            .extend(unassigned.map(|site| Finding::ActivatesUnassigned(site.clone(), entry.epoch)));
    }
    let Some(old) = old else { return findings };
    if let (Some(from), Some(to)) = (old.newest(), new.newest())
        && to < from
    {
        findings.push(Finding::GoesBack { from, to });
    }
    for entry in &new.entries {
        let before = old.entries.iter().find(|before| before.epoch == entry.epoch);
        if before.is_some_and(|before| before.releases != entry.releases) {
            findings.push(Finding::EpochReused(entry.epoch));
        }
    }
    findings
}
