//! Releases and what it took to make them live.

use selvedge_api::{LiveRelease, ReleaseRow, StageTiming};
use selvedge_model::documents::{AppRecord, HistoryEntry, PushCause, StageRecord};
use selvedge_model::{EnvironmentName, Push, Stage};

use crate::world::World;

/// What users see of an app: the newest entry of its activation.
pub(crate) fn live(world: &World, record: &AppRecord) -> Option<LiveRelease> {
    let key = (record.app.clone(), EnvironmentName::production());
    let entry = world.activations.get(&key)?.newest_entry()?;
    let digest = *entry.releases.get(&record.app)?;
    let release = world.release(&record.app, &digest);
    let history = record.history.iter().find(|past| past.epoch == entry.epoch);
    let commit = match history {
        Some(history) => history.commit.clone(),
        None => release.map(|release| release.commit.clone()).unwrap_or_default(),
    };
    Some(LiveRelease {
        release: digest.short(),
        digest,
        epoch: entry.epoch,
        commit,
        subject: release.map(|release| release.subject.clone()).unwrap_or_default(),
        at_ms: history.map(|history| history.at_ms),
    })
}

/// The releases that were live and are kept, newest first.
pub(crate) fn releases(world: &World, record: &AppRecord) -> Vec<ReleaseRow> {
    let live = live(world, record).map(|live| live.epoch);
    record.history.iter().map(|past| row(world, record, past, live == Some(past.epoch))).collect()
}

fn row(world: &World, record: &AppRecord, past: &HistoryEntry, live: bool) -> ReleaseRow {
    let release = world.release(&record.app, &past.release);
    let push = world.pushes.get(&record.repository).and_then(|pushes| pushes.get(&past.push));
    let stages = push.map(|push| push.stages.as_slice()).unwrap_or_default();
    ReleaseRow {
        release: past.release.short(),
        digest: past.release,
        epoch: past.epoch,
        commit: past.commit.clone(),
        subject: release.map(|release| release.subject.clone()).unwrap_or_default(),
        live,
        at_ms: past.at_ms,
        push: past.push,
        cause: match push.map(|push| &push.cause) {
            Some(PushCause::Rollback { .. }) => "rollback",
            Some(PushCause::Restore { .. }) => "restore",
            Some(PushCause::Removal { .. }) => "removal",
            Some(PushCause::Push) | None => "push",
        }
        .to_owned(),
        total_ms: push.and_then(|push| since_reception(push, stages.last())),
        to_active_ms: push.and_then(|push| {
            since_reception(push, stages.iter().find(|record| record.stage == Stage::Activate))
        }),
        slowest: stages
            .iter()
            .max_by_key(|record| record.duration_ms)
            .filter(|record| record.duration_ms.is_some())
            .map(|record| record.stage),
        stages: stages.iter().map(timing).collect(),
        artifacts: release
            .map(|release| {
                let digest = |artifact: &selvedge_model::Artifact| artifact.digest;
                release.artifacts.iter().map(|(name, it)| (name.clone(), digest(it))).collect()
            })
            .unwrap_or_default(),
    }
}

/// From a push's reception to the end of a stage.
fn since_reception(push: &Push, record: Option<&StageRecord>) -> Option<u64> {
    let record = record?;
    Some((record.started_ms + record.duration_ms?).saturating_sub(push.received_ms))
}

fn timing(record: &StageRecord) -> StageTiming {
    StageTiming { stage: record.stage, duration_ms: record.duration_ms, note: record.note.clone() }
}
