//! A git for control that stops at a command of the test's choice, so that a push can be caught in
//! stages that are over in milliseconds.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::harness::eventually;

/// Stands for git. The commands are those that the pipeline runs in one stage alone.
const SCRIPT: &str = r#"#!/bin/sh
at=
case " $* " in
  *" ls-tree "*) at=receive ;;
  *" cat-file blob "*) at=validate ;;
  *" log "*) at=publish ;;
  *" update-ref refs/heads/main "*) at=activate ;;
  *" update-ref refs/selvedge/releases/"*) at=settle ;;
esac
if [ -n "$at" ] && [ -e "GATE/$at" ]; then
  : > "GATE/$at.reached"
  while [ -e "GATE/$at" ]; do sleep 0.02; done
fi
exec "GIT" "$@"
"#;

/// Where the script is and what it waits for.
pub(super) struct Gate {
    directory: PathBuf,
}

impl Gate {
    pub(super) fn new(directory: &Path) -> Self {
        let directory = directory.to_owned();
        std::fs::create_dir_all(&directory).unwrap();
        let paths = std::env::var_os("PATH").unwrap();
        let git = std::env::split_paths(&paths).map(|path| path.join("git"));
        let git = git.into_iter().find(|path| path.is_file()).unwrap();
        let script = SCRIPT
            .replace("GATE", &directory.to_string_lossy())
            .replace("GIT", &git.to_string_lossy());
        let path = directory.join("git");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    /// The `PATH` with which a box finds this git.
    pub(super) fn path(&self) -> String {
        let rest = std::env::var("PATH").unwrap();
        format!("{}:{rest}", self.directory.display())
    }

    /// Lets the next command of a stage wait.
    pub(super) fn close(&self, stage: &str) {
        std::fs::write(self.directory.join(stage), "").unwrap();
    }

    /// Waits until a command of the stage waits.
    pub(super) async fn reached(&self, stage: &str) {
        let mark = self.directory.join(format!("{stage}.reached"));
        eventually(&format!("control gets to {stage}"), async || mark.exists().then_some(())).await;
    }

    /// Lets everything go on.
    pub(super) fn open(&self, stage: &str) {
        for name in [stage.to_owned(), format!("{stage}.reached")] {
            let _ = std::fs::remove_file(self.directory.join(name));
        }
    }
}
