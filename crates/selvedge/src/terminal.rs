//! What people see: plain text in a pipe, colour on a terminal, one JSON value where asked.

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::sync::OnceLock;

use serde::Serialize;

use crate::failure::{Code, Failure, OrFail as _, Outcome};

/// The least columns that a table's last column keeps, however narrow the terminal.
const MIN_LAST: usize = 8;

/// Writes to standard output and error. Failing to write ends nothing: the work that was asked for
/// goes on, and what could not be written is said at the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    /// Print JSON for programs and nothing for people.
    pub(crate) json: bool,
    /// Whether standard output takes colour.
    colour: bool,
    /// Whether standard error does.
    error_colour: bool,
    /// Columns of standard output, where it is a terminal.
    width: Option<usize>,
    /// Why something could not be written.
    trouble: &'static OnceLock<std::io::Error>,
}

/// How a word is to look on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// As it is.
    Plain,
    /// Stands out.
    Strong,
    /// Stands back.
    Faint,
    /// All is well.
    Good,
    /// Needs a look.
    Warn,
    /// Is broken.
    Bad,
}

impl Terminal {
    /// Looks at where the output goes and at the environment.
    pub(crate) fn new(json: bool) -> Self {
        let (out, error) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        let variable = |name: &str| std::env::var(name).ok();
        let columns = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        Self {
            json,
            colour: takes_colour(out, variable),
            error_colour: takes_colour(error, variable),
            width: out.then(columns).flatten(),
            // One for the process, so that a terminal can be handed on like a number.
            trouble: Box::leak(Box::new(OnceLock::new())),
        }
    }

    /// A line for people; nothing when JSON was asked for.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        if !self.json {
            self.bytes(format!("{}\n", text.as_ref()).as_bytes());
        }
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
            let _ = self.trouble.set(error);
        }
    }

    /// Whether something could not be written, so that there is no use in saying more.
    pub(crate) fn is_lost(&self) -> bool {
        self.trouble.get().is_some()
    }

    /// Fails if something could not be written, unless it was the reader who had seen enough.
    pub(crate) fn written(&self) -> Outcome {
        match self.trouble.get() {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(anyhow::anyhow!("{error}"))
                .or_fail(
                    Code::Failed,
                    "the output can't be written",
                    "see that there is room where it goes; what was asked for was done",
                ),
            _ => Ok(()),
        }
    }

    /// One JSON value on one line; nothing unless asked for.
    pub(crate) fn object(&self, value: &impl Serialize) -> Outcome {
        if self.json {
            let text = serde_json::to_string(value).or_fail(
                Code::Failed,
                "the result can't be written as JSON",
                "ask without --json",
            )?;
            self.bytes(format!("{text}\n").as_bytes());
        }
        Ok(())
    }

    /// A line on standard error, for progress and problems.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
    }

    /// Something that the user should know although it stops nothing, on standard error.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        if !self.json {
            let label = paint(self.error_colour, Look::Warn, "note:");
            self.note(format!("{label} {}", text.as_ref()));
        }
    }

    /// A failure on standard error: two lines for people, one JSON value for programs.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            // Serializing texts and numbers can't fail.
            self.note(serde_json::to_string(&failure.report()).unwrap_or_default());
            return;
        }
        let label = paint(self.error_colour, Look::Bad, "error:");
        self.note(format!("{label} {}", failure.what()));
        if let Some(hint) = &failure.hint {
            self.note(format!("{}  {hint}", paint(self.error_colour, Look::Strong, "hint:")));
        }
    }

    /// `text` in the colour of `look`, if standard output takes colour.
    pub(crate) fn paint(&self, look: Look, text: impl AsRef<str>) -> String {
        paint(self.colour, look, text.as_ref())
    }

    /// Prints rows under headings, each column as wide as its widest cell. On a terminal the last
    /// column is cut where the line would wrap.
    pub(crate) fn table(&self, headings: &[&str], rows: &[Vec<Cell>]) {
        let mut widths: Vec<usize> = headings.iter().map(|text| text.chars().count()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let head: Vec<Cell> =
            headings.iter().map(|text| Cell { text: (*text).into(), look: Look::Faint }).collect();
        for row in std::iter::once(&head).chain(rows) {
            let last = row.len().saturating_sub(1);
            let before: usize = widths.iter().take(last).map(|width| width + 2).sum();
            let room = self.width.map(|width| width.saturating_sub(before + 2).max(MIN_LAST));
            let line: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(index, (cell, width))| {
                    if index == last {
                        return self.paint(cell.look, cut(&cell.text, room));
                    }
                    let fill = width.saturating_sub(cell.text.chars().count());
                    format!("{}{}", self.paint(cell.look, &cell.text), " ".repeat(fill))
                })
                .collect();
            self.line(format!("  {}", line.join("  ")).trim_end());
        }
    }
}

/// Whether colour goes to an output, by `NO_COLOR` (no-color.org), then `CLICOLOR_FORCE` and
/// `CLICOLOR` (bixense.com/clicolors), then whether it is a terminal that knows colour.
fn takes_colour(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| variable(name).is_some_and(|value| !value.is_empty() && value != "0");
    if variable("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        return false;
    }
    let refused = variable("CLICOLOR").is_some_and(|value| value == "0")
        || variable("TERM").is_some_and(|value| value == "dumb");
    set("CLICOLOR_FORCE") || (is_terminal && !refused)
}

fn paint(colour: bool, look: Look, text: &str) -> String {
    let code = match look {
        Look::Plain => return text.to_owned(),
        Look::Strong => "1",
        Look::Faint => "2",
        Look::Good => "32",
        Look::Warn => "33",
        Look::Bad => "31",
    };
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// The first `room` characters of a text, the last of them `…` where something is missing.
fn cut(text: &str, room: Option<usize>) -> String {
    match room {
        Some(room) if text.chars().count() > room => {
            text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
        }
        _ => text.to_owned(),
    }
}

/// A cell of a table.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    look: Look,
}

impl Cell {
    /// A cell that looks like `look`. Much of what cells hold was written by others (a commit's
    /// subject, a reason), so nothing in it can steer the terminal.
    pub(crate) fn new(text: impl Into<String>, look: Look) -> Self {
        let mut text = text.into();
        if text.contains(char::is_control) {
            text = text.replace(char::is_control, " ");
        }
        Self { text, look }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Look::Plain)
    }
}

/// A duration in ms as people read it: `640 ms`, `3.2 s`, `4 min 05 s`.
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ if (ms / 1_000).is_multiple_of(60) => format!("{} min", ms / 60_000),
        _ => format!("{} min {:02} s", ms / 60_000, ms / 1_000 % 60),
    }
}

/// A size in bytes as people read it: `640 B`, `3.2 kB`, `48 MB`.
pub(crate) fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1_000 => return format!("{bytes} B"),
        1_000..1_000_000 => (1_000, "kB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        _ => (1_000_000_000, "GB"),
    };
    let (whole, tenth) = (bytes / unit, bytes % unit * 10 / unit);
    if whole < 10 { format!("{whole}.{tenth} {name}") } else { format!("{whole} {name}") }
}

/// A number of things: `1 site`, `8 sites`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// How long ago `then_ms` (Unix ms) was at `now_ms`: `just now`, `5 min ago`, `3 days ago`.
pub(crate) fn ago(then_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1_000;
    match seconds {
        0..5 => "just now".into(),
        5..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!([640, 3_250, 245_000].map(duration), ["640 ms", "3.2 s", "4 min 05 s"]);
        assert_eq!(duration(300_000), "5 min");
        assert_eq!(ago(0, 300_000), "5 min ago");
        assert_eq!([0, 1, 8].map(|it| count(it, "site")), ["0 sites", "1 site", "8 sites"]);
        assert_eq!([640, 3_250, 48_000_000].map(size), ["640 B", "3.2 kB", "48 MB"]);
    }

    #[test]
    fn colour_follows_the_environment() {
        let with = |is_terminal: bool, variables: &[(&str, &str)]| {
            takes_colour(is_terminal, |name| {
                let found = variables.iter().find(|(its, _)| *its == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(with(true, &[]) && with(true, &[("NO_COLOR", "")]));
        assert!(!with(false, &[]) && !with(false, &[("CLICOLOR", "1")]));
        assert!(!with(true, &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")]));
        assert!(!with(true, &[("TERM", "dumb")]) && !with(true, &[("CLICOLOR", "0")]));
        assert!(
            with(false, &[("CLICOLOR_FORCE", "1")]) && !with(false, &[("CLICOLOR_FORCE", "0")])
        );
    }

    #[test]
    fn cells_can_not_steer_the_terminal() {
        assert_eq!(Cell::from("a\x1b[31mb\nc").text, "a [31mb c");
        assert_eq!(cut("a subject", Some(5)), "a su…");
        assert_eq!(cut("a subject", Some(9)), "a subject");
    }
}
