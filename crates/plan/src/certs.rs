//! Which certificates to issue, which to bring to further sites, and which to take away.
//!
//! A host has one leaf, the same at every site. It is renewed when a part of its life is over, and
//! a site that no longer serves the host keeps it for a grace period, because resolvers still send
//! clients there. Ordering from an authority and delivering bundles is the caller's work.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::{CertificateBundle, Digest, Host, SiteId};
use serde::{Deserialize, Serialize};

/// What the planner needs to know of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// SHA-256 of the leaf (DER).
    pub fingerprint: Digest,
    /// When it is first valid.
    pub not_before_ms: u64,
    /// When it is last valid.
    pub not_after_ms: u64,
}

impl From<&CertificateBundle> for Leaf {
    fn from(bundle: &CertificateBundle) -> Self {
        Self {
            fingerprint: bundle.fingerprint,
            not_before_ms: bundle.not_before_ms,
            not_after_ms: bundle.not_after_ms,
        }
    }
}

/// When to renew and when to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// A leaf is due when this many thousandths of its life are over.
    pub renew_at_permille: u16,
    /// How long a site keeps a bundle after it is not wanted any more: at least DNS's TTL.
    pub grace_ms: u64,
}

impl Default for Policy {
    /// Renewal after two thirds of the life, removal after an hour.
    fn default() -> Self {
        Self { renew_at_permille: 667, grace_ms: 3_600_000 }
    }
}

impl Policy {
    /// When a leaf becomes due for renewal.
    pub fn due_ms(&self, leaf: &Leaf) -> u64 {
        let life = leaf.not_after_ms.saturating_sub(leaf.not_before_ms);
        let used = u128::from(life) * u128::from(self.renew_at_permille.min(1000)) / 1000;
        leaf.not_before_ms.saturating_add(u64::try_from(used).unwrap_or(life))
    }

    /// Whether a leaf is valid and not yet due.
    pub fn is_fresh(&self, leaf: &Leaf, now_ms: u64) -> bool {
        leaf.not_before_ms <= now_ms && now_ms < self.due_ms(leaf)
    }
}

/// Bundles by site and host.
pub type Bundles = BTreeMap<SiteId, BTreeMap<Host, Leaf>>;

/// Everything that certificates depend on.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// The hosts that each site is to present a certificate for.
    pub wanted: &'a BTreeMap<SiteId, BTreeSet<Host>>,
    /// The bundles that each site has been given.
    pub bundles: &'a Bundles,
    /// [`Plan::unwanted_since_ms`] of the last plan; empty at first.
    pub unwanted_since_ms: &'a BTreeMap<SiteId, BTreeMap<Host, u64>>,
    /// Now.
    pub now_ms: u64,
    /// When to renew and when to remove.
    pub policy: Policy,
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Hosts to get a new leaf for, each with the sites to deliver it to.
    pub issue: BTreeMap<Host, BTreeSet<SiteId>>,
    /// Bundles to copy to further sites, by host.
    pub deliver: BTreeMap<Host, Delivery>,
    /// Bundles to remove, by site.
    pub remove: BTreeMap<SiteId, BTreeSet<Host>>,
    /// Bundles that nobody wants and since when; to be given to the next plan.
    pub unwanted_since_ms: BTreeMap<SiteId, BTreeMap<Host, u64>>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_noop(&self) -> bool {
        self.issue.is_empty() && self.deliver.is_empty() && self.remove.is_empty()
    }
}

/// A bundle to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// A site that was given the bundle.
    pub from: SiteId,
    /// The bundle's leaf.
    pub fingerprint: Digest,
    /// Where to deliver it, replacing what is there.
    pub to: BTreeSet<SiteId>,
}

/// Why the plan is what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Wanted bundles that are to be replaced or brought, with the reason.
    pub needs: BTreeMap<SiteId, BTreeMap<Host, Need>>,
    /// How many wanted bundles are in place and fresh.
    pub fresh: usize,
    /// Bundles that are kept for their grace period, and until when.
    pub kept_until_ms: BTreeMap<SiteId, BTreeMap<Host, u64>>,
    /// When the next of what is in place is to be renewed or removed. With nothing to do, the plan
    /// stays the same until then.
    pub next_ms: Option<u64>,
}

/// Why a site needs a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "need", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Need {
    /// It has none.
    Missing,
    /// The one it has is due for renewal.
    Due {
        /// Since when.
        since_ms: u64,
    },
    /// The one it has is not valid any more, or not yet.
    Invalid,
}

/// Decides what to issue, deliver and remove.
pub fn plan(input: &Input<'_>) -> (Plan, Report) {
    let mut plan = Plan::default();
    let mut report = Report::default();
    let mut next = None;
    let mut short: BTreeMap<&Host, BTreeSet<SiteId>> = BTreeMap::new();
    for (site, hosts) in input.wanted {
        for host in hosts {
            let leaf = input.bundles.get(site).and_then(|bundles| bundles.get(host));
            match leaf.map(|leaf| (leaf, input.policy.is_fresh(leaf, input.now_ms))) {
                Some((leaf, true)) => {
                    report.fresh += 1;
                    earliest(&mut next, input.policy.due_ms(leaf));
                }
                found => {
                    let need = need(input, found.map(|(leaf, _)| leaf));
                    report.needs.entry(site.clone()).or_default().insert(host.clone(), need);
                    short.entry(host).or_default().insert(site.clone());
                }
            }
        }
    }
    for (host, sites) in short {
        match freshest(input, host) {
            Some((from, leaf)) => {
                let from = from.clone();
                let delivery = Delivery { from, fingerprint: leaf.fingerprint, to: sites };
                plan.deliver.insert(host.clone(), delivery);
            }
            None => {
                plan.issue.insert(host.clone(), sites);
            }
        }
    }
    remove(input, &mut plan, &mut report, &mut next);
    report.next_ms = next;
    (plan, report)
}

fn need(input: &Input<'_>, leaf: Option<&Leaf>) -> Need {
    let valid = |leaf: &&Leaf| (leaf.not_before_ms..leaf.not_after_ms).contains(&input.now_ms);
    match leaf {
        None => Need::Missing,
        Some(leaf) if valid(&leaf) => Need::Due { since_ms: input.policy.due_ms(leaf) },
        Some(_) => Need::Invalid,
    }
}

/// The fresh bundle of `host` that lives longest, wherever it is.
fn freshest<'a>(input: &Input<'a>, host: &Host) -> Option<(&'a SiteId, &'a Leaf)> {
    input
        .bundles
        .iter()
        .filter_map(|(site, bundles)| Some((site, bundles.get(host)?)))
        .filter(|(_, leaf)| input.policy.is_fresh(leaf, input.now_ms))
        .max_by_key(|(_, leaf)| (leaf.not_after_ms, leaf.fingerprint))
}

fn remove(input: &Input<'_>, plan: &mut Plan, report: &mut Report, next: &mut Option<u64>) {
    for (site, bundles) in input.bundles {
        let wanted = input.wanted.get(site);
        let known = input.unwanted_since_ms.get(site);
        for host in bundles.keys() {
            if wanted.is_some_and(|hosts| hosts.contains(host)) {
                continue;
            }
            let since = known.and_then(|hosts| hosts.get(host)).copied().unwrap_or(input.now_ms);
            let until = since.saturating_add(input.policy.grace_ms);
            if until <= input.now_ms {
                plan.remove.entry(site.clone()).or_default().insert(host.clone());
            } else {
                let keep = plan.unwanted_since_ms.entry(site.clone()).or_default();
                keep.insert(host.clone(), since);
                let kept = report.kept_until_ms.entry(site.clone()).or_default();
                kept.insert(host.clone(), until);
                earliest(next, until);
            }
        }
    }
}

fn earliest(next: &mut Option<u64>, at_ms: u64) {
    *next = Some(next.map_or(at_ms, |next| next.min(at_ms)));
}
