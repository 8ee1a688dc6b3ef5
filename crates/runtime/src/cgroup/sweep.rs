//! Removing what killed processes have left anywhere on the machine: a process makes its groups
//! beside itself, and whoever removes a box is elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use super::is_left_over;
use super::place::LEAF;

/// Groups nested deeper than this are not ours.
const MAX_DEPTH: u32 = 16;

/// Removes every group that nothing runs in and whose process is gone, as far as this user may.
pub(crate) fn machine() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut swept = Vec::new();
    for line in mounts.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        if filesystem.starts_with("cgroup ") || filesystem.starts_with("cgroup2 ") {
            below(Path::new(mount.split(' ').nth(4).unwrap_or_default()), MAX_DEPTH, &mut swept);
        }
    }
    swept
}

fn below(parent: &Path, depth: u32, swept: &mut Vec<PathBuf>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        below(&path, depth, swept);
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // The kernel removes no group in which something runs.
        if (is_left_over(&name) || name == LEAF) && fs::remove_dir(&path).is_ok() {
            swept.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_left_at_any_depth_and_nothing_else() {
        let top = tempfile::tempdir().expect("a directory");
        let left = top.path().join(format!("user.slice/one/selvedge-{}-1-0", std::process::id()));
        let own = super::super::process_name(std::process::id()).expect("own");
        let own = top.path().join(format!("user.slice/selvedge-{own}-0"));
        for group in [&left, &own] {
            fs::create_dir_all(group).expect("a group");
        }
        let mut swept = Vec::new();
        below(top.path(), MAX_DEPTH, &mut swept);
        assert_eq!(swept, [left]);
        assert!(own.is_dir());
    }
}
