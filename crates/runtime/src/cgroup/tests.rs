//! Machines that are not this one: recorded texts, and a kernel in memory that keeps the rules.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::*;

const NAME: &str = "selvedge-1-2";
const LIMITS: Limits =
    Limits { memory_mib: 64, processes: 50, cpu_millis: Some(500), cpu_weight: 20 };

/// Control groups of both versions: what a group has follows from where it is, writing to one with
/// processes in it fails as it does in version 2, and the top is exempt from that.
#[derive(Default)]
struct Machine {
    files: RefCell<BTreeMap<PathBuf, String>>,
    delegated: BTreeSet<PathBuf>,
    /// Nothing here may be written.
    locked: BTreeSet<PathBuf>,
}

impl Machine {
    fn has(self, file: &str, text: &str) -> Self {
        self.files.borrow_mut().insert(file.into(), text.to_owned());
        self
    }

    /// A group of version 1 with a controller.
    fn one(self, group: &str, controller: &str) -> Self {
        let files = match controller {
            "memory" => vec![("memory.limit_in_bytes", "9223372036854771712")],
            "cpu" => vec![("cpu.cfs_quota_us", "-1"), ("cpu.shares", "1024")],
            _ => vec![("pids.max", "max")],
        };
        let with = self.has(&format!("{group}/cgroup.procs"), "");
        files.into_iter().fold(with, |it, (file, text)| it.has(&format!("{group}/{file}"), text))
    }

    /// A group of version 2 that may use and hands on these controllers, with processes in it.
    fn two(self, group: &str, controllers: &str, handed_on: &str, processes: &str) -> Self {
        let with = self
            .has(&format!("{group}/cgroup.controllers"), controllers)
            .has(&format!("{group}/cgroup.subtree_control"), handed_on)
            .has(&format!("{group}/cgroup.procs"), processes);
        if group == "/cg" {
            with
        } else {
            with.has(&format!("{group}/cgroup.events"), "populated 1")
        }
    }

    fn text(&self, file: &str) -> Option<String> {
        self.files.borrow().get(Path::new(file)).cloned()
    }

    fn find(&self, mounts: &str, membership: &str) -> Option<Hierarchies> {
        Hierarchies::find_in(mounts, membership, self, NAME.into())
    }

    fn is_locked(&self, path: &Path) -> bool {
        self.locked.iter().any(|locked| path.parent() == Some(locked))
    }
}

impl Tree for Machine {
    fn read(&self, file: &Path) -> io::Result<String> {
        self.files.borrow().get(file).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        let mut files = self.files.borrow_mut();
        if self.is_locked(file) || !files.contains_key(file) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let group = file.parent().expect("a group");
        match file.file_name().and_then(|name| name.to_str()).expect("a name") {
            "cgroup.subtree_control" => {
                let busy = files.get(&group.join("cgroup.procs")).is_some_and(|it| !it.is_empty());
                if busy && files.contains_key(&group.join("cgroup.events")) {
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                let known = files.get(&group.join("cgroup.controllers")).expect("controllers");
                let word = text.trim_start_matches('+');
                if !known.split(' ').any(|one| one == word) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                files.entry(file.into()).and_modify(|all| *all = format!("{all} {word}"));
            }
            "cgroup.procs" => {
                for list in files.iter_mut().filter(|(path, _)| path.ends_with("cgroup.procs")) {
                    let rest = list.1.lines().filter(|pid| *pid != text);
                    *list.1 = rest.map(|pid| format!("{pid}\n")).collect();
                }
                files.entry(file.into()).and_modify(|all| *all += &format!("{text}\n"));
            }
            _ => {
                files.insert(file.into(), text.to_owned());
            }
        }
        Ok(())
    }

    fn make(&self, group: &Path) -> io::Result<()> {
        let parent = group.parent().expect("a parent");
        if self.is_locked(group) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut files = self.files.borrow_mut();
        if files.contains_key(&group.join("cgroup.procs")) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut made = vec![("cgroup.procs", String::new())];
        if let Some(handed_on) = files.get(&parent.join("cgroup.subtree_control")) {
            made.extend([
                ("cgroup.controllers", handed_on.clone()),
                ("cgroup.subtree_control", String::new()),
                ("cgroup.events", String::new()),
            ]);
            for controller in handed_on.split_whitespace() {
                made.extend(match controller {
                    "memory" => vec![("memory.max", "max".to_owned())],
                    "cpu" => vec![("cpu.max", "max 100000".into()), ("cpu.weight", "100".into())],
                    "pids" => vec![("pids.max", "max".into())],
                    _ => Vec::new(),
                });
            }
        } else {
            for file in ["memory.limit_in_bytes", "cpu.cfs_quota_us", "cpu.shares", "pids.max"] {
                if let Some(text) = files.get(&parent.join(file)) {
                    made.push((file, text.clone()));
                }
            }
        }
        files.extend(made.into_iter().map(|(file, text)| (group.join(file), text)));
        Ok(())
    }

    fn remove(&self, group: &Path) -> io::Result<()> {
        self.files.borrow_mut().retain(|file, _| !file.starts_with(group));
        Ok(())
    }

    fn is_delegated(&self, group: &Path) -> bool {
        self.delegated.contains(group)
    }
}

fn parent(found: &Hierarchies, controller: Controller) -> Option<(Version, &str)> {
    let place = found.place(controller)?;
    Some((place.version, place.parent.to_str().expect("text")))
}

/// What was recorded on a machine that has memory and processor time in version 1 (the latter
/// mounted together with its accounting) and processes in version 2.
const HYBRID_MOUNTS: &str = "\
25 22 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw
31 25 0:28 / /sys/fs/cgroup ro shared:9 - tmpfs tmpfs ro,mode=755
33 31 0:30 / /cg/memory rw,nosuid shared:11 - cgroup cgroup rw,memory
34 31 0:31 / /cg/cpu,cpuacct rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /cg/unified rw,nosuid shared:13 - cgroup2 cgroup2 rw,nsdelegate
";
const HYBRID_MEMBERSHIP: &str = "4:memory:/a/b\n3:cpu,cpuacct:/\n0::/c\n";

#[test]
fn each_controller_is_found_where_it_is() {
    let machine = Machine::default()
        .one("/cg/memory/a/b", "memory")
        .one("/cg/cpu,cpuacct", "cpu")
        .two("/cg/unified", "pids io", "pids", "")
        .two("/cg/unified/c", "pids", "", "77\n");
    let found = machine.find(HYBRID_MOUNTS, HYBRID_MEMBERSHIP).expect("some");
    assert_eq!(parent(&found, Controller::Memory), Some((Version::One, "/cg/memory/a/b")));
    assert_eq!(parent(&found, Controller::Cpu), Some((Version::One, "/cg/cpu,cpuacct")));
    // In its own group, which isn't delegated, it would stand in its own way.
    assert_eq!(parent(&found, Controller::Processes), Some((Version::Two, "/cg/unified")));
    assert_eq!(found.versions(), "memory v1, cpu v1, pids v2");
    assert_eq!(machine.text("/cg/unified/c/cgroup.procs").as_deref(), Some("77\n"));

    let group = found.make_in(&machine, &LIMITS).expect("a group");
    assert_eq!(group.joins().len(), 3);
    let name = group.directories[0].file_name().expect("a name").to_str().expect("text");
    for (file, value) in [
        (format!("/cg/memory/a/b/{name}/memory.limit_in_bytes"), "67108864"),
        (format!("/cg/cpu,cpuacct/{name}/cpu.cfs_quota_us"), "50000"),
        (format!("/cg/cpu,cpuacct/{name}/cpu.shares"), "204"),
        (format!("/cg/unified/{name}/pids.max"), "50"),
    ] {
        assert_eq!(machine.text(&file).as_deref(), Some(value), "{file}");
    }
}

const UNIFIED_MOUNTS: &str =
    "30 25 0:27 / /cg rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

#[test]
fn in_version_two_one_group_has_all_limits() {
    // Right below the top of the machine, as on one without a service manager.
    let machine = Machine::default().two("/cg", "cpu io memory pids", "", "1\n2\n");
    let found = machine.find(UNIFIED_MOUNTS, "0::/\n").expect("some");
    assert_eq!(found.missing(), []);
    assert_eq!(machine.text("/cg/cgroup.procs").as_deref(), Some("1\n2\n"), "nobody is moved");
    let group = found.make_in(&machine, &LIMITS).expect("a group");
    let [directory] = group.directories.as_slice() else { panic!("{group:?}") };
    let value = |file: &str| machine.text(directory.join(file).to_str().expect("text"));
    assert_eq!(value("memory.max").as_deref(), Some("67108864"));
    assert_eq!(value("cpu.max").as_deref(), Some("50000 100000"));
    assert_eq!(value("cpu.weight").as_deref(), Some("20"));
    assert_eq!(value("pids.max").as_deref(), Some("50"));
    let unlimited = Limits { cpu_millis: None, ..LIMITS };
    let group = found.make_in(&machine, &unlimited).expect("a group");
    let file = group.directories[0].join("cpu.max");
    assert_eq!(machine.read(&file).expect("there"), "max 100000");
}

#[test]
fn a_delegated_group_is_divided() {
    let mut machine = Machine::default()
        .two("/cg", "cpu memory pids", "cpu memory pids", "")
        .two("/cg/system.slice", "cpu memory pids", "cpu memory pids", "")
        .two("/cg/system.slice/edge.service", "cpu memory pids", "", "10\n11\n");
    machine.delegated.insert("/cg/system.slice/edge.service".into());
    let membership = "0::/system.slice/edge.service\n";
    let found = machine.find(UNIFIED_MOUNTS, membership).expect("some");
    let unit = "/cg/system.slice/edge.service";
    assert_eq!(parent(&found, Controller::Cpu), Some((Version::Two, unit)));
    assert_eq!(machine.text(&format!("{unit}/cgroup.procs")).as_deref(), Some(""));
    let leaf = format!("{unit}/selvedge-main");
    assert_eq!(machine.text(&format!("{leaf}/cgroup.procs")).as_deref(), Some("10\n11\n"));
    assert!(!is_left_over("selvedge-main"));
    // A process that is started from the leaf makes its groups beside it.
    let membership = "0::/system.slice/edge.service/selvedge-main\n";
    let found = machine.find(UNIFIED_MOUNTS, membership).expect("some");
    assert_eq!(parent(&found, Controller::Memory), Some((Version::Two, unit)));
}

#[test]
fn what_is_not_ours_is_left_alone() {
    // A session of an ordinary user: the manager hands on memory and processes above it.
    let slice = "/cg/user.slice/user-1000.slice/user@1000.service/app.slice";
    let scope = format!("{slice}/shell.scope");
    let mut machine = Machine::default()
        .two("/cg", "cpu memory pids", "memory pids", "")
        .two(slice, "memory pids", "memory pids", "")
        .two(&scope, "memory pids", "", "5\n6\n");
    machine.locked.insert("/cg".into());
    let membership = format!("0::{}\n", scope.trim_start_matches("/cg"));
    let before = machine.files.borrow().clone();
    let found = machine.find(UNIFIED_MOUNTS, &membership).expect("some");
    assert_eq!(parent(&found, Controller::Memory), Some((Version::Two, slice)));
    assert_eq!(found.missing(), [Controller::Cpu]);
    assert_eq!(*machine.files.borrow(), before, "something was changed");
    // One who may write nowhere has none.
    machine.locked.extend([slice.into(), scope.into()]);
    assert!(machine.find(UNIFIED_MOUNTS, &membership).is_none());
}

#[test]
fn in_a_container_the_top_is_its_own() {
    // Its part of the hierarchy is mounted as the whole, or it sees the paths of the host.
    for (mounts, membership) in [
        (UNIFIED_MOUNTS.to_owned(), "0::/\n"),
        (UNIFIED_MOUNTS.replace(" / /cg ", " /box/7 /cg "), "0::/box/7\n"),
    ] {
        let machine = Machine::default()
            .two("/cg", "cpu memory pids", "", "1\n8\n")
            .has("/cg/cgroup.events", "populated 1");
        let found = machine.find(&mounts, membership).expect("some");
        assert_eq!(found.versions(), "memory v2, cpu v2, pids v2");
        let leaf = machine.text("/cg/selvedge-main/cgroup.procs");
        assert_eq!(leaf.as_deref(), Some("1\n8\n"));
    }
    // Another's part, which begins nowhere below what is mounted.
    let mounted = place::locate(
        UNIFIED_MOUNTS,
        "0::/../other\n",
        Controller::Memory,
        &Machine::default().two("/cg", "memory", "", ""),
    );
    assert_eq!(mounted.expect("there").own, Path::new("/cg"));
}

#[test]
fn a_machine_without_control_groups_has_none() {
    let mounts = "25 22 0:22 / /sys rw - sysfs sysfs rw\n";
    assert!(Machine::default().find(mounts, "").is_none());
    // Mounted, but without what is wanted.
    let machine = Machine::default().two("/cg", "hugetlb", "", "");
    assert!(machine.find(UNIFIED_MOUNTS, "0::/\n").is_none());
}

#[test]
fn making_a_group_sweeps_what_killed_processes_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let parent = directory.path().to_owned();
    let name = format!("{PREFIX}{}", process_name(std::process::id()).expect("own"));
    let left = parent.join(format!("{PREFIX}{}-1-0", std::process::id()));
    let neighbour = parent.join(format!("{name}-neighbour"));
    for group in [&left, &neighbour] {
        fs::create_dir(group).expect("a group");
    }
    let place = Some(Place { version: Version::Two, parent });
    Hierarchies { memory: place.clone(), cpu: place, processes: None, name }.sweep();
    assert!(!left.exists() && neighbour.exists());
}

#[test]
fn tells_its_own_groups_from_left_over_ones() {
    let own = format!("{PREFIX}{}-0", process_name(std::process::id()).expect("own"));
    assert!(!is_left_over(&own));
    assert!(is_left_over(&format!("{PREFIX}{}-1-0", std::process::id())));
    assert!(!is_left_over("system.slice"));
}
