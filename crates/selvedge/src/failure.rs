//! How a verb fails: what happened, what to do, and the exit code that says which kind it was.

use std::fmt;

use serde::Serialize;

/// Exit codes. `docs/guide/exit-codes.md` explains each, and a test holds the two together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Something failed that has no code of its own.
    Failed = 1,
    /// A word of the command line, the directory or a file is wrong.
    Usage = 2,
    /// The pipeline refused the push; what was live is live.
    Refused = 3,
    /// Control can't be reached or does not accept the token.
    Control = 4,
    /// A port is taken, or another box runs on the same data.
    Taken = 5,
    /// The user pressed Ctrl-C: 128 and the signal's number, as shells count.
    Interrupted = 130,
}

impl Code {
    /// Every code.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 6] =
        [Self::Failed, Self::Usage, Self::Refused, Self::Control, Self::Taken, Self::Interrupted];

    /// The word for it in JSON.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Refused => "refused",
            Self::Control => "control",
            Self::Taken => "taken",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A failed verb. No other error turns into one by itself: whoever passes an error on to people says
/// with [`OrFail`] what it means and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What happened, with its causes.
    pub(crate) error: anyhow::Error,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// The exit code.
    pub(crate) code: Code,
}

/// What every verb returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with a hint.
    pub(crate) fn new(code: Code, what: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self { error: anyhow::anyhow!("{what}"), hint: Some(hint.into()), code }
    }

    /// What happened, for people: the error and its causes in one sentence, without the numbers
    /// that the system adds.
    pub(crate) fn what(&self) -> String {
        sentence(self.error.chain().map(ToString::to_string))
    }

    /// The failure as programs see it.
    pub(crate) fn report(&self) -> Report<'_> {
        Report {
            error: self.what(),
            hint: self.hint.as_deref(),
            code: self.code as u8,
            kind: self.code.kind(),
        }
    }
}

/// A failure in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'f> {
    error: String,
    hint: Option<&'f str>,
    code: u8,
    kind: &'static str,
}

/// Errors of the machine and of libraries in the words of people: joined by colons, each cause
/// once.
fn sentence(causes: impl Iterator<Item = String>) -> String {
    let mut sentence = String::new();
    for cause in causes {
        let cause = in_words(&without_numbers(&cause));
        if sentence.is_empty() {
            sentence = cause;
        } else if !sentence.contains(&cause) {
            sentence.push_str(": ");
            sentence.push_str(&lower_first(&cause));
        }
    }
    sentence
}

/// Takes out ` (os error 2)`, which says nothing to people that the words before it don't.
fn without_numbers(text: &str) -> String {
    let mut rest = text;
    let mut plain = String::new();
    while let Some((before, after)) = rest.split_once(" (os error ") {
        plain.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    plain
}

/// What libraries say where there are plainer words.
fn in_words(text: &str) -> String {
    const UNTRUSTED: &str = "its certificate is of an authority that is not trusted here";
    const PLAINER: [(&str, &str); 10] = [
        (
            "failed to lookup address information: Name or service not known",
            "no machine has this name",
        ),
        ("EOF while parsing a value", "it ends where a value should be"),
        ("expected value", "there is no JSON value"),
        ("stream did not contain valid UTF-8", "it is not text in UTF-8"),
        ("invalid peer certificate: UnknownIssuer", UNTRUSTED),
        ("invalid peer certificate: BadSignature", UNTRUSTED),
        ("invalid peer certificate", "its certificate can't be accepted"),
        ("invalid HTTP version parsed", "what answers does not speak HTTP"),
        ("connection closed before message completed", "it hung up without an answer"),
        (
            "error reading a body from connection: end of file before message length reached",
            "it hung up in the middle of the answer",
        ),
    ];
    PLAINER.iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours))
}

/// `Permission denied` as it is written in the middle of a sentence; `HOME` and `I` stay.
fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            format!("{}{second}{}", first.to_lowercase(), chars.as_str())
        }
        _ => text.to_owned(),
    }
}

/// Adds a hint and a code to any error.
pub(crate) trait OrFail<T> {
    /// Turns an error into a failure.
    fn or_fail(self, code: Code, what: impl fmt::Display, hint: impl Into<String>) -> Outcome<T>;
}

impl<T, E: Into<anyhow::Error>> OrFail<T> for Result<T, E> {
    fn or_fail(self, code: Code, what: impl fmt::Display, hint: impl Into<String>) -> Outcome<T> {
        self.map_err(|error| Failure {
            error: error.into().context(what.to_string()),
            hint: Some(hint.into()),
            code,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_lists_every_exit_code() {
        let page = include_str!("../../../docs/guide/exit-codes.md");
        let listed: Vec<(u8, &str)> = page
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
                let code = cells.next()?.parse().ok()?;
                Some((code, cells.next()?.trim_matches('`')))
            })
            .collect();
        let mut wanted = vec![(0, "")];
        wanted.extend(Code::ALL.map(|code| (code as u8, code.kind())));
        assert_eq!(listed, wanted);
    }

    #[test]
    fn the_systems_words_become_a_sentence() {
        let missing = std::io::Error::from_raw_os_error(nix::libc::ENOENT);
        let failure = Err::<(), _>(missing).or_fail(Code::Usage, "can't read a", "b").unwrap_err();
        assert_eq!(failure.what(), "can't read a: no such file or directory");
        let twice = ["can't x: HOME is not set", "HOME is not set"].map(str::to_owned);
        assert_eq!(sentence(twice.into_iter()), "can't x: HOME is not set");
    }
}
