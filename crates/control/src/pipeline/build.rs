//! The stages that run the author's commands, in the sandbox: *build* and *test*.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use selvedge_model::manifest::BuildLimits;
use selvedge_model::{App, Service, Stage};
use selvedge_runtime::{RuntimeError, TaskOutcome, TaskSpec};
use tokio::sync::mpsc;

use super::progress::Tail;
use super::receive::{Candidate, Work};
use super::run::{Refusal, Run, broken};

/// The words that a note of a stage quotes of a command, in characters.
const NOTE: usize = 60;

impl Run {
    /// Checks out every app that is to be built and runs its build commands.
    pub(super) async fn build(&mut self, candidates: &[Candidate]) -> Result<(), Refusal> {
        self.begin(Stage::Build).await?;
        let mut notes = Vec::new();
        for candidate in candidates.iter().filter(|it| it.work == Work::Build) {
            let checkout = self.check_out(candidate).await?;
            let app = &candidate.app;
            if let Some(command) = &app.build {
                notes.push(command.clone());
                self.command(candidate, None, "build", command, &checkout).await?;
            }
            for service in &app.services {
                if let Some(command) = &service.build {
                    notes.push(command.clone());
                    self.command(candidate, Some(service), "build", command, &checkout).await?;
                }
            }
        }
        let note = match (candidates.iter().any(|it| it.work == Work::Build), notes.is_empty()) {
            (false, _) => "unchanged, not rebuilt".to_owned(),
            (true, true) => "nothing to build".to_owned(),
            (true, false) => quoted(&notes),
        };
        self.end(Some(note));
        Ok(())
    }

    /// Runs the test commands in what was built.
    pub(super) async fn test(&mut self, candidates: &[Candidate]) -> Result<(), Refusal> {
        self.begin(Stage::Test).await?;
        let mut notes = Vec::new();
        let fresh: Vec<_> = candidates.iter().filter(|it| it.work == Work::Build).collect();
        for candidate in &fresh {
            if let Some(command) = &candidate.app.test {
                notes.push(command.clone());
                let checkout = self.checkout(candidate);
                self.command(candidate, None, "test", command, &checkout).await?;
            }
        }
        let note = match (fresh.is_empty(), notes.is_empty()) {
            (true, _) => "unchanged, not tested again".to_owned(),
            (false, true) => "no tests".to_owned(),
            (false, false) => quoted(&notes),
        };
        self.end(Some(note));
        Ok(())
    }

    /// Where the candidate's files are.
    pub(super) fn checkout(&self, candidate: &Candidate) -> PathBuf {
        self.work().join(candidate.app.name.as_str())
    }

    async fn check_out(&self, candidate: &Candidate) -> Result<PathBuf, Refusal> {
        let checkout = self.checkout(candidate);
        make_directory(&checkout).map_err(broken("make a directory for the checkout"))?;
        let done = self.repository.check_out(&candidate.tree, &checkout).await;
        done.map_err(broken("check out the commit"))?;
        Ok(checkout)
    }

    async fn command(
        &self,
        candidate: &Candidate,
        service: Option<&Service>,
        verb: &'static str,
        command: &str,
        checkout: &Path,
    ) -> Result<(), Refusal> {
        let app = &candidate.app;
        let limits = &self.shared.limits;
        let cache = self.shared.cache_of(&app.name);
        make_directory(&cache).map_err(broken("make the dependency cache"))?;
        let timeout = if verb == "test" { limits.test } else { limits.build };
        let subject = match service {
            Some(service) => format!("the {verb} of {}'s {}", app.name, service.name),
            None => format!("the {verb} of {}", app.name),
        };
        let spec = TaskSpec {
            name: format!("{verb} of {}", app.name),
            tenant: app.name.to_string(),
            app: checkout.to_owned(),
            cache,
            command: command.to_owned(),
            environment: environment(app, service, &candidate.release.0.short()),
            timeout,
            limits: task_limits(&app.build_limits),
            network: true,
        };
        let (sender, mut lines) = mpsc::channel::<String>(64);
        let stage = self.stage();
        let show = async {
            let mut tail = Tail::new();
            while let Some(line) = lines.recv().await {
                self.log.line(stage, &line);
                tail.push(&line);
            }
            tail.into_lines()
        };
        let (outcome, last_lines) = tokio::join!(self.shared.runtime.run_task(spec, sender), show);
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error @ RuntimeError::NoSandbox(_)) => {
                return Err(Refusal::new(format!("{subject} was not run: {error}")));
            }
            Err(RuntimeError::NoRoom(excess)) => {
                return Err(Refusal::new(format!(
                    "{subject} was not run: it {excess}\nmend: {}",
                    excess.mend("")
                )));
            }
            Err(error) => return Err(broken("run the command")(error)),
        };
        match failure(&outcome, timeout) {
            None => Ok(()),
            Some((what, mend)) => {
                let mend = mend.map(|mend| format!("\nmend: {mend}")).unwrap_or_default();
                // The words of a refusal are one line, whatever the file's are.
                let command = command.split_whitespace().collect::<Vec<_>>().join(" ");
                Err(Refusal { reason: format!("{subject} {what}: {command}{mend}"), last_lines })
            }
        }
    }
}

fn task_limits(limits: &BuildLimits) -> selvedge_runtime::Limits {
    selvedge_runtime::Limits {
        memory_mib: limits.memory_mib,
        cpu_millis: limits.cpu_millis,
        processes: limits.processes,
        disk_mib: limits.disk_mib,
    }
}

/// What a task's end means, in words, with the mend where there is one; `None` when all is well.
fn failure(outcome: &TaskOutcome, timeout: Duration) -> Option<(String, Option<String>)> {
    Some(match outcome {
        TaskOutcome::Succeeded => return None,
        TaskOutcome::Failed(code) => (format!("failed with exit code {code}"), None),
        TaskOutcome::Killed(signal) => (format!("was ended by {signal}"), None),
        TaskOutcome::Exceeded(excess) => {
            let raise = match excess.limit() {
                Some(limit) => format!("raise `{limit}` in [build_limits] of selvedge.toml"),
                None => String::new(),
            };
            (format!("was stopped because it {excess}"), Some(excess.mend(&raise)))
        }
        TaskOutcome::TimedOut => {
            (format!("took longer than {} s and was stopped", timeout.as_secs()), None)
        }
    })
}

/// The author's variables, the service's over the app's, and ours over both.
fn environment(app: &App, service: Option<&Service>, release: &str) -> BTreeMap<String, String> {
    let mut environment = app.environment.clone();
    if let Some(service) = service {
        environment.extend(service.environment.clone());
        environment.insert("SELVEDGE_SERVICE".to_owned(), service.name.to_string());
    }
    environment.insert("SELVEDGE_APP".to_owned(), app.name.to_string());
    environment.insert("SELVEDGE_RELEASE".to_owned(), release.to_owned());
    environment
}

/// Makes a directory of mode 0700 with its parents.
fn make_directory(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn quoted(commands: &[String]) -> String {
    let all = commands.join("; ").replace('\n', " ");
    match all.char_indices().nth(NOTE) {
        Some((end, _)) => format!("{}…", all.get(..end).unwrap_or_default()),
        None => all,
    }
}

#[cfg(test)]
mod tests {
    use selvedge_runtime::Excess;

    use super::*;

    #[test]
    fn outcomes_in_words() {
        let limit = Duration::from_secs(5);
        assert_eq!(failure(&TaskOutcome::Succeeded, limit), None);
        let words = |outcome| failure(&outcome, limit).unwrap();
        assert_eq!(words(TaskOutcome::Failed(3)), ("failed with exit code 3".into(), None));
        assert_eq!(words(TaskOutcome::TimedOut).0, "took longer than 5 s and was stopped");
        let (what, mend) = words(TaskOutcome::Exceeded(Excess::Processes(9)));
        assert_eq!(
            what,
            "was stopped because it started too many processes and threads: its limit is 9"
        );
        assert!(mend.unwrap().contains("raise `processes` in [build_limits] of selvedge.toml"));
        // A part of another limit.
        let (what, mend) = words(TaskOutcome::Exceeded(Excess::TaskTemporary(64)));
        assert!(what.contains("/tmp, which is in memory"), "{what}");
        assert!(mend.unwrap().contains("raise `memory` in [build_limits] of selvedge.toml"));
    }

    #[test]
    fn notes_are_short() {
        assert_eq!(quoted(&["a\nb".into(), "c".into()]), "a b; c");
        assert_eq!(quoted(&["ä".repeat(100)]).chars().count(), NOTE + 1);
    }
}
