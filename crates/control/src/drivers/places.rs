//! Keeps live apps where they belong when sites come and go.
//!
//! A push decides where its release goes; this looks after the time between pushes. It gives what
//! is live to sites that have joined, and takes everything from sites that have gone or are
//! drained. It never touches an app with a push under way, and never moves an app from one good
//! site to another: DNS would name the old site to the last moment, so that waits for a push.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use selvedge_fabric::{Expect, SharedFabric, Typed};
use selvedge_model::geo::DistanceModel;
use selvedge_model::{
    AppName, Assignment, AssignmentEntry, Generation, Push, Release, SiteId, keys,
};
use selvedge_plan::placement::{self, Demand};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{DriverError, Reconciler, written};
use crate::steering::LEAVE;
use crate::world::World;

/// How soon to look again after an app whose push was under way. Most pushes change an assignment
/// as they end, which wakes the driver at once; one that is refused before *warm* changes none.
const AGAIN: Duration = Duration::from_secs(5);

/// The driver of [`selvedge_plan::placement`] between pushes.
pub(crate) struct Places {
    fabric: SharedFabric,
    draining_since: BTreeMap<SiteId, Instant>,
}

/// An assignment to write or, without entries, to delete.
struct Step {
    assignment: Assignment,
    expect: Expect,
}

impl Places {
    pub(crate) fn new(fabric: SharedFabric) -> Self {
        Self { fabric, draining_since: BTreeMap::new() }
    }

    /// The sites of `drained` that no client is sent to any more, and when the next will be one.
    fn emptied(&mut self, drained: &BTreeSet<SiteId>) -> (BTreeSet<SiteId>, Option<Duration>) {
        let now = Instant::now();
        self.draining_since.retain(|site, _| drained.contains(site));
        let mut emptied = BTreeSet::new();
        let mut next: Option<Duration> = None;
        for site in drained {
            let since = *self.draining_since.entry(site.clone()).or_insert(now);
            let rest = (since + LEAVE).saturating_duration_since(now);
            if rest.is_zero() {
                emptied.insert(site.clone());
            } else {
                next = Some(next.map_or(rest, |next| next.min(rest)));
            }
        }
        (emptied, next)
    }

    /// Whether no push to the repository with pushes at `prefix` is under way.
    async fn at_rest(&self, prefix: &str) -> Result<bool, DriverError> {
        let pushes = Typed(&*self.fabric).list::<Push>(prefix).await?;
        Ok(!pushes.iter().any(|(_, _, push)| push.is_open()))
    }
}

impl Reconciler for Places {
    const NAME: &'static str = "places";
    /// Sites come and go one by one.
    const DEBOUNCE: Duration = Duration::from_millis(500);

    async fn reconcile(
        &mut self,
        world: &mut watch::Receiver<World>,
    ) -> Result<Option<Duration>, DriverError> {
        let (steps, mut next) = {
            let world = world.borrow_and_update();
            let sites = world.topology.sites.values();
            let drained = sites.filter(|site| site.draining).map(|site| site.id.clone()).collect();
            let (emptied, next) = self.emptied(&drained);
            (plan(&world, &emptied), next)
        };
        for (pushes, steps) in steps {
            if !self.at_rest(&pushes).await? {
                next = Some(next.map_or(AGAIN, |next| next.min(AGAIN)));
                continue;
            }
            for Step { assignment, expect } in steps {
                let Assignment { app, environment, site, entries } = &assignment;
                let key = keys::assignment(site, app, environment);
                let done = if entries.is_empty() {
                    written(self.fabric.delete(&key, expect).await)?
                } else {
                    written(Typed(&*self.fabric).put(&key, &assignment, expect).await)?
                };
                if done {
                    tracing::info!(%app, %site, has = !entries.is_empty(), "a site came or went");
                }
            }
        }
        Ok(next)
    }
}

/// What to write, by the prefix of the pushes that must be at rest for it.
fn plan(world: &World, emptied: &BTreeSet<SiteId>) -> BTreeMap<String, Vec<Step>> {
    let mut steps: BTreeMap<String, Vec<Step>> = BTreeMap::new();
    // What apps that come earlier here are to take.
    let mut taken: BTreeMap<SiteId, u64> = BTreeMap::new();
    for ((app, environment), activation) in &world.activations {
        let Some(record) = world.apps.get(app) else { continue };
        let Some(live) = activation.newest_entry() else { continue };
        let Some(release) = live.releases.get(app).and_then(|id| world.release(app, id)) else {
            continue;
        };
        let entry = AssignmentEntry {
            epoch: live.epoch,
            release: release.id,
            services: release.app.services.iter().map(|service| service.name.clone()).collect(),
        };
        let assignment = |site: &SiteId, entries| Assignment {
            app: app.clone(),
            environment: environment.clone(),
            site: site.clone(),
            entries,
        };
        let standing: BTreeMap<SiteId, Generation> = world
            .assignments_of(app, environment)
            .map(|(site, standing)| (site.clone(), standing.generation))
            .collect();
        let mine = steps.entry(keys::pushes(&record.repository)).or_default();
        for site in joining(world, app, release, standing.keys().cloned().collect(), &taken) {
            *taken.entry(site.clone()).or_default() += placement::need_mib(&release.app);
            let found = world.assignments.get(&(site.clone(), app.clone(), environment.clone()));
            let expect = found.map_or(Expect::Absent, |found| Expect::Generation(found.generation));
            mine.push(Step { assignment: assignment(&site, vec![entry.clone()]), expect });
        }
        for (site, generation) in standing {
            if emptied.contains(&site) || !world.topology.sites.contains_key(&site) {
                let assignment = assignment(&site, Vec::new());
                mine.push(Step { assignment, expect: Expect::Generation(generation) });
            }
        }
    }
    steps.retain(|_, steps| !steps.is_empty());
    steps
}

/// The sites that are to have an app that is at `current`, when others are about to take `taken`
/// MiB besides what they have.
fn joining(
    world: &World,
    app: &AppName,
    release: &Release,
    current: BTreeSet<SiteId>,
    taken: &BTreeMap<SiteId, u64>,
) -> BTreeSet<SiteId> {
    let mut used_mib = world.used_mib(app);
    for (site, mib) in taken {
        *used_mib.entry(site.clone()).or_default() += mib;
    }
    let (plan, _) = placement::plan(&placement::Input {
        topology: &world.topology,
        app,
        placement: &release.app.placement,
        need_mib: placement::need_mib(&release.app),
        used_mib: &used_mib,
        current: &current,
        demand: &Demand::cities(),
        round_trips: &DistanceModel,
    });
    let Ok(plan) = plan else { return BTreeSet::new() };
    let stays = |site: &SiteId| {
        world.topology.sites.get(site).is_none_or(|site| site.draining) || plan.sites.contains(site)
    };
    // To move to a better site would leave a good one.
    if current.iter().all(stays) { &plan.sites - &current } else { BTreeSet::new() }
}

#[cfg(test)]
mod tests {
    use selvedge_model::manifest::ServiceKind;
    use selvedge_model::{Activation, EnvironmentName};

    use super::*;
    use crate::fixture;

    /// The shop's release under another name, whose process takes `memory_mib`.
    fn live(world: &mut World, name: &str, memory_mib: u32) -> AppName {
        let app = AppName::new(name).unwrap();
        let mut release = fixture::release(name);
        release.app.name = app.clone();
        release.app.services[0].kind = ServiceKind::Process {
            command: "serve".to_owned(),
            health: None,
            start_timeout_s: 30,
            stop_timeout_s: 10,
            memory_mib,
            limits: selvedge_model::manifest::ProcessLimits::default(),
        };
        let releases = BTreeMap::from([(app.clone(), release.id)]);
        world.releases.entry(app.clone()).or_default().insert(release.id, release);
        let mut record = fixture::record();
        record.app = app.clone();
        world.apps.insert(app.clone(), record);
        let production = EnvironmentName::production();
        let activation =
            Activation::everyone(app.clone(), production.clone(), fixture::epoch(2), releases);
        world.activations.insert((app.clone(), production), activation);
        app
    }

    #[test]
    fn apps_that_come_at_once_share_a_sites_memory() {
        let mut world = World { topology: fixture::topology(&["fra"]), ..World::default() };
        let first = live(&mut world, "a-first", 600);
        let large = live(&mut world, "b-large", 600);
        let small = live(&mut world, "c-small", 400);
        let steps: Vec<_> = plan(&world, &BTreeSet::new()).into_values().flatten().collect();
        let apps: Vec<_> = steps.iter().map(|step| &step.assignment.app).collect();
        assert_eq!(apps, [&first, &small], "{large} has no room besides {first}");
        assert!(steps.iter().all(|step| step.expect == Expect::Absent));
    }
}
