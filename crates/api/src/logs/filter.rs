//! Which lines are wanted.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use selvedge_model::{AppName, ServiceName, SiteId};
use serde::{Deserialize, Serialize};

use super::{LogCursor, LogRecord, LogSource};

/// Which lines are wanted. What is left out restricts nothing. In a query string each field is a
/// parameter, and sets are written with commas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogFilter {
    /// Of this app. Lines of its repository's pushes count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// Of this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// Of the release that starts with these digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Of these sites.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", with = "commas")]
    pub site: BTreeSet<SiteId>,
    /// Of these sources.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", with = "commas")]
    pub source: BTreeSet<LogSource>,
    /// Access records with such a status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusRange>,
    /// What belongs to this request: its access record, and lines that name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Lines that contain this, in any case of letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Not before (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Not after (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Only the last so many of the lines that are there; of each site, before following.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on with new lines as they come.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
    /// Only what comes after this; an origin that it names heeds neither `limit` nor `since`.
    #[serde(skip_serializing_if = "LogCursor::is_empty")]
    pub after: LogCursor,
}

impl LogFilter {
    /// Whether the line is wanted, as far as the line alone can tell: what was limited or already
    /// seen is the reader's business.
    pub fn matches(&self, record: &LogRecord) -> bool {
        self.scope(record)
            && self.status.is_none_or(|range| {
                record.access.as_ref().is_some_and(|access| range.contains(access.status))
            })
            && self.request.as_ref().is_none_or(|id| names_request(record, id))
            && self.text.as_ref().is_none_or(|text| says(record, text))
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time <= until)
    }

    fn scope(&self, record: &LogRecord) -> bool {
        let app = self.app.is_none() || self.app == record.app;
        app && (self.service.is_none() || self.service == record.service)
            && self.release.as_ref().is_none_or(|prefix| {
                // What a person copies may be longer than what a line keeps.
                record.release.as_ref().is_some_and(|release| {
                    release.starts_with(prefix.as_str()) || prefix.starts_with(release.as_str())
                })
            })
            && (self.source.is_empty() || self.source.contains(&record.source))
            && (self.site.is_empty()
                || record.site.as_ref().is_some_and(|site| self.site.contains(site)))
    }

    /// Whether anything of this source and app can match.
    pub fn admits(&self, source: LogSource, app: Option<&AppName>) -> bool {
        (self.source.is_empty() || self.source.contains(&source))
            && self.app.as_ref().is_none_or(|wanted| app == Some(wanted))
            && (self.status.is_none() || source == LogSource::Access)
    }
}

fn names_request(record: &LogRecord, id: &str) -> bool {
    record.request_id.as_deref() == Some(id) || record.text.contains(id)
}

fn says(record: &LogRecord, text: &str) -> bool {
    let wanted = text.to_lowercase();
    let contains = |text: &str| text.to_lowercase().contains(&wanted);
    contains(&record.text)
        || record.access.as_ref().is_some_and(|access| {
            let error = access.error.as_ref();
            contains(&access.host) || error.is_some_and(|error| contains(&error.kind))
        })
}

/// A range of statuses: `404`, `5xx`, `>=400`, `<300` or `400-499`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StatusRange {
    first: u16,
    last: u16,
}

impl StatusRange {
    /// Whether `status` is in the range.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is no status: write 404, 5xx, >=400, <300 or 400-499");
        let number = |text: &str| {
            let number = text.trim().parse::<u16>().ok().filter(|number| *number <= 999);
            number.ok_or_else(wrong)
        };
        let trimmed = text.trim();
        let (first, last) = if let Some(class) = trimmed.to_lowercase().strip_suffix("xx") {
            let class = number(class)?;
            if !(1..=5).contains(&class) {
                return Err(wrong());
            }
            (class * 100, class * 100 + 99)
        } else if let Some(least) = trimmed.strip_prefix(">=") {
            (number(least)?, 999)
        } else if let Some(below) = trimmed.strip_prefix("<=") {
            (0, number(below)?)
        } else if let Some(least) = trimmed.strip_prefix('>') {
            (number(least)? + 1, 999)
        } else if let Some(below) = trimmed.strip_prefix('<') {
            (0, number(below)?.checked_sub(1).ok_or_else(wrong)?)
        } else if let Some((first, last)) = trimmed.split_once('-') {
            (number(first)?, number(last)?)
        } else {
            let one = number(trimmed)?;
            (one, one)
        };
        if first > last { Err(wrong()) } else { Ok(Self { first, last }) }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl From<StatusRange> for String {
    fn from(range: StatusRange) -> Self {
        range.to_string()
    }
}

impl TryFrom<String> for StatusRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Sets as one text, as query strings want them.
mod commas {
    use std::collections::BTreeSet;
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<T: Display, S: Serializer>(
        set: &BTreeSet<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let items: Vec<String> = set.iter().map(ToString::to_string).collect();
        serializer.serialize_str(&items.join(","))
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<BTreeSet<T>, D::Error>
    where
        T: FromStr<Err: Display> + Ord,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(deserializer)?;
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| item.parse().map_err(D::Error::custom))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{LogAccess, LogAccessError, LogLevel};

    fn record() -> LogRecord {
        LogRecord {
            time: "2026-01-02T03:04:05Z".parse().unwrap(),
            sequence: 1,
            site: Some(SiteId::new("fra").unwrap()),
            source: LogSource::Access,
            level: LogLevel::Info,
            app: Some(AppName::new("shop").unwrap()),
            environment: None,
            service: Some(ServiceName::new("web").unwrap()),
            release: Some("0123456789ab".into()),
            request_id: Some("abc".into()),
            push: None,
            text: "GET /Cart 502".into(),
            access: Some(Box::new(LogAccess {
                started: "2026-01-02T03:04:04Z".parse().unwrap(),
                method: "GET".into(),
                scheme: "https".into(),
                host: "shop.edge.test".into(),
                path: "/Cart".into(),
                protocol: "HTTP/2".into(),
                status: 502,
                bytes_sent: 1,
                bytes_received: 0,
                duration_ms: 1.5,
                upstream_ms: None,
                client: "192.0.2.1:5".into(),
                epoch: None,
                trace_id: "t".into(),
                tls: None,
                error: Some(LogAccessError {
                    source: "workload".into(),
                    kind: "connect-refused".into(),
                }),
            })),
        }
    }

    #[test]
    fn each_field_restricts() {
        let output = LogRecord {
            source: LogSource::Output,
            access: None,
            request_id: None,
            text: "request abc failed".into(),
            ..record()
        };
        // Each query, and whether it wants the access record and the line of output.
        let table = [
            ("", true, true),
            ("app=shop", true, true),
            ("app=other", false, false),
            ("service=web&site=fra,nyc", true, true),
            ("service=api", false, false),
            ("site=nyc", false, false),
            ("source=access", true, false),
            ("source=output,event", false, true),
            ("release=0123", true, true),
            ("release=0123456789abcdef", true, true),
            ("release=9", false, false),
            ("status=5xx", true, false),
            ("status=200", false, false),
            ("request=abc", true, true),
            ("request=abcd", false, false),
            ("text=cart", true, false),
            ("text=REFUSED", true, false),
            ("text=failed", false, true),
            ("since=2026-01-02T03:04:05Z&until=2026-01-02T03:04:05Z", true, true),
            ("since=2026-01-02T03:04:06Z", false, false),
            ("until=2026-01-02T03:04:04Z", false, false),
        ];
        for (query, access, line) in table {
            let filter: LogFilter = serde_urlencoded::from_str(query).unwrap();
            assert_eq!(
                (filter.matches(&record()), filter.matches(&output)),
                (access, line),
                "{query}"
            );
            let again = serde_urlencoded::to_string(&filter).unwrap();
            assert_eq!(serde_urlencoded::from_str::<LogFilter>(&again).unwrap(), filter);
        }
        for wrong in ["status=x", "source=all", "site=FRA", "since=now", "nonsense=1", "after=x"] {
            assert!(serde_urlencoded::from_str::<LogFilter>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn statuses() {
        let table = [
            ("404", 404, 404),
            ("5xx", 500, 599),
            ("5XX", 500, 599),
            (">=400", 400, 999),
            (">399", 400, 999),
            ("<300", 0, 299),
            ("<= 299", 0, 299),
            ("400-499", 400, 499),
        ];
        for (text, first, last) in table {
            assert_eq!(text.parse(), Ok(StatusRange { first, last }), "{text}");
        }
        for wrong in ["", "xx", "0xx", "6xx", "9xx", "55xx", "<0", "500-400", "70000", "-"] {
            assert!(wrong.parse::<StatusRange>().is_err(), "{wrong}");
        }
    }
}
