//! Setting up `tracing` for a process. Called once, by the binary; libraries only emit events.

use std::error::Error;
use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::VisitOutput as _;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{DefaultVisitor, FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One line of text an event, for people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// What the process logs, and how.
#[derive(Debug, Clone)]
pub struct Config {
    /// How lines are written.
    pub format: Format,
    /// What the process is: `control`, `agent`. Stands in every line.
    pub role: String,
    /// The site that the process belongs to, where it belongs to one. Stands in every line.
    pub site: Option<String>,
    /// Directives such as `info,selvedge_proxy=debug` (the syntax of
    /// [`EnvFilter`]); the binary reads them from its environment.
    pub filter: String,
}

/// Why logging can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not understood.
    #[error("the log filter {filter:?} is not understood; write for example info,selvedge=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// It was set up before.
    #[error("logging is set up already in this process")]
    AlreadySet,
}

/// Sends events of the whole process to standard error.
pub fn init(config: Config) -> Result<(), LoggingError> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|source| LoggingError::Filter { filter: config.filter.clone(), source })?;
    let lines = Lines { format: config.format, role: config.role, site: config.site };
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .event_format(lines)
        .finish();
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::AlreadySet)
}

/// Shows an error with its causes: `can't start: can't listen on [::]:80: permission denied`.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Writes an event with the process's role and site in front. Spans are not shown: events carry
/// what they need.
struct Lines {
    format: Format,
    role: String,
    site: Option<String>,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = jiff::Timestamp::now();
        match self.format {
            Format::Text => self.text(now, writer, event),
            Format::Json => self.json(now, writer, event),
        }
    }
}

impl Lines {
    fn text(&self, now: jiff::Timestamp, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "{now:.3} {:>5} {}", event.metadata().level(), self.role)?;
        if let Some(site) = &self.site {
            write!(writer, " {site}")?;
        }
        write!(writer, " {}: ", event.metadata().target())?;
        let mut line = String::new();
        let mut visitor = DefaultVisitor::new(Writer::new(&mut line), true);
        event.record(&mut visitor);
        visitor.finish()?;
        // Values come from outside: a line break in one must not look like a new event.
        for c in line.chars() {
            if c.is_control() {
                write!(writer, "{}", c.escape_default())?
            } else {
                writer.write_char(c)?
            }
        }
        writeln!(writer)
    }

    fn json(&self, now: jiff::Timestamp, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Map::new();
        fields.insert("time".into(), Value::String(format!("{now:.3}")));
        fields.insert("level".into(), event.metadata().level().as_str().to_lowercase().into());
        fields.insert("role".into(), self.role.clone().into());
        if let Some(site) = &self.site {
            fields.insert("site".into(), site.clone().into());
        }
        fields.insert("target".into(), event.metadata().target().into());
        event.record(&mut JsonFields(&mut fields));
        writeln!(writer, "{}", Value::Object(fields))
    }
}

struct JsonFields<'a>(&'a mut Map<String, Value>);

impl JsonFields<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for JsonFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("can't start")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_chain_names_every_cause() {
        let error = Outer(io::Error::other("port 80 is taken"));
        assert_eq!(Chain(&error).to_string(), "can't start: port 80 is taken");
    }

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(Lines { format, role: "agent".into(), site: Some("fra".into()) })
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(host = "a\nb", count = 3, "odd request");
        });
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_is_one_line_with_role_and_site() {
        let line = logged(Format::Text);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.contains(" WARN agent fra ") && line.contains("odd request"), "{line}");
    }

    #[test]
    fn json_keeps_types() {
        let line: Value = serde_json::from_str(&logged(Format::Json)).unwrap();
        assert_eq!(line["role"], "agent");
        assert_eq!(line["site"], "fra");
        assert_eq!(line["count"], 3);
        assert_eq!(line["host"], "a\nb");
        assert_eq!(line["message"], "odd request");
    }
}
