//! The boxes that run on this machine, and which of them a verb means.
//!
//! They are found by their control processes, so that a box in any directory is found, none is named
//! that has ended, and nothing has to be written for it. Only those that the user who asks has
//! started count: the same user, with the same home.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use selvedge_api::DevInfo;

use crate::context::{default_data, read_box, usual_data};
use crate::failure::{Code, Failure, Outcome};

/// A box that runs.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    /// Its data directory.
    pub(crate) data: PathBuf,
    /// What it says of itself.
    pub(crate) info: DevInfo,
}

/// The box that is meant when nothing else says where control is: `named` with `--data`, or with
/// SELVEDGE_DATA, or the only one that runs. `None`: none runs.
pub(crate) fn choose(named: Option<&Path>) -> Outcome<Option<DevInfo>> {
    if let Some(data) = named {
        return read_box(data).map(Some).ok_or_else(|| {
            Failure::new(
                Code::Control,
                format!("no box runs on {}", data.display()),
                match names(&all()).as_str() {
                    "" => "start it with `selvedge dev --data DIR`".to_owned(),
                    others => format!("these do: {others}"),
                },
            )
        });
    }
    if std::env::var_os("SELVEDGE_DATA").is_some_and(|data| !data.is_empty()) {
        return Ok(read_box(&default_data()?));
    }
    one_of(all())
}

fn one_of(mut boxes: Vec<Running>) -> Outcome<Option<DevInfo>> {
    if boxes.len() > 1 {
        return Err(Failure::new(
            Code::Usage,
            format!("{} boxes run here: {}", boxes.len(), names(&boxes)),
            "say which with --data DIR, or set SELVEDGE_DATA",
        ));
    }
    Ok(boxes.pop().map(|one| one.info))
}

/// The box whose control is at `url`.
pub(crate) fn at(url: &str) -> Option<DevInfo> {
    let usual = default_data().ok().and_then(|data| read_box(&data));
    let usual = usual.filter(|info| info.control == url);
    usual.or_else(|| all().into_iter().map(|one| one.info).find(|info| info.control == url))
}

fn names(boxes: &[Running]) -> String {
    let names: Vec<String> =
        boxes.iter().map(|one| format!("{} ({})", one.data.display(), one.info.control)).collect();
    names.join(", ")
}

/// All of this user's boxes, by directory.
fn all() -> Vec<Running> {
    let user = nix::unistd::geteuid().as_raw();
    let home = std::env::var_os("HOME").unwrap_or_default();
    let mut found: Vec<Running> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|process| process.metadata().is_ok_and(|found| found.uid() == user))
        .filter_map(|process| {
            let command = std::fs::read(process.path().join("cmdline")).ok()?;
            let data = box_of(&command)?;
            let environment = std::fs::read(process.path().join("environ")).ok()?;
            if home_of(&environment) != home.as_bytes() {
                return None;
            }
            let info = read_box(&data)?;
            Some(Running { data, info })
        })
        .collect();
    // The one at the usual place is this home's, whoever started it.
    let usual = usual_data().ok();
    found.extend(usual.and_then(|data| Some(Running { info: read_box(&data)?, data })));
    found.sort_by(|a, b| a.data.cmp(&b.data));
    found.dedup_by(|a, b| a.data == b.data);
    found
}

/// `HOME` in a process's environment.
fn home_of(environment: &[u8]) -> &[u8] {
    let mut variables = environment.split(|byte| *byte == 0);
    variables.find_map(|variable| variable.strip_prefix(b"HOME=")).unwrap_or_default()
}

/// The box that a command line of a box's control names.
fn box_of(command: &[u8]) -> Option<PathBuf> {
    let mut arguments = command
        .split(|byte| *byte == 0)
        .skip(1)
        .filter_map(|argument| std::str::from_utf8(argument).ok());
    if arguments.next() != Some("control") {
        return None;
    }
    let arguments: Vec<&str> = arguments.collect();
    let data = arguments.iter().find_map(|argument| argument.strip_prefix("--data="))?;
    let in_a_box = arguments.contains(&"--in-a-box");
    in_a_box.then(|| Path::new(data).parent().map(Path::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_known_by_its_control() {
        let command = b"/usr/bin/selvedge\0control\0--data=/home/me/a box/control\0--in-a-box\0";
        assert_eq!(box_of(command), Some("/home/me/a box".into()));
        for other in [
            &b"/usr/bin/selvedge\0control\0--data=/srv/control\0"[..],
            b"/usr/bin/selvedge\0dev\0--data=/srv/box\0--in-a-box\0",
            b"selvedge\0",
            b"",
        ] {
            assert_eq!(box_of(other), None);
        }
        assert_eq!(home_of(b"PATH=/bin\0HOME=/home/me\0"), b"/home/me");
        assert_eq!(home_of(b"NOT_HOME=/x\0"), b"");
    }
}
