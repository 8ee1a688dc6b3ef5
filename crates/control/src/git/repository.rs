//! One bare repository: what is in it, checking out, committing, moving refs.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use selvedge_model::RepositoryName;

use super::command::{GitError, Run};
use super::{MAIN, OWN_REFS, Oid, configuration};

/// A lock on a ref that is older than this has no holder: git holds one for milliseconds.
const STALE: Duration = Duration::from_secs(10);

/// A bare repository on disk. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    name: RepositoryName,
    path: PathBuf,
    home: PathBuf,
}

/// What a tree holds at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// From the top, `/`-separated.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// The object.
    pub oid: Oid,
    /// Size in bytes of a file or link.
    pub size: u64,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File,
    /// A symbolic link.
    Link,
    /// Another repository's commit (a submodule).
    Commit,
}

impl Repository {
    pub(super) fn new(name: RepositoryName, path: PathBuf, home: PathBuf) -> Self {
        Self { name, path, home }
    }

    /// Its name.
    pub fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// Whether it has been made.
    pub fn exists(&self) -> bool {
        self.path.join("HEAD").exists()
    }

    /// Makes it in a scratch directory and moves it into place, whole.
    pub(super) async fn create(&self) -> Result<(), GitError> {
        if self.exists() {
            return Ok(());
        }
        let failed = |source| GitError::File {
            what: "can't make the repository",
            path: self.path.clone(),
            source,
        };
        let scratch = self.scratch()?;
        let fresh = scratch.path().join("git");
        Run::at(&fresh, &self.home, "init")
            .arg("--quiet")
            .arg("--bare")
            .arg("--object-format=sha1")
            .arg("--template=")
            .arg("--initial-branch=main")
            .output()
            .await?;
        match std::fs::rename(&fresh, &self.path) {
            // Another push has made it meanwhile.
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty) => Ok(()),
            other => other.map_err(failed),
        }
    }

    fn git(&self, command: &str) -> Run {
        Run::at(&self.path, &self.home, command)
    }

    /// The commit that the branch main is at.
    pub async fn main(&self) -> Result<Option<Oid>, GitError> {
        self.read_ref(MAIN).await
    }

    /// The object that a ref names.
    pub async fn read_ref(&self, name: &str) -> Result<Option<Oid>, GitError> {
        let run = self.git("rev-parse").arg("--verify").arg("--quiet").arg(name);
        match run.code().await? {
            (0, output, _) => String::from_utf8_lossy(&output).trim().parse().map(Some),
            (1, _, _) => Ok(None),
            (_, _, complaint) => Err(GitError::Failed { command: "rev-parse".into(), complaint }),
        }
    }

    /// The refs under `prefix` with what they name.
    pub async fn refs(&self, prefix: &str) -> Result<Vec<(String, Oid)>, GitError> {
        let format = "--format=%(refname) %(objectname)";
        let output = self.git("for-each-ref").arg(format).arg(prefix).output().await?;
        let text = String::from_utf8_lossy(&output);
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, oid)| Ok((name.to_owned(), oid.parse()?)))
            .collect()
    }

    /// Moves a ref from `old` to `new`, where `None` is "absent". Moving it to where it is already
    /// succeeds whatever `old` is, so that a repeated move is harmless.
    pub async fn move_ref(
        &self,
        name: &str,
        old: Option<&Oid>,
        new: Option<&Oid>,
    ) -> Result<(), GitError> {
        let zero = "0".repeat(40);
        let old = old.map_or(zero.as_str(), Oid::as_str);
        let moved = match new {
            Some(new) => self.update_ref(name, &[name, new.as_str(), old]).await,
            None => self.update_ref(name, &["-d", name, old]).await,
        };
        let Err(error) = moved else { return Ok(()) };
        if self.read_ref(name).await?.as_ref() == new {
            return Ok(());
        }
        match error {
            GitError::Failed { complaint, .. }
                if complaint.contains("but expected")
                    || complaint.contains("reference already exists") =>
            {
                Err(GitError::RefMoved { name: name.to_owned() })
            }
            other => Err(other),
        }
    }

    /// Points one of control's own refs at `oid`, which keeps the objects.
    pub async fn keep(&self, name: &str, oid: &Oid) -> Result<(), GitError> {
        let name = format!("{OWN_REFS}/{name}");
        self.update_ref(&name, &[&name, oid.as_str()]).await
    }

    /// Deletes one of control's own refs; absent is fine.
    pub async fn forget(&self, name: &str) -> Result<(), GitError> {
        let name = format!("{OWN_REFS}/{name}");
        self.update_ref(&name, &["-d", &name]).await
    }

    /// Runs `git update-ref`, and again when a lock was in the way that nobody holds any more.
    async fn update_ref(&self, name: &str, arguments: &[&str]) -> Result<(), GitError> {
        let attempt = || {
            let run = self.git("update-ref").unkillable();
            arguments.iter().fold(run, Run::arg).output()
        };
        match attempt().await {
            Err(GitError::Failed { complaint, .. })
                if complaint.contains(".lock") && self.unlock(name) =>
            {
                attempt().await.map(drop)
            }
            other => other.map(drop),
        }
    }

    /// Removes locks that a git has left which was killed; says whether there were any.
    fn unlock(&self, name: &str) -> bool {
        [format!("{name}.lock"), "packed-refs.lock".to_owned()].iter().any(|lock| {
            let lock = self.path.join(lock);
            let age = std::fs::metadata(&lock)
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|modified| modified.elapsed().ok());
            age.is_some_and(|age| age >= STALE) && std::fs::remove_file(&lock).is_ok()
        })
    }

    /// Whether `oid` is a commit that is here.
    pub async fn has_commit(&self, oid: &Oid) -> Result<bool, GitError> {
        let (code, output, _) = self.git("cat-file").arg("-t").arg(oid.as_str()).code().await?;
        Ok(code == 0 && output.trim_ascii() == b"commit")
    }

    /// Whether `old` is an ancestor of `new`.
    pub async fn is_ancestor(&self, old: &Oid, new: &Oid) -> Result<bool, GitError> {
        let run = self.git("merge-base").arg("--is-ancestor").arg(old.as_str()).arg(new.as_str());
        match run.code().await? {
            (0, _, _) => Ok(true),
            (1, _, _) => Ok(false),
            (_, _, complaint) => Err(GitError::Failed { command: "merge-base".into(), complaint }),
        }
    }

    /// The first line of a commit's message, cut to 200 characters.
    pub async fn subject(&self, commit: &Oid) -> Result<String, GitError> {
        let run = self.git("log").arg("-1").arg("--format=%s").arg(commit.as_str());
        Ok(run.line().await?.chars().filter(|c| !c.is_control()).take(200).collect())
    }

    /// The tree of a directory of a commit; the empty directory is the top.
    pub async fn tree(&self, commit: &Oid, directory: &str) -> Result<Oid, GitError> {
        let name = format!("{commit}:{directory}");
        self.git("rev-parse").arg("--verify").arg("--quiet").arg(name).line().await?.parse()
    }

    /// All files, links and submodules of a commit.
    pub async fn entries(&self, commit: &Oid) -> Result<Vec<Entry>, GitError> {
        let run = self.git("ls-tree").arg("-r").arg("-l").arg("-z").arg("--full-tree");
        let output = run.arg(commit.as_str()).output().await?;
        output
            .split(|b| *b == 0)
            .filter(|line| !line.is_empty())
            .map(|line| {
                let text = String::from_utf8_lossy(line);
                parse_entry(&text).ok_or_else(|| GitError::Unexpected {
                    what: "a tree entry".to_owned(),
                    text: text.chars().take(100).collect(),
                })
            })
            .collect()
    }

    /// A file's content. The caller has checked its size.
    pub async fn blob(&self, oid: &Oid) -> Result<Vec<u8>, GitError> {
        self.git("cat-file").arg("blob").arg(oid.as_str()).output().await
    }

    /// Writes the files of `tree` into the empty directory `target`. Links stay links, submodules
    /// become empty directories, and git refuses paths that lead outside.
    pub async fn check_out(&self, tree: &Oid, target: &Path) -> Result<(), GitError> {
        let scratch = self.scratch()?;
        let index = scratch.path().join("index");
        let read = self.git("read-tree").env("GIT_INDEX_FILE", &index);
        read.arg(tree.as_str()).output().await?;
        self.git("checkout-index")
            .env("GIT_INDEX_FILE", &index)
            .env("GIT_WORK_TREE", target)
            .directory(target)
            .arg("--all")
            .arg("--quiet")
            .output()
            .await
            .map(drop)
    }

    /// The tree of `commit` with its directory `directory` replaced by `tree`.
    pub async fn graft(&self, commit: &Oid, directory: &str, tree: &Oid) -> Result<Oid, GitError> {
        if directory.is_empty() {
            return Ok(tree.clone());
        }
        let scratch = self.scratch()?;
        let index = scratch.path().join("index");
        let git = |command| self.git(command).env("GIT_INDEX_FILE", &index);
        git("read-tree").arg(commit.as_str()).output().await?;
        forget(git("rm"), directory).await?;
        let prefix = format!("--prefix={directory}/");
        // In the index alone: there is no working tree.
        git("read-tree").arg("-i").arg(prefix).arg(tree.as_str()).output().await?;
        git("write-tree").line().await?.parse()
    }

    /// The tree of `commit` without the file `path`; `None` when there is no such file.
    pub async fn without(&self, commit: &Oid, path: &str) -> Result<Option<Oid>, GitError> {
        let scratch = self.scratch()?;
        let index = scratch.path().join("index");
        let git = |command| self.git(command).env("GIT_INDEX_FILE", &index);
        git("read-tree").arg(commit.as_str()).output().await?;
        forget(git("rm"), path).await?;
        let tree: Oid = git("write-tree").line().await?.parse()?;
        Ok((tree != self.tree(commit, "").await?).then_some(tree))
    }

    /// Makes a commit of `tree` on `parent`, by Selvedge.
    pub async fn commit(&self, tree: &Oid, parent: &Oid, message: &str) -> Result<Oid, GitError> {
        let mut run = self.git("commit-tree").input(message);
        for role in ["AUTHOR", "COMMITTER"] {
            run = run.env(&format!("GIT_{role}_NAME"), "Selvedge");
            run = run.env(&format!("GIT_{role}_EMAIL"), "selvedge@localhost");
        }
        let run = run.arg(tree.as_str()).arg("-p").arg(parent.as_str()).arg("-F").arg("-");
        run.line().await?.parse()
    }

    /// Packs loose objects when there are many, and drops what nothing has named for two weeks.
    pub async fn tidy(&self) -> Result<(), GitError> {
        let run = self.git("-c").arg("gc.auto=1000").arg("gc").arg("--auto").arg("--quiet");
        run.unkillable().output().await.map(drop)
    }

    /// A directory that goes away with the value, or at the next start.
    fn scratch(&self) -> Result<tempfile::TempDir, GitError> {
        let path = configuration::scratch(&self.home);
        tempfile::tempdir_in(&path).map_err(|source| GitError::File {
            what: "can't make a scratch directory in",
            path,
            source,
        })
    }
}

/// Takes a file, or a directory with all that is in it, out of an index.
async fn forget(rm: Run, path: &str) -> Result<(), GitError> {
    let rm = rm.env("GIT_LITERAL_PATHSPECS", "1").arg("--cached").arg("-r").arg("--quiet");
    rm.arg("--ignore-unmatch").arg("--").arg(path).output().await.map(drop)
}

fn parse_entry(line: &str) -> Option<Entry> {
    let (facts, path) = line.split_once('\t')?;
    let mut facts = facts.split_ascii_whitespace();
    let (mode, _kind, oid, size) = (facts.next()?, facts.next()?, facts.next()?, facts.next()?);
    let kind = match mode {
        "120000" => EntryKind::Link,
        "160000" => EntryKind::Commit,
        _ => EntryKind::File,
    };
    let size = size.parse().unwrap_or(0);
    Some(Entry { path: path.to_owned(), kind, oid: oid.parse().ok()?, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_parse() {
        let oid = "a".repeat(40);
        let entry = parse_entry(&format!("100755 blob {oid}      12\tbin/a b")).unwrap();
        assert_eq!((entry.path.as_str(), entry.size, entry.kind), ("bin/a b", 12, EntryKind::File));
        let entry = parse_entry(&format!("160000 commit {oid}       -\tsub")).unwrap();
        assert_eq!((entry.kind, entry.size), (EntryKind::Commit, 0));
        assert!(parse_entry("100644 blob x 1\ta").is_none());
    }
}
