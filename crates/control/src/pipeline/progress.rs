//! What a push says while it goes: kept whole, so that whoever asks late hears it from the start.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use selvedge_api::{LogPush, PushEvent};
use selvedge_model::documents::{Push, PushFailure};
use selvedge_model::{PushState, Stage};
use tokio::sync::watch;

use crate::logs::OwnLog;

/// Lines of output kept of a push; later ones are not shown.
const MAX_LINES: usize = 5000;
/// The longest line shown, in characters.
const MAX_LINE: usize = 500;

/// The events of a push so far.
pub(super) struct ProgressLog {
    inner: Mutex<Inner>,
    /// How many events there are.
    length: watch::Sender<usize>,
}

struct Inner {
    events: Vec<PushEvent>,
    lines: usize,
    /// Where lines are kept beyond the push's end.
    kept: Option<(OwnLog, LogPush)>,
}

impl ProgressLog {
    pub(super) fn new() -> Arc<Self> {
        let inner = Mutex::new(Inner { events: Vec::new(), lines: 0, kept: None });
        Arc::new(Self { inner, length: watch::Sender::new(0) })
    }

    /// The log of a push that has ended.
    pub(super) fn of_ended(push: Push) -> Arc<Self> {
        let log = Self::new();
        log.add(PushEvent::Done { push });
        log
    }

    /// Keeps what is said from now on in control's log too.
    pub(super) fn keep(&self, log: OwnLog, push: &Push) {
        let push = LogPush {
            repository: push.repository.clone(),
            number: push.number,
            stage: Stage::Receive,
        };
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).kept = Some((log, push));
    }

    pub(super) fn add(&self, event: PushEvent) {
        let length = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((log, push)) = &inner.kept {
                log.push(push, &event);
            }
            if matches!(event, PushEvent::Line { .. }) {
                if inner.lines >= MAX_LINES {
                    return;
                }
                inner.lines += 1;
            }
            inner.events.push(event);
            inner.events.len()
        };
        self.length.send_replace(length);
    }

    /// Adds a line for people.
    pub(super) fn line(&self, stage: Stage, text: &str) {
        self.add(PushEvent::Line { stage, text: plain(text) });
    }

    pub(super) fn follow(self: &Arc<Self>) -> Progress {
        Progress { length: self.length.subscribe(), log: Arc::clone(self), next: Some(0) }
    }

    fn at(&self, index: usize) -> Option<PushEvent> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).events.get(index).cloned()
    }
}

/// A reader of a push's events, from the first to [`PushEvent::Done`].
pub struct Progress {
    log: Arc<ProgressLog>,
    length: watch::Receiver<usize>,
    /// `None` after the end.
    next: Option<usize>,
}

impl Progress {
    /// Waits for the next event; `None` after the last. Cancel safe.
    pub async fn next(&mut self) -> Option<PushEvent> {
        let wanted = self.next?;
        self.length.wait_for(|length| *length > wanted).await.ok()?;
        let event = self.log.at(wanted)?;
        self.next = (!matches!(event, PushEvent::Done { .. })).then_some(wanted + 1);
        Some(event)
    }

    /// The events as a stream.
    pub fn into_stream(self) -> impl Stream<Item = PushEvent> + Send + 'static {
        futures_util::stream::unfold(self, |mut progress| async {
            Some((progress.next().await?, progress))
        })
    }
}

/// The last lines of an output.
pub(super) struct Tail(VecDeque<String>);

impl Tail {
    /// How many lines tell a person what went wrong.
    const LINES: usize = 20;

    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn push(&mut self, line: &str) {
        if self.0.len() == Self::LINES {
            self.0.pop_front();
        }
        self.0.push_back(plain(line));
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.0.into()
    }
}

/// A line of foreign text without what could confuse a terminal, and not too long.
pub(super) fn plain(text: &str) -> String {
    let mut line = String::new();
    let mut rest = text.chars().peekable();
    let mut length = 0;
    while let Some(c) = rest.next() {
        match c {
            // An escape sequence: colours and cursor movements end with a letter.
            '\u{1b}' => {
                if rest.next_if_eq(&'[').is_some() {
                    while rest.next_if(|c| !c.is_ascii_alphabetic()).is_some() {}
                    rest.next();
                }
            }
            '\t' => line.push_str("  "),
            c if c.is_control() => {}
            c => line.push(c),
        }
        length += 1;
        if length >= MAX_LINE {
            line.push('…');
            break;
        }
    }
    line
}

/// An event as the pusher reads it in the terminal.
pub(crate) fn render(event: &PushEvent) -> Vec<String> {
    match event {
        PushEvent::Queued { ahead: 0 } => Vec::new(),
        PushEvent::Queued { ahead: 1 } => vec!["waiting for another push".to_owned()],
        PushEvent::Queued { ahead } => vec![format!("waiting for {ahead} other pushes")],
        PushEvent::StageStarted { .. } | PushEvent::Site { .. } => Vec::new(),
        PushEvent::StageFinished { stage, duration_ms, note } => {
            let line = format!(
                "{stage:<9}{:>7}  {}",
                seconds(*duration_ms),
                note.as_deref().unwrap_or_default()
            );
            vec![line.trim_end().to_owned()]
        }
        PushEvent::Line { stage: Stage::Build | Stage::Test, text } => vec![format!("  | {text}")],
        PushEvent::Line { text, .. } => vec![text.clone()],
        PushEvent::Done { push } => ending(push),
    }
}

fn ending(push: &Push) -> Vec<String> {
    let (failure, title, after) = match &push.state {
        PushState::Refused(failure) => {
            (failure, "Refused", "Nothing has changed: what was live is live.")
        }
        PushState::RolledBack(failure) => {
            (failure, "Rolled back", "See `selvedge releases` for what is live now.")
        }
        _ => return Vec::new(),
    };
    let mut lines =
        vec![String::new(), format!("{title} at {}: {}", failure.stage, failure.reason)];
    // The pusher has just seen the output of builds and tests go by.
    if !matches!(failure.stage, Stage::Build | Stage::Test) {
        lines.extend(failure.last_lines.iter().map(|line| format!("  | {line}")));
    }
    lines.push(after.to_owned());
    lines
}

/// The reason in a few words, for the line where git names the ref.
pub(crate) fn verdict_of(failure: &PushFailure) -> String {
    let first = failure.reason.lines().next().unwrap_or_default();
    let cut: String = first.chars().take(120).collect();
    format!("{}: {cut}", failure.stage)
}

pub(super) fn seconds(ms: u64) -> String {
    let tenths = Duration::from_millis(ms).as_millis() / 100;
    match tenths / 600 {
        0 => format!("{}.{} s", tenths / 10, tenths % 10),
        minutes => format!("{minutes} min {} s", tenths / 10 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_made_plain() {
        assert_eq!(plain("\u{1b}[31;1mred\u{1b}[0m\ttab\r\u{7}"), "red  tab");
        assert_eq!(plain("\u{1b}"), "");
        assert_eq!(plain(&"x".repeat(9999)).chars().count(), MAX_LINE + 1);
    }

    #[test]
    fn lines_line_up() {
        let event = PushEvent::StageFinished {
            stage: Stage::Build,
            duration_ms: 1234,
            note: Some("npm ci".into()),
        };
        assert_eq!(render(&event), ["build      1.2 s  npm ci"]);
        assert_eq!(seconds(301_000), "5 min 1 s");
    }

    #[tokio::test]
    async fn late_readers_hear_everything_and_then_the_end() {
        let log = ProgressLog::new();
        log.add(PushEvent::Queued { ahead: 0 });
        let mut early = log.follow();
        assert!(early.next().await.is_some());
        log.line(Stage::Build, "x");
        let push = crate::pipeline::tests::push(PushState::Live);
        log.add(PushEvent::Done { push });
        assert!(matches!(early.next().await, Some(PushEvent::Line { .. })));
        assert!(matches!(early.next().await, Some(PushEvent::Done { .. })));
        assert_eq!(early.next().await, None);
        use futures_util::StreamExt as _;
        assert_eq!(log.follow().into_stream().collect::<Vec<_>>().await.len(), 3);
    }
}
