//! A copy of an example as a repository of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::planet::Planet;

pub(super) struct Checkout<'p> {
    app: String,
    directory: PathBuf,
    planet: &'p Planet,
}

impl<'p> Checkout<'p> {
    /// Copies what git knows of the example and commits it.
    pub(super) fn new(root: &Path, planet: &'p Planet, app: &str) -> anyhow::Result<Self> {
        let example = root.join("examples").join(app);
        let directory = planet.directory().join(app);
        let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(&example).output();
        let listed = listed.with_context(|| format!("there is no example {app}"))?.stdout;
        let listed = String::from_utf8(listed)?;
        for path in listed.split('\0').filter(|path| !path.is_empty()) {
            let target = directory.join(path);
            std::fs::create_dir_all(target.parent().context("a path has no parent")?)?;
            std::fs::copy(example.join(path), target)?;
        }
        let checkout = Self { app: app.to_owned(), directory, planet };
        checkout.git(&["init", "--quiet", "--initial-branch=main"])?;
        checkout.git(&["remote", "add", "origin", &planet.remote(app)])?;
        checkout.commit("Begin")?;
        Ok(checkout)
    }

    pub(super) fn app(&self) -> &str {
        &self.app
    }

    /// Changes a source file, so that the app must be built anew, and commits it.
    pub(super) fn change(&mut self, number: usize) -> anyhow::Result<()> {
        let sources = [
            ("src/index.html", "<!--", "-->"),
            ("src/server.js", "//", ""),
            ("api/src/server.js", "//", ""),
            ("app.py", "#", ""),
        ];
        let (file, open, close) = sources
            .into_iter()
            .find(|(file, ..)| self.directory.join(file).is_file())
            .with_context(|| format!("{} has no source file that is known here", self.app))?;
        let path = self.directory.join(file);
        let mut text = std::fs::read_to_string(&path)?;
        text.push_str(&format!("{open} change {number} {close}\n"));
        std::fs::write(&path, text)?;
        self.commit(&format!("Change {number}"))
    }

    /// Pushes main, as people do.
    pub(super) fn push(&self) -> anyhow::Result<()> {
        self.git(&["push", "--quiet", "origin", "main"])
    }

    fn commit(&self, message: &str) -> anyhow::Result<()> {
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--message", message])
    }

    fn git(&self, arguments: &[&str]) -> anyhow::Result<()> {
        // The token goes through the environment: arguments can be read by every user.
        let helper = "!f() { echo username=bench; echo \"password=$SELVEDGE_TOKEN\"; }; f";
        let output = Command::new("git")
            .args(arguments)
            .current_dir(&self.directory)
            .env("SELVEDGE_TOKEN", self.planet.token())
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_COUNT", "3")
            .env("GIT_CONFIG_KEY_0", "credential.helper")
            .env("GIT_CONFIG_VALUE_0", helper)
            .env("GIT_CONFIG_KEY_1", "user.name")
            .env("GIT_CONFIG_VALUE_1", "Bench")
            .env("GIT_CONFIG_KEY_2", "user.email")
            .env("GIT_CONFIG_VALUE_2", "bench@example.com")
            .output()
            .context("can't run git")?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "git {}: {told}", arguments.join(" "));
        Ok(())
    }
}
