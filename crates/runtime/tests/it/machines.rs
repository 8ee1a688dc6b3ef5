//! Machines that can do less than root on this one.

use std::ffi::OsStr;
use std::fs;
use std::io::{IoSlice, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{HELPER, processes_with, unique, until};

/// Makes its first argument's program and arguments run where user namespaces are used up, so
/// that no further one, and as an unmapped root no other namespace's users, can be made.
const WITHOUT_NAMESPACES: &str = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -all \
     --inh-caps -all --ambient-caps -all \"$@\"";

pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        for name in ["CI", "SELVEDGE_REQUIRE_ROOT"] {
            assert!(std::env::var_os(name).is_none(), "{name} is set, but this test wants root");
        }
        eprintln!("SKIPPED: needs root");
    }
    root
}

/// A directory, and in it an `app` and a copy of the helper, that anybody may use.
fn open_directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::create_dir(directory.path().join("app")).expect("a directory");
    fs::copy(HELPER, directory.path().join("helper")).expect("a copy");
    for path in [directory.path(), &directory.path().join("app")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("open");
    }
    directory
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn helper_as_nobody(directory: &Path, arguments: &[&OsStr]) -> String {
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(directory.join("helper"))
        .args(arguments)
        .output();
    text(&output.expect("setpriv"))
}

fn as_nobody(directory: &Path, command: &str) -> String {
    let arguments = ["run".as_ref(), directory.as_os_str(), command.as_ref(), "safe".as_ref()];
    helper_as_nobody(directory, &arguments)
}

fn without_namespaces(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "sh", "-c", WITHOUT_NAMESPACES, "sh"])
        .arg(directory.join("helper"))
        .args(arguments);
    command
}

#[test]
fn without_root_a_user_namespace_does() {
    if !is_root() {
        return;
    }
    let directory = open_directory();
    let output = as_nobody(
        directory.path(),
        "id -u; pwd; ls -d /root /work /proc/[0-9]* | wc -l; touch /usr/x || touch made; \
         grep Cap /proc/self/status | grep -vc 0000000000000000; \
         unshare -Ur true 2>/dev/null && echo unshared; \
         curl -sS -m 5 http://127.0.0.1:1/ -w '%{http_code}' --noproxy ''; \
         node -e 'console.log(6 * 7)'",
    );
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..2], ["65534", "/app"], "{output}");
    assert!(output.contains("can't be reached: it is this machine's loopback"), "{output}");
    assert!(output.ends_with("42\nSucceeded\n"), "{output}");
    assert!(!output.contains("unshared"), "{output}");
    assert!(directory.path().join("app/made").exists(), "{output}");
}

#[test]
fn permissions_that_a_build_takes_off_its_directories_change_nothing() {
    if !is_root() {
        return;
    }
    let directory = open_directory();
    let path = directory.path();
    // As Go's module cache does, of more than half of what a task may have.
    let fill = "mkdir /cache/module && head -c 70M /dev/zero > /cache/module/file && \
                chmod 555 /cache/module";
    assert_eq!(as_nobody(path, fill), "Succeeded\n");
    assert_eq!(as_nobody(path, "ls /cache"), "home\nSucceeded\n");
    let hide = "mkdir large && for i in 1 2 3; do head -c 50M /dev/zero > large/$i; \
                chmod 300 large; done; sleep 1000";
    assert_eq!(as_nobody(path, hide), "Exceeded(Disk(128))\n");
}

const FORK_UNTIL_REFUSED: &str = "
import os, time
count = 0
try:
    while count < 5000:
        if os.fork() == 0:
            time.sleep(1000)
        count += 1
except BlockingIOError:
    print('refused', 200 < count < 256)
os._exit(0)
";

#[test]
fn without_a_memory_group_processes_are_few_and_the_operator_is_told() {
    if !is_root() {
        return;
    }
    let directory = open_directory();
    let path = directory.path();
    let told = helper_as_nobody(path, &["degraded".as_ref(), path.as_os_str()]);
    assert!(told.starts_with("no control group can be made"), "{told}");
    fs::write(path.join("app/fork.py"), FORK_UNTIL_REFUSED).expect("a file");
    assert_eq!(as_nobody(path, "python3 fork.py"), "refused True\nSucceeded\n");
    // Enough for what builds start.
    fs::write(path.join("app/package.json"), r#"{"scripts": {"build": "node build.js"}}"#)
        .expect("a file");
    let workers = "const {Worker} = require('worker_threads'); \
                   for (let i = 0; i < 4; i++) new Worker('1', {eval: true})";
    fs::write(path.join("app/build.js"), workers).expect("a file");
    let built = as_nobody(path, "npm run build >/dev/null && python3 -m venv --help >/dev/null");
    assert_eq!(built, "Succeeded\n");
}

/// Lays files over the machine's own and makes the remaining arguments' program see them.
const WITH_SETTINGS: &str = "mount -t overlay overlay -o lowerdir=$1/etc:/etc /etc && \
     mount -t overlay overlay -o lowerdir=$1/usr:/usr /usr && shift && exec \"$@\"";

#[test]
fn settings_with_a_credential_are_not_shown() {
    if !is_root() {
        return;
    }
    let directory = open_directory();
    let path = directory.path().to_str().expect("a path");
    for (file, text) in [
        ("etc/npmrc", "fund=false\n"),
        ("etc/pip.conf", "[global]\nindex-url = https://me:hidden@registry.example/\n"),
        ("etc/gitconfig", "[http]\nextraHeader = hidden\n"),
        ("etc/maven/settings.xml", "hidden"),
        ("usr/etc/npmrc", "//registry.example/:_authToken=hidden\n"),
    ] {
        let file = directory.path().join(file);
        fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
        fs::write(file, text).expect("a file");
    }
    let command = "cat /etc/npmrc /etc/pip.conf /etc/gitconfig /etc/maven/settings.xml \
                   /usr/etc/npmrc 2>/dev/null; env | grep registry";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", WITH_SETTINGS, "sh", path])
        .arg(directory.path().join("helper"))
        .args(["run", path, command, "safe"])
        .env("PIP_INDEX_URL", "https://me:hidden@registry.example/")
        .env("npm_config_registry", "https://registry.example/")
        .output();
    let output = text(&output.expect("unshare"));
    let wanted = "fund=false\nnpm_config_registry=https://registry.example/\nSucceeded\n";
    assert_eq!(output, wanted);
}

#[test]
fn without_either_it_is_refused_unless_that_is_asked_for() {
    let directory = open_directory();
    let path = directory.path().to_str().expect("a path");
    let run = |mode| {
        let command = "pwd; env | grep -c GIT_; echo $npm_config_cache";
        let mut command = without_namespaces(directory.path(), &["run", path, command, mode]);
        text(&command.env("GIT_DIR", "x").output().expect("unshare"))
    };
    let refused = run("safe");
    assert!(refused.starts_with("this machine can't isolate programs: "), "{refused}");
    assert!(refused.contains("To mend it"), "{refused}");
    let allowed = run("unsafe");
    assert_eq!(allowed, format!("{path}/app\n0\n{path}/cache/npm\nSucceeded\n"));
}

#[tokio::test]
async fn without_a_sandbox_none_is_left_either() {
    let directory = open_directory();
    let path = directory.path().to_str().expect("a path");
    let marker = unique("unconfined");
    let command = format!(
        "bash -c 'exec -a {marker} setsid sleep 1000' & \
         bash -c 'exec -a {marker} python3 -m http.server $PORT'"
    );
    let mut child = without_namespaces(directory.path(), &["keep", path, &command])
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut ready = [0; 5];
    child.stdout.take().expect("a pipe").read_exact(&mut ready).expect("ready");
    assert!(processes_with(&marker).len() > 2);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).expect("SIGKILL");
    child.wait().expect("ended");
    until("all have ended", || processes_with(&marker).is_empty()).await;
}

#[test]
fn a_shim_of_another_version_refuses_in_words() {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs): (OwnedFd, OwnedFd) =
        nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .expect("a pair");
    let shim =
        Command::new(HELPER).arg("shim").stdin(Stdio::from(theirs)).stderr(Stdio::null()).spawn();
    let hello = br#"{"version": 999, "launch": {"of": "the future"}}"#;
    let (fd, parts) = (ours.as_raw_fd(), [IoSlice::new(hello)]);
    nix::sys::socket::sendmsg::<()>(fd, &parts, &[], MsgFlags::empty(), None).expect("sent");
    let mut answer = vec![0; 4096];
    let length = nix::unistd::read(&ours, &mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.contains("was asked for version 999"), "{answer}");
    assert_eq!(shim.expect("the shim").wait().expect("ended").code(), Some(64));
}
