//! An ordinary user: with user namespaces everything works, without them what needs a sandbox is
//! refused in words.

use super::*;

/// Nobody's on any machine.
const USER: u32 = 54_321;

/// The user's home, with a copy of the program, which may lie where only root may go.
struct Home {
    directory: tempfile::TempDir,
    program: PathBuf,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(directory.path(), Some(USER), Some(USER)).unwrap();
        let program = directory.path().join("selvedge");
        std::fs::copy(env!("CARGO_BIN_EXE_selvedge"), &program).unwrap();
        Self { directory, program }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A command of the user's.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.uid(USER).gid(USER);
        self.surround(&mut command);
        command
    }

    fn surround(&self, command: &mut Command) {
        command
            .env_clear()
            .env("HOME", self.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("NO_COLOR", "1")
            .current_dir(self.path());
    }

    fn selvedge(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.program);
        command.args(arguments);
        command
    }

    /// Deploys an app to the box that runs.
    async fn deploy(&self, name: &str, files: &[(&str, &str)]) -> Ended {
        let repository = Repository::with_files(name, files).await;
        let own = self.path().join(name);
        for (program, arguments) in [
            ("cp", [Path::new("-r"), &repository.path, &own]),
            ("chown", [Path::new("-R"), Path::new(&format!("{USER}:{USER}")), &own]),
        ] {
            assert_eq!(run(Command::new(program).args(arguments)).await.code, Some(0));
        }
        let deployed = run(self.selvedge(&["deploy"]).current_dir(&own)).await;
        std::fs::remove_dir_all(&own).unwrap();
        deployed
    }
}

const DEV: [&str; 12] = [
    "dev",
    "--json",
    "--sites",
    "1",
    "--http",
    "0",
    "--https",
    "0",
    "--dns",
    "0",
    "--control",
    "0",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_has_a_box() {
    if !can_isolate() {
        return;
    }
    let home = Home::new();
    let before = everything_in(home.path());
    let namespaces = run(home.command(Path::new("unshare")).args(["--user", "true"])).await;
    let (child, info) = launch(&mut home.selvedge(&DEV)).await;
    let plain = home.deploy("plain", &PLAIN).await;
    assert_eq!(plain.code, Some(0), "{}", plain.words);
    assert!(page_at(&info.sites[0], "plain").await.unwrap().contains("plain"));
    if namespaces.code == Some(0) {
        for (name, files) in [("built", &BUILT[..]), ("process", &PROCESS)] {
            let deployed = home.deploy(name, files).await;
            assert_eq!(deployed.code, Some(0), "{name}: {}", deployed.words);
            page_at(&info.sites[0], name).await.expect("it is live");
        }
        let checkouts = Path::new("control").join("work");
        let is_checkout =
            |path: &PathBuf| path.ancestors().skip(1).any(|above| above.ends_with(&checkouts));
        let left: Vec<_> = everything_in(home.path()).into_iter().filter(is_checkout).collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "checkouts whose builds made them read-only");
    } else {
        eprintln!("SKIPPED in part: this machine gives no user namespaces to ordinary users");
    }
    end(child, &info).await;

    let first: u16 = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024);
    if first > 81 {
        let refused = run(&mut home.selvedge(&["dev", "--http", "81"])).await;
        assert_eq!(refused.code, Some(5), "{}", refused.text);
        assert!(refused.words.contains("this user may not listen on"), "{}", refused.words);
        assert!(refused.words.contains("above 1023 with --http"), "{}", refused.words);
    }
    let removed = run(&mut home.selvedge(&["dev", "--remove"])).await;
    assert_eq!(removed.code, Some(0), "{}", removed.words);
    let usual = [home.path().join(".local"), home.path().join(".local/share")];
    let after: BTreeSet<_> =
        everything_in(home.path()).into_iter().filter(|path| !usual.contains(path)).collect();
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_user_namespaces_what_needs_a_sandbox_is_refused() {
    if !can_isolate() {
        return;
    }
    let home = Home::new();
    // The kernel gives no user namespace to a process whose root is not that of its mounts
    // (user_namespaces(7)). The mounts are of a namespace that ends with the box.
    let root = tempfile::tempdir().unwrap();
    let script = "mount --rbind / \"$0\" && user=\"$1\" && shift && exec chroot \"$0\" \
                  setpriv --reuid \"$user\" --regid \"$user\" --clear-groups \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(root.path());
    command.arg(USER.to_string()).arg(&home.program).args(DEV);
    home.surround(&mut command);
    let (child, info) = launch(&mut command).await;
    for (name, files) in [("built", &BUILT[..]), ("process", &PROCESS)] {
        let refused = home.deploy(name, files).await;
        assert_eq!(refused.code, Some(3), "{name}: {}", refused.words);
        for words in ["this machine can't isolate programs", "user namespaces", "--unsafe-builds"] {
            assert!(refused.words.contains(words), "{name}: {}", refused.words);
        }
    }
    let plain = home.deploy("plain", &PLAIN).await;
    assert_eq!(plain.code, Some(0), "{}", plain.words);
    assert!(page_at(&info.sites[0], "plain").await.unwrap().contains("plain"));
    end(child, &info).await;
}
