//! The stages that read the pushed commit: *receive* and *validate*.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::documents::{AppRecord, PushApp, PushCause};
use selvedge_model::manifest::{self, Diagnostic};
use selvedge_model::{
    Activation, App, AppName, EnvironmentName, Epoch, Installation, Release, ReleaseId,
    ServiceKind, Stage, hosts, keys,
};

use super::run::{Refusal, Run, broken};
use super::{claims, publish};
use crate::git::{Entry, EntryKind, Oid};

/// Files in a commit at most.
const MAX_FILES: usize = 100_000;
/// Bytes in a commit's files at most.
const MAX_BYTES: u64 = 1 << 30;

/// An app of the pushed commit.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) app: App,
    /// Its directory in the repository.
    pub(super) directory: String,
    /// The git tree of the directory.
    pub(super) tree: Oid,
    pub(super) release: ReleaseId,
    pub(super) work: Work,
}

/// What is left to do for an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// This very release is live.
    Nothing,
    /// It was built and tested before and is still stored.
    Activate,
    /// All of it.
    Build,
}

impl Run {
    /// Checks that the push still stands on what is live, and that it is of bearable size.
    pub(super) async fn receive(&mut self) -> Result<Vec<Entry>, Refusal> {
        self.begin(Stage::Receive).await?;
        // The stage has run since the push came in, waiting included.
        let received_ms = self.push.received_ms;
        if let Some(record) = self.push.stages.last_mut() {
            record.started_ms = received_ms;
        }
        let (old, new) = (self.old_commit()?, self.new_commit()?);
        let main = self.repository.main().await.map_err(broken("read main"))?;
        if main != old {
            let place =
                main.map_or_else(|| "away".to_owned(), |main| format!("to {}", main.short()));
            let remedy = match self.push.cause {
                PushCause::Push => "run git pull --rebase and push again",
                _ => "see what is live now and try again",
            };
            return Err(Refusal::new(format!(
                "main has moved {place} while this push waited; {remedy}"
            )));
        }
        if let Some(old) = &old
            && !self.repository.is_ancestor(old, &new).await.map_err(broken("compare commits"))?
        {
            self.say(format_args!("main at {} is replaced, not continued", old.short()));
        }
        let entries = self.repository.entries(&new).await.map_err(broken("read the commit"))?;
        let bytes: u64 = entries.iter().map(|entry| entry.size).sum();
        if entries.len() > MAX_FILES || bytes > MAX_BYTES {
            return Err(Refusal::new(format!(
                "the commit has {} files with {} MiB, and {MAX_FILES} files with {} MiB is the most; take out what is built or data",
                entries.len(),
                bytes >> 20,
                MAX_BYTES >> 20
            )));
        }
        self.end(None);
        Ok(entries)
    }

    /// Reads every `selvedge.toml`, claims names and hosts, and finds out what there is to do.
    pub(super) async fn validate(&mut self, entries: &[Entry]) -> Result<Vec<Candidate>, Refusal> {
        self.begin(Stage::Validate).await?;
        let mut candidates = self.read_all(entries).await?;
        let wanted = claims::wanted(&candidates, &self.shared.installation)?;
        for candidate in &candidates {
            // Recorded before anything is claimed, so that a restart knows what to give back.
            self.push.apps.push(PushApp {
                app: candidate.app.name.clone(),
                release: candidate.release,
                directory: Some(candidate.directory.clone()),
                epoch: None,
                sites: BTreeSet::new(),
                warm: BTreeSet::new(),
            });
        }
        self.save().await?;
        for candidate in &mut candidates {
            claims::take(&self.shared, &self.push.repository, candidate, &wanted).await?;
            candidate.work = self.work_for(candidate).await?;
        }
        self.choose(&candidates).await?;
        let mut notes: Vec<String> = candidates
            .iter()
            .map(|it| match it.work {
                Work::Nothing => format!("{} unchanged", it.app.name),
                Work::Activate | Work::Build => {
                    format!("{} {}", it.app.name, it.release.0.short())
                }
            })
            .collect();
        notes.extend(self.leaving().await?.iter().map(|app| format!("{app} leaves")));
        self.end(Some(notes.join(", ")));
        Ok(candidates)
    }

    /// The live apps of the repository that the pushed commit does not have.
    pub(super) async fn leaving(&self) -> Result<Vec<AppName>, Refusal> {
        let mut leaving = Vec::new();
        for record in self.shared.records_of(&self.push.repository).await? {
            let stays = self.push.apps.iter().any(|it| it.app == record.app);
            let has_been = !record.history.is_empty();
            if !stays && (has_been || live(&self.shared, &record.app).await?.is_some()) {
                leaving.push(record.app);
            }
        }
        Ok(leaving)
    }

    /// Every app of the commit, or all that is wrong with any of them.
    async fn read_all(&self, entries: &[Entry]) -> Result<Vec<Candidate>, Refusal> {
        let paths = entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::File)
            .map(|entry| entry.path.as_str());
        let directories = match manifest::discover(paths.clone()) {
            Ok(directories) => directories,
            // The last app may go, if it is what was asked for.
            Err(_) if self.removes_app() && !paths.clone().any(is_manifest) => Vec::new(),
            Err(problems) => return Err(refuse(&problems)),
        };
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut problems = Vec::new();
        for directory in directories {
            match self.read(entries, directory).await? {
                Ok(candidate) => candidates.push(candidate),
                Err(wrong) => problems.extend(wrong),
            }
        }
        if !problems.is_empty() {
            return Err(refuse(&problems));
        }
        let mut by_name: BTreeMap<&AppName, &Candidate> = BTreeMap::new();
        for candidate in &candidates {
            if let Some(other) = by_name.insert(&candidate.app.name, candidate) {
                return Err(Refusal::new(format!(
                    "two apps of the repository are called {}, in {} and in {}; give one another name",
                    candidate.app.name,
                    manifest::path_in(&other.directory),
                    manifest::path_in(&candidate.directory)
                )));
            }
        }
        Ok(candidates)
    }

    fn removes_app(&self) -> bool {
        matches!(self.push.cause, PushCause::Removal { .. })
    }

    async fn read(
        &self,
        entries: &[Entry],
        directory: String,
    ) -> Result<Result<Candidate, Vec<Diagnostic>>, Refusal> {
        let path = manifest::path_in(&directory);
        let entry = entries.iter().find(|entry| entry.path == path);
        let entry = entry.ok_or_else(|| Refusal::new(format!("{path} has gone")))?;
        if entry.size > manifest::MAX_FILE_BYTES as u64 {
            return Err(Refusal::new(format!(
                "{path} has {} bytes, and {} is the most",
                entry.size,
                manifest::MAX_FILE_BYTES
            )));
        }
        let text = self.repository.blob(&entry.oid).await.map_err(broken("read selvedge.toml"))?;
        let text = String::from_utf8(text)
            .map_err(|_| Refusal::new(format!("{path} is not UTF-8 text")))?;
        let app = match manifest::parse(&path, &text) {
            Ok(app) => app,
            Err(problems) => return Ok(Err(problems)),
        };
        fits(&app, &self.shared.installation).map_err(Refusal::new)?;
        let commit = self.new_commit()?;
        let tree = self.repository.tree(&commit, &directory).await;
        let tree = tree.map_err(broken("read the app's directory"))?;
        let release = Release::identify(&app, tree.as_str()).map_err(broken("name the release"))?;
        Ok(Ok(Candidate { app, directory, tree, release, work: Work::Build }))
    }

    async fn work_for(&self, candidate: &Candidate) -> Result<Work, Refusal> {
        let live = live(&self.shared, &candidate.app.name).await?;
        if live.is_some_and(|(_, release)| release == candidate.release) {
            return Ok(Work::Nothing);
        }
        let stored = publish::stored(&self.shared, &candidate.app.name, &candidate.release).await?;
        Ok(if stored.is_some() { Work::Activate } else { Work::Build })
    }
}

fn is_manifest(path: &str) -> bool {
    path.rsplit('/').next() == Some(manifest::FILE_NAME)
}

/// What only the installation can tell of a file: where upstreams may be, and where an app's default
/// hosts are.
pub(crate) fn fits(app: &App, installation: &Installation) -> Result<(), String> {
    for service in &app.services {
        let ServiceKind::Upstream { addresses, .. } = &service.kind else { continue };
        let local = addresses.iter().find_map(|it| Some((it, it.is_local()?)));
        if let Some((address, why)) = local.filter(|_| !installation.allows_local_upstreams()) {
            return Err(format!(
                "service {}: {address} can't be an upstream here: {why}, and would be each site's own. Name another machine, or have the operator start control with --allow-local-upstreams",
                service.name
            ));
        }
    }
    if let Some((_, passed)) =
        manifest::find_loop(app, &hosts::default_hosts(&app.name, installation))
    {
        let (what, mend) = manifest::loop_words(&passed);
        return Err(format!("{what}; {mend}"));
    }
    Ok(())
}

/// What users see of an app.
pub(super) async fn live(
    shared: &super::Shared,
    app: &AppName,
) -> Result<Option<(Epoch, ReleaseId)>, Refusal> {
    let key = keys::activation(app, &EnvironmentName::production());
    let activation: Option<Activation> =
        shared.store.get(&key).await.map_err(broken("read what is live"))?;
    Ok(activation.and_then(|activation| {
        let newest = activation.newest_entry()?;
        Some((newest.epoch, *newest.releases.get(app)?))
    }))
}

/// An app's record.
pub(super) async fn record(
    shared: &super::Shared,
    app: &AppName,
) -> Result<Option<AppRecord>, Refusal> {
    shared.store.get(&keys::app(app)).await.map_err(broken("read the app's record"))
}

fn refuse(problems: &[Diagnostic]) -> Refusal {
    match problems {
        [one] => {
            let mut lines = one.to_string();
            if let Some(end) = lines.find('\n') {
                let rest = lines.split_off(end);
                let last_lines = rest.lines().skip(1).map(|line| line.trim_start().to_owned());
                return Refusal { reason: lines, last_lines: last_lines.collect() };
            }
            Refusal::new(lines)
        }
        several => Refusal {
            reason: format!("selvedge.toml has {} mistakes", several.len()),
            last_lines: several
                .iter()
                .flat_map(|problem| {
                    problem.to_string().lines().map(str::to_owned).collect::<Vec<_>>()
                })
                .collect(),
        },
    }
}
