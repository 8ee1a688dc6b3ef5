//! Ways back: undoing before the commit point, restoring the previous release after it.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_fabric::Step;
use selvedge_model::documents::{AppRecord, HistoryEntry, PushApp, PushCause, PushFailure};
use selvedge_model::{
    Activation, AppName, Assignment, EnvironmentName, Epoch, Push, PushState, Stage, keys,
};
use selvedge_plan::rollout;

use super::progress::ProgressLog;
use super::receive::{Candidate, Work};
use super::run::{Refusal, Run, broken};
use super::{Shared, claims, commit, publish, recover};
use crate::git::MAIN;
use crate::now_ms;

/// Takes back everything that the push has done before its commit point. May be repeated.
pub(super) async fn undo(run: &Run) -> Result<(), Refusal> {
    let shared = &run.shared;
    for planned in &run.push.apps {
        let record = super::receive::record(shared, &planned.app).await?;
        // An app that the push was not allowed to touch is nothing to take back.
        let Some(record) = record.filter(|it| it.repository == run.push.repository) else {
            continue;
        };
        if let Some(epoch) = planned.epoch {
            let key = keys::activation(&planned.app, &EnvironmentName::production());
            let activation: Option<Activation> =
                shared.store.get(&key).await.map_err(broken("read what is live"))?;
            for site in shared.assignments(&planned.app).await?.keys() {
                let remove = |standing: Option<Assignment>| {
                    let Some(standing) = standing else { return (Step::Keep, ()) };
                    let standing = BTreeMap::from([(site.clone(), standing)]);
                    match rollout::undo(&standing, activation.as_ref(), epoch).remove(site) {
                        None => (Step::Keep, ()),
                        Some(left) if left.entries.is_empty() => (Step::Delete, ()),
                        Some(left) => (Step::Put(left), ()),
                    }
                };
                let key = keys::assignment(site, &planned.app, &EnvironmentName::production());
                let removed = shared.store.update(&key, remove).await;
                removed.map_err(broken("take the release back from a site"))?;
            }
        }
        claims::give_back(shared, &planned.app).await?;
        // While the name is still this repository's.
        if record.history.is_empty() {
            claims::drop_cache(shared, &planned.app).await;
        }
        claims::forget_unborn(shared, &planned.app).await?;
    }
    Ok(())
}

/// Stops serving an app. May be repeated.
pub(super) async fn take_down(shared: &Shared, app: &AppName) -> Result<(), Refusal> {
    let failed = "take the app down";
    let environment = EnvironmentName::production();
    let key = keys::activation(app, &environment);
    shared.store.delete(&key).await.map_err(broken(failed))?;
    for site in shared.assignments(app).await?.into_keys() {
        let key = keys::assignment(&site, app, &environment);
        shared.store.delete(&key).await.map_err(broken(failed))?;
    }
    claims::drop_cache(shared, app).await;
    let empty = |standing: Option<AppRecord>| match standing {
        None => (Step::Keep, ()),
        Some(record) => (Step::Put(AppRecord { history: Vec::new(), ..record }), ()),
    };
    shared.store.update(&keys::app(app), empty).await.map_err(broken(failed))?;
    claims::give_back(shared, app).await?;
    claims::forget_unborn(shared, app).await
}

/// Brings back what was live before the push, whose release does not work, and ends the push as
/// rolled back.
pub(super) async fn restore(run: &mut Run, refusal: Refusal) -> Result<(), Refusal> {
    let refusal = refusal.bounded();
    run.end(Some(recover::failed_note(&refusal.reason)));
    run.save().await?;
    let mut reason = refusal.reason;
    if let Some(old) = run.old_commit()? {
        let (restoring, changed) = prepare(run, &old).await?;
        run.say(format_args!("Push {} restores what was live before.", restoring.push.number));
        let restored = Box::pin(carry_out(restoring, &changed)).await;
        match restored.state {
            PushState::Live => reason.push_str(&format!(
                ". The release before is live again, and main has a commit that says so ({}): run git pull",
                restored.new_commit.get(..7).unwrap_or_default()
            )),
            PushState::Refused(failure) => {
                reason.push_str(&format!(
                    ". The release before could not be started again ({}), so this one stays live",
                    failure.reason
                ));
                if let Some(record) = run.push.stages.last_mut() {
                    record.note = Some(recover::failed_note(&reason));
                }
                run.push.state = PushState::Settling;
                run.save().await?;
                commit::settle(run, &run.rollouts().await?).await?;
            }
            other => {
                return Err(Refusal::new(format!("the restoring push is left as {other:?}")));
            }
        }
    } else {
        for planned in &run.push.apps {
            take_down(&run.shared, &planned.app).await?;
        }
        let new = run.new_commit()?;
        let moved = run.repository.move_ref(MAIN, Some(&new), None).await;
        moved.map_err(broken("move main back"))?;
        reason.push_str(". Nothing was live before, so nothing is live now");
    }
    let last_lines = refusal.last_lines;
    run.push.state =
        PushState::RolledBack(PushFailure { stage: Stage::Verify, reason, last_lines });
    Ok(())
}

/// Records the push that restores: a commit with the old tree, and the releases before. Says which
/// apps are not at theirs.
async fn prepare(run: &Run, old: &crate::git::Oid) -> Result<(Run, BTreeSet<AppName>), Refusal> {
    let shared = &run.shared;
    let new = run.new_commit()?;
    let tree = run.repository.tree(old, "").await.map_err(broken("read the old commit"))?;
    let message = format!(
        "Restore {}\n\nPush {} did not answer as it should once it was live.\n",
        old.short(),
        run.push.number
    );
    let commit = run.repository.commit(&tree, &new, &message).await;
    let commit = commit.map_err(broken("commit the old tree"))?;
    let mut apps = Vec::new();
    let mut changed = BTreeSet::new();
    for record in shared.records_of(&run.push.repository).await? {
        let failed = run.push.apps.iter().find(|it| it.app == record.app).and_then(|it| it.epoch);
        let Some(previous) = before(&record, failed) else { continue };
        apps.push(PushApp {
            app: record.app.clone(),
            release: previous.release,
            directory: Some(record.directory.clone()),
            epoch: None,
            sites: BTreeSet::new(),
            warm: BTreeSet::new(),
        });
        if failed.is_some() {
            changed.insert(record.app);
        }
    }
    let push = Push {
        number: 0,
        repository: run.push.repository.clone(),
        cause: PushCause::Restore { push: run.push.number },
        old_commit: Some(new.to_string()),
        new_commit: commit.to_string(),
        received_ms: now_ms(),
        state: PushState::Preparing,
        stages: Vec::new(),
        apps,
    };
    let push = shared.record_push(&run.repository, push).await?;
    let log = ProgressLog::new();
    shared.running_add(&push, &log);
    let restoring = Run { shared: shared.clone(), repository: run.repository.clone(), push, log };
    Ok((restoring, changed))
}

/// What was live of an app before the epoch that failed. The history has that one too, when control
/// was killed after it had recorded it.
fn before(record: &AppRecord, failed: Option<Epoch>) -> Option<&HistoryEntry> {
    record.history.iter().find(|it| failed.is_none_or(|failed| it.epoch < failed))
}

/// Takes a restoring push through its stages.
async fn carry_out(mut run: Run, changed: &BTreeSet<AppName>) -> Push {
    let warmed = async {
        let candidates = candidates(&run, changed).await?;
        let wanted = claims::wanted(&candidates, &run.shared.installation)?;
        for candidate in &candidates {
            claims::take(&run.shared, &run.push.repository, candidate, &wanted).await?;
        }
        run.place(&candidates).await?;
        run.warm().await
    };
    match warmed.await {
        Ok(()) => commit::complete(&mut run).await,
        Err(refusal) => run.refuse(refusal).await,
    }
    run.conclude().await;
    run.shared.running_remove(&run.push);
    run.push
}

/// The stored releases of the apps `changed`. They are placed anew, because what has failed may have
/// asked for other sites than they do.
async fn candidates(run: &Run, changed: &BTreeSet<AppName>) -> Result<Vec<Candidate>, Refusal> {
    let mut candidates = Vec::new();
    for planned in run.push.apps.iter().filter(|it| changed.contains(&it.app)) {
        let stored = publish::stored(&run.shared, &planned.app, &planned.release).await?;
        let release = stored.ok_or_else(|| {
            let release = planned.release.0.short();
            Refusal::new(format!("release {release} of {} is not stored any more", planned.app))
        })?;
        candidates.push(Candidate {
            app: release.app,
            directory: release.directory,
            tree: release.tree.parse().map_err(broken("read the release"))?,
            release: release.id,
            work: Work::Activate,
        });
    }
    Ok(candidates)
}

#[cfg(test)]
mod tests {
    use selvedge_model::{Digest, ReleaseId, RepositoryName};

    use super::*;

    #[test]
    fn what_was_live_before_is_older_than_what_failed() {
        let entry = |number: u64| HistoryEntry {
            epoch: Epoch::new(1, number),
            release: ReleaseId(Digest::of(&number.to_be_bytes())),
            commit: String::new(),
            push: number,
            at_ms: 0,
        };
        let record = |history| AppRecord {
            app: AppName::new("shop").unwrap(),
            repository: RepositoryName::new("shop").unwrap(),
            directory: String::new(),
            last_epoch: Epoch::new(1, 9),
            history,
        };
        let choice = |history, failed| before(&record(history), failed).map(|it| it.push);
        let failed = Some(Epoch::new(1, 7));
        assert_eq!(choice(vec![entry(5), entry(2)], failed), Some(5));
        assert_eq!(choice(vec![entry(7), entry(5), entry(2)], failed), Some(5));
        assert_eq!(choice(vec![entry(7)], failed), None);
        assert_eq!(choice(vec![entry(7), entry(5)], None), Some(7));
    }
}
