//! What is wrong with a file, where, and what to do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diagnostic {
    /// The file, as the caller named it.
    pub file: String,
    /// Counts from 1.
    pub line: u32,
    /// Counts characters from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub mend: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, mend } = self;
        write!(f, "{file}:{line}:{column}: {message}")?;
        let mut lines = mend.lines();
        if let Some(first) = lines.next() {
            write!(f, "\n  mend: {first}")?;
        }
        lines.try_for_each(|line| write!(f, "\n        {line}"))
    }
}

/// More problems than anybody reads at once, and a bound on the work that a hostile file causes.
const MAX_PROBLEMS: usize = 50;

/// The problems found in one file so far.
pub(super) struct Problems<'a> {
    file: &'a str,
    text: &'a str,
    found: Vec<(usize, Diagnostic)>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, found: Vec::new() }
    }

    /// Adds a problem at byte `at` of the text.
    pub(super) fn report(
        &mut self,
        at: usize,
        message: impl Into<String>,
        mend: impl Into<String>,
    ) {
        if self.found.len() >= MAX_PROBLEMS {
            return;
        }
        let before = self.text.get(..at).unwrap_or(self.text);
        let (lines, last) = before.rsplit_once('\n').unwrap_or(("", before));
        let line = 1 + usize::from(last.len() < before.len()) + lines.matches('\n').count();
        let diagnostic = Diagnostic {
            file: self.file.to_owned(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(last.chars().count() + 1).unwrap_or(u32::MAX),
            message: message.into(),
            mend: mend.into(),
        };
        self.found.push((at, diagnostic));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The problems in the order of the text.
    pub(super) fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|(at, _)| *at);
        self.found.into_iter().map(|(_, diagnostic)| diagnostic).collect()
    }
}

/// `text` for a message: quoted, control characters escaped, cut when long.
pub(super) fn quote(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// `"a", "b" or "c"`-like lists for messages.
pub(super) fn one_of<T: fmt::Display>(choices: impl IntoIterator<Item = T>) -> String {
    let mut choices: Vec<_> = choices.into_iter().map(|choice| choice.to_string()).collect();
    match (choices.pop(), choices.is_empty()) {
        (Some(last), false) => format!("{} or {last}", choices.join(", ")),
        (last, _) => last.unwrap_or_default(),
    }
}

/// The choice that `text` was most likely meant to be.
pub fn closest<'c>(text: &str, choices: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    const LONGEST: usize = 40;
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let text = plain(text);
    let length = text.chars().count();
    if length > LONGEST {
        return None;
    }
    choices
        .into_iter()
        .filter_map(|choice| {
            let plain = plain(choice);
            let abbreviates =
                length >= 3 && (plain.starts_with(&text) || text.starts_with(plain.as_str()));
            let distance = if abbreviates { 1 } else { edit_distance(&text, &plain) };
            (distance <= 1 + length / 4 && distance < length.max(1)).then_some((distance, choice))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, choice)| choice)
}

/// Insertions, deletions and substitutions between two texts (Levenshtein).
fn edit_distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, b) in row.iter_mut().skip(1).zip(to.chars()) {
            let above = *cell;
            left = (diagonal + usize::from(a != b)).min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters() {
        let text = "a = 1\nü = \"äö\" x\n";
        let at = |needle| {
            let mut problems = Problems::new("f", text);
            problems.report(text.find(needle).unwrap(), "m", "n");
            let found = problems.into_sorted().remove(0);
            (found.line, found.column)
        };
        assert_eq!(at("a"), (1, 1));
        assert_eq!(at("1"), (1, 5));
        assert_eq!(at("ü"), (2, 1));
        assert_eq!(at("x"), (2, 10));
    }

    #[test]
    fn suggestions() {
        let keys = ["name", "kind", "command", "environment", "start_timeout"];
        for (text, want) in [
            ("nmae", Some("name")),
            ("nam", Some("name")),
            ("comand", Some("command")),
            ("env", Some("environment")),
            ("Start-Timeout", Some("start_timeout")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(closest(text, keys), want, "{text}");
        }
    }
}
