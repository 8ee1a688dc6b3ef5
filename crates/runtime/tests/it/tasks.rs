//! Builds and tests: what they see, what they reach, how they end.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use selvedge_runtime::{Config, Excess, Runtime, RuntimeError, TaskOutcome};
use tokio::sync::mpsc;

use crate::support::{HELPER, World, processes_with, unique, until};

#[tokio::test]
async fn exit_codes_and_signals_are_told() {
    let world = World::new();
    for (command, outcome) in [
        ("exit 0", TaskOutcome::Succeeded),
        ("exit 3", TaskOutcome::Failed(3)),
        ("kill -9 $$", TaskOutcome::Killed("SIGKILL".into())),
        ("no-such-program", TaskOutcome::Failed(127)),
        // What a task leaves running ends with it.
        ("sleep 1000 & exit 4", TaskOutcome::Failed(4)),
    ] {
        assert_eq!(world.run(world.task(command)).await.0, outcome, "{command}");
    }
    let output = world.output("echo out; echo err >&2; printf last").await;
    assert_eq!(output, "out\nerr\nlast");
}

#[tokio::test]
async fn nothing_of_the_host_shows() {
    let world = World::new();
    fs::create_dir_all(world.path("hidden")).expect("hidden");
    fs::write(world.path("hidden/secret"), "secret").expect("a secret");
    let secret = world.path("hidden/secret");
    let listing = world.output("pwd; ls /; ls -A /run /root /home /var /sys 2>&1; true").await;
    assert!(listing.starts_with("/app\n"), "{listing}");
    for name in ["work", "data", "boot", "srv", "mnt"] {
        assert!(!listing.lines().any(|line| line == name), "{listing}");
    }
    let (outcome, lines) = world.run(world.task(&format!("cat {}", secret.display()))).await;
    assert_eq!(outcome, TaskOutcome::Failed(1));
    assert!(lines.concat().contains("No such file"), "{lines:?}");
    // Nor its processes, devices, capabilities or rights to gain any.
    let status =
        world.output("ls -d /proc/[0-9]* | wc -l; grep -E 'Cap|NoNew' /proc/self/status").await;
    assert!(status.lines().next().expect("a count").parse::<u32>().expect("a count") < 8);
    for line in status.lines().skip(1) {
        let value = line.split_whitespace().nth(1).expect("a value");
        let wanted = if line.starts_with("NoNewPrivs") { "1" } else { "0000000000000000" };
        assert_eq!(value, wanted, "{status}");
    }
    assert_eq!(world.output("ls -l /proc/1/fd /proc/1/cwd 2>&1 | grep -c denied").await, "2");
    assert_eq!(
        world.output("cat /etc/shadow /etc/ssl/private/* 2>&1 | grep -vc 'No such'; true").await,
        "0"
    );
    let interfaces =
        world.output("ls /proc/self/net/dev && tail -n +3 /proc/net/dev | cut -d: -f1").await;
    assert_eq!(interfaces.split_whitespace().last(), Some("lo"), "{interfaces}");
}

#[tokio::test]
async fn a_hidden_directory_stays_hidden_inside_what_shows() {
    let world = World::with(|config| {
        let app = config.state.with_file_name("checkout");
        fs::create_dir_all(app.join("data")).expect("a directory");
        fs::write(app.join("data/secret"), "secret").expect("a secret");
        config.hidden.push(app.join("data"));
    });
    let output =
        world.output("ls -A data 2>&1; cat data/secret 2>&1; touch data/x 2>&1; true").await;
    assert!(!output.contains("\nsecret") && !output.starts_with("secret"), "{output}");
    assert!(!world.path("checkout/data/x").exists());
}

#[tokio::test]
async fn only_the_checkout_and_the_cache_are_writable() {
    let world = World::new();
    let output = world
        .output(
            "for place in / /usr /etc /dev /opt /var /run /proc /cache /app /tmp /var/tmp; do \
             touch $place/x 2>/dev/null && echo $place; done; echo kept > /app/made; \
             echo cached > /cache/made; mkdir -p $HOME/x && echo $HOME",
        )
        .await;
    assert_eq!(output, "/cache\n/app\n/tmp\n/var/tmp\n/cache/home");
    assert_eq!(fs::read_to_string(world.path("checkout/made")).expect("made"), "kept\n");
    // The next task of the tenant finds the cache, and only that.
    assert_eq!(world.output("cat /cache/made; ls /tmp").await, "cached");
}

#[tokio::test]
async fn tenants_have_users_of_their_own() {
    if !crate::machines::is_root() {
        return;
    }
    let world = World::new();
    let one = world.output("id -u; id -G; echo x > /app/mine").await;
    let (_, other) = {
        let mut spec = world.task("id -u");
        spec.tenant = "two".into();
        spec.app = world.app("other", &[]);
        spec.cache = world.path("other-cache");
        world.run(spec).await
    };
    let user: u32 = one.lines().next().expect("an id").parse().expect("an id");
    assert_eq!(one, format!("{user}\n{user}"), "no other groups");
    assert!(user >= 700_000);
    assert_ne!(other, [user.to_string()]);
    assert_eq!(fs::metadata(world.path("checkout/mine")).expect("made").uid(), user);
}

#[tokio::test]
async fn the_environment_is_scrubbed() {
    let world = World::new();
    let mut spec =
        world.task("env -0 | tr '\\0' '\\n' | cut -d= -f1 | sort; echo \"$MINE\"; echo $PATH");
    spec.environment.insert("MINE".into(), "of the app".into());
    spec.environment.insert("LARGE".into(), "x".repeat(100_000));
    let (_, lines) = world.run(spec).await;
    assert!(lines.contains(&"of the app".to_owned()), "{lines:?}");
    let path = lines.last().expect("PATH");
    assert_eq!(path, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    for name in &lines {
        let name = name.to_ascii_uppercase();
        assert!(!name.starts_with("GIT_") && !name.starts_with("CARGO_PKG"), "{lines:?}");
        assert!(!name.contains("TOKEN") && !name.contains("RUST"), "{lines:?}");
    }
    for (name, value) in std::env::vars() {
        if name.starts_with("SSL_CERT_") || name == "NODE_EXTRA_CA_CERTS" {
            assert_eq!(world.output(&format!("echo ${name}")).await, value);
        }
    }
}

#[tokio::test]
async fn the_host_is_out_of_reach() {
    let world = World::new();
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let own = own_address();
    let mut hosts = vec!["127.0.0.1", "127.0.1.2", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"];
    hosts.extend(own.as_deref());
    for host in hosts {
        let url = format!("http://{host}:{port}/");
        // Directly there is no way at all; through the proxy, for both kinds of request, a refusal.
        let direct = format!("curl -sS --noproxy '*' -m 10 {url} 2>&1");
        let (outcome, lines) = world.run(world.task(&direct)).await;
        assert_eq!(outcome, TaskOutcome::Failed(7), "{host}: {lines:?}");
        let proxied = format!("curl -sS --noproxy '' -m 10 -w '%{{http_code}}' {url}");
        let answer = world.output(&proxied).await;
        assert!(answer.contains("can't be reached") && answer.ends_with("403"), "{host}: {answer}");
        let tunnel = format!("curl -sS --noproxy '' -p -m 10 {url} 2>&1");
        let (outcome, lines) = world.run(world.task(&tunnel)).await;
        assert_eq!(outcome, TaskOutcome::Failed(56), "{host}: {lines:?}");
        assert!(lines.concat().contains("403"), "{host}: {lines:?}");
    }
    listener.set_nonblocking(true).expect("non-blocking");
    let reached = listener.accept();
    assert!(reached.is_err(), "a task has reached the host: {reached:?}");
}

/// The address from which this machine would reach the internet; nothing is sent.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("203.0.113.1:9").ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) if !address.is_loopback() => Some(address.to_string()),
        _ => None,
    }
}

#[tokio::test]
async fn without_network_there_is_no_way_out() {
    let world = World::new();
    let mut spec = world.task("echo \"[$http_proxy]\"; curl -sS -m 10 http://127.0.0.1:3128/");
    spec.network = false;
    let (outcome, lines) = world.run(spec).await;
    assert_eq!(outcome, TaskOutcome::Failed(7));
    assert_eq!(lines[0], "[]");
}

#[tokio::test]
async fn a_package_is_installed_through_the_way_out() {
    let world = World::new();
    world.app("checkout", &[("package.json", r#"{"dependencies": {"is-number": "7.0.0"}}"#)]);
    let output = world
        .output("npm install --no-audit --no-fund 2>&1 && node -p 'require(\"is-number\")(5)'")
        .await;
    assert!(output.ends_with("true"), "{output}");
    assert!(world.path("checkout/node_modules/is-number/package.json").is_file());
    // And from the cache, without any network.
    let mut spec = world.task("rm -r node_modules && npm install --offline --no-audit 2>&1");
    spec.network = false;
    let (outcome, lines) = world.run(spec).await;
    assert_eq!(outcome, TaskOutcome::Succeeded, "{lines:?}");
}

#[tokio::test]
async fn a_task_that_takes_too_long_is_killed_with_all_it_started() {
    let world = World::new();
    let marker = unique("too-long");
    let script = format!("(exec -a {marker} sleep 1000) & echo started; wait");
    let mut spec = world.task(&format!("bash -c '{script}'"));
    spec.timeout = Duration::from_secs(1);
    let (outcome, lines) = world.run(spec).await;
    assert_eq!(outcome, TaskOutcome::TimedOut);
    assert_eq!(lines, ["started"]);
    assert_eq!(processes_with(&marker), Vec::<u32>::new());
}

#[tokio::test]
async fn a_dropped_task_is_killed() {
    let world = World::new();
    let marker = unique("dropped");
    let spec = world.task(&format!("bash -c 'exec -a {marker} sleep 1000'"));
    let (sender, _receiver) = mpsc::channel(1);
    let runtime = world.runtime.clone();
    let task = tokio::spawn(async move { runtime.run_task(spec, sender).await });
    until("it runs", || !processes_with(&marker).is_empty()).await;
    task.abort();
    until("it has ended", || processes_with(&marker).is_empty()).await;
}

#[tokio::test]
async fn running_out_of_memory_is_named() {
    let world = World::new();
    let mut spec = world.task("python3 -c 'x = bytearray(400 << 20)'; echo survived; exit 1");
    spec.limits.memory_mib = 64;
    let (outcome, lines) = world.run(spec).await;
    if nix::unistd::geteuid().is_root() {
        assert_eq!(outcome, TaskOutcome::Exceeded(Excess::Memory(64)), "{lines:?}");
    } else {
        // Without a control group each process has the limit, and is told when it asks for more.
        assert_eq!(outcome, TaskOutcome::Failed(1));
        assert!(lines.iter().any(|line| line.contains("MemoryError")), "{lines:?}");
    }
}

#[tokio::test]
async fn a_flood_of_output_is_bounded_and_its_end_kept() {
    let world = World::new();
    let (outcome, lines) = world.run(world.task("seq 1 800000; echo the end; exit 1")).await;
    assert_eq!(outcome, TaskOutcome::Failed(1));
    assert!(lines.iter().map(String::len).sum::<usize>() < 5 << 20);
    assert_eq!((lines[0].as_str(), lines.last().map(String::as_str)), ("1", Some("the end")));
    assert!(lines.iter().any(|line| line.ends_with("lines left out]")));
}

#[tokio::test]
async fn a_link_in_the_checkout_gives_away_nothing_outside() {
    let world = World::new();
    fs::write(world.path("outside"), "x").expect("a file");
    let before = fs::metadata(world.path("outside")).expect("there").uid();
    let app = world.app("checkout", &[]);
    std::os::unix::fs::symlink(world.path("outside"), app.join("link")).expect("a link");
    std::os::unix::fs::symlink(world.directory.path(), app.join("directory")).expect("a link");
    world.output("true").await;
    assert_eq!(fs::metadata(world.path("outside")).expect("there").uid(), before);
}

#[tokio::test]
async fn a_machine_without_sandboxes_refuses_in_words() {
    let directory = tempfile::tempdir().expect("a directory");
    // No shim there, so that no sandbox can be made.
    let mut config = Config::new("/nonexistent/selvedge".into(), directory.path().join("state"));
    let runtime = Runtime::new(config.clone()).expect("a runtime");
    let world = World::new();
    let (sender, _receiver) = mpsc::channel(1);
    let error = runtime.run_task(world.task("true"), sender).await.expect_err("no sandbox");
    assert!(matches!(&error, RuntimeError::NoSandbox(_)), "{error}");
    assert!(error.to_string().contains("run Selvedge as root"), "{error}");
    config.executable = HELPER.into();
    assert_eq!(Runtime::new(config).expect("a runtime").no_sandbox(), None);
}

/// Prints the names of the error numbers that system calls end with; `worked` for none.
const CALLS: &str = r"
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
x86 = os.uname().machine == 'x86_64'
clone, setns, mount, bpf, keyctl, userfaultfd, io_uring_setup, clone3, getpid = (
    (56, 308, 165, 321, 250, 323, 425, 435, 39) if x86
    else (220, 268, 40, 280, 219, 282, 425, 435, 172))
NEW_USER = 0x10000000
def name(*arguments):
    result = libc.syscall(*[ctypes.c_long(it) for it in arguments])
    if result == 0 and arguments[0] == clone:
        os._exit(0)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else 'worked'
print(name(clone, NEW_USER | 17, 0, 0, 0, 0), name(setns, 0, 0), name(mount, 0, 0, 0, 0, 0))
print(name(bpf, 0, 0, 0), name(keyctl, 0, -3, 0), name(userfaultfd, 1), name(io_uring_setup, 1, 0))
print(name(clone3, 0, 0), name(0x40000000 | getpid), name(getpid), name(clone, 17, 0, 0, 0, 0))
socket, swapon, reboot, clock_settime = (41, 167, 169, 227) if x86 else (198, 224, 142, 112)
print(*[name(socket, kind, 3, 0) for kind in (17, 38, 40)])
print(*[name(socket, kind, 2, 0) for kind in (1, 2, 10)])
print(name(swapon, 0, 0), name(reboot, 0, 0, 0), name(clock_settime, 0, 0))
";

#[tokio::test]
async fn calls_that_only_administrators_need_are_refused() {
    let world = World::new();
    world.app("checkout", &[("calls.py", CALLS)]);
    let output = world.output("unshare -Ur true 2>&1; python3 calls.py").await;
    assert_eq!(
        output,
        "unshare: unshare failed: Operation not permitted\nEPERM EPERM EPERM\n\
         EPERM EPERM EPERM EPERM\nENOSYS ENOSYS worked worked\n\
         EAFNOSUPPORT EAFNOSUPPORT EAFNOSUPPORT\nworked worked worked\nEPERM EPERM EPERM"
    );
    // What builds do with threads and processes works.
    let workers = "new (require('worker_threads').Worker)('console.log(1)', {eval: true}); \
                   require('child_process').execFile('echo', ['2'], (_, it) => console.log(it))";
    let threads = "import subprocess, threading; \
                   threading.Thread(target=lambda: subprocess.run(['echo', '3'])).start()";
    world.app("checkout", &[("workers.js", workers), ("threads.py", threads)]);
    let command =
        "(node workers.js; python3 threads.py; python3 -m venv --without-pip /tmp/x) | sort";
    let output = world.output(command).await;
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["1", "2", "3"]);
}
