//! Running git with nothing of the caller's environment.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// The most that a command may print, in bytes.
const MAX_OUTPUT: u64 = 64 << 20;
/// The most of a command's complaints that is kept, in bytes.
const MAX_COMPLAINT: u64 = 4 << 10;
/// How long a command may take.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Why git could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git.
    #[error("git can't be run; install git {}.{} or newer", super::OLDEST.0, super::OLDEST.1)]
    Missing(#[source] io::Error),
    /// Its version is too old.
    #[error(
        "git {}.{} is too old: receiving pushes needs {}.{} or newer",
        found.0, found.1, needed.0, needed.1
    )]
    TooOld {
        /// What is installed.
        found: (u32, u32),
        /// What is needed.
        needed: (u32, u32),
    },
    /// A command ended with an error.
    #[error("git {command} failed: {complaint}")]
    Failed {
        /// The subcommand.
        command: String,
        /// What it printed.
        complaint: String,
    },
    /// A command took too long or printed too much.
    #[error("git {command} was stopped: it {limit}")]
    Limit {
        /// The subcommand.
        command: String,
        /// What it did, in words.
        limit: &'static str,
    },
    /// A command printed something else than it should.
    #[error("git answered {text:?} where {what} was wanted")]
    Unexpected {
        /// What was wanted.
        what: String,
        /// What came, cut to 100 characters.
        text: String,
    },
    /// A ref is not what it was expected to be.
    #[error("{name} has moved meanwhile")]
    RefMoved {
        /// The ref.
        name: String,
    },
    /// A file or process can't be dealt with.
    #[error("{what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A git command under construction.
pub(super) struct Run {
    command: Command,
    name: String,
    input: Vec<u8>,
}

/// Sets the only environment that git gets from us. `home` holds the only configuration that it
/// reads besides a repository's own.
pub(super) fn scrub(command: &mut Command, home: &Path) {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    command
        .env_clear()
        .env("PATH", path)
        .env("LC_ALL", "C")
        .env("HOME", home)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_REPLACE_OBJECTS", "1");
}

impl Run {
    fn new(name: &str, home: &Path) -> Self {
        let mut command = Command::new("git");
        scrub(&mut command, home);
        command.kill_on_drop(true).current_dir("/");
        Self { command, name: name.to_owned(), input: Vec::new() }
    }

    /// `git --git-dir=REPOSITORY NAME`.
    pub(super) fn at(repository: &Path, home: &Path, name: &str) -> Self {
        let mut run = Self::new(name, home);
        let mut directory = OsString::from("--git-dir=");
        directory.push(repository);
        run.command.arg(directory).arg(name);
        run
    }

    pub(super) fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Where the command works; the root directory unless said otherwise.
    pub(super) fn directory(mut self, path: &Path) -> Self {
        self.command.current_dir(path);
        self
    }

    /// Lets the command finish when nobody waits for it any more: killed midway it would leave a
    /// lock behind.
    pub(super) fn unkillable(mut self) -> Self {
        self.command.kill_on_drop(false);
        self
    }

    pub(super) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Runs to the end; any exit code but 0 is an error.
    pub(super) async fn output(self) -> Result<Vec<u8>, GitError> {
        let name = self.name.clone();
        match self.code().await? {
            (0, output, _) => Ok(output),
            (_, _, complaint) => Err(GitError::Failed { command: name, complaint }),
        }
    }

    /// As [`Run::output`], for one line of text.
    pub(super) async fn line(self) -> Result<String, GitError> {
        let output = self.output().await?;
        Ok(String::from_utf8_lossy(&output).trim_end().to_owned())
    }

    /// Runs to the end and gives the exit code, the output and the complaints.
    pub(super) async fn code(mut self) -> Result<(i32, Vec<u8>, String), GitError> {
        let limit = |limit| GitError::Limit { command: self.name.clone(), limit };
        let broken = |source| GitError::File {
            what: "can't talk to the process",
            path: PathBuf::from(format!("git {}", self.name)),
            source,
        };
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(GitError::Missing)?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            let Some(mut stdin) = stdin else { return };
            // A command that does not read its input to the end says why by its exit code.
            let _ = stdin.write_all(&self.input).await;
        };
        let work = async {
            let ((), output, complaint) =
                tokio::join!(write, read(stdout, MAX_OUTPUT), read(stderr, MAX_COMPLAINT));
            let status = child.wait().await;
            (output, complaint, status)
        };
        let (output, complaint, status) =
            tokio::time::timeout(TIMEOUT, work).await.map_err(|_| limit("took too long"))?;
        let output = output.map_err(broken)?.ok_or_else(|| limit("printed too much"))?;
        let complaint = complaint.map_err(broken)?.unwrap_or_default();
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        Ok((status.map_err(broken)?.code().unwrap_or(-1), output, complaint))
    }
}

/// Reads to the end; `None` when there is more than `limit` bytes, which are then thrown away.
async fn read<R: AsyncRead + Unpin>(from: Option<R>, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(mut from) = from else { return Ok(Some(Vec::new())) };
    let mut bytes = Vec::new();
    (&mut from).take(limit + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > limit {
        tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
        return Ok(None);
    }
    Ok(Some(bytes))
}

/// Where git keeps its programs, and its version.
pub(super) async fn find_git(home: &Path) -> Result<(PathBuf, (u32, u32)), GitError> {
    let exec_path = Run::new("--exec-path", home).arg("--exec-path").line().await?;
    let exec_path = PathBuf::from(exec_path);
    let text = Run::new("--version", home).arg("--version").line().await?;
    let version = parse_version(&text).ok_or_else(|| GitError::Unexpected {
        what: "a version".to_owned(),
        text: text.chars().take(100).collect(),
    })?;
    let backend = exec_path.join("git-http-backend");
    match std::fs::metadata(&backend) {
        Ok(_) => Ok((exec_path, version)),
        Err(source) => {
            Err(GitError::File { what: "git's HTTP service is missing at", path: backend, source })
        }
    }
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("git version ")?.split(['.', ' ']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Makes a directory of mode 0700 with its parents.
pub(crate) fn private_directory(path: &Path) -> Result<(), GitError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| {
        GitError::File { what: "can't make the directory", path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_vendors_parse() {
        assert_eq!(parse_version("git version 2.39.5"), Some((2, 39)));
        assert_eq!(parse_version("git version 2.47.3.windows.1"), Some((2, 47)));
        assert_eq!(parse_version("git version 2.39.5 (Apple Git-154)"), Some((2, 39)));
        assert_eq!(parse_version("hg 6"), None);
    }
}
