//! The files by which tools find what runs: private, whole or absent, gone when the process is.

use std::fs::{DirBuilder, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use serde::Serialize;

use crate::failure::{Code, Failure, OrFail as _, Outcome};

/// The box's file in its data directory.
pub(crate) const DEV: &str = "dev.json";
/// A control process's file in its data directory.
pub(crate) const CONTROL: &str = "control.json";
/// An agent's file in its data directory.
pub(crate) const AGENT: &str = "agent.json";

/// Writes `value` as JSON to `path`, mode 0600, atomically.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Outcome {
    let directory = path.parent().unwrap_or(Path::new("."));
    let write = || -> anyhow::Result<()> {
        // Temporary files have mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        file.persist(path)?;
        Ok(())
    };
    write().or_fail(
        Code::Failed,
        format!("can't write {}", path.display()),
        "is the disk full, or not yours?",
    )
}

/// Refuses a directory that can't be one, as something above it is a file.
pub(crate) fn refuse_below_a_file(path: &Path) -> Outcome {
    let nearest = path.ancestors().find(|ancestor| ancestor.exists());
    match nearest.filter(|nearest| !nearest.is_dir()) {
        Some(file) => Err(Failure::new(
            Code::Usage,
            format!("can't make the directory {}: {} is a file", path.display(), file.display()),
            "choose a directory of yours with --data DIR",
        )),
        None => Ok(()),
    }
}

/// Makes `path` and its parents if need be; the directory itself gets mode 0700 when it is new.
pub(crate) fn private_directory(path: &Path) -> Outcome {
    refuse_below_a_file(path)?;
    let make = || -> std::io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        DirBuilder::new().mode(0o700).create(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
    };
    make().or_fail(
        Code::Usage,
        format!("can't make the directory {}", path.display()),
        "choose a directory of yours with --data DIR",
    )
}
