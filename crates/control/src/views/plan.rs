//! What a push would do: the pipeline's own planning, on documents as they stand.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_api::{PlanAnswer, PlanRequest, PlannedApp, WantedApp};
use selvedge_model::documents::AppRecord;
use selvedge_model::{App, AppName, EnvironmentName, Host, Release, RepositoryName, SiteId, hosts};
use selvedge_plan::explain;
use selvedge_plan::placement;

use super::live;
use crate::pipeline::{Choice, Needs, choose, contested, fits};
use crate::world::World;

/// Answers `request`.
pub(crate) fn plan(world: &World, request: &PlanRequest) -> PlanAnswer {
    let mut choices = choices(world, request);
    let wanted: BTreeMap<&AppName, BTreeSet<Host>> =
        request.apps.iter().map(|it| (&it.app.name, hosts_of(world, &it.app))).collect();
    let mut refused = unfit(world, request);
    let apps = request.apps.iter().map(|it| {
        let name = &it.app.name;
        let mut problems = refused.remove(name).unwrap_or_default();
        problems.extend(claims(world, &request.repository, it, &wanted));
        let (sites, placement) = match choices.remove(name) {
            // What is live stays where it is.
            None => (current(world, name), Vec::new()),
            Some(Choice { plan: Ok(plan), report }) => (plan.sites, explain::placement(&report)),
            Some(Choice { plan: Err(conflict), report }) => {
                problems.push(conflict.to_string());
                (BTreeSet::new(), explain::placement(&report))
            }
        };
        PlannedApp {
            app: name.clone(),
            live: world.apps.get(name).and_then(|record| shown(world, record)),
            stored: world.release(name, &it.release).is_some(),
            hosts: hosts_of(world, &it.app),
            current: current(world, name),
            sites,
            placement,
            problems,
        }
    });
    let apps = apps.collect();
    let leaves = |record: &&AppRecord| {
        record.repository == request.repository
            && !wanted.contains_key(&record.app)
            && live(world, record).is_some()
    };
    let removed = world.apps.values().filter(leaves);
    let removed = removed.map(|it| (it.app.clone(), shown(world, it))).collect();
    PlanAnswer { apps, removed }
}

/// The sites of the apps that change.
fn choices(world: &World, request: &PlanRequest) -> BTreeMap<AppName, Choice> {
    let changes = |it: &&WantedApp| {
        let record = world.apps.get(&it.app.name);
        record.and_then(|record| live(world, record)).is_none_or(|live| live.digest != it.release)
    };
    let apps: Vec<&App> = request.apps.iter().filter(changes).map(|it| &it.app).collect();
    let chosen = choose(&world.topology, needs(world), |app| current(world, app), &apps);
    apps.into_iter().map(|app| app.name.clone()).zip(chosen).collect()
}

/// What the commit alone is refused for at this installation, by app.
fn unfit(world: &World, request: &PlanRequest) -> BTreeMap<AppName, Vec<String>> {
    let mut problems: BTreeMap<AppName, Vec<String>> = BTreeMap::new();
    let Some(installation) = &world.installation else { return problems };
    let mut add = |app: &App, words| problems.entry(app.name.clone()).or_default().push(words);
    let apps: Vec<&App> = request.apps.iter().map(|it| &it.app).collect();
    for app in &apps {
        if let Err(words) = fits(app, installation) {
            add(app, words);
        }
    }
    for (host, [one, other]) in contested(&apps, installation) {
        let (one, by) = (&one.name, &other.name);
        let words = format!("{host} is claimed twice in this commit, by {one} and by {by}");
        add(other, format!("{words}; take it out of one"));
    }
    problems
}

fn current(world: &World, app: &AppName) -> BTreeSet<SiteId> {
    let production = EnvironmentName::production();
    world.assignments_of(app, &production).map(|(site, _)| site.clone()).collect()
}

fn hosts_of(world: &World, app: &App) -> BTreeSet<Host> {
    match &world.installation {
        Some(installation) => hosts::all_hosts(app, installation),
        None => app.hosts().into_iter().cloned().collect(),
    }
}

/// What is live, with the directory where it is now: it may have moved since it was built.
fn shown(world: &World, record: &AppRecord) -> Option<Release> {
    let directory = record.directory.clone();
    live_release(world, record).map(|release| Release { directory, ..release.clone() })
}

fn live_release<'a>(world: &'a World, record: &AppRecord) -> Option<&'a Release> {
    world.release(&record.app, &live(world, record)?.digest)
}

/// The memory that every app has at each site, in MiB.
fn needs(world: &World) -> Needs {
    let mut needs = Needs::new();
    for ((site, app, _), assignment) in &world.assignments {
        let newest = assignment.entries.iter().max_by_key(|entry| entry.epoch);
        if let Some(release) = newest.and_then(|entry| world.release(app, &entry.release)) {
            let need_mib = placement::need_mib(&release.app);
            needs.entry(app.clone()).or_default().insert(site.clone(), need_mib);
        }
    }
    needs
}

/// The name and hosts that the app wants and others have.
fn claims(
    world: &World,
    repository: &RepositoryName,
    wanted: &WantedApp,
    all: &BTreeMap<&AppName, BTreeSet<Host>>,
) -> Vec<String> {
    let name = &wanted.app.name;
    let mut problems = Vec::new();
    if let Some(record) = world.apps.get(name)
        && record.repository != *repository
        && live(world, record).is_some()
    {
        problems
            .push(format!("the app name {name} belongs to the repository {}", record.repository));
    }
    for record in world.apps.values().filter(|record| record.app != *name) {
        let Some(release) = live_release(world, record) else { continue };
        // What an app of the same commit gives up is free.
        let given_up = |host: &Host| {
            record.repository == *repository
                && all.get(&record.app).is_none_or(|hosts| !hosts.contains(host))
        };
        let theirs = hosts_of(world, &release.app);
        let taken = all.get(name).into_iter().flatten().filter(|host| theirs.contains(*host));
        for host in taken.filter(|host| !given_up(host)) {
            problems.push(format!("{host} belongs to the app {}", record.app));
        }
    }
    problems
}
