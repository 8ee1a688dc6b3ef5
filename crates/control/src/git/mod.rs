//! Repositories: the smart HTTP endpoint, and what the pipeline asks of git.
//!
//! Everything is done by the git program, run with an environment of ours alone: no user's or
//! machine's configuration, no hooks but control's, no prompts. Control alone moves refs.

mod cgi;
mod command;
mod configuration;
mod repository;
mod service;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use selvedge_model::RepositoryName;

pub use command::GitError;
pub use repository::{Entry, EntryKind, Repository};
pub use service::{GitService, ServiceConfig};

/// Receive-pack has asked `proc-receive` since this version.
const OLDEST: (u32, u32) = (2, 29);

/// The branch that releases to production.
pub const MAIN: &str = "refs/heads/main";

/// Refs of control's own, which are never shown to clients.
pub const OWN_REFS: &str = "refs/selvedge";

/// A git object id in hexadecimal, SHA-1 or SHA-256. Never all zeros.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(String);

impl Oid {
    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 7 digits, for people.
    pub fn short(&self) -> &str {
        self.0.get(..7).unwrap_or(&self.0)
    }

    /// Parses an id where git writes zeros for "none".
    pub(crate) fn parse_or_zero(text: &str) -> Result<Option<Self>, GitError> {
        if matches!(text.len(), 40 | 64) && text.bytes().all(|b| b == b'0') {
            return Ok(None);
        }
        text.parse().map(Some)
    }
}

impl FromStr for Oid {
    type Err = GitError;
    fn from_str(text: &str) -> Result<Self, GitError> {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if matches!(text.len(), 40 | 64) && digits && !text.bytes().all(|b| b == b'0') {
            Ok(Self(text.to_owned()))
        } else {
            Err(GitError::Unexpected {
                what: "an object id".to_owned(),
                text: text.chars().take(100).collect(),
            })
        }
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The git program and the directory of the repositories. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Git {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `git --exec-path`.
    exec_path: PathBuf,
    /// `DATA/repositories`.
    root: PathBuf,
    /// `DATA/git`: what git takes for the home directory, with our configuration in it.
    home: PathBuf,
}

impl Git {
    /// Finds git, checks its version and writes its configuration. `data` is control's data
    /// directory; `executable` is what hooks run, with the verb `hook`.
    pub async fn open(data: &Path, executable: &Path) -> Result<Self, GitError> {
        let home = data.join("git");
        let (exec_path, version) = command::find_git(&home).await?;
        if version < OLDEST {
            return Err(GitError::TooOld { found: version, needed: OLDEST });
        }
        let root = data.join("repositories");
        command::private_directory(&root)?;
        configuration::write(&home, executable)?;
        Ok(Self { inner: Arc::new(Inner { exec_path, root, home }) })
    }

    /// The repository `name`, which need not exist.
    pub fn repository(&self, name: &RepositoryName) -> Repository {
        let path = self.inner.root.join(format!("{name}.git"));
        Repository::new(name.clone(), path, self.inner.home.clone())
    }

    /// Makes the repository `name` if there is none.
    pub async fn create(&self, name: &RepositoryName) -> Result<Repository, GitError> {
        let repository = self.repository(name);
        repository.create().await?;
        Ok(repository)
    }

    fn http_backend(&self) -> PathBuf {
        self.inner.exec_path.join("git-http-backend")
    }

    fn root(&self) -> &Path {
        &self.inner.root
    }

    fn home(&self) -> &Path {
        &self.inner.home
    }
}
