//! What people see: plain text in a pipe, colour on a terminal, one JSON value where asked.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

/// Writes to standard output and error. Failing to write (a closed pipe) ends nothing: the work
/// that was asked for goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    /// Print JSON for programs and nothing for people.
    pub(crate) json: bool,
    colour: bool,
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
    /// Colour only when standard output is a terminal and `NO_COLOR` is unset or empty.
    pub(crate) fn new(json: bool) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, colour: std::io::stdout().is_terminal() && !no_colour }
    }

    /// A line for people; nothing when JSON was asked for.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        if !self.json {
            let _ = writeln!(std::io::stdout().lock(), "{}", text.as_ref());
        }
    }

    /// One JSON value on one line; nothing unless asked for.
    pub(crate) fn object(&self, value: &impl Serialize) -> anyhow::Result<()> {
        if self.json {
            let text = serde_json::to_string(value)?;
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
        Ok(())
    }

    /// A line on standard error, for progress and problems.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
    }

    /// `text` in the colour of `look`, if there is colour.
    pub(crate) fn paint(&self, look: Look, text: impl AsRef<str>) -> String {
        let text = text.as_ref();
        let code = match look {
            Look::Plain => return text.to_owned(),
            Look::Strong => "1",
            Look::Faint => "2",
            Look::Good => "32",
            Look::Warn => "33",
            Look::Bad => "31",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Prints rows under headings, each column as wide as its widest cell.
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
            let line: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(index, (cell, width))| {
                    let fill = if index == last {
                        0
                    } else {
                        width.saturating_sub(cell.text.chars().count())
                    };
                    format!("{}{}", self.paint(cell.look, &cell.text), " ".repeat(fill))
                })
                .collect();
            self.line(format!("  {}", line.join("  ")).trim_end());
        }
    }
}

/// A cell of a table.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    look: Look,
}

impl Cell {
    /// A cell that looks like `look`.
    pub(crate) fn new(text: impl Into<String>, look: Look) -> Self {
        Self { text: text.into(), look }
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
        _ => format!("{} min {:02} s", ms / 60_000, ms / 1_000 % 60),
    }
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
        assert_eq!(ago(0, 300_000), "5 min ago");
    }
}
