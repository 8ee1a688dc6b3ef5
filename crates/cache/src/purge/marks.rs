//! The marks of one app.

use std::collections::HashMap;
use std::sync::Arc;

use super::ban::Ban;
use super::prefix::Prefixes;
use super::{Kind, Labels, Limits, Scope, Verdict};

/// The newest purge of either kind; 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    hard: u64,
    soft: u64,
}

impl Mark {
    fn set(&mut self, kind: Kind, generation: u64) {
        match kind {
            Kind::Hard => self.hard = self.hard.max(generation),
            Kind::Soft => self.soft = self.soft.max(generation),
        }
    }

    pub(super) fn newest(&self) -> u64 {
        self.hard.max(self.soft)
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.hard = self.hard.max(other.hard);
        self.soft = self.soft.max(other.soft);
    }

    /// What it did to an object that was last checked at `since`.
    fn verdict(&self, since: u64) -> Verdict {
        if self.hard > since {
            Verdict::Gone
        } else if self.soft > since {
            Verdict::Stale
        } else {
            Verdict::Good
        }
    }

    fn each(&self, scope: &Scope, take: &mut impl FnMut(Scope, Kind, u64)) {
        for (kind, generation) in [(Kind::Hard, self.hard), (Kind::Soft, self.soft)] {
            if generation > 0 {
                take(scope.clone(), kind, generation);
            }
        }
    }

    fn forget(&mut self, generation: u64) {
        self.hard = if self.hard > generation { self.hard } else { 0 };
        self.soft = if self.soft > generation { self.soft } else { 0 };
    }
}

/// A ban in force.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) generation: u64,
    kind: Kind,
    pub(super) expression: Arc<Ban>,
}

impl InForce {
    /// What it does to an object that it matches.
    pub(super) fn verdict(&self) -> Verdict {
        match self.kind {
            Kind::Hard => Verdict::Gone,
            Kind::Soft => Verdict::Stale,
        }
    }
}

/// Marks by name.
#[derive(Debug, Default)]
struct Names {
    marks: HashMap<Box<[u8]>, Mark>,
    bytes: usize,
}

impl Names {
    fn judge(&self, name: &[u8], since: u64) -> Verdict {
        self.marks.get(name).map_or(Verdict::Good, |mark| mark.verdict(since))
    }

    fn mark(&mut self, name: &[u8]) -> &mut Mark {
        if !self.marks.contains_key(name) {
            self.bytes += name.len();
        }
        self.marks.entry(name.into()).or_default()
    }

    /// Changes all marks, and drops those that become empty.
    fn retain(&mut self, mut change: impl FnMut(&mut Mark)) {
        let bytes = &mut self.bytes;
        self.marks.retain(|name, mark| {
            change(mark);
            let keep = mark.newest() > 0;
            *bytes -= if keep { 0 } else { name.len() };
            keep
        });
        if self.marks.capacity() > 64 + 4 * self.marks.len() {
            self.marks.shrink_to_fit();
        }
    }

    /// Moves the older half of the marks into `all`.
    fn widen(&mut self, all: &mut Mark) {
        let middle = middle(self.marks.values().map(Mark::newest).collect());
        self.retain(|mark| widen(mark, middle, all));
    }
}

/// The generation that half of these, at least one, are not newer than.
fn middle(mut generations: Vec<u64>) -> u64 {
    let half = generations.len().saturating_sub(1) / 2;
    if generations.is_empty() {
        return 0;
    }
    *generations.select_nth_unstable(half).1
}

fn widen(mark: &mut Mark, middle: u64, all: &mut Mark) {
    if mark.newest() <= middle {
        all.merge(mark);
        *mark = Mark::default();
    }
}

/// All marks of an app.
#[derive(Debug, Default)]
pub(super) struct Marks {
    all: Mark,
    urls: Names,
    tags: Names,
    prefixes: Prefixes,
    /// Shared, so that expressions are compared without a lock.
    bans: Arc<[Arc<InForce>]>,
}

impl Marks {
    /// Adds a purge. Whether older ones had to become a purge of the whole app for it.
    pub(super) fn add(
        &mut self,
        scope: &Scope,
        kind: Kind,
        generation: u64,
        limits: &Limits,
    ) -> bool {
        let before = self.all;
        match scope {
            Scope::App => {
                self.all.set(kind, generation);
                return false;
            }
            Scope::Url(name) => add(&mut self.urls, name, limits, &mut self.all),
            Scope::Tag(name) => add(&mut self.tags, name, limits, &mut self.all),
            Scope::Prefix(prefix) => {
                let prefixes = &mut self.prefixes;
                while !prefixes.contains(prefix)
                    && (prefixes.len() >= limits.prefixes.max(1) || prefixes.bytes() > limits.bytes)
                {
                    let middle = middle(prefixes.newest().collect());
                    prefixes.retain(|mark| widen(mark, middle, &mut self.all));
                }
                prefixes.mark(prefix)
            }
            Scope::Ban(expression) => {
                self.ban(InForce { generation, kind, expression: expression.clone() }, limits);
                return self.all != before;
            }
        }
        .set(kind, generation);
        self.all != before
    }

    fn ban(&mut self, ban: InForce, limits: &Limits) {
        let full = self.bans.len() >= limits.bans.max(1);
        let middle =
            if full { middle(self.bans.iter().map(|ban| ban.generation).collect()) } else { 0 };
        for old in self.bans.iter().filter(|ban| ban.generation <= middle) {
            self.all.set(old.kind, old.generation);
        }
        let kept = self.bans.iter().filter(|ban| ban.generation > middle).cloned();
        self.bans = kept.chain([Arc::new(ban)]).collect();
    }

    /// What all but bans did to an object that was last checked at `since`.
    pub(super) fn judge(&self, labels: &Labels<'_>, since: u64) -> Verdict {
        let mut verdict = self.all.verdict(since).max(self.urls.judge(labels.url, since));
        if !self.tags.marks.is_empty() {
            let tags = labels.tags.iter().map(|tag| self.tags.judge(tag, since));
            verdict = tags.fold(verdict, Verdict::max);
        }
        if verdict == Verdict::Gone {
            return verdict;
        }
        verdict.max(self.prefixes.covering(labels.host, labels.path).verdict(since))
    }

    pub(super) fn bans(&self) -> Arc<[Arc<InForce>]> {
        self.bans.clone()
    }

    pub(super) fn forget(&mut self, generation: u64) {
        self.all.forget(generation);
        self.urls.retain(|mark| mark.forget(generation));
        self.tags.retain(|mark| mark.forget(generation));
        self.prefixes.retain(|mark| mark.forget(generation));
        if self.bans.iter().any(|ban| ban.generation <= generation) {
            let kept = self.bans.iter().filter(|ban| ban.generation > generation);
            self.bans = kept.cloned().collect();
        }
    }

    /// Gives every purge to `take`, with its generation.
    pub(super) fn each(&self, mut take: impl FnMut(Scope, Kind, u64)) {
        self.all.each(&Scope::App, &mut take);
        for (name, mark) in &self.urls.marks {
            mark.each(&Scope::Url(name.to_vec()), &mut take);
        }
        for (name, mark) in &self.tags.marks {
            mark.each(&Scope::Tag(name.to_vec()), &mut take);
        }
        for (prefix, mark) in self.prefixes.iter() {
            mark.each(&Scope::Prefix(prefix), &mut take);
        }
        for ban in self.bans.iter() {
            take(Scope::Ban(ban.expression.clone()), ban.kind, ban.generation);
        }
    }

    pub(super) fn len(&self) -> usize {
        let all = usize::from(self.all != Mark::default());
        let names = self.urls.marks.len() + self.tags.marks.len();
        all + names + self.prefixes.len() + self.bans.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The mark of a name, made room for.
fn add<'a>(names: &'a mut Names, name: &[u8], limits: &Limits, all: &mut Mark) -> &'a mut Mark {
    if !names.marks.contains_key(name) {
        while names.marks.len() >= limits.names.max(1)
            || (names.bytes + name.len() > limits.bytes && !names.marks.is_empty())
        {
            names.widen(all);
        }
    }
    names.mark(name)
}
