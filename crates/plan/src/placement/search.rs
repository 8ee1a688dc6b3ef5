//! The k-median search: greedy choice, then best swaps.

use std::collections::BTreeSet;

use selvedge_model::Site;
use selvedge_model::geo::RoundTrips;
use selvedge_model::id::ProviderName;

use super::{Demand, GAIN_THRESHOLD, Latency, Served};

/// Costs closer than this, relatively, are equal: it is far above what the order of summation can
/// change and far below what matters.
const EQUAL: f64 = 1e-9;
/// What an impossible round trip counts as, in ms.
const FAR_MS: f64 = 1e6;

/// How many further starts the search makes.
const STARTS: usize = 12;

/// Indexes into the candidates.
pub(super) type Set = BTreeSet<usize>;

/// A site that qualifies.
pub(super) struct Candidate<'a> {
    pub(super) site: &'a Site,
    /// Round trip to each place of demand.
    rtt_ms: Vec<f64>,
}

/// A k-median problem.
pub(super) struct Search<'a> {
    /// In order of id.
    pub(super) candidates: Vec<Candidate<'a>>,
    /// Of each place of demand, adding up to 1, or all 0.
    pub(super) weights: Vec<f64>,
    /// Always chosen.
    fixed: Set,
    /// How many to choose.
    size: usize,
    /// At least two providers.
    pub(super) spread: bool,
}

impl<'a> Search<'a> {
    /// Sets up the choice of at most `max` of `sites`, which are in order of id.
    pub(super) fn new(
        sites: impl Iterator<Item = &'a Site>,
        is_fixed: impl Fn(&Site) -> bool,
        max: Option<u32>,
        demand: &[Demand],
        round_trips: &dyn RoundTrips,
    ) -> Self {
        let rtt = |from, to| {
            let rtt_ms = round_trips.rtt_ms(from, to);
            if rtt_ms.is_finite() { rtt_ms.clamp(0.0, FAR_MS) } else { FAR_MS }
        };
        let candidate = |site: &'a Site| Candidate {
            site,
            rtt_ms: demand.iter().map(|place| rtt(place.point, site.point)).collect(),
        };
        let candidates: Vec<_> = sites.map(candidate).collect();
        let fixed: Set = (candidates.iter().enumerate())
            .filter(|(_, candidate)| is_fixed(candidate.site))
            .map(|(index, _)| index)
            .collect();
        let max = max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        let size = candidates.len().min(max).max(fixed.len());
        let mut search = Self { candidates, weights: weights(demand), fixed, size, spread: false };
        let all = (0..search.candidates.len()).collect();
        search.spread = size >= 2
            && (search.providers(&search.fixed).len() >= 2
                || size > search.fixed.len() && search.providers(&all).len() >= 2);
        search
    }

    /// Whether every candidate is chosen.
    pub(super) fn takes_all(&self) -> bool {
        self.size == self.candidates.len()
    }

    /// The candidates that `wanted` selects.
    pub(super) fn select(&self, wanted: impl Fn(&Site) -> bool) -> Set {
        (self.candidates.iter().enumerate())
            .filter(|(_, candidate)| wanted(candidate.site))
            .map(|(index, _)| index)
            .collect()
    }

    /// The members of `set`.
    pub(super) fn members<'s>(&'s self, set: &'s Set) -> impl Iterator<Item = &'s Candidate<'a>> {
        set.iter().filter_map(|&index| self.candidates.get(index))
    }

    /// The candidates that are not in `set`.
    fn others<'s>(&'s self, set: &'s Set) -> impl Iterator<Item = (usize, &'s Candidate<'a>)> {
        self.candidates.iter().enumerate().filter(|(index, _)| !set.contains(index))
    }

    fn providers(&self, set: &Set) -> BTreeSet<&ProviderName> {
        self.members(set).map(|candidate| &candidate.site.provider).collect()
    }

    /// The round trip of each place of demand to its nearest member.
    fn nearest(&self, set: &Set) -> Vec<f64> {
        let mut nearest = vec![FAR_MS; self.weights.len()];
        for candidate in self.members(set) {
            for (best, rtt_ms) in nearest.iter_mut().zip(&candidate.rtt_ms) {
                *best = best.min(*rtt_ms);
            }
        }
        nearest
    }

    fn mean(&self, rtts_ms: impl Iterator<Item = f64>) -> f64 {
        self.weights.iter().zip(rtts_ms).map(|(weight, rtt_ms)| weight * rtt_ms).sum()
    }

    /// The mean round trip of `set`, in ms.
    pub(super) fn cost(&self, set: &Set) -> f64 {
        self.mean(self.nearest(set).into_iter())
    }

    /// The mean round trip when `candidate` joins those whose nearest round trips are given.
    fn cost_with(&self, nearest: &[f64], candidate: &Candidate<'_>) -> f64 {
        self.mean(nearest.iter().zip(&candidate.rtt_ms).map(|(best, rtt_ms)| best.min(*rtt_ms)))
    }

    /// What each candidate outside `set` would take off its mean round trip, greatest first.
    pub(super) fn gains(&self, set: &Set) -> Vec<(&'a Site, f64)> {
        let nearest = self.nearest(set);
        let cost = self.mean(nearest.iter().copied());
        let gain = |(_, candidate): (usize, &Candidate<'a>)| {
            (candidate.site, cost - self.cost_with(&nearest, candidate))
        };
        let mut gains: Vec<_> = self.others(set).map(gain).collect();
        gains.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.id.cmp(&b.0.id)));
        gains
    }

    /// The members of `set`, fixed ones first, then by falling gain.
    pub(super) fn order(&self, set: &Set) -> Vec<usize> {
        let mut order: Vec<usize> = self.fixed.iter().copied().collect();
        let mut taken = self.fixed.clone();
        while let Some(next) = self.best_addition(&taken, |index, _| set.contains(&index)) {
            taken.insert(next);
            order.push(next);
        }
        order
    }

    /// The candidate among those allowed whose addition to `set` leaves the least mean round trip.
    fn best_addition(&self, set: &Set, allowed: impl Fn(usize, &Site) -> bool) -> Option<usize> {
        let nearest = self.nearest(set);
        let taken = self.providers(set);
        let options: Vec<_> = self
            .others(set)
            .filter(|(index, candidate)| allowed(*index, candidate.site))
            .map(|(index, candidate)| {
                let known = taken.contains(&candidate.site.provider);
                (self.cost_with(&nearest, candidate), (known, index))
            })
            .collect();
        cheapest(options).map(|(_, (_, index))| index)
    }

    /// Adds candidates one by one until `set` has its size.
    fn fill(&self, mut set: Set) -> Set {
        while set.len() < self.size {
            let last = set.len() + 1 == self.size;
            let taken = self.providers(&set);
            let must_differ = self.spread && last && taken.len() < 2;
            let allowed = |_, site: &Site| !must_differ || !taken.contains(&site.provider);
            let Some(next) = self.best_addition(&set, allowed) else { break };
            set.insert(next);
        }
        set
    }

    /// The best replacement of one member that is not fixed.
    fn best_swap(&self, set: &Set) -> Option<(f64, Set)> {
        let mut options = Vec::new();
        for &out in set.difference(&self.fixed) {
            let mut rest = set.clone();
            rest.remove(&out);
            let nearest = self.nearest(&rest);
            let taken = self.providers(&rest);
            for (index, candidate) in self.others(set) {
                let providers =
                    taken.len() + usize::from(!taken.contains(&candidate.site.provider));
                if !self.spread || providers >= 2 {
                    let cost = self.cost_with(&nearest, candidate);
                    options.push((cost, (usize::MAX - providers, index, out)));
                }
            }
        }
        let (cost, (_, index, out)) = cheapest(options)?;
        let mut swapped = set.clone();
        swapped.remove(&out);
        swapped.insert(index);
        Some((cost, swapped))
    }

    /// Swaps as long as a swap saves more than the part `threshold` of the mean round trip.
    fn improve(&self, mut set: Set, threshold: f64) -> Set {
        let mut cost = self.cost(&set);
        while let Some((swapped_cost, swapped)) = self.best_swap(&set) {
            if !is_better(swapped_cost, cost, threshold) {
                break;
            }
            (set, cost) = (swapped, swapped_cost);
        }
        set
    }

    /// How `demand` is served by `set`.
    pub(super) fn latency(&self, set: &Set, demand: &[Demand]) -> Option<Latency> {
        let mut served = Vec::new();
        for (place, name) in demand.iter().enumerate() {
            let rtt = |candidate: &Candidate<'a>| candidate.rtt_ms.get(place).copied();
            let (rtt_ms, site) = self
                .members(set)
                .filter_map(|candidate| Some((rtt(candidate)?, candidate.site)))
                .min_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.id.cmp(&b.1.id)))?;
            served.push(Served {
                name: name.name.clone(),
                site: site.id.clone(),
                rtt_ms: rounded(rtt_ms),
            });
        }
        let mut rising: Vec<_> =
            served.iter().map(|it| it.rtt_ms).zip(self.weights.iter().copied()).collect();
        rising.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sum = 0.0;
        let mut p95_ms = None;
        for (rtt_ms, weight) in rising.into_iter().filter(|(_, weight)| *weight > 0.0) {
            if sum < 0.95 - EQUAL {
                p95_ms = Some(rtt_ms);
            }
            sum += weight;
        }
        Some(Latency { mean_ms: rounded(self.cost(set)), p95_ms: p95_ms?, demand: served })
    }

    /// The best set found without regard to what stands. Swaps end in a local optimum, so the
    /// search also starts from each of the candidates that help most on their own.
    pub(super) fn fresh(&self) -> Set {
        let greedy = self.improve(self.fill(self.fixed.clone()), EQUAL);
        if self.takes_all() || self.size == self.fixed.len() {
            return greedy;
        }
        let from = |(site, _): (&Site, f64)| {
            let mut start = self.select(|it| it.id == site.id);
            start.extend(&self.fixed);
            self.improve(self.fill(start), EQUAL)
        };
        let mut best = (self.cost(&greedy), greedy);
        for set in self.gains(&self.fixed).into_iter().take(STARTS).map(from) {
            let cost = self.cost(&set);
            let spread = !self.spread || self.providers(&set).len() >= 2;
            if spread && is_better(cost, best.0, EQUAL) {
                best = (cost, set);
            }
        }
        best.1
    }

    /// The set to take when `current` stands, and the set that would be faster by too little.
    pub(super) fn settle(&self, current: &Set) -> (Set, Option<Set>) {
        let fresh = self.fresh();
        if current.is_subset(&self.fixed) {
            return (fresh, None);
        }
        let mut set: Set = current.union(&self.fixed).copied().collect();
        while set.len() > self.size {
            let without = |out: &usize| -> Set {
                set.iter().filter(|index| *index != out).copied().collect()
            };
            let options: Vec<_> = set
                .difference(&self.fixed)
                .map(|out| (self.cost(&without(out)), usize::MAX - out))
                .collect();
            let Some((_, out)) = cheapest(options) else { break };
            set.remove(&(usize::MAX - out));
        }
        set = self.fill(set);
        if self.spread && self.providers(&set).len() < 2 {
            set = self.best_swap(&set).map_or(set, |(_, swapped)| swapped);
        }
        set = self.improve(set, GAIN_THRESHOLD);
        let (cost, fresh_cost) = (self.cost(&set), self.cost(&fresh));
        if is_better(fresh_cost, cost, GAIN_THRESHOLD) {
            (fresh, None)
        } else if is_better(fresh_cost, cost, EQUAL) {
            (set, Some(fresh))
        } else {
            (set, None)
        }
    }
}

/// To the microsecond, for reports: finer is noise, and survives no JSON.
pub(super) fn rounded(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

fn is_better(cost: f64, than: f64, threshold: f64) -> bool {
    cost < than * (1.0 - threshold)
}

/// The option of least cost; among equal ones, that of the least key.
fn cheapest<K: Ord + Copy>(options: Vec<(f64, K)>) -> Option<(f64, K)> {
    let least = options.iter().map(|(cost, _)| *cost).min_by(f64::total_cmp)?;
    let equal = |cost: f64| cost <= least + least.abs() * EQUAL;
    options.into_iter().filter(|(cost, _)| equal(*cost)).min_by_key(|(_, key)| *key)
}

fn weights(demand: &[Demand]) -> Vec<f64> {
    let sane = |weight: f64| if weight.is_finite() { weight.max(0.0) } else { 0.0 };
    // Scaled down first, so that the sum stays finite.
    let greatest = demand.iter().map(|place| sane(place.weight)).fold(0.0, f64::max);
    let scaled = |place: &Demand| if greatest > 0.0 { sane(place.weight) / greatest } else { 0.0 };
    let sum: f64 = demand.iter().map(scaled).sum();
    demand.iter().map(|place| if sum > 0.0 { scaled(place) / sum } else { 0.0 }).collect()
}
