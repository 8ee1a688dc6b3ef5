//! Names and hosts: each belongs to one app of the installation.
//!
//! A claim is taken by creating its document. What is claimed is given back by comparing with what
//! is live, so that giving back twice, or after a crash, is the same as once.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use selvedge_fabric::Step;
use selvedge_model::documents::{AppRecord, HostClaim};
use selvedge_model::manifest::path_in;
use selvedge_model::{
    App, AppName, Epoch, Host, Installation, Push, Release, RepositoryName, hosts, keys,
};

use super::Shared;
use super::receive::{Candidate, live};
use super::run::{Refusal, broken, remove};

/// The hosts that each app of a commit answers for.
pub(super) type Wanted = BTreeMap<AppName, BTreeSet<Host>>;

/// What the apps of a commit want, if they agree on it.
pub(super) fn wanted(
    candidates: &[Candidate],
    installation: &Installation,
) -> Result<Wanted, Refusal> {
    let apps: Vec<&App> = candidates.iter().map(|it| &it.app).collect();
    if let Some((host, [one, other])) = contested(&apps, installation).into_iter().next() {
        let file = |app: &App| {
            let candidate = candidates.iter().find(|it| it.app.name == app.name);
            path_in(candidate.map_or("", |it| it.directory.as_str()))
        };
        return Err(Refusal::new(format!(
            "{host} is claimed twice in this commit, by {} ({}) and by {} ({}); take it out of one",
            one.name,
            file(one),
            other.name,
            file(other)
        )));
    }
    let hosts = |app: &App| (app.name.clone(), hosts::all_hosts(app, installation));
    Ok(apps.into_iter().map(hosts).collect())
}

/// Hosts that two apps of one commit answer for, and which.
pub(crate) fn contested<'a>(
    apps: &[&'a App],
    installation: &Installation,
) -> Vec<(Host, [&'a App; 2])> {
    let mut by_host: BTreeMap<Host, &App> = BTreeMap::new();
    let mut contested = Vec::new();
    for app in apps {
        for host in hosts::all_hosts(app, installation) {
            match by_host.entry(host) {
                Entry::Vacant(entry) => drop(entry.insert(app)),
                Entry::Occupied(entry) => {
                    contested.push((entry.key().clone(), [*entry.get(), *app]));
                }
            }
        }
    }
    contested
}

/// Claims the candidate's name for its repository and every host for the app. A host that another
/// app of the repository gives up in the same commit stays that one's until [`pass_on`].
pub(super) async fn take(
    shared: &Shared,
    repository: &RepositoryName,
    candidate: &Candidate,
    wanted: &Wanted,
) -> Result<(), Refusal> {
    take_name(shared, repository, candidate).await?;
    let app = &candidate.app.name;
    for host in hosts::all_hosts(&candidate.app, &shared.installation) {
        let Some(owner) = take_host(shared, app, &host).await? else { continue };
        let record = super::receive::record(shared, &owner).await?;
        let ours = record.is_some_and(|record| record.repository == *repository);
        let given_up = wanted.get(&owner).is_none_or(|hosts| !hosts.contains(&host));
        if !(ours && given_up) {
            return Err(Refusal::new(format!(
                "{host} belongs to the app {owner}; take it out of {owner} first, or choose another host"
            )));
        }
    }
    Ok(())
}

async fn take_name(
    shared: &Shared,
    repository: &RepositoryName,
    candidate: &Candidate,
) -> Result<(), Refusal> {
    let app = &candidate.app.name;
    let failed = "claim the app's name";
    // Another repository's claim may be only what a refused first push has left.
    let standing = super::receive::record(shared, app).await?;
    let unclaimed = standing.is_none();
    let abandoned = match standing {
        Some(record) if record.repository != *repository && !in_use(shared, &record).await? => {
            Some(record)
        }
        _ => None,
    };
    if unclaimed || abandoned.is_some() {
        // Before the name is taken: whoever has it builds with what is there, which must not be
        // another repository's.
        remove(shared.cache_of(app)).await.map_err(broken("clear the dependency cache"))?;
    }
    let fresh = AppRecord {
        app: app.clone(),
        repository: repository.clone(),
        directory: candidate.directory.clone(),
        last_epoch: Epoch::new(0, 0),
        history: Vec::new(),
    };
    let key = keys::app(app);
    let owner = shared.store.update(&key, |standing: Option<AppRecord>| match standing {
        None => (Step::Put(fresh.clone()), None),
        Some(record) if record.repository == *repository => (Step::Keep, None),
        // Epochs are never reused, whoever has the name. A push of the other repository that has
        // begun since then finds at its own reservation that the name has gone.
        Some(record) if abandoned.as_ref() == Some(&record) => {
            let last_epoch = record.last_epoch;
            (Step::Put(AppRecord { last_epoch, ..fresh.clone() }), None)
        }
        Some(record) => (Step::Keep, Some(record.repository)),
    });
    match owner.await.map_err(broken(failed))? {
        None => Ok(()),
        Some(owner) => Err(Refusal::new(format!(
            "the app name {app} belongs to the repository {owner}; choose another name, or push to {owner}.git"
        ))),
    }
}

/// Deletes the cache of an app that is about to be given up. What can't be deleted now keeps the
/// next claim of the name from succeeding.
pub(super) async fn drop_cache(shared: &Shared, app: &AppName) {
    if let Err(error) = remove(shared.cache_of(app)).await {
        tracing::warn!(%error, %app, "a dependency cache was not deleted");
    }
}

/// Whether an app is live or about to be.
async fn in_use(shared: &Shared, record: &AppRecord) -> Result<bool, Refusal> {
    if !record.history.is_empty() || live(shared, &record.app).await?.is_some() {
        return Ok(true);
    }
    let pushes: Vec<(String, Push)> = shared
        .store
        .list(&keys::pushes(&record.repository))
        .await
        .map_err(broken("read the other repository's pushes"))?;
    let under_way = |push: &Push| push.is_open() && push.apps.iter().any(|it| it.app == record.app);
    Ok(pushes.iter().any(|(_, push)| under_way(push)))
}

/// Claims a host; says who has it otherwise.
async fn take_host(
    shared: &Shared,
    app: &AppName,
    host: &Host,
) -> Result<Option<AppName>, Refusal> {
    let key = keys::host(host);
    let owner = shared.store.update(&key, |standing: Option<HostClaim>| match standing {
        None => (Step::Put(HostClaim { app: app.clone() }), None),
        Some(claim) if claim.app == *app => (Step::Keep, None),
        Some(claim) => (Step::Keep, Some(claim.app)),
    });
    owner.await.map_err(broken("claim a host"))
}

/// Whether the app has a host that still belongs to another.
pub(super) async fn gains(shared: &Shared, release: &Release) -> Result<bool, Refusal> {
    for host in hosts::all_hosts(&release.app, &shared.installation) {
        let claim: Option<HostClaim> =
            shared.store.get(&keys::host(&host)).await.map_err(broken("read a host's claim"))?;
        if claim.is_some_and(|claim| claim.app != release.app.name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the hosts of a release that is live its own, which other apps of the repository have given
/// up for it. There is no moment in which a host belongs to nobody.
pub(super) async fn pass_on(
    shared: &Shared,
    repository: &RepositoryName,
    release: &Release,
) -> Result<(), Refusal> {
    let app = &release.app.name;
    let records = shared.records_of(repository).await?;
    let ours: BTreeSet<AppName> = records.into_iter().map(|record| record.app).collect();
    for host in hosts::all_hosts(&release.app, &shared.installation) {
        let pass = |standing: Option<HostClaim>| match standing {
            Some(claim) if claim.app == *app || !ours.contains(&claim.app) => (Step::Keep, ()),
            _ => (Step::Put(HostClaim { app: app.clone() }), ()),
        };
        let key = keys::host(&host);
        shared.store.update(&key, pass).await.map_err(broken("pass a host on"))?;
    }
    Ok(())
}

/// Gives back what the app claims and its live release does not use: all of it, when nothing is
/// live.
pub(super) async fn give_back(shared: &Shared, app: &AppName) -> Result<(), Refusal> {
    let used: BTreeSet<Host> = match live(shared, app).await? {
        None => BTreeSet::new(),
        Some((_, id)) => {
            let release: Option<Release> = shared
                .store
                .get(&keys::release(app, &id))
                .await
                .map_err(broken("read the release"))?;
            match release {
                Some(release) => hosts::all_hosts(&release.app, &shared.installation),
                // What is live is never given away for lack of knowledge.
                None => return Ok(()),
            }
        }
    };
    let claims: Vec<(String, HostClaim)> =
        shared.store.list(keys::HOSTS).await.map_err(broken("read the claimed hosts"))?;
    for (key, claim) in claims {
        let kept = key
            .strip_prefix(keys::HOSTS)
            .and_then(|host| Host::new(host).ok())
            .is_some_and(|host| used.contains(&host));
        if claim.app == *app && !kept {
            let give = |standing: Option<HostClaim>| match standing {
                Some(claim) if claim.app == *app => (Step::Delete, ()),
                _ => (Step::Keep, ()),
            };
            shared.store.update(&key, give).await.map_err(broken("give back a host"))?;
        }
    }
    Ok(())
}

/// Forgets an app that never was live. Its record stays when epochs were reserved, because those
/// must not come again, but then anybody may take the name.
pub(super) async fn forget_unborn(shared: &Shared, app: &AppName) -> Result<(), Refusal> {
    if live(shared, app).await?.is_some() {
        return Ok(());
    }
    let forget = |standing: Option<AppRecord>| match standing {
        Some(record) if record.history.is_empty() && record.last_epoch.number == 0 => {
            (Step::Delete, ())
        }
        _ => (Step::Keep, ()),
    };
    shared.store.update(&keys::app(app), forget).await.map_err(broken("give back the app's name"))
}
