//! Control's own log: what pushes say, kept in a journal with a share for each repository.

use jiff::Timestamp;
use selvedge_api::{
    LogEvent, LogFilter, LogGap, LogLevel, LogPush, LogRecord, LogSource, PushEvent,
};
use selvedge_model::{PushState, RepositoryName, Stage};
use selvedge_telemetry::Chain;
use selvedge_telemetry::journal::{Body, Entry, Journal, Query, Share, Step};
use tokio::sync::mpsc;

use super::merge::Said;
use crate::pipeline::render;

/// Control's own log. Cheap to clone; adding to it never waits.
#[derive(Debug, Clone)]
pub(crate) struct OwnLog {
    journal: Journal,
}

impl OwnLog {
    pub(crate) fn new(journal: Journal) -> Self {
        Self { journal }
    }

    /// Why lines can't be written down, in words.
    pub(crate) fn problem(&self) -> Option<String> {
        self.journal.problem().borrow().clone()
    }

    /// Keeps what a push says, as its pusher sees it.
    pub(crate) fn push(&self, push: &LogPush, event: &PushEvent) {
        let Some(share) = share(&push.repository) else { return };
        let (stage, level) = match event {
            PushEvent::StageStarted { stage, .. }
            | PushEvent::StageFinished { stage, .. }
            | PushEvent::Line { stage, .. } => (*stage, LogLevel::Info),
            PushEvent::Done { push } => match &push.state {
                PushState::Refused(failure) | PushState::RolledBack(failure) => {
                    (failure.stage, LogLevel::Error)
                }
                _ => (Stage::Verify, LogLevel::Info),
            },
            PushEvent::Queued { .. } | PushEvent::Site { .. } => (push.stage, LogLevel::Info),
        };
        for text in render(event).into_iter().filter(|text| !text.is_empty()) {
            let record = LogRecord {
                time: Timestamp::now(),
                sequence: 0,
                site: None,
                source: LogSource::Pipeline,
                level,
                app: None,
                environment: None,
                service: None,
                release: None,
                request_id: None,
                push: Some(LogPush { stage, ..push.clone() }),
                text,
                access: None,
            };
            if let Ok(json) = serde_json::to_vec(&record) {
                self.journal.append(&share, &json);
            }
        }
    }

    /// Says what `filter` wants of this log. `repository`: of the app that the filter names.
    pub(super) async fn attend(
        self,
        filter: LogFilter,
        repository: Option<RepositoryName>,
        said: mpsc::Sender<Said>,
    ) {
        let mut entries = self.journal.query(query(filter, repository));
        let answering = async {
            while let Some(step) = entries.next().await? {
                let step = match step {
                    Step::Entry(entry) => say(&entry).map(Said::Line),
                    Step::Reading => Some(Said::Pending),
                    Step::Current(sequence) => Some(Said::Current(sequence)),
                };
                if let Some(step) = step
                    && said.send(step).await.is_err()
                {
                    break;
                }
            }
            Ok::<_, std::io::Error>(())
        };
        tokio::select! {
            answered = answering => if let Err(error) = answered {
                tracing::warn!("control's log: {}", Chain(&error));
            },
            () = said.closed() => {}
        }
    }
}

fn share(repository: &RepositoryName) -> Option<Share> {
    Share::new(LogSource::Pipeline.name(), Some(repository.as_str()))
}

fn query(filter: LogFilter, repository: Option<RepositoryName>) -> Query {
    let after = filter.after.of(None);
    let since = filter.since.and_then(|since| u64::try_from(since.as_microsecond() - 1).ok());
    let limit = filter.limit.filter(|_| after.is_none());
    let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let follow = filter.follow;
    // What a push says is of all apps of its repository.
    let only = filter.app.is_some();
    let filter = LogFilter { app: None, ..filter };
    Query {
        shares: Box::new(move |share| {
            share.kind() == LogSource::Pipeline.name()
                && (!only || share.owner() == repository.as_ref().map(RepositoryName::as_str))
        }),
        matches: Box::new(move |line| read(0, line).is_some_and(|record| filter.matches(&record))),
        after: after.or(since).unwrap_or_default(),
        limit,
        follow,
    }
}

fn read(sequence: u64, line: &[u8]) -> Option<LogRecord> {
    let record: LogRecord = serde_json::from_slice(line).ok()?;
    Some(LogRecord { sequence, ..record })
}

fn say(entry: &Entry) -> Option<LogEvent> {
    match &entry.body {
        Body::Line(line) => read(entry.sequence, line).map(|it| LogEvent::Record(Box::new(it))),
        Body::Dropped(dropped) => {
            let micros = i64::try_from(entry.sequence).ok()?;
            Some(LogEvent::Gap(LogGap {
                time: Timestamp::from_microsecond(micros).ok()?,
                sequence: entry.sequence,
                site: None,
                source: LogSource::Pipeline,
                app: None,
                dropped: *dropped,
            }))
        }
    }
}
