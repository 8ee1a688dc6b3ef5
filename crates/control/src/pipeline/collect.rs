//! Collection: releases that are not kept, blobs that no release names, old records, objects.
//!
//! It runs in a repository's worker between pushes, so nothing of the repository is under way.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use selvedge_model::documents::AppRecord;
use selvedge_model::{Assignment, Digest, Push, Release, ReleaseId, RepositoryName, keys};
use selvedge_plan::rollout::Target;
use selvedge_runtime::tree;

use super::run::{Refusal, Run, broken, remove};
use super::{Shared, commit, receive};
use crate::git::OWN_REFS;

/// Records of ended pushes that are kept in a repository, besides those that the history names.
const KEPT_PUSHES: usize = 100;
/// A dependency cache larger than this is emptied, in bytes.
const MAX_CACHE: u64 = 4 << 30;

/// Collects what nothing of the repository needs. Says whether a site is still to leave an app.
pub(super) async fn collect(shared: &Shared, name: &RepositoryName) -> Result<bool, Refusal> {
    let repository = shared.git.repository(name);
    let mut leaving = false;
    let mut keepers = BTreeSet::new();
    let mut pushes_kept = BTreeSet::new();
    let records = shared.records_of(name).await?;
    for record in &records {
        leaving |= retire(shared, record).await?;
        releases(shared, record).await?;
        pushes_kept.extend(record.history.iter().map(|it| it.push));
        let refs = record
            .history
            .iter()
            .map(|it| format!("{OWN_REFS}/releases/{}/{}", record.app, it.release.0));
        keepers.extend(refs);
        shrink_cache(shared, record).await;
    }
    // Read before the records: a push that comes in now is recorded first and keeps its ref then.
    let references = repository.refs(OWN_REFS).await.map_err(broken("read refs"))?;
    let unended = push_records(shared, name, &pushes_kept).await?;
    keepers.extend(unended.iter().map(|n| format!("{OWN_REFS}/{}", Run::keeper(*n))));
    for (reference, _) in references {
        if !keepers.contains(&reference)
            && let Some(own) = reference.strip_prefix(&format!("{OWN_REFS}/"))
        {
            repository.forget(own).await.map_err(broken("drop a ref"))?;
        }
    }
    if shared.blobs_due.swap(false, Ordering::Relaxed)
        && let Err(refusal) = blobs(shared).await
    {
        shared.blobs_due.store(true, Ordering::Relaxed);
        return Err(refusal);
    }
    repository.tidy().await.map_err(broken("pack the repository"))?;
    Ok(leaving)
}

/// Lets go of sites that the live release is not planned for.
async fn retire(shared: &Shared, record: &AppRecord) -> Result<bool, Refusal> {
    let Some(entry) = record.history.first() else { return Ok(false) };
    let live = receive::live(shared, &record.app).await?;
    if live != Some((entry.epoch, entry.release)) {
        return Ok(false);
    }
    let failed = "read what is live";
    let push: Option<Push> = shared
        .store
        .get(&keys::push(&record.repository, entry.push))
        .await
        .map_err(broken(failed))?;
    let release: Option<Release> = shared
        .store
        .get(&keys::release(&record.app, &entry.release))
        .await
        .map_err(broken(failed))?;
    let (Some(push), Some(release)) = (push, release) else { return Ok(false) };
    let Some(planned) = push.apps.into_iter().find(|it| it.app == record.app) else {
        return Ok(false);
    };
    // A site that joined since the push has the live release too, and one that was drained or has
    // left since has nothing: which, is not for this to judge.
    let has_live = |it: &Assignment| it.entries.iter().any(|has| has.epoch == entry.epoch);
    let assignments = shared.assignments(&record.app).await?.into_iter();
    let sites = assignments
        .filter(|(site, it)| planned.sites.contains(site) || has_live(it))
        .map(|(site, _)| site)
        .collect();
    let services = release.app.services.into_iter().map(|service| service.name).collect();
    let target = Target { epoch: entry.epoch, release: entry.release, services };
    commit::retire(shared, &record.app, &target, &sites, entry.at_ms).await
}

/// Deletes the releases of an app that are neither kept nor anywhere in use.
async fn releases(shared: &Shared, record: &AppRecord) -> Result<(), Refusal> {
    let failed = "collect releases";
    let mut kept: BTreeSet<ReleaseId> = record.history.iter().map(|it| it.release).collect();
    kept.extend(receive::live(shared, &record.app).await?.map(|(_, release)| release));
    for assignment in shared.assignments(&record.app).await?.values() {
        kept.extend(assignment.entries.iter().map(|entry| entry.release));
    }
    let prefix = keys::releases(&record.app);
    let listing = shared.store.0.list(&prefix).await.map_err(broken(failed))?;
    for document in listing.documents {
        let id = document.key.strip_prefix(&prefix).and_then(|id| id.parse::<Digest>().ok());
        if id.is_none_or(|id| !kept.contains(&ReleaseId(id))) {
            shared.store.delete(&document.key).await.map_err(broken(failed))?;
            shared.blobs_due.store(true, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Deletes blobs that no release names.
async fn blobs(shared: &Shared) -> Result<(), Refusal> {
    let failed = "collect blobs";
    let _publishing_waits = shared.collecting.write().await;
    let releases: Vec<(String, Release)> =
        shared.store.list(keys::RELEASES).await.map_err(broken(failed))?;
    let named: BTreeSet<Digest> = releases
        .iter()
        .flat_map(|(_, release)| release.artifacts.values().map(|artifact| artifact.digest))
        .collect();
    for digest in shared.store.0.blobs().await.map_err(broken(failed))? {
        if !named.contains(&digest) {
            shared.store.0.delete_blob(&digest).await.map_err(broken(failed))?;
        }
    }
    Ok(())
}

/// Deletes old records. Returns the numbers of pushes that have not ended.
async fn push_records(
    shared: &Shared,
    name: &RepositoryName,
    kept: &BTreeSet<u64>,
) -> Result<Vec<u64>, Refusal> {
    let failed = "collect records of pushes";
    let pushes: Vec<(String, Push)> =
        shared.store.list(&keys::pushes(name)).await.map_err(broken(failed))?;
    let surplus = pushes.len().saturating_sub(KEPT_PUSHES);
    for (key, push) in pushes.iter().take(surplus) {
        if !push.is_open() && !kept.contains(&push.number) {
            shared.store.delete(key).await.map_err(broken(failed))?;
        }
    }
    let unended = pushes.iter().filter(|(_, push)| push.is_open()).map(|(_, push)| push.number);
    Ok(unended.collect())
}

/// Empties a dependency cache that has grown too large: it fills again with what is in use.
async fn shrink_cache(shared: &Shared, record: &AppRecord) {
    let cache = shared.cache_of(&record.app);
    let measured = cache.clone();
    let measuring = tokio::task::spawn_blocking(move || tree::is_larger(&measured, MAX_CACHE));
    if measuring.await.unwrap_or(false)
        && let Err(error) = remove(cache).await
    {
        tracing::warn!(%error, app = %record.app, "a dependency cache can't be emptied");
    }
}
