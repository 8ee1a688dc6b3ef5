//! A git repository that a test pushes.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use tokio::process::Command;

use super::Planet;

/// A repository in a directory of its own.
pub(crate) struct Repository {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    _directory: tempfile::TempDir,
}

/// What a push ended with.
#[derive(Debug)]
pub(crate) struct Pushed {
    pub(crate) ok: bool,
    /// git's and control's words.
    pub(crate) words: String,
}

impl Repository {
    /// An empty repository.
    pub(crate) async fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let repository = Self { name: name.into(), path, _directory: directory };
        repository.git(&["init", "--quiet", "--initial-branch=main"]).await;
        repository
    }

    /// A copy of one of the project's examples, committed.
    pub(crate) async fn from_example(name: &str) -> Self {
        let repository = Self::new(name).await;
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
        copy(&example, &repository.path);
        repository.commit("Start from the example").await;
        repository
    }

    /// A copy of a project that knows nothing of Selvedge, not committed yet.
    pub(crate) async fn from_project(name: &str) -> Self {
        let repository = Self::new(name).await;
        let projects = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/projects");
        copy(&projects.join(name), &repository.path);
        repository
    }

    /// A repository with these files, committed.
    pub(crate) async fn with_files(name: &str, files: &[(&str, &str)]) -> Self {
        let repository = Self::new(name).await;
        for (path, text) in files {
            repository.write(path, text);
        }
        repository.commit("Start").await;
        repository
    }

    /// Writes a file.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Commits everything and returns the commit.
    pub(crate) async fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]).await;
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message]).await;
        self.git(&["rev-parse", "HEAD"]).await
    }

    /// Runs git here, which must succeed.
    pub(crate) async fn git(&self, arguments: &[&str]) -> String {
        let output = self.git_command(arguments).output().await.unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {arguments:?}: {words}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn git_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.path).args(arguments).stdin(Stdio::null()).envs([
            ("GIT_AUTHOR_NAME", "Test"),
            ("GIT_AUTHOR_EMAIL", "test@edge.test"),
            ("GIT_COMMITTER_NAME", "Test"),
            ("GIT_COMMITTER_EMAIL", "test@edge.test"),
            ("GIT_TERMINAL_PROMPT", "0"),
        ]);
        command
    }

    /// The command that pushes `refspec` to the box with plain git.
    pub(crate) fn push_command(&self, planet: &Planet, refspec: &str) -> Command {
        let url = format!("{}/{}.git", planet.info.git, self.name);
        self.authorized(&["push", &url, refspec], &planet.info.token.0)
    }

    /// Fetches main of `url` into `FETCH_HEAD` and returns its commit.
    pub(crate) async fn fetch(&self, planet: &Planet, url: &str) -> String {
        let output = self
            .authorized(&["fetch", "--quiet", url, "main"], &planet.info.token.0)
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.git(&["rev-parse", "FETCH_HEAD"]).await
    }

    /// git with `token` for whatever it reaches.
    pub(crate) fn authorized(&self, arguments: &[&str], token: &str) -> Command {
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("any:{token}"));
        let mut command = self.git_command(arguments);
        command.envs([
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "http.extraHeader"),
            ("GIT_CONFIG_VALUE_0", &format!("Authorization: Basic {basic}")),
        ]);
        command
    }

    /// Pushes HEAD to main.
    pub(crate) async fn push(&self, planet: &Planet) -> Pushed {
        self.push_to(planet, "HEAD:refs/heads/main").await
    }

    /// Pushes a refspec.
    pub(crate) async fn push_to(&self, planet: &Planet, refspec: &str) -> Pushed {
        let output = self.push_command(planet, refspec).output().await.unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        Pushed { ok: output.status.success(), words }
    }

    /// Pushes HEAD to main, which must succeed.
    pub(crate) async fn push_live(&self, planet: &Planet) {
        let pushed = self.push(planet).await;
        assert!(pushed.ok, "{} was refused:\n{}", self.name, pushed.words);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from)
        .unwrap_or_else(|error| panic!("{}: {error}", from.display()))
        .flatten()
    {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && entry.file_name() != "node_modules" {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
