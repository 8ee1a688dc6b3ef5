//! The configuration that git reads and the one hook that it runs. Both are written anew at every
//! start, so that they fit the program that runs.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::command::{GitError, private_directory};

/// Every ref goes through `proc-receive`, so git itself never moves one. Objects are collected by
/// the pipeline, which knows what is in use, and never while a push is received. A few flaws that
/// old but honest histories have are let pass.
const SETTINGS: &str = r#"# Written by Selvedge at every start.
[core]
	fsync = committed,loose-object,reference
	fsyncMethod = batch
	protectHFS = true
	protectNTFS = true
[gc]
	auto = 0
	autoDetach = false
[http]
	receivepack = true
	getanyfile = false
[receive]
	procReceiveRefs = refs/
	autogc = false
	denyDeletes = true
	maxInputSize = 1g
[transfer]
	fsckObjects = true
	hideRefs = refs/selvedge
[receive "fsck"]
	zeroPaddedFilemode = warn
	missingSpaceBeforeDate = warn
	badTimezone = warn
[safe]
	bareRepository = all
	directory = *
"#;

/// Where short-lived files go, in the file system of the repositories.
pub(super) fn scratch(home: &Path) -> PathBuf {
    home.join("scratch")
}

/// Clears the scratch directory, and writes `home/.gitconfig` and `home/hooks/proc-receive`, which runs `executable` with the verb
/// `hook`.
pub(super) fn write(home: &Path, executable: &Path) -> Result<(), GitError> {
    let hooks = home.join("hooks");
    private_directory(&hooks)?;
    let scratch = scratch(home);
    if let Err(source) = fs::remove_dir_all(&scratch)
        && source.kind() != io::ErrorKind::NotFound
    {
        return Err(GitError::File { what: "can't clear", path: scratch, source });
    }
    private_directory(&scratch)?;
    let mut settings = SETTINGS.as_bytes().to_vec();
    settings.extend_from_slice(b"[core]\n\thooksPath = ");
    settings.extend_from_slice(&quoted(hooks.as_os_str().as_bytes()));
    settings.push(b'\n');
    replace(home, &home.join(".gitconfig"), &settings, 0o600)?;
    // A link such as /proc/self/exe would mean something else to the shell.
    let executable = executable.canonicalize().map_err(|source| GitError::File {
        what: "can't find",
        path: executable.to_owned(),
        source,
    })?;
    let mut script = b"#!/bin/sh\nexec '".to_vec();
    for byte in executable.as_os_str().as_bytes() {
        match byte {
            b'\'' => script.extend_from_slice(b"'\\''"),
            other => script.push(*other),
        }
    }
    script.extend_from_slice(b"' hook\n");
    replace(home, &hooks.join("proc-receive"), &script, 0o700)
}

/// A value in git's configuration syntax.
fn quoted(value: &[u8]) -> Vec<u8> {
    let mut text = vec![b'"'];
    for byte in value {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', *byte]),
            b'\n' => text.extend_from_slice(b"\\n"),
            other => text.push(*other),
        }
    }
    text.push(b'"');
    text
}

fn replace(directory: &Path, path: &Path, content: &[u8], mode: u32) -> Result<(), GitError> {
    let write = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(content)?;
        fs::set_permissions(file.path(), Permissions::from_mode(mode))?;
        file.persist(path)?;
        Ok(())
    };
    let failed = |source| GitError::File { what: "can't write", path: path.to_owned(), source };
    write().map_err(failed)
}
