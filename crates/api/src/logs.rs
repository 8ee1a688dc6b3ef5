//! `GET /v1/logs`: what sites and control have to say, merged in order.
//!
//! The same types travel between control and its sites, so that a filter means the same at both.

mod filter;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use selvedge_model::{AppName, EnvironmentName, RepositoryName, ServiceName, SiteId, Stage};
use serde::{Deserialize, Serialize};

pub use filter::{LogFilter, StatusRange};

/// The most lines that can be asked for from the end of the log.
pub const MAX_LOG_LIMIT: u32 = 10_000;

/// A step of a stream of log lines, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum LogEvent {
    /// A line.
    Record(Box<LogRecord>),
    /// Lines that are no longer there, or never were written down, in the place where they would
    /// have been.
    Gap(LogGap),
    /// A site does not answer, or answers again.
    Site {
        /// Which.
        site: SiteId,
        /// Whether it answers now.
        answers: bool,
        /// What happened, in words.
        reason: String,
    },
    /// Some of what was there is still to come from here, and it is being waited for or, where the
    /// reader can't wait, comes later than its place. A site says so to control each second while
    /// it looks for lines.
    Pending {
        /// The site; `None` for control.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<SiteId>,
    },
    /// Everything that was there when the question was asked has been said. Comes again while
    /// following, to say how far a quiet log has got.
    Current {
        /// Where to go on from.
        cursor: LogCursor,
    },
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogRecord {
    /// When it happened; for an access record, when the answer had ended (RFC 3339, UTC).
    pub time: Timestamp,
    /// Grows from line to line of one origin, with holes.
    pub sequence: u64,
    /// The site that says it; `None` for control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteId>,
    /// What kind of line it is.
    pub source: LogSource,
    /// How much it matters.
    #[serde(default)]
    pub level: LogLevel,
    /// The app that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// The app's environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentName>,
    /// The app's service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The release: the first 12 digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// The request, as in the header `x-request-id` and on error pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The push that says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<LogPush>,
    /// The line, for people. Without control characters.
    pub text: String,
    /// All of an access record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Box<LogAccess>>,
}

impl LogRecord {
    /// What belongs before and after what, over all origins.
    pub fn order(&self) -> (Timestamp, Option<&SiteId>, u64) {
        (self.time, self.site.as_ref(), self.sequence)
    }
}

/// What kind of line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogSource {
    /// A request that was answered.
    Access,
    /// What a workload printed.
    Output,
    /// What a push said: builds, tests, stages.
    Pipeline,
    /// What a site's agent did or found.
    Event,
}

impl LogSource {
    /// Every source.
    pub const ALL: [Self; 4] = [Self::Access, Self::Output, Self::Pipeline, Self::Event];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Output => "output",
            Self::Pipeline => "pipeline",
            Self::Event => "event",
        }
    }
}

impl fmt::Display for LogSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for LogSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|source| source.name() == text).ok_or_else(|| {
            format!(
                "{text:?} is no source of log lines: there are access, output, pipeline and event"
            )
        })
    }
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// For the record.
    #[default]
    Info,
    /// Somebody should have a look.
    Warn,
    /// Something is broken.
    Error,
}

/// The push that a line is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPush {
    /// The repository.
    pub repository: RepositoryName,
    /// The push's number in it.
    pub number: u64,
    /// The stage that says it.
    pub stage: Stage,
}

/// A request and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogAccess {
    /// When the request's head had arrived (RFC 3339, UTC).
    pub started: Timestamp,
    /// The method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// The host asked for, without the port.
    pub host: String,
    /// Path and query as sent, cut to 2,048 bytes.
    pub path: String,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: String,
    /// The status sent; 0 when the client left before there was one.
    pub status: u16,
    /// Bytes of the response's body handed to the connection.
    pub bytes_sent: u64,
    /// Bytes of the request's body read.
    pub bytes_received: u64,
    /// From the request's head to the end of the response's body, in milliseconds.
    pub duration_ms: f64,
    /// From choosing a workload to its response's head, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_ms: Option<f64>,
    /// The client's IP address and port.
    pub client: String,
    /// The epoch, as in the header `selvedge-epoch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// The trace id of W3C `traceparent`, 32 hexadecimal digits.
    pub trace_id: String,
    /// The TLS version, such as `TLSv1.3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// What went wrong, if something did: whose side (`client`, `proxy`, `workload`), and a short
    /// stable name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<LogAccessError>,
}

/// What went wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAccessError {
    /// Whose side: `client`, `proxy` or `workload`.
    pub source: String,
    /// A short stable name, such as `connect-refused`.
    pub kind: String,
}

/// Lines that are not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogGap {
    /// The last of them.
    pub time: Timestamp,
    /// As the lines' own.
    pub sequence: u64,
    /// Where; `None` for control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteId>,
    /// What kind of lines.
    pub source: LogSource,
    /// Whose lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// How many.
    pub dropped: u64,
}

/// How far a reader has got, origin by origin: `fra:17,nyc:23,@:4`, where `@` is control.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogCursor(pub BTreeMap<Option<SiteId>, u64>);

impl LogCursor {
    /// Notes that the reader has seen everything of `site` up to `sequence`.
    pub fn advance(&mut self, site: Option<&SiteId>, sequence: u64) {
        let seen = self.0.entry(site.cloned()).or_default();
        *seen = (*seen).max(sequence);
    }

    /// What the reader has seen of `site`.
    pub fn of(&self, site: Option<&SiteId>) -> Option<u64> {
        self.0.get(&site.cloned()).copied()
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes an event into account.
    pub fn note(&mut self, event: &LogEvent) {
        match event {
            LogEvent::Record(record) => self.advance(record.site.as_ref(), record.sequence),
            LogEvent::Gap(gap) => self.advance(gap.site.as_ref(), gap.sequence),
            LogEvent::Current { cursor } => {
                for (site, sequence) in &cursor.0 {
                    self.advance(site.as_ref(), *sequence);
                }
            }
            LogEvent::Site { .. } | LogEvent::Pending { .. } => {}
        }
    }
}

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (site, sequence)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let site = site.as_ref().map_or("@", SiteId::as_str);
            write!(f, "{comma}{site}:{sequence}")?;
        }
        Ok(())
    }
}

impl From<LogCursor> for String {
    fn from(cursor: LogCursor) -> Self {
        cursor.to_string()
    }
}

impl FromStr for LogCursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let part = |part: &str| {
            let (site, sequence) = part.split_once(':')?;
            let site = match site {
                "@" => None,
                site => Some(site.parse().ok()?),
            };
            Some((site, sequence.parse().ok()?))
        };
        text.split(',')
            .filter(|it| !it.is_empty())
            .map(|it| part(it).ok_or_else(|| format!("{it:?} is no place in a log")))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl TryFrom<String> for LogCursor {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_back() {
        let mut cursor = LogCursor::default();
        assert_eq!("".parse(), Ok(cursor.clone()));
        let fra = SiteId::new("fra").unwrap();
        cursor.advance(Some(&fra), 17);
        cursor.advance(Some(&fra), 3);
        cursor.advance(None, 4);
        assert_eq!(cursor.to_string(), "@:4,fra:17");
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for wrong in ["fra", "fra:", "fra:x", "FRA:1", "fra:1,,x"] {
            assert!(wrong.parse::<LogCursor>().is_err(), "{wrong}");
        }
    }
}
