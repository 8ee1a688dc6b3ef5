//! Where groups can be made: each controller is looked for by itself, since one machine may have
//! memory in version 1 and processes in version 2.
//!
//! The decisions work on the kernel's own texts and on a [`Tree`], so that tests have machines
//! that are not this one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What limits a kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Controller {
    Memory,
    Cpu,
    Processes,
}

/// The versions of control groups, which differ in files and rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

/// A group below which a controller's groups are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) version: Version,
    pub(crate) parent: PathBuf,
}

/// Where processes go that stand in the way of version 2's rule that a group has either processes
/// or children with limits.
pub(super) const LEAF: &str = "selvedge-main";

impl Controller {
    pub(crate) const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Processes];

    /// As the kernel calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Processes => "pids",
        }
    }

    /// A file that its groups have and others don't.
    fn file(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Memory, Version::One) => "memory.limit_in_bytes",
            (Self::Memory, Version::Two) => "memory.max",
            (Self::Cpu, Version::One) => "cpu.cfs_quota_us",
            (Self::Cpu, Version::Two) => "cpu.max",
            (Self::Processes, _) => "pids.max",
        }
    }
}

/// The file system of control groups.
pub(crate) trait Tree {
    fn read(&self, file: &Path) -> io::Result<String>;
    fn write(&self, file: &Path, text: &str) -> io::Result<()>;
    fn make(&self, group: &Path) -> io::Result<()>;
    fn remove(&self, group: &Path) -> io::Result<()>;
    /// Whether the manager of the machine's groups has given this one away (systemd's `Delegate=`).
    fn is_delegated(&self, group: &Path) -> bool;
}

/// This machine's.
pub(crate) struct Kernel;

impl Tree for Kernel {
    fn read(&self, file: &Path) -> io::Result<String> {
        fs::read_to_string(file)
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        // Without creating it: a file that isn't there is a limit that isn't.
        use std::io::Write as _;
        fs::OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
    }

    fn make(&self, group: &Path) -> io::Result<()> {
        fs::create_dir(group)
    }

    fn remove(&self, group: &Path) -> io::Result<()> {
        fs::remove_dir(group)
    }

    fn is_delegated(&self, group: &Path) -> bool {
        ["trusted.delegate", "user.delegate"]
            .iter()
            .any(|name| crate::sys::has_attribute(group, name, b"1"))
    }
}

/// A hierarchy of groups as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) version: Version,
    /// Where it is mounted.
    pub(super) at: PathBuf,
    /// This process's own group in it.
    pub(super) own: PathBuf,
}

/// The hierarchy that has a controller: that of version 1 that it is bound to, else version 2's
/// where that has it.
pub(super) fn locate(
    mounts: &str,
    membership: &str,
    controller: Controller,
    tree: &dyn Tree,
) -> Option<Mounted> {
    mounted(mounts, membership, Version::One, controller).or_else(|| {
        let found = mounted(mounts, membership, Version::Two, controller)?;
        let has = |group: &Path| lists(tree, group, "cgroup.controllers", controller);
        (has(&found.at) || has(&found.own)).then_some(found)
    })
}

fn mounted(
    mounts: &str,
    membership: &str,
    version: Version,
    controller: Controller,
) -> Option<Mounted> {
    let (root, at) = mount_point(mounts, version, controller)?;
    let own = own_group(membership, version, controller).unwrap_or("/");
    // What is mounted may be a part of the hierarchy (a container's), whose paths begin above it.
    let below = own.strip_prefix(root.trim_end_matches('/')).unwrap_or_default();
    let below = Path::new(below.trim_start_matches('/'));
    let leads_out = below.components().any(|part| part == std::path::Component::ParentDir);
    let own = if leads_out || below.as_os_str().is_empty() { at.clone() } else { at.join(below) };
    Some(Mounted { version, at, own })
}

/// What of a hierarchy is mounted, and where (proc_pid_mountinfo(5)).
fn mount_point(
    mounts: &str,
    version: Version,
    controller: Controller,
) -> Option<(String, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let (kind, _, options) = (filesystem.next()?, filesystem.next()?, filesystem.next()?);
        let fits = match version {
            Version::One => {
                kind == "cgroup" && options.split(',').any(|one| one == controller.name())
            }
            Version::Two => kind == "cgroup2",
        };
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        fits.then(|| (root.to_owned(), PathBuf::from(at)))
    })
}

/// This process's group in it (cgroups(7), /proc/PID/cgroup).
fn own_group(membership: &str, version: Version, controller: Controller) -> Option<&str> {
    membership.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let fits = match version {
            Version::One => controllers.split(',').any(|one| one == controller.name()),
            Version::Two => id == "0" && controllers.is_empty(),
        };
        fits.then_some(path)
    })
}

/// A group in which children with a controller of version 1 can be made: this process's own, the
/// one above it, or the top of what is mounted.
pub(super) fn parent_one(
    tree: &dyn Tree,
    mounted: &Mounted,
    controller: Controller,
    name: &str,
) -> Option<PathBuf> {
    candidates(mounted)
        .into_iter()
        .find(|parent| !accepted(tree, parent, Version::One, &[controller], name).is_empty())
}

/// The same for the controllers of version 2, which all share one group, as a process is in only
/// one: the candidate that has most of them, and which it has.
pub(super) fn parent_two(
    tree: &dyn Tree,
    mounted: &Mounted,
    wanted: &[Controller],
    name: &str,
) -> Option<(PathBuf, Vec<Controller>)> {
    let mut best: Option<(PathBuf, Vec<Controller>)> = None;
    for parent in candidates(mounted) {
        prepare(tree, mounted, &parent, wanted);
        let has = accepted(tree, &parent, Version::Two, wanted, name);
        if has.len() > best.as_ref().map_or(0, |(_, best)| best.len()) {
            best = Some((parent, has));
        }
        if best.as_ref().is_some_and(|(_, best)| best.len() == wanted.len()) {
            break;
        }
    }
    best
}

fn candidates(mounted: &Mounted) -> Vec<PathBuf> {
    let above = mounted.own.parent().filter(|above| above.starts_with(&mounted.at));
    let mut all = vec![mounted.own.clone()];
    all.extend(above.map(Path::to_owned));
    all.push(mounted.at.clone());
    all.dedup();
    all
}

/// Hands controllers of version 2 on to the children of a group that is ours to change. That is
/// the top of the machine, where no rule on processes holds and others' groups stay as they are;
/// the top of a container's own part; and a group that was delegated. Of the latter two, the
/// processes first move to a leaf.
fn prepare(tree: &dyn Tree, mounted: &Mounted, group: &Path, wanted: &[Controller]) {
    let missing: Vec<_> = wanted
        .iter()
        .filter(|one| !lists(tree, group, "cgroup.subtree_control", **one))
        .filter(|one| lists(tree, group, "cgroup.controllers", **one))
        .collect();
    let is_top = tree.read(&group.join("cgroup.events")).is_err();
    let is_ours = group == mounted.own && (group == mounted.at || tree.is_delegated(group));
    if missing.is_empty() || !(is_top || is_ours) {
        return;
    }
    if !is_top && move_to_leaf(tree, group).is_err() {
        return;
    }
    for controller in missing {
        // One by one: a controller that can't be had must not cost the others. What came of it is
        // seen by what a child has.
        let word = format!("+{}", controller.name());
        let _ = tree.write(&group.join("cgroup.subtree_control"), &word);
    }
}

fn move_to_leaf(tree: &dyn Tree, group: &Path) -> io::Result<()> {
    let leaf = group.join(LEAF);
    match tree.make(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // What is being started meanwhile shows up in the next round.
    for _ in 0..16 {
        let processes = tree.read(&group.join("cgroup.procs"))?;
        if processes.trim().is_empty() {
            break;
        }
        for process in processes.lines() {
            // It may have ended by now.
            let _ = tree.write(&leaf.join("cgroup.procs"), process);
        }
    }
    Ok(())
}

/// Those of `wanted` that a child made here has. Tried, because permissions, delegation and
/// version 2's rule on groups with processes decide together.
fn accepted(
    tree: &dyn Tree,
    parent: &Path,
    version: Version,
    wanted: &[Controller],
    name: &str,
) -> Vec<Controller> {
    let child = parent.join(name);
    if tree.make(&child).is_err() {
        return Vec::new();
    }
    let has = |one: &Controller| {
        let file = child.join(one.file(version));
        // Writing back what stands there changes nothing, and shows whether it may be written.
        tree.read(&file).is_ok_and(|value| tree.write(&file, value.trim()).is_ok())
    };
    let accepted = wanted.iter().copied().filter(has).collect();
    if tree.remove(&child).is_ok() { accepted } else { Vec::new() }
}

fn lists(tree: &dyn Tree, group: &Path, file: &str, controller: Controller) -> bool {
    tree.read(&group.join(file))
        .is_ok_and(|text| text.split_whitespace().any(|one| one == controller.name()))
}
