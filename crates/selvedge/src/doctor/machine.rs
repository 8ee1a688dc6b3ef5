//! What the machine can do.

use super::Finding;

/// id-mapped mounts and their attributes (mount_setattr(2)); the newest that sandboxes need.
const OLDEST_KERNEL: (u32, u32) = (5, 12);
/// Overlays over id-mapped mounts: what shows a workload's files as its own.
const OVERLAY_KERNEL: (u32, u32) = (5, 19);
/// `proc-receive` hooks for all branches.
const OLDEST_GIT: (u32, u32) = (2, 29);
/// Below this, hosts run out of files with many clients.
const FEW_FILES: u64 = 4096;
const TOO_FEW_FILES: u64 = 1024;
/// Below this, a machine with several apps runs out of processes.
const FEW_PROCESSES: u64 = 2048;
/// What builds leave free, in MiB: [`selvedge_runtime::Reserve`].
const LITTLE_DISK_MIB: u64 = 4096;
/// 2025-01-01 in Unix milliseconds: before Selvedge was written, so no clock is right that says so.
const BEFORE_US_MS: u64 = 1_735_689_600_000;

/// What was seen of the machine.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// `uname -r`.
    pub(crate) kernel: String,
    /// The processor's architecture.
    pub(crate) architecture: &'static str,
    /// Whether the user is root.
    pub(crate) root: bool,
    /// Kinds of namespaces that the kernel lacks.
    pub(crate) namespaces_missing: Vec<&'static str>,
    /// What keeps ordinary users from user namespaces, by sysctl.
    pub(crate) user_namespaces: UserNamespaces,
    /// Whether the kernel has overlayfs loaded.
    pub(crate) overlay: bool,
    /// Whether the kernel has seccomp filters.
    pub(crate) seccomp: bool,
    /// How sandboxes turned out when one was made.
    pub(crate) sandbox: Sandbox,
    /// The installed git.
    pub(crate) git: Option<Git>,
    /// The clock, in Unix milliseconds.
    pub(crate) now_ms: u64,
    /// Whether the kernel holds it to be synchronised, if it says.
    pub(crate) synchronised: Option<bool>,
    /// Open files that a process may have at most.
    pub(crate) files: u64,
    /// Processes that the user may have at most.
    pub(crate) processes: u64,
    /// Whether ::1 can be listened on.
    pub(crate) ipv6: bool,
    /// Where the data is or would be.
    pub(crate) disk: Option<Disk>,
    /// Programs that apps often need, with the version that they print.
    pub(crate) programs: Vec<(&'static str, Option<String>)>,
    /// Listeners of a box; `None` when one runs here and has them.
    pub(crate) ports: Option<Vec<Port>>,
}

/// What `python3 -m venv` needs, which some distributions have in a package of its own.
pub(crate) const VENV: &str = "python3 venv";

/// What a sysctl says, where there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct UserNamespaces {
    /// `user.max_user_namespaces`.
    pub(crate) most: Option<u64>,
    /// `kernel.unprivileged_userns_clone`, of Debian's older kernels.
    pub(crate) clone: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, of Ubuntu.
    pub(crate) apparmor: Option<u64>,
}

/// What came of making a sandbox.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sandbox {
    /// Why it could not be made, with the mend.
    pub(crate) impossible: Option<String>,
    /// What it lacks: what follows, a colon, and the mend.
    pub(crate) lacks: Vec<String>,
    /// Which version of control groups limits what.
    pub(crate) control_groups: Option<String>,
}

/// A git.
#[derive(Debug, Clone)]
pub(crate) struct Git {
    /// As it prints it.
    pub(crate) version: String,
    /// Whether `git http-backend` is installed with it.
    pub(crate) http_backend: bool,
}

/// A file system.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// A directory on it.
    pub(crate) path: String,
    /// Free for this user.
    pub(crate) free_mib: u64,
    /// Files that can still be made; `None` where the file system doesn't count them.
    pub(crate) free_files: Option<u64>,
}

/// A listener that a box would open.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    /// Where.
    pub(crate) address: std::net::SocketAddr,
    /// The flag that moves it.
    pub(crate) flag: &'static str,
    /// Why it can't be opened; `None` when it can.
    pub(crate) taken: Option<String>,
}

/// Judges a machine.
pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![kernel(facts)];
    findings.extend(namespaces(facts));
    findings.extend(sandbox(facts));
    findings.push(overlay(facts));
    findings.push(git(facts.git.as_ref()));
    findings.extend(facts.disk.as_ref().map(disk));
    findings.push(clock(facts));
    findings.push(files(facts.files));
    findings.push(processes(facts));
    findings.push(ipv6(facts.ipv6));
    findings.extend(facts.ports.as_deref().map(ports).unwrap_or_default());
    findings.extend(facts.programs.iter().map(|(name, version)| program(name, version.as_deref())));
    findings
}

fn kernel(facts: &Facts) -> Finding {
    let what = format!("Linux {} on {}", facts.kernel, facts.architecture);
    match version(&facts.kernel) {
        Some(found) if found < OLDEST_KERNEL => Finding::fail(
            "kernel",
            format!("{what} is too old to isolate builds and workloads"),
            "upgrade it: 5.12 or newer is needed (Debian 12, Ubuntu 22.04 and later have one)",
        ),
        Some(_) => Finding::ok("kernel", what),
        None => Finding::note("kernel", format!("{what}, whose version can't be read")),
    }
}

fn namespaces(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.namespaces_missing.is_empty() {
        findings.push(Finding::fail(
            "namespaces",
            format!("the kernel has no namespaces of kind {}", facts.namespaces_missing.join(", ")),
            "run a kernel that has them, as every distribution's does",
        ));
    }
    let UserNamespaces { most, clone, apparmor } = facts.user_namespaces;
    let barred = [
        (most == Some(0), "user.max_user_namespaces is 0", "user.max_user_namespaces=15000"),
        (
            clone == Some(0),
            "kernel.unprivileged_userns_clone is 0",
            "kernel.unprivileged_userns_clone=1",
        ),
        (
            apparmor == Some(1),
            "kernel.apparmor_restrict_unprivileged_userns is 1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    for (is_barred, what, setting) in barred {
        if is_barred && facts.root {
            let what = format!("{what}: ordinary users can't run Selvedge here; root can");
            findings.push(Finding::note("user namespaces", what));
        } else if is_barred {
            findings.push(Finding::fail(
                "user namespaces",
                format!("{what}, so this user can't isolate builds and workloads"),
                format!("as root: sysctl -w {setting}, or run Selvedge as root"),
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("namespaces", "all kinds are there"));
    }
    findings
}

fn sandbox(facts: &Facts) -> Vec<Finding> {
    let Sandbox { impossible, lacks, control_groups } = &facts.sandbox;
    if let Some(reason) = impossible {
        let (what, mend) = reason.split_once(". To mend it, ").unwrap_or((reason, "run as root"));
        return vec![Finding::fail("sandbox", format!("none can be made: {what}"), mend)];
    }
    let mut findings = vec![match (facts.seccomp, control_groups) {
        (false, _) => Finding::warn(
            "sandbox",
            "the kernel has no filters of system calls (seccomp)",
            "run a kernel with CONFIG_SECCOMP_FILTER, as every distribution's has",
        ),
        (true, Some(groups)) => {
            Finding::ok("sandbox", format!("one was made; control groups: {groups}"))
        }
        (true, None) => Finding::ok("sandbox", "one was made"),
    }];
    findings.extend(lacks.iter().map(|lack| {
        let (what, mend) = lack.rsplit_once(": ").unwrap_or((lack, "see the guide on limits"));
        Finding::warn("limits", what, mend)
    }));
    findings
}

fn overlay(facts: &Facts) -> Finding {
    let lost = "a workload that writes beside its own files can't";
    if !facts.overlay {
        let mend = "load it: modprobe overlay (and name it in /etc/modules-load.d)";
        return Finding::warn("overlayfs", format!("the kernel has none, so {lost}"), mend);
    }
    match version(&facts.kernel) {
        Some(found) if found < OVERLAY_KERNEL => Finding::warn(
            "overlayfs",
            format!("Linux {} can't lay one over id-mapped mounts, so {lost}", facts.kernel),
            "upgrade the kernel to 5.19 or newer",
        ),
        _ => Finding::ok("overlayfs", "there, over id-mapped mounts too"),
    }
}

fn git(git: Option<&Git>) -> Finding {
    let install = "install git 2.29 or newer (Debian: apt-get install git)";
    let Some(Git { version: text, http_backend }) = git else {
        return Finding::fail("git", "there is none, so nothing can be pushed", install);
    };
    match version(text) {
        Some(found) if found < OLDEST_GIT => {
            Finding::fail("git", format!("git {text} is too old to receive pushes"), install)
        }
        _ if !http_backend => Finding::fail(
            "git",
            format!("git {text} has no http-backend, by which pushes are received"),
            "install git's own package for servers (Alpine: apk add git-daemon)",
        ),
        _ => Finding::ok("git", format!("git {text} with http-backend")),
    }
}

fn disk(disk: &Disk) -> Finding {
    let Disk { path, free_mib, free_files } = disk;
    let reserve = selvedge_runtime::Reserve::default();
    let mend = format!("free some, or have the data on another disk with --data DIR (now {path})");
    if *free_mib < u64::from(reserve.mib) {
        let what = format!("{free_mib} MiB are free, and builds must leave {} MiB", reserve.mib);
        return Finding::fail("disk", what, mend);
    }
    if let Some(files) = free_files.filter(|files| *files < reserve.files) {
        let what =
            format!("there is room for {files} more files, and builds leave {}", reserve.files);
        return Finding::fail("disk", what, mend);
    }
    if *free_mib < LITTLE_DISK_MIB {
        let what = format!("{free_mib} MiB are free: a build alone may take {LITTLE_DISK_MIB} MiB");
        return Finding::warn("disk", what, mend);
    }
    let files = free_files.map(|files| format!(" and room for {files} files")).unwrap_or_default();
    Finding::ok("disk", format!("{} GiB free{files} at {path}", free_mib / 1024))
}

fn clock(facts: &Facts) -> Finding {
    let mend = "run a time service: timedatectl set-ntp true, or chrony";
    if facts.now_ms < BEFORE_US_MS {
        let what = "it shows a time before 2025, so certificates are not valid yet";
        return Finding::fail("clock", what, mend);
    }
    match facts.synchronised {
        Some(true) => Finding::ok("clock", "synchronised"),
        Some(false) => Finding::warn(
            "clock",
            "it is not synchronised; certificates and times of events go wrong with it",
            mend,
        ),
        None => Finding::note("clock", "whether it is synchronised can't be told here"),
    }
}

fn files(most: u64) -> Finding {
    let mend = "raise it: `ulimit -n 65536`, LimitNOFILE= of the service, or limits.conf(5)";
    let what = format!("a process may have {most} files open");
    match most {
        ..TOO_FEW_FILES => Finding::fail("open files", format!("{what}, too few to serve"), mend),
        TOO_FEW_FILES..FEW_FILES => Finding::warn(
            "open files",
            format!("{what}, and a site needs two for each client"),
            mend,
        ),
        _ => Finding::ok("open files", what),
    }
}

fn processes(facts: &Facts) -> Finding {
    match facts.processes {
        few @ ..FEW_PROCESSES if !facts.root => Finding::warn(
            "processes",
            format!("this user may have {few}, those of all builds and workloads included"),
            "raise it: `ulimit -u 16384`, LimitNPROC= of the service, or limits.conf(5)",
        ),
        u64::MAX => Finding::ok("processes", "as many as the machine can have"),
        most => Finding::ok("processes", format!("this user may have {most}")),
    }
}

fn ipv6(there: bool) -> Finding {
    if there {
        return Finding::ok("IPv6", "::1 can be listened on");
    }
    Finding::warn(
        "IPv6",
        "::1 is not there, so browsers reach APP.localhost over IPv4 alone",
        "as root: sysctl -w net.ipv6.conf.lo.disable_ipv6=0",
    )
}

fn ports(ports: &[Port]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for port in ports {
        let Some(taken) = &port.taken else { continue };
        let Port { address, flag, .. } = port;
        let mend = format!("stop it, or choose another port with {flag} PORT");
        // One process often has a port at several addresses: the first says enough.
        let end = format!(":{} {taken}", address.port());
        if !findings.iter().any(|it| it.what.ends_with(&end)) {
            findings.push(Finding::fail("ports", format!("{}{end}", host(*address)), mend));
        }
    }
    if findings.is_empty() {
        let mut all: Vec<u16> = ports.iter().map(|port| port.address.port()).collect();
        all.sort_unstable();
        all.dedup();
        let all: Vec<String> = all.iter().map(u16::to_string).collect();
        findings.push(Finding::ok("ports", format!("{} are free", all.join(", "))));
    }
    findings
}

fn host(address: std::net::SocketAddr) -> String {
    if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() }
}

fn program(name: &'static str, version: Option<&str>) -> Finding {
    match version {
        Some(version) => Finding::ok(name, version),
        None if name == VENV => Finding::note(
            name,
            "not here, so builds of Python apps can't make a virtual environment; Debian and Ubuntu have it in the package python3-venv",
        ),
        None => Finding::note(name, "not here; apps that need it can't be built or run"),
    }
}

/// The first two numbers of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn healthy() -> Facts {
        Facts {
            kernel: "6.12.9-amd64".into(),
            architecture: "x86_64",
            root: true,
            namespaces_missing: Vec::new(),
            user_namespaces: UserNamespaces { most: Some(15_000), clone: None, apparmor: Some(0) },
            overlay: true,
            seccomp: true,
            sandbox: Sandbox {
                control_groups: Some("memory v2, cpu v2, pids v2".into()),
                ..Sandbox::default()
            },
            git: Some(Git { version: "2.39.5".into(), http_backend: true }),
            now_ms: 1_800_000_000_000,
            synchronised: Some(true),
            files: 65_536,
            processes: 100_000,
            ipv6: true,
            disk: Some(Disk { path: "/d".into(), free_mib: 50_000, free_files: Some(1_000_000) }),
            programs: vec![("node", Some("v22".into()))],
            ports: Some(vec![port("127.0.0.1:8080", None), port("127.0.1.1:8080", None)]),
        }
    }

    fn port(address: &str, taken: Option<&str>) -> Port {
        let address = address.parse().unwrap();
        Port { address, flag: "--http", taken: taken.map(str::to_owned) }
    }

    /// The one finding of a broken machine that isn't fine.
    fn broken(break_it: impl FnOnce(&mut Facts)) -> Finding {
        let mut facts = healthy();
        break_it(&mut facts);
        let mut bad: Vec<_> =
            check(&facts).into_iter().filter(|finding| finding.level > Level::Ok).collect();
        assert_eq!(bad.len(), 1, "{bad:?}");
        bad.remove(0)
    }

    #[test]
    fn a_healthy_machine_is_fine() {
        let findings = check(&healthy());
        assert!(
            findings.iter().all(|it| it.level == Level::Ok && it.mend.is_none()),
            "{findings:?}"
        );
        assert!(findings.iter().any(|it| it.what == "8080 are free"), "{findings:?}");
    }

    /// Each way to be broken, the level, a word of what is said, and one of the mend.
    type Case = (fn(&mut Facts), Level, &'static str, &'static str);

    const CASES: [Case; 20] = [
        (|it| it.namespaces_missing = vec!["user"], Level::Fail, "kind user", "kernel"),
        (|it| it.seccomp = false, Level::Warn, "seccomp", "CONFIG_SECCOMP_FILTER"),
        (|it| it.overlay = false, Level::Warn, "writes beside", "modprobe overlay"),
        (|it| it.kernel = "5.15.0".into(), Level::Warn, "id-mapped", "5.19"),
        (|it| it.git = None, Level::Fail, "nothing can be pushed", "apt-get install git"),
        (
            |it| it.git.as_mut().unwrap().version = "2.25.1".into(),
            Level::Fail,
            "2.25.1 is too old",
            "2.29",
        ),
        (
            |it| it.git.as_mut().unwrap().http_backend = false,
            Level::Fail,
            "no http-backend",
            "git-daemon",
        ),
        (|it| it.disk.as_mut().unwrap().free_mib = 100, Level::Fail, "100 MiB", "--data"),
        (|it| it.disk.as_mut().unwrap().free_mib = 2000, Level::Warn, "2000 MiB", "--data"),
        (
            |it| it.disk.as_mut().unwrap().free_files = Some(9),
            Level::Fail,
            "9 more files",
            "--data",
        ),
        (|it| it.now_ms = 0, Level::Fail, "before 2025", "timedatectl"),
        (|it| it.synchronised = Some(false), Level::Warn, "not synchronised", "chrony"),
        (|it| it.files = 256, Level::Fail, "256 files", "LimitNOFILE"),
        (|it| it.files = 1024, Level::Warn, "1024 files", "ulimit -n"),
        (|it| it.ipv6 = false, Level::Warn, "::1", "disable_ipv6=0"),
        (
            |it| {
                it.root = false;
                it.processes = 500;
            },
            Level::Warn,
            "may have 500",
            "ulimit -u",
        ),
        (
            |it| {
                it.root = false;
                it.user_namespaces.most = Some(0);
            },
            Level::Fail,
            "max_user_namespaces is 0",
            "sysctl -w user.max_user_namespaces=15000",
        ),
        (
            |it| {
                it.root = false;
                it.user_namespaces.apparmor = Some(1);
            },
            Level::Fail,
            "apparmor",
            "restrict_unprivileged_userns=0",
        ),
        (
            |it| it.sandbox.impossible = Some("no namespaces. To mend it, allow them".into()),
            Level::Fail,
            "none can be made: no namespaces",
            "allow them",
        ),
        (
            |it| it.sandbox.lacks = vec!["memory is not limited: run as root".into()],
            Level::Warn,
            "memory is not limited",
            "run as root",
        ),
    ];

    #[test]
    fn each_broken_machine_is_told_with_its_mend() {
        for (break_it, level, what, mend) in CASES {
            let finding = broken(break_it);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.what.contains(what), "{finding:?}");
            assert!(finding.mend.as_ref().is_some_and(|it| it.contains(mend)), "{finding:?}");
        }
    }

    #[test]
    fn an_old_kernel_fails_beside_what_it_lacks() {
        let mut facts = healthy();
        facts.kernel = "4.19.0-27-amd64".into();
        let findings = check(&facts);
        let kernel = findings.iter().find(|it| it.check == "kernel").unwrap();
        assert!(kernel.level == Level::Fail && kernel.what.contains("4.19.0-27-amd64"));
    }

    #[test]
    fn a_process_that_has_a_port_everywhere_is_told_once() {
        let taken = Some("is taken by process 7 (nginx)");
        let ports = vec![port("127.0.0.1:8080", taken), port("[::1]:8080", taken)];
        let finding = broken(|facts| facts.ports = Some(ports));
        assert_eq!(finding.what, "127.0.0.1:8080 is taken by process 7 (nginx)");
        assert!(finding.mend.unwrap().contains("--http PORT"));
    }

    #[test]
    fn what_ordinary_users_may_not_do_is_no_trouble_for_root() {
        let finding = broken(|facts| facts.user_namespaces.clone = Some(0));
        assert_eq!(finding.level, Level::Note);
        let finding = broken(|facts| facts.programs = vec![("java", None)]);
        assert_eq!((finding.level, finding.check), (Level::Note, "java"));
        let finding = broken(|facts| facts.programs = vec![(VENV, None)]);
        assert!(finding.what.contains("python3-venv"), "{}", finding.what);
        let finding = broken(|facts| facts.synchronised = None);
        assert_eq!(finding.level, Level::Note);
    }

    #[test]
    fn versions_are_read_from_what_programs_print() {
        assert_eq!(version("2.39.5 (Apple Git-154)"), Some((2, 39)));
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("unknown"), None);
    }
}
