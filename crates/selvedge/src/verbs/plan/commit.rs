//! The apps of a commit, read from git as the pipeline reads them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use selvedge_model::manifest::{self, App};
use selvedge_model::{Release, ReleaseId};

use crate::failure::{Code, Failure, OrFail as _, Outcome};

/// Something in git that has apps.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) app: App,
    pub(super) directory: String,
    /// The git tree of the directory.
    pub(super) tree: String,
    pub(super) release: ReleaseId,
}

/// The user's repository.
pub(super) struct Git {
    top: PathBuf,
    /// Where the objects of an uncommitted working tree are, apart from the repository's own.
    scratch: Option<tempfile::TempDir>,
}

impl Git {
    pub(super) fn new(top: PathBuf) -> Self {
        Self { top, scratch: None }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.top).args(arguments).stdin(Stdio::null());
        if let Some(scratch) = &self.scratch {
            let own = self.objects();
            command.env("GIT_OBJECT_DIRECTORY", scratch.path());
            command.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", own);
        }
        command
    }

    fn objects(&self) -> PathBuf {
        let path = crate::context::git(&self.top, &["rev-parse", "--git-path", "objects"]);
        self.top.join(path.unwrap_or_else(|| ".git/objects".to_owned()))
    }

    /// What git prints, if it succeeds.
    pub(super) fn output(&self, arguments: &[&str]) -> Option<Vec<u8>> {
        let output = self.command(arguments).stderr(Stdio::null()).output().ok()?;
        output.status.success().then_some(output.stdout)
    }

    pub(super) fn line(&self, arguments: &[&str]) -> Option<String> {
        let output = self.output(arguments)?;
        Some(String::from_utf8_lossy(&output).trim().to_owned())
    }

    /// The commit that `name` means.
    pub(super) fn commit(&self, name: &str) -> Option<String> {
        self.line(&["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")])
    }

    /// Whether the object is here.
    pub(super) fn has(&self, object: &str) -> bool {
        self.output(&["cat-file", "-e", object]).is_some()
    }

    /// The tree that a commit of everything in the working tree would have. It is written beside
    /// the repository and goes away with this value.
    pub(super) fn working_tree(&mut self) -> Outcome<String> {
        let failed = "there is no room for a copy of git's index";
        let hint = "make room below TMPDIR, or name another directory with it";
        let scratch = tempfile::tempdir().or_fail(Code::Failed, failed, hint)?;
        let index = scratch.path().join("index");
        let real = self.line(&["rev-parse", "--git-path", "index"]);
        if let Some(real) = real.map(|path| self.top.join(path)).filter(|path| path.exists()) {
            // It spares git from reading every file again.
            std::fs::copy(real, &index).or_fail(Code::Failed, failed, hint)?;
        }
        self.scratch = Some(scratch);
        let run = |arguments: &[&str]| -> Option<String> {
            let mut command = self.command(arguments);
            let output = command.env("GIT_INDEX_FILE", &index).stderr(Stdio::null()).output();
            let output = output.ok().filter(|output| output.status.success())?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        run(&["add", "--all", "--", "."]).and_then(|_| run(&["write-tree"])).ok_or_else(|| {
            Failure::new(
                Code::Failed,
                "git can't take in the working tree",
                "see what `git add --all` says",
            )
        })
    }

    /// The apps of a commit or tree; or all that is wrong with them, in words.
    pub(super) fn apps(&self, treeish: &str) -> Result<Vec<Found>, Vec<String>> {
        let listing = self.output(&["ls-tree", "-r", "-z", "--full-tree", treeish]);
        let listing = listing.ok_or_else(|| vec![format!("git can't read {treeish}")])?;
        let listing = String::from_utf8_lossy(&listing);
        let files = listing.split('\0').filter_map(|line| {
            let (facts, path) = line.split_once('\t')?;
            facts.starts_with("100").then_some(path)
        });
        let words = |problems: Vec<manifest::Diagnostic>| -> Vec<String> {
            problems.iter().map(ToString::to_string).collect()
        };
        let directories = manifest::discover(files).map_err(words)?;
        let mut found = Vec::new();
        let mut problems = Vec::new();
        for directory in directories {
            match self.app(treeish, directory) {
                Ok(app) => found.push(app),
                Err(wrong) => problems.extend(wrong),
            }
        }
        if problems.is_empty() { Ok(found) } else { Err(problems) }
    }

    fn app(&self, treeish: &str, directory: String) -> Result<Found, Vec<String>> {
        let path = manifest::path_in(&directory);
        let text = self.output(&["cat-file", "blob", &format!("{treeish}:{path}")]);
        let text = text.ok_or_else(|| vec![format!("git can't read {path}")])?;
        if text.len() > manifest::MAX_FILE_BYTES {
            let most = manifest::MAX_FILE_BYTES;
            return Err(vec![format!("{path} has {} bytes, and {most} is the most", text.len())]);
        }
        let text =
            String::from_utf8(text).map_err(|_| vec![format!("{path} is not UTF-8 text")])?;
        let app = manifest::parse(&path, &text).map_err(|problems| -> Vec<String> {
            problems.iter().map(ToString::to_string).collect()
        })?;
        let tree =
            self.line(&["rev-parse", "--verify", "--quiet", &format!("{treeish}:{directory}")]);
        let tree = tree.ok_or_else(|| vec![format!("git can't read {directory}")])?;
        let release = Release::identify(&app, &tree).map_err(|error| vec![error.to_string()])?;
        Ok(Found { app, directory, tree, release })
    }

    /// The files that differ between two trees, relative to them.
    pub(super) fn changed_files(&self, before: &str, after: &str) -> Option<Vec<String>> {
        let arguments = ["diff-tree", "-r", "-z", "--name-only", "--no-renames", before, after];
        let output = self.output(&arguments)?;
        let text = String::from_utf8_lossy(&output);
        Some(text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
    }
}

/// The top of the repository that `path` is in.
pub(super) fn top(path: &Path) -> Outcome<PathBuf> {
    crate::context::repository_top(path)
}
