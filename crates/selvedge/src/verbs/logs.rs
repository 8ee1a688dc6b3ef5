//! `selvedge logs`: what sites and control have to say, in order.

use std::time::Duration;

use clap_complete::ArgValueCompleter;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use selvedge_api::{
    ClientError, LogCursor, LogEvent, LogFilter, LogGap, LogLevel, LogRecord, LogSource,
    MAX_LOG_LIMIT, StatusRange,
};
use selvedge_model::{AppName, ServiceName, SiteId};

use crate::cli::Connection;
use crate::context::{app_here, client_failure, find_control};
use crate::failure::Outcome;
use crate::terminal::{Look, Terminal};
use crate::verbs::completions;

/// How many lines are shown unless something else is asked for.
const LINES: u32 = 100;
/// How long to wait before control is asked again while following.
const ASK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge logs -f
  selvedge logs shop --since 10m --status 5xx
  selvedge logs --request 0d4f5f6e0c1a4b8e9f3a2b1c0d4f5f6e  # from an error page
  selvedge logs shop --source output --site fra,nyc --text timeout
  selvedge logs --all --json | jq .text")]
pub(crate) struct Logs {
    /// The app [default: the one whose selvedge.toml is in this directory, else all].
    #[arg(add = ArgValueCompleter::new(completions::apps))]
    app: Option<AppName>,
    /// Lines of all apps and of the sites themselves, wherever this is run.
    #[arg(long, conflicts_with = "app")]
    all: bool,
    /// Go on with new lines as they come.
    #[arg(short, long)]
    follow: bool,
    /// How many lines from the end [default: 100; all since --since or of --request].
    #[arg(short = 'n', long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_LOG_LIMIT)))]
    lines: Option<u32>,
    /// Of this service.
    #[arg(long)]
    service: Option<ServiceName>,
    /// Of the release that starts with these digits.
    #[arg(long, value_name = "DIGITS")]
    release: Option<String>,
    /// Of these sites.
    #[arg(long, value_delimiter = ',')]
    site: Vec<SiteId>,
    /// Of these sources: access, output, pipeline, event.
    #[arg(long, value_delimiter = ',')]
    source: Vec<LogSource>,
    /// Requests with this status: 404, 5xx, >=400 or 400-499.
    #[arg(long)]
    status: Option<StatusRange>,
    /// What belongs to the request with this id, as error pages and x-request-id name it.
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Lines that contain this, in any case of letters.
    #[arg(long)]
    text: Option<String>,
    /// Not before: `10m`, `2h`, `1d`, or a time such as `2026-01-31 09:00`.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Not after.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
}

/// A time that a person names: how long ago, or when.
fn moment(text: &str) -> Result<Timestamp, String> {
    let wrong = || "write `10m`, `2h`, `1d`, or a time such as `2026-01-31 09:00`".to_owned();
    let text = text.trim();
    let unit = text.chars().last().and_then(|unit| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3_600),
        'd' => Some(86_400),
        _ => None,
    });
    let digits = text.get(..text.len().saturating_sub(1)).unwrap_or_default();
    if let (Some(unit), Ok(number)) = (unit, digits.parse::<u32>()) {
        let ago = SignedDuration::from_secs(i64::from(number) * unit);
        return Timestamp::now().checked_sub(ago).map_err(|_| wrong());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let local: DateTime = text.parse().map_err(|_| wrong())?;
    Ok(local.to_zoned(TimeZone::system()).map_err(|_| wrong())?.timestamp())
}

impl Logs {
    fn filter(self) -> Outcome<LogFilter> {
        let app = match (self.app, self.all || self.request.is_some()) {
            (Some(app), _) => Some(app),
            (None, true) => None,
            (None, false) => app_here()?,
        };
        let limit = self
            .lines
            .or_else(|| (self.since.is_none() && self.request.is_none()).then_some(LINES));
        Ok(LogFilter {
            app,
            service: self.service,
            release: self.release,
            site: self.site.into_iter().collect(),
            source: self.source.into_iter().collect(),
            status: self.status,
            request: self.request,
            text: self.text,
            since: self.since,
            until: self.until,
            limit,
            follow: self.follow,
            after: LogCursor::default(),
        })
    }
}

/// Runs the verb.
pub(crate) async fn run(args: Logs, connection: &Connection, terminal: Terminal) -> Outcome {
    let mut filter = args.filter()?;
    let client = find_control(connection)?.client;
    let mut printer = Printer { terminal, lines: 0, zone: TimeZone::system() };
    let (mut connected, mut lost) = (false, false);
    loop {
        let ended = match client.logs(&filter).await {
            Ok(mut events) => {
                connected = true;
                if std::mem::take(&mut lost) {
                    terminal.warn("control is back: going on after the last line");
                }
                loop {
                    match events.next().await {
                        None => break None,
                        Some(Err(error)) => break Some(error),
                        Some(Ok(event)) => {
                            filter.after.note(&event);
                            printer.print(&event)?;
                            if terminal.is_lost() {
                                return Ok(());
                            }
                        }
                    }
                }
            }
            Err(error) => Some(error),
        };
        match ended {
            None if !filter.follow => break,
            Some(error) if !connected || !filter.follow || !passing(&error) => {
                return Err(client_failure(error));
            }
            _ => {}
        }
        if !std::mem::replace(&mut lost, true) {
            terminal
                .warn("control can't be reached: sites go on, and so does this when it is back");
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    if printer.lines == 0 && !terminal.json {
        terminal.warn("no lines: nothing has been said yet that the filter lets through");
    }
    Ok(())
}

/// Whether it may be different in a moment.
fn passing(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Unreachable { .. } | ClientError::Broken { .. } | ClientError::Silent { .. }
    )
}

/// Writes events for people or programs.
struct Printer {
    terminal: Terminal,
    lines: u64,
    zone: TimeZone,
}

impl Printer {
    fn print(&mut self, event: &LogEvent) -> Outcome {
        match event {
            _ if self.terminal.json => return self.terminal.object(event),
            LogEvent::Record(record) => {
                self.lines += 1;
                self.terminal.line(self.record(record));
            }
            LogEvent::Gap(gap) => {
                self.terminal.line(self.terminal.paint(Look::Warn, gap_words(gap)));
            }
            LogEvent::Site { site, answers, reason } => {
                let what = if *answers { "answers" } else { "does not answer" };
                self.terminal.warn(format!("{site} {what}: {reason}"));
            }
            LogEvent::Pending { site } => {
                let place = site.as_ref().map_or("control", SiteId::as_str);
                self.terminal.warn(format!("still waiting for {place}: it looks through its log"));
            }
            LogEvent::Current { .. } => {}
        }
        Ok(())
    }

    fn record(&self, record: &LogRecord) -> String {
        let paint = |look, text: String| self.terminal.paint(look, text);
        let time = record.time.to_zoned(self.zone.clone()).strftime("%m-%d %H:%M:%S%.3f");
        let site = record.site.as_ref().map_or("control", SiteId::as_str);
        let look = match record.level {
            LogLevel::Info => Look::Plain,
            LogLevel::Warn => Look::Warn,
            LogLevel::Error => Look::Bad,
        };
        let text = match &record.access {
            Some(access) => {
                let status = match access.status {
                    500.. | 0 => Look::Bad,
                    400.. => Look::Warn,
                    _ => Look::Good,
                };
                let error = access.error.as_ref().map(|it| format!(" {}: {}", it.source, it.kind));
                let id = record.request_id.as_deref().unwrap_or_default();
                format!(
                    "{} {} {}{} {:.1} ms{} {}",
                    paint(status, format!("{:03}", access.status)),
                    access.method,
                    access.host,
                    access.path,
                    access.duration_ms,
                    paint(Look::Bad, error.unwrap_or_default()),
                    paint(Look::Faint, id.to_owned()),
                )
            }
            None => paint(look, record.text.clone()),
        };
        format!(
            "{} {} {} {text}",
            paint(Look::Faint, time.to_string()),
            paint(Look::Strong, format!("{site:<7}")),
            paint(Look::Faint, format!("{:<16}", origin(record))),
        )
        .trim_end()
        .to_owned()
    }
}

/// Who says it: `shop/web`, `shops#12`, or the source.
fn origin(record: &LogRecord) -> String {
    if let Some(push) = &record.push {
        return format!("{}#{}", push.repository, push.number);
    }
    match (&record.app, &record.service) {
        (Some(app), Some(service)) => format!("{app}/{service}"),
        (Some(app), None) => app.to_string(),
        (None, _) => record.source.to_string(),
    }
}

fn gap_words(gap: &LogGap) -> String {
    let lines = if gap.dropped == 1 { "line was" } else { "lines were" };
    let whose = gap.app.as_ref().map(|app| format!(" of {app}")).unwrap_or_default();
    let site = gap.site.as_ref().map_or("control", SiteId::as_str);
    format!(
        "-- {} {lines} dropped here ({}{whose} at {site}): the log keeps what fits --",
        gap.dropped, gap.source
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_name_them() {
        let now = Timestamp::now();
        let ago = |text: &str| now.duration_since(moment(text).unwrap()).as_secs();
        assert!((599..=600).contains(&ago("10m")));
        assert!((86_399..=86_400).contains(&ago("1d")));
        assert_eq!(moment("2026-01-31T09:00:00Z").unwrap().to_string(), "2026-01-31T09:00:00Z");
        assert!(moment("2026-01-31 09:00").is_ok());
        for wrong in ["", "m", "soon", "-5m", "5y"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_gap_names_what_is_missing() {
        let gap = LogGap {
            time: Timestamp::UNIX_EPOCH,
            sequence: 1,
            site: Some(SiteId::new("fra").unwrap()),
            source: LogSource::Output,
            app: Some(AppName::new("shop").unwrap()),
            dropped: 1234,
        };
        assert_eq!(
            gap_words(&gap),
            "-- 1234 lines were dropped here (output of shop at fra): the log keeps what fits --"
        );
    }
}
