//! The versions of an agent's data directory: the ledger, and the log beside it.

use std::fs;
use std::io;
use std::path::Path;

use selvedge_fabric::layout::Layout;

/// What the directory is, and what brings an older one up to date.
pub(crate) const LAYOUT: Layout = Layout {
    kind: "agent",
    migrations: &[drop_plain_logs],
    unstamped: &["ledger"],
    neutral: &["ledger.lock"],
};

/// Version 1 wrote its log as plain files, without the order and the bounds of the journal that is
/// kept in `log` since.
fn drop_plain_logs(directory: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    gone(fs::remove_dir_all(directory.join("logs")))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("access.jsonl") {
            gone(fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_the_first_version_are_dropped() {
        let data = tempfile::tempdir().unwrap();
        let path = |name: &str| data.path().join(name);
        for directory in ["ledger", "logs/shop/production"] {
            fs::create_dir_all(path(directory)).unwrap();
        }
        for file in ["access.jsonl", "access.jsonl.1", "logs/shop/production/web.log"] {
            fs::write(path(file), "{}\n").unwrap();
        }
        LAYOUT.open(data.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(data.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["ledger", "version"]);
        assert_eq!(fs::read_to_string(path("version")).unwrap(), "agent 2\n");
    }
}
