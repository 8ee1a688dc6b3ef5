//! Whether this machine can run Selvedge, and how an installation on it is.
//!
//! [`gather`] looks at the machine and the installation; [`machine`] and [`installation`] judge what
//! it found. They are pure, so that every finding has a test with a machine that is broken so.

mod clock;
pub(crate) mod gather;
pub(crate) mod installation;
pub(crate) mod machine;

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Good to know; nothing is wrong.
    Note,
    /// Works, with something lost.
    Warn,
    /// Does not work.
    Fail,
}

/// What was found of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The thing, in a word or two.
    pub(crate) check: &'static str,
    /// How bad it is.
    pub(crate) level: Level,
    /// What was found.
    pub(crate) what: String,
    /// What to do about it; there whenever something is wrong.
    pub(crate) mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, what: what.into(), mend: None }
    }

    fn note(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, level: Level::Note, what: what.into(), mend: None }
    }

    fn warn(check: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, level: Level::Warn, what: what.into(), mend: Some(mend.into()) }
    }

    fn fail(check: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, level: Level::Fail, what: what.into(), mend: Some(mend.into()) }
    }
}

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// The worst of all levels.
    pub(crate) worst: Level,
    /// Of the machine.
    pub(crate) machine: Vec<Finding>,
    /// Of the installation.
    pub(crate) installation: Vec<Finding>,
}

impl Report {
    /// Judges what was found.
    pub(crate) fn of(machine: &machine::Facts, installation: &installation::Facts) -> Self {
        let machine = machine::check(machine);
        let installation = installation::check(installation);
        let worst = machine.iter().chain(&installation).map(|it| it.level).max();
        Self { worst: worst.unwrap_or(Level::Ok), machine, installation }
    }

    /// How many findings are of a level.
    pub(crate) fn count(&self, level: Level) -> usize {
        self.machine.iter().chain(&self.installation).filter(|it| it.level == level).count()
    }
}
