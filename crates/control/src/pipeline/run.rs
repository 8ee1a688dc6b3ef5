//! One push on its way: its record, its stages, and what happens when one of them refuses it.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use selvedge_api::PushEvent;
use selvedge_model::documents::{PushFailure, StageRecord};
use selvedge_model::{Push, PushState, Stage, keys};
use selvedge_runtime::tree;
use selvedge_telemetry::Chain;

use super::progress::{ProgressLog, plain, seconds};
use super::{Shared, commit, restore};
use crate::git::{Oid, Repository};
use crate::now_ms;

/// From receiving a push to its activation.
const BUDGET_MS: u64 = 5 * 60 * 1000;

/// The longest pause before the end of a push is recorded again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Characters of a reason that are recorded.
const MAX_REASON: usize = 4000;
/// Lines of output that are recorded with a reason.
const MAX_LAST_LINES: usize = 200;

/// Why a push does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What happened and what to do, in words.
    pub(super) reason: String,
    /// Output that shows it.
    pub(super) last_lines: Vec<String>,
}

impl Refusal {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), last_lines: Vec::new() }
    }

    /// The refusal as it may be recorded: names in a commit can be of any length, and a record
    /// that is too large would never be stored.
    pub(super) fn bounded(self) -> Self {
        let last_lines = self.last_lines.iter().take(MAX_LAST_LINES).map(|line| plain(line));
        Self {
            reason: self.reason.chars().take(MAX_REASON).collect(),
            last_lines: last_lines.collect(),
        }
    }
}

/// Turns a failure of control itself into words for the pusher. The whole chain goes to the log.
pub(super) fn broken<E: std::error::Error + 'static>(
    what: &'static str,
) -> impl FnOnce(E) -> Refusal {
    move |error| {
        let text = Chain(&error).to_string();
        tracing::error!(what, error = %text, "a push met a failure of control");
        Refusal::new(format!("control could not {what}: {}", plain(&text)))
    }
}

/// Removes what builds have left in a directory, and the directory. The error names it.
pub(super) async fn remove(path: PathBuf) -> io::Result<()> {
    let removing = tokio::task::spawn_blocking(move || match tree::remove(&path) {
        Ok(_) => Ok(()),
        Err(error) => {
            let words = format!("can't remove {}: {error}", path.display());
            Err(io::Error::new(error.kind(), words))
        }
    });
    removing.await.map_err(io::Error::other)?
}

/// A push on its way. One worker owns it.
pub(super) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) repository: Repository,
    pub(super) push: Push,
    pub(super) log: Arc<ProgressLog>,
}

impl Run {
    /// Writes the record.
    pub(super) async fn save(&self) -> Result<(), Refusal> {
        let key = keys::push(&self.push.repository, self.push.number);
        self.shared.store.put(&key, &self.push).await.map_err(broken("record the push"))
    }

    /// Begins a stage and records it.
    pub(super) async fn begin(&mut self, stage: Stage) -> Result<(), Refusal> {
        let at_ms = now_ms();
        self.push.stages.retain(|record| record.stage != stage);
        let record = StageRecord { stage, started_ms: at_ms, duration_ms: None, note: None };
        self.push.stages.push(record);
        self.log.add(PushEvent::StageStarted { stage, at_ms });
        self.save().await
    }

    /// Ends the stage that runs. The record is written with the next stage's beginning.
    pub(super) fn end(&mut self, note: Option<String>) {
        let Some(record) = self.push.stages.last_mut() else { return };
        let duration_ms = now_ms().saturating_sub(record.started_ms);
        record.duration_ms = Some(duration_ms);
        record.note.clone_from(&note);
        self.log.add(PushEvent::StageFinished { stage: record.stage, duration_ms, note });
    }

    pub(super) fn stage(&self) -> Stage {
        self.push.stages.last().map_or(Stage::Receive, |record| record.stage)
    }

    pub(super) fn say(&self, text: impl Display) {
        self.log.line(self.stage(), &text.to_string());
    }

    /// Where the push's checkouts are.
    pub(super) fn work(&self) -> PathBuf {
        self.shared.work.join(format!("{}-{}", self.push.repository, self.push.number))
    }

    pub(super) fn new_commit(&self) -> Result<Oid, Refusal> {
        self.push.new_commit.parse().map_err(broken("read the push's record"))
    }

    pub(super) fn old_commit(&self) -> Result<Option<Oid>, Refusal> {
        let old = self.push.old_commit.as_deref().map(str::parse).transpose();
        old.map_err(broken("read the push's record"))
    }

    /// The name of the ref that keeps the pushed objects, below control's own.
    pub(super) fn keeper(number: u64) -> String {
        format!("pushes/{number}")
    }

    /// Takes the push from the queue to its end.
    pub(super) async fn process(mut self) -> Push {
        let prepared = self.prepare().await;
        self.clean_work().await;
        if let Err(refusal) = prepared {
            self.refuse(refusal).await;
        } else {
            commit::complete(&mut self).await;
        }
        self.conclude().await;
        self.push
    }

    /// Everything before the commit point.
    async fn prepare(&mut self) -> Result<(), Refusal> {
        self.push.state = PushState::Preparing;
        let entries = self.receive().await?;
        let candidates = self.validate(&entries).await?;
        self.build(&candidates).await?;
        self.test(&candidates).await?;
        self.publish(&candidates).await?;
        self.place(&candidates).await?;
        self.warm().await
    }

    /// Removes the checkouts.
    pub(super) async fn clean_work(&self) {
        if let Err(error) = remove(self.work()).await {
            tracing::warn!(%error, "a checkout was not removed");
        }
    }

    /// Refuses the push in the stage that runs, leaving nothing of it.
    pub(super) async fn refuse(&mut self, refusal: Refusal) {
        let stage = self.stage();
        if let Some(record) = self.push.stages.last_mut()
            && record.duration_ms.is_none()
        {
            record.duration_ms = Some(now_ms().saturating_sub(record.started_ms));
            record.note = Some("failed".to_owned());
        }
        while let Err(error) = restore::undo(self).await {
            tracing::error!(reason = %error.reason, "a refused push could not be undone yet");
            tokio::time::sleep(commit::RETRY).await;
        }
        let Refusal { reason, last_lines } = refusal.bounded();
        self.push.state = PushState::Refused(PushFailure { stage, reason, last_lines });
    }

    /// Writes the final record, however often that takes, tells whoever listens, and drops what kept
    /// the objects.
    pub(super) async fn conclude(&mut self) {
        if let Some(words) = over_budget(&self.push) {
            self.say(words);
        }
        // Nobody may be told of an end that a restart would not know of.
        let mut pause = commit::RETRY;
        while let Err(error) = self.save().await {
            tracing::error!(repository = %self.push.repository, push = self.push.number,
                reason = %error.reason, "the end of a push could not be recorded yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let keeper = Self::keeper(self.push.number);
        if let Err(error) = self.repository.forget(&keeper).await {
            tracing::warn!(%error, keeper, "a ref was not dropped");
        }
        self.log.add(PushEvent::Done { push: self.push.clone() });
    }
}

/// Past the budget, the pusher is told where the time went.
fn over_budget(push: &Push) -> Option<String> {
    let end_of = |record: &StageRecord| Some(record.started_ms + record.duration_ms?);
    let before = push.stages.iter().filter(|record| record.stage <= Stage::Activate);
    let end = before.clone().filter_map(end_of).max()?;
    let took_ms = end.saturating_sub(push.received_ms);
    let slowest = before.max_by_key(|record| record.duration_ms)?;
    (took_ms > BUDGET_MS).then(|| {
        format!(
            "This took {} up to the activation, over the budget of 5 min; the slowest stage was {} with {}.",
            seconds(took_ms),
            slowest.stage,
            seconds(slowest.duration_ms.unwrap_or_default())
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::push;

    #[test]
    fn every_refusal_can_be_recorded() {
        let mut push = push(PushState::Live);
        let last_lines = vec!["ä".repeat(10_000); 1000];
        let refusal = Refusal { reason: "\u{1}".repeat(1 << 20), last_lines }.bounded();
        let Refusal { reason, last_lines } = refusal;
        push.state = PushState::Refused(PushFailure { stage: Stage::Validate, reason, last_lines });
        let size = serde_json::to_vec(&push).unwrap().len();
        assert!(size < selvedge_fabric::MAX_VALUE / 2, "{size}");
    }

    #[test]
    fn the_slowest_stage_is_named_past_the_budget() {
        let mut push = push(PushState::Live);
        assert_eq!(over_budget(&push), None);
        let record = |stage, started_ms, duration_ms| StageRecord {
            stage,
            started_ms,
            duration_ms: Some(duration_ms),
            note: None,
        };
        push.stages.push(record(Stage::Build, 0, 200_000));
        push.stages.push(record(Stage::Warm, 200_000, 90_000));
        // Verification is not part of the budget.
        push.stages.push(record(Stage::Verify, 290_000, 500_000));
        assert_eq!(over_budget(&push), None);
        push.stages.push(record(Stage::Activate, 290_000, 11_000));
        let words = over_budget(&push).unwrap();
        assert!(words.starts_with("This took 5 min 1 s"), "{words}");
        assert!(words.ends_with("build with 3 min 20 s."), "{words}");
    }
}
