//! The log as a page shows it: the newest lines first, and new ones on top as they come. A push's
//! output is read from its start, as in a terminal.
//!
//! A page reads the lines that are there, a stream goes on with those that come. However many come,
//! a stream sends no more than people can see, and says how many it left out.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use maud::{Markup, html};
use selvedge_api::{LogAccess, LogEvent, LogFilter, LogGap, LogLevel, LogRecord};
use selvedge_model::{RepositoryName, SiteId};
use tokio::time::Instant;

use super::parts::{app_link, site_link};

/// Opens the log for a filter.
pub(crate) type Open = Arc<dyn Fn(LogFilter) -> Lines + Send + Sync>;
/// The lines of a log as they come.
pub(crate) type Lines = Pin<Box<dyn Stream<Item = LogEvent> + Send>>;

/// How long a page waits for what is there. A site that does not answer must not hold it up: the
/// log is asked to go on without it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How much longer the log itself may take.
const SLACK: Duration = Duration::from_secs(1);
/// Lines that come are sent together, so often.
const PACE: Duration = Duration::from_millis(250);
/// Of the lines that come in one [`PACE`], so many are sent.
const MAX_AT_ONCE: usize = 50;

/// Which lines a page shows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ask {
    /// What is asked for.
    pub(crate) filter: LogFilter,
    /// Only what this push said.
    pub(crate) push: Option<(RepositoryName, u64)>,
    /// The section's title.
    pub(crate) title: &'static str,
    /// Where more can be asked for.
    pub(crate) more: Option<String>,
    /// So many lines at first.
    pub(crate) most: usize,
}

impl Ask {
    fn wants(&self, event: &LogEvent) -> bool {
        match (event, &self.push) {
            (LogEvent::Record(record), Some((repository, number))) => record
                .push
                .as_ref()
                .is_some_and(|push| push.repository == *repository && push.number == *number),
            (LogEvent::Current { .. }, _) => false,
            (_, _) => true,
        }
    }

    /// What all lines have in common is not shown with each.
    fn class(&self) -> &'static str {
        match (&self.filter.app, self.filter.site.len()) {
            (Some(_), 1) => "log one-app one-site",
            (Some(_), _) => "log one-app",
            (None, 1) => "log one-site",
            (None, _) => "log",
        }
    }

    fn headings(&self) -> Markup {
        if self.push.is_some() {
            return html! { tr { th scope="col" { "Time" } th scope="col" { "Stage" } th scope="col" { "Line" } } };
        }
        html! {
            tr {
                th scope="col" { "Time" } th.site scope="col" { "Site" } th.app scope="col" { "App" }
                th scope="col" { "Status" } th scope="col" { "Line" } th scope="col" { "Took" }
            }
        }
    }

    fn row(&self, event: &LogEvent) -> Markup {
        match event {
            LogEvent::Record(record) => match &record.push {
                Some(push) if self.push.is_some() => html! {
                    tr {
                        td.when { (when(record)) }
                        td.faint { (push.stage) }
                        td.text { (record.text) }
                    }
                },
                _ => record_row(record),
            },
            LogEvent::Gap(gap) => gap_row(gap),
            LogEvent::Site { site, answers, reason } => {
                let what = if *answers { "answers again" } else { "does not answer" };
                note(&format!("{site} {what}: {reason}"))
            }
            LogEvent::Pending { site } => {
                note(&format!("still waiting for {}", place(site.as_ref())))
            }
            LogEvent::Current { .. } => html! {},
        }
    }

    fn filter(&self, follow: bool) -> LogFilter {
        let limit = u32::try_from(self.most).ok().filter(|_| self.push.is_none());
        LogFilter { limit, follow, ..self.filter.clone() }
    }
}

/// The section with the lines that are there.
pub(crate) async fn read(open: &Open, ask: &Ask) -> Markup {
    let mut tail = Tail::new(open(ask.filter(false)), ask.clone());
    match tail.next().await {
        Said::Section(html) | Said::Rows(html) => html,
    }
}

/// What a tail has to say.
pub(crate) enum Said {
    /// All of the section.
    Section(Markup),
    /// Rows that go on top of it, the oldest first.
    Rows(Markup),
}

/// A log that is followed.
pub(crate) struct Tail {
    lines: Option<Lines>,
    ask: Ask,
    held: VecDeque<LogEvent>,
    skipped: usize,
    started: bool,
    /// Whether all that was there has been said, as far as it came in time.
    current: bool,
    due: Option<Instant>,
}

impl Tail {
    /// Follows the log.
    pub(crate) fn follow(open: &Open, ask: Ask) -> Self {
        Self::new(open(ask.filter(true)), ask)
    }

    fn new(lines: Lines, ask: Ask) -> Self {
        Self {
            lines: Some(lines),
            ask,
            held: VecDeque::new(),
            skipped: 0,
            started: false,
            current: false,
            due: Some(Instant::now() + PATIENCE + SLACK),
        }
    }

    /// Waits until there is something to say: first the lines that are there, then those that
    /// come. Cancel safe. Never returns once the log has ended.
    pub(crate) async fn next(&mut self) -> Said {
        loop {
            tokio::select! {
                () = until(self.due) => return self.say(),
                event = next_of(&mut self.lines) => match event {
                    Some(LogEvent::Current { .. }) if !self.started => {
                        self.current = true;
                        return self.say();
                    }
                    Some(event) => self.hold(event),
                    None => {
                        self.lines = None;
                        if !self.started {
                            return self.say();
                        }
                    }
                },
            }
        }
    }

    fn hold(&mut self, event: LogEvent) {
        if !self.ask.wants(&event) {
            return;
        }
        let most = if self.started { MAX_AT_ONCE } else { self.ask.most };
        if self.held.len() >= most {
            // Lines make room, and not what is said of sites.
            let line = |held: &LogEvent| matches!(held, LogEvent::Record(_) | LogEvent::Gap(_));
            let oldest = self.held.iter().position(line).unwrap_or_default();
            self.held.remove(oldest);
            self.skipped += usize::from(self.started);
        }
        self.held.push_back(event);
        if self.started && self.due.is_none() {
            self.due = Some(Instant::now() + PACE);
        }
    }

    fn say(&mut self) -> Said {
        self.due = None;
        if !self.started {
            self.started = true;
            let said = Said::Section(self.section());
            self.held.clear();
            return said;
        }
        let skipped = std::mem::take(&mut self.skipped);
        let rows = html! {
            table { tbody #lines {
                @if skipped > 0 { (note(&format!("{skipped} more lines, too fast to show"))) }
                @for event in self.held.drain(..) { (self.ask.row(&event)) }
            } }
        };
        Said::Rows(rows)
    }

    /// The section with the lines that are held.
    fn section(&self) -> Markup {
        html! {
            section #log.card {
                h2 { (self.ask.title) }
                div.wide tabindex="0" role="region" aria-label=(self.ask.title) {
                    table class=(self.ask.class()) {
                        thead.unseen { (self.ask.headings()) }
                        @if self.ask.push.is_some() {
                            tbody #lines data-order="oldest-first" {
                                @for event in &self.held { (self.ask.row(event)) }
                            }
                        } @else {
                            tbody #lines { @for event in self.held.iter().rev() { (self.ask.row(event)) } }
                        }
                    }
                }
                p.none {
                    @if self.current { "Nothing yet." } @else { "Still waiting for what the sites have to say." }
                }
                @if let Some(more) = &self.ask.more { p { a href=(more) { "All of the log" } } }
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn next_of(lines: &mut Option<Lines>) -> Option<LogEvent> {
    match lines {
        Some(lines) => lines.next().await,
        None => std::future::pending().await,
    }
}

fn when(record: &LogRecord) -> Markup {
    let exact = record.time.to_string();
    html! {
        time datetime=(exact) title=(exact) { (record.time.strftime("%H:%M:%S%.3f")) }
    }
}

fn record_row(record: &LogRecord) -> Markup {
    let class = match (record.level, &record.access) {
        (LogLevel::Error, _) => Some("bad"),
        (_, Some(access)) if access.status >= 500 || access.status == 0 => Some("bad"),
        (LogLevel::Warn, _) => Some("warn"),
        (_, Some(access)) if access.status >= 400 => Some("warn"),
        _ => None,
    };
    html! {
        tr class=[class] {
            td.when { (when(record)) }
            td.site { (origin(record.site.as_ref())) }
            td.app { @if let Some(app) = &record.app { (app_link(app.as_str())) } }
            @match &record.access {
                Some(access) => (request(record, access)),
                None => {
                    td.what { (record.source) }
                    td.text { (record.text) }
                    td {}
                }
            }
        }
    }
}

fn request(record: &LogRecord, access: &LogAccess) -> Markup {
    html! {
        td.what { @if access.status == 0 { "left" } @else { (access.status) } }
        td.text title=[record.request_id.as_ref().map(|id| format!("request {id}"))] {
            span.faint { (access.method) } " " (access.host) (access.path)
            @if let Some(error) = &access.error { " " small.faint { (error.source) ": " (error.kind) } }
        }
        td.number { (format!("{:.1} ms", access.duration_ms)) }
    }
}

fn gap_row(gap: &LogGap) -> Markup {
    note(&format!("{} lines of {} are kept no longer", gap.dropped, place(gap.site.as_ref())))
}

fn place(site: Option<&SiteId>) -> &str {
    site.map_or("control", SiteId::as_str)
}

fn origin(site: Option<&SiteId>) -> Markup {
    match site {
        Some(site) => site_link(site),
        None => html! { "control" },
    }
}

fn note(words: &str) -> Markup {
    html! { tr.gap { td {} td colspan="5" { (words) } } }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    fn record(number: u64) -> LogEvent {
        let text = format!(
            r#"{{"event":"record","time":"2026-01-02T03:04:05.678Z","sequence":{number},
                "site":"fra","source":"output","text":"line <{number}>"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn ask(most: usize) -> Ask {
        Ask { filter: LogFilter::default(), push: None, title: "Log", more: None, most }
    }

    fn text(said: Said) -> String {
        match said {
            Said::Section(html) | Said::Rows(html) => html.into_string(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_there_and_then_what_comes_at_a_pace_that_can_be_read() {
        let (sender, receiver) = mpsc::channel(1_000);
        let mut tail = Tail::new(Box::pin(ReceiverStream::new(receiver)), ask(2));
        for number in 0..3 {
            sender.send(record(number)).await.unwrap();
        }
        let current = LogEvent::Current { cursor: Default::default() };
        sender.send(current.clone()).await.unwrap();
        let first = text(tail.next().await);
        let places = ["&lt;0&gt;", "&lt;2&gt;", "&lt;1&gt;"].map(|line| first.find(line));
        assert!(
            places[0].is_none() && places[1] < places[2],
            "the newest two, newest first: {first}"
        );
        assert!(first.contains("03:04:05.678") && first.contains("/console/sites/fra"), "{first}");
        for number in 0..60 {
            sender.send(record(number)).await.unwrap();
        }
        sender.send(current).await.unwrap();
        let rows = text(tail.next().await);
        assert!(rows.contains("10 more lines"), "{rows}");
        assert_eq!(rows.matches("<tr><td class=\"when\">").count(), MAX_AT_ONCE);
        drop(sender);
        assert!(tokio::time::timeout(PATIENCE * 9, tail.next()).await.is_err(), "it has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_site_does_not_hold_a_page_up() {
        let open: Open = Arc::new(|_| Box::pin(futures_util::stream::pending()));
        let page = read(&open, &ask(9)).await.into_string();
        assert!(page.contains("Still waiting") && !page.contains("Nothing yet"), "{page}");

        let current = LogEvent::Current { cursor: Default::default() };
        let said = |events: Vec<LogEvent>| -> Open {
            Arc::new(move |_| Box::pin(futures_util::stream::iter(events.clone())))
        };
        let page = read(&said(vec![current.clone()]), &ask(9)).await.into_string();
        assert!(page.contains("Nothing yet"), "{page}");
        // Who is waited for is named, however many lines the others have said.
        let pending = LogEvent::Pending { site: Some(SiteId::new("nyc").unwrap()) };
        let page = read(&said(vec![record(7), pending, record(8), current]), &ask(2)).await;
        let page = page.into_string();
        assert!(
            page.contains("still waiting for nyc") && page.contains("line &lt;8&gt;"),
            "{page}"
        );
    }
}
