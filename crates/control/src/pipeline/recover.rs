//! After a start: what an earlier life of control has left half done is completed or undone.

use std::sync::Arc;

use selvedge_model::documents::{PushCause, PushFailure};
use selvedge_model::{Push, PushState, RepositoryName, Stage, keys};

use super::progress::ProgressLog;
use super::run::{Refusal, Run};
use super::{Shared, commit};

/// How a stage's note says that it failed.
const FAILED: &str = "failed: ";

/// The note of a verification that failed: also what a restarted control knows of the reason.
pub(super) fn failed_note(reason: &str) -> String {
    format!("{FAILED}{reason}")
}

/// What becomes of a push that is found in the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// It has ended.
    Nothing,
    /// It was before its commit point.
    Undo,
    /// It was at or past its commit point.
    Complete,
    /// Another push has restored what was live before it.
    Close,
}

/// Decides on a push, given all of its repository's.
pub(super) fn decide(push: &Push, all: &[Push]) -> Action {
    let restores = PushCause::Restore { push: push.number };
    match push.state {
        PushState::Queued | PushState::Preparing => Action::Undo,
        PushState::Committing
            if all.iter().any(|it| it.cause == restores && it.state == PushState::Live) =>
        {
            Action::Close
        }
        PushState::Committing | PushState::Settling => Action::Complete,
        PushState::Live | PushState::Refused(_) | PushState::RolledBack(_) => Action::Nothing,
    }
}

/// Deals with the pushes `numbers` of a repository, which an earlier life has left: newest first, a
/// restore before what it restores.
pub(super) async fn recover(
    shared: &Arc<Shared>,
    name: &RepositoryName,
    mut numbers: Vec<u64>,
) -> Result<(), selvedge_fabric::FabricError> {
    numbers.sort_unstable();
    for number in numbers.into_iter().rev() {
        let listed = shared.store.list::<Push>(&keys::pushes(name)).await?;
        let all: Vec<Push> = listed.into_iter().map(|(_, push)| push).collect();
        let Some(push) = all.iter().find(|push| push.number == number) else { continue };
        let action = decide(push, &all);
        if action == Action::Nothing {
            continue;
        }
        tracing::info!(repository = %name, push = number, ?action, "recovering a push");
        let log = ProgressLog::new();
        let repository = shared.git.repository(name);
        let mut run = Run { shared: Arc::clone(shared), repository, push: push.clone(), log };
        shared.running_add(&run.push, &run.log);
        run.clean_work().await;
        match action {
            Action::Nothing => {}
            Action::Undo => {
                let reason = "control was restarted before the push was done; push again";
                run.refuse(Refusal::new(reason)).await;
            }
            Action::Complete => commit::complete(&mut run).await,
            Action::Close => {
                run.push.state = PushState::RolledBack(failure(
                    &run.push,
                    ". The release before is live again: run git pull",
                ));
            }
        }
        run.conclude().await;
        shared.running_remove(&run.push);
    }
    Ok(())
}

/// How a push whose records are settled ends: live, or, when it was not verified and what was live
/// before could not be restored either, as rolled back.
pub(super) fn settled(push: &Push) -> PushState {
    match failed(push) {
        None => PushState::Live,
        Some(_) => PushState::RolledBack(failure(push, "")),
    }
}

/// Why verification failed, from the record, and what has come of it.
fn failure(push: &Push, after: &str) -> PushFailure {
    let reason = failed(push).unwrap_or("it did not answer as it should");
    PushFailure { stage: Stage::Verify, reason: format!("{reason}{after}"), last_lines: Vec::new() }
}

fn failed(push: &Push) -> Option<&str> {
    let record = push.stages.iter().find(|record| record.stage == Stage::Verify)?;
    record.note.as_deref()?.strip_prefix(FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::push;

    #[test]
    fn what_is_before_the_commit_point_is_undone_and_the_rest_completed() {
        let failure = PushFailure { stage: Stage::Warm, reason: String::new(), last_lines: vec![] };
        for (state, action) in [
            (PushState::Queued, Action::Undo),
            (PushState::Preparing, Action::Undo),
            (PushState::Committing, Action::Complete),
            (PushState::Settling, Action::Complete),
            (PushState::Live, Action::Nothing),
            (PushState::Refused(failure.clone()), Action::Nothing),
            (PushState::RolledBack(failure), Action::Nothing),
        ] {
            let push = push(state);
            assert_eq!(decide(&push, std::slice::from_ref(&push)), action, "{:?}", push.state);
        }
    }

    #[test]
    fn a_push_whose_restore_is_live_is_closed_and_not_completed_again() {
        let broken = push(PushState::Committing);
        let mut restore = push(PushState::Live);
        restore.number = broken.number + 1;
        restore.cause = PushCause::Restore { push: broken.number };
        assert_eq!(decide(&broken, &[broken.clone(), restore.clone()]), Action::Close);
        restore.state = PushState::Preparing;
        assert_eq!(decide(&broken, &[broken.clone(), restore.clone()]), Action::Complete);
        assert_eq!(decide(&restore, &[broken, restore.clone()]), Action::Undo);
    }

    #[test]
    fn the_reason_survives_a_restart() {
        let mut push = push(PushState::Committing);
        push.stages.push(selvedge_model::documents::StageRecord {
            stage: Stage::Verify,
            started_ms: 0,
            duration_ms: Some(1),
            note: Some(failed_note("shop, at fra: 500")),
        });
        assert_eq!(failure(&push, ". After").reason, "shop, at fra: 500. After");
        assert!(matches!(settled(&push), PushState::RolledBack(_)));
        push.stages.clear();
        assert_eq!(settled(&push), PushState::Live);
    }
}
