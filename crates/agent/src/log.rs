//! The site's log: access records, output of workloads and events, kept in one journal.

use jiff::{SignedDuration, Timestamp};
use selvedge_api::{
    LogAccess, LogAccessError, LogEvent, LogFilter, LogGap, LogLevel, LogRecord, LogSource,
};
use selvedge_model::{AppName, EnvironmentName, ServiceName, SiteId};
use selvedge_runtime::Output;
use selvedge_telemetry::access::{AccessRecord, ErrorSource};
use selvedge_telemetry::journal::{Body, Entry, Journal, Query, Share};
use serde::Serialize;
use tokio::sync::mpsc;

/// How many access records are taken at once.
const BATCH: usize = 512;

/// Whose a workload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Label {
    pub(crate) app: AppName,
    pub(crate) environment: EnvironmentName,
    pub(crate) service: ServiceName,
    /// The first 12 digits.
    pub(crate) release: String,
}

/// The site's log. Cheap to clone; adding to it never waits.
#[derive(Debug, Clone)]
pub(crate) struct SiteLog {
    site: SiteId,
    journal: Journal,
}

impl SiteLog {
    pub(crate) fn new(site: SiteId, journal: Journal) -> Self {
        Self { site, journal }
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(crate) fn site(&self) -> &SiteId {
        &self.site
    }

    fn add(&self, record: &LogRecord) {
        if let Some(share) = share(record.source, record.app.as_ref())
            && let Ok(json) = serde_json::to_vec(record)
        {
            self.journal.append(&share, &json);
        }
    }

    /// A record of this site's, of now.
    fn record(&self, source: LogSource, level: LogLevel, text: String) -> LogRecord {
        LogRecord {
            time: Timestamp::now(),
            sequence: 0,
            site: Some(self.site.clone()),
            source,
            level,
            app: None,
            environment: None,
            service: None,
            release: None,
            request_id: None,
            push: None,
            text,
            access: None,
        }
    }

    /// Where the workload's output goes.
    pub(crate) fn output(&self, label: Label) -> Output {
        let log = self.clone();
        Output::new(move |line| {
            let Label { app, environment, service, release } = label.clone();
            log.add(&LogRecord {
                app: Some(app),
                environment: Some(environment),
                service: Some(service),
                release: Some(release),
                ..log.record(LogSource::Output, LogLevel::Info, line.to_owned())
            });
        })
    }

    /// Notes what the agent did or found.
    pub(crate) fn event(&self, event: Event) {
        let Event { level, app, environment, service, release, text } = event;
        self.add(&LogRecord {
            app,
            environment,
            service,
            release,
            ..self.record(LogSource::Event, level, text)
        });
    }

    /// Takes access records until there are no more to come.
    pub(crate) async fn take_access(self, mut records: mpsc::Receiver<AccessRecord>) {
        let mut batch = Vec::with_capacity(BATCH);
        while records.recv_many(&mut batch, BATCH).await > 0 {
            let lines: Vec<(Share, Vec<u8>)> = batch
                .drain(..)
                .filter_map(|record| {
                    let record = self.access(record);
                    let share = share(record.source, record.app.as_ref())?;
                    Some((share, serde_json::to_vec(&record).ok()?))
                })
                .collect();
            self.journal.append_all(lines.iter().map(|(share, line)| (share, line.as_slice())));
        }
    }

    /// Counts access records that were lost on their way here.
    pub(crate) fn lost_access(&self, count: u64) {
        if let Some(share) = share(LogSource::Access, None) {
            self.journal.count_dropped(&share, count);
        }
    }

    fn access(&self, record: AccessRecord) -> LogRecord {
        let mut text = format!("{} {} {}", record.method, record.path, record.status);
        if let Some(error) = &record.error {
            text = format!("{text} {}", error.kind);
        }
        let ours = record.error.as_ref().is_some_and(|it| it.source != ErrorSource::Client);
        let level = if record.status >= 500 || ours { LogLevel::Error } else { LogLevel::Info };
        let micros = (record.duration_ms * 1000.0).clamp(0.0, 1e15) as i64;
        let time = record.time.checked_add(SignedDuration::from_micros(micros));
        LogRecord {
            time: time.unwrap_or(record.time),
            app: record.app.and_then(|app| app.parse().ok()),
            environment: record.environment.and_then(|it| it.parse().ok()),
            service: record.service.and_then(|it| it.parse().ok()),
            release: record.release,
            request_id: Some(record.request_id),
            access: Some(Box::new(LogAccess {
                started: record.time,
                method: record.method,
                scheme: record.scheme,
                host: record.host,
                path: record.path,
                protocol: record.protocol,
                status: record.status,
                bytes_sent: record.bytes_sent,
                bytes_received: record.bytes_received,
                duration_ms: record.duration_ms,
                upstream_ms: record.upstream_ms,
                client: record.client,
                epoch: record.epoch,
                trace_id: record.trace_id,
                tls: record.tls,
                error: record.error.map(|error| LogAccessError {
                    source: match error.source {
                        ErrorSource::Client => "client",
                        ErrorSource::Proxy => "proxy",
                        ErrorSource::Workload => "workload",
                    }
                    .to_owned(),
                    kind: error.kind,
                }),
            })),
            ..self.record(LogSource::Access, level, text)
        }
    }

    /// The question to the journal that `filter` stands for.
    pub(crate) fn query(&self, filter: LogFilter) -> Query {
        let after = filter.after.of(Some(&self.site));
        let since = filter.since.and_then(|since| u64::try_from(since.as_microsecond() - 1).ok());
        let limit = filter.limit.filter(|_| after.is_none());
        let wanted = filter.clone();
        let (site, follow) = (self.site.clone(), filter.follow);
        Query {
            shares: Box::new(move |share| {
                let owner = share.owner().and_then(|owner| owner.parse().ok());
                share.kind().parse().is_ok_and(|source| wanted.admits(source, owner.as_ref()))
            }),
            matches: Box::new(move |line| {
                // Most lines that do not name the request need not be read for that.
                let named = filter.request.as_ref().is_none_or(|id| contains(line, id.as_bytes()));
                named && read(&site, 0, line).is_some_and(|record| filter.matches(&record))
            }),
            after: after.or(since).unwrap_or_default(),
            limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            follow,
        }
    }

    /// What an entry of the journal says.
    pub(crate) fn say(&self, entry: &Entry) -> Option<LogEvent> {
        match &entry.body {
            Body::Line(line) => {
                read(&self.site, entry.sequence, line).map(|it| LogEvent::Record(Box::new(it)))
            }
            Body::Dropped(dropped) => Some(LogEvent::Gap(LogGap {
                time: i64::try_from(entry.sequence)
                    .ok()
                    .and_then(|micros| Timestamp::from_microsecond(micros).ok())
                    .unwrap_or_default(),
                sequence: entry.sequence,
                site: Some(self.site.clone()),
                source: entry.share.kind().parse().ok()?,
                app: entry.share.owner().and_then(|owner| owner.parse().ok()),
                dropped: *dropped,
            })),
        }
    }
}

/// Something that the agent did or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) level: LogLevel,
    pub(crate) app: Option<AppName>,
    pub(crate) environment: Option<EnvironmentName>,
    pub(crate) service: Option<ServiceName>,
    pub(crate) release: Option<String>,
    pub(crate) text: String,
}

impl Event {
    /// Something about the site.
    pub(crate) fn site(level: LogLevel, text: impl Into<String>) -> Self {
        Self {
            level,
            app: None,
            environment: None,
            service: None,
            release: None,
            text: text.into(),
        }
    }
}

fn share(source: LogSource, app: Option<&AppName>) -> Option<Share> {
    Share::new(source.name(), app.map(AppName::as_str))
}

fn read(site: &SiteId, sequence: u64, line: &[u8]) -> Option<LogRecord> {
    let mut record: LogRecord = serde_json::from_slice(line).ok()?;
    record.sequence = sequence;
    record.site = Some(site.clone());
    Some(record)
}

fn contains(line: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || line.windows(wanted.len()).any(|window| window == wanted)
}
