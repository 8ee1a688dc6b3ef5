//! Who wants more than the limits is refused in words that name the limit and the mend, in build,
//! test and run; the old release goes on serving, a neighbour too, and nothing is left running.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::harness::repository::Repository;
use crate::harness::{Planet, can_isolate, descendants, eventually};

const SERVER: &str = r#"
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/leak":
            self.server.leak = bytearray(400 << 20)
        if self.path == "/spin":
            os.system("sh -c 'while :; do :; done' &")
        body = os.environ["SELVEDGE_RELEASE"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

const LIMITS: &str = "[build_limits]\nmemory = \"128MiB\"\ndisk = \"64MiB\"\nprocesses = 64\n";

/// An app whose build, test or service (after its own) runs `misdeed`.
fn manifest(app: &str, stage: &str, misdeed: &str) -> String {
    let command = |this: &str| if stage == this { misdeed } else { "true" };
    format!(
        "[app]\nname = \"{app}\"\nbuild = '''{}'''\ntest = '''{}'''\n\n{LIMITS}\n\
         [[service]]\nname = \"web\"\nkind = \"process\"\ncommand = '''{}; exec python3 server.py'''\n\
         health = \"/\"\nmemory = \"128MiB\"\ndisk = \"32MiB\"\nprocesses = 64\ncpu = 0.5\n",
        command("build"),
        command("test"),
        command("run"),
    )
}

/// What is done, and what must be said of it in a build or test, and of a service.
struct Misdeed {
    name: &'static str,
    command: &'static str,
    in_task: [&'static str; 2],
    in_run: [&'static str; 2],
}

const MISDEEDS: [Misdeed; 4] = [
    Misdeed {
        name: "a fork bomb",
        command: "bash -c 'bomb() { bomb | bomb & }; bomb; sleep 1000'",
        in_task: [
            "too many processes and threads: its limit is 64",
            "`processes` in [build_limits]",
        ],
        in_run: ["too many processes and threads: its limit is 64", "raise its `processes`"],
    },
    Misdeed {
        name: "200 MB of log",
        command: "yes $(seq 500) | head -c 200000000",
        in_task: ["printed too much: its limit is 64 MiB", "print less"],
        in_run: ["printed too much: its limit is 64 MiB", "print less"],
    },
    Misdeed {
        name: "a filled disk",
        command: "for i in $(seq 100); do head -c 4M /dev/zero > file$i || exit 1; done",
        in_task: ["wrote too much to disk: its limit is 64 MiB", "`disk` in [build_limits]"],
        in_run: [
            "filled its file system in memory (/tmp): its limit is 32 MiB",
            "raise its `disk`",
        ],
    },
    Misdeed {
        name: "too much memory",
        command: "python3 -c 'bytearray(400 << 20)' || exit 1",
        in_task: ["ran out of memory: its limit is 128 MiB", "`memory` in [build_limits]"],
        in_run: ["ran out of memory: its limit is 128 MiB", "raise its `memory`"],
    },
];

/// Control groups of sandboxes that a process has made and that are still there.
fn groups_of(pid: u32) -> Vec<PathBuf> {
    fn look(directory: &Path, name: &str, depth: u32, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().starts_with(name) {
                found.push(entry.path());
            } else if depth > 0 {
                look(&entry.path(), name, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    look(Path::new("/sys/fs/cgroup"), &format!("selvedge-{pid}-"), 8, &mut found);
    found
}

/// How much runs and is kept for builds and workloads: processes and control groups.
fn left(planet: &Planet) -> (usize, usize) {
    let agents: Vec<u32> = planet.info.sites.iter().map(|site| site.pid).collect();
    let pids = agents.iter().chain([&planet.info.control_pid]);
    let (mut processes, mut groups) = (0, 0);
    for pid in pids {
        processes += descendants(*pid).len();
        groups += groups_of(*pid).len();
    }
    (processes, groups)
}

/// Asks a neighbouring app again and again, and counts the answers that were not good.
struct Neighbour {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    asking: tokio::task::JoinHandle<()>,
}

impl Neighbour {
    fn ask(planet: &Planet, app: &str) -> Self {
        let (stop, asked, failed) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let site = &planet.info.sites[0];
        let (address, host) = ((site.address, site.http), format!("{app}.edge.test"));
        let asking = tokio::spawn({
            let (stop, asked, failed) = (stop.clone(), asked.clone(), failed.clone());
            async move {
                while !stop.load(Ordering::Relaxed) {
                    let good = get(address, &host, "/").await.is_some_and(|it| !it.is_empty());
                    asked.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(u64::from(!good), Ordering::Relaxed);
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
        });
        Self { stop, asked, failed, asking }
    }

    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.asking.await.unwrap();
        let (asked, failed) =
            (self.asked.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        assert!(asked > 10, "the neighbour was asked only {asked} times");
        assert_eq!(failed, 0, "of {asked} requests to the neighbour");
    }
}

/// The body of a 200.
async fn get(address: (std::net::IpAddr, u16), host: &str, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200 ").then(|| body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_more_is_refused_in_words_and_nothing_is_left() {
    if !can_isolate() {
        return;
    }
    let planet = Planet::start(1, &[]).await;
    let problems = planet.status().await.control.problems;
    assert!(problems.is_empty(), "this test needs control groups: {problems:?}");
    let neighbour = Repository::with_files(
        "neighbour",
        &[("selvedge.toml", &manifest("neighbour", "", "")), ("server.py", SERVER)],
    )
    .await;
    neighbour.push_live(&planet).await;
    let victim = Repository::with_files(
        "victim",
        &[("selvedge.toml", &manifest("victim", "", "")), ("server.py", SERVER)],
    )
    .await;
    victim.push_live(&planet).await;
    let good = victim.git(&["rev-parse", "HEAD"]).await;
    let release = planet.live_release("victim").await.unwrap();
    let before = eventually("both are at rest", async || {
        let now = left(&planet);
        // A shim, the first process and the program, for each app.
        (now.0 == 6).then_some(now)
    })
    .await;
    let asked = Neighbour::ask(&planet, "neighbour");
    let site = &planet.info.sites[0];
    for misdeed in &MISDEEDS {
        for stage in ["build", "test", "run"] {
            let case = format!("{} in {stage}", misdeed.name);
            victim.write("selvedge.toml", &manifest("victim", stage, misdeed.command));
            victim.commit(&case).await;
            let pushed = victim.push(&planet).await;
            victim.git(&["reset", "--quiet", "--hard", &good]).await;
            assert!(!pushed.ok, "{case} was accepted:\n{}", pushed.words);
            let said = if stage == "run" { misdeed.in_run } else { misdeed.in_task };
            for words in said {
                assert!(pushed.words.contains(words), "{case}: {words:?}?\n{}", pushed.words);
            }
            let served = get((site.address, site.http), "victim.edge.test", "/").await;
            assert_eq!(served.as_ref(), Some(&release), "{case}");
            eventually(&format!("{case}: nothing is left"), async || {
                (left(&planet) == before).then_some(())
            })
            .await;
        }
    }
    asked.finish().await;
    leaks_and_spins(&planet, &release).await;
    planet.stop().await;
}

/// A live service that leaks is started again and reported; one that never rests is held to its
/// share while its neighbour serves.
async fn leaks_and_spins(planet: &Planet, release: &str) {
    let site = &planet.info.sites[0];
    let address = (site.address, site.http);
    let neighbour = Neighbour::ask(planet, "neighbour");
    let _ = get(address, "victim.edge.test", "/leak").await;
    let log = planet.data.join(format!("logs/{}.log", site.id));
    eventually("the leak is reported", async || {
        let log = std::fs::read_to_string(&log).ok()?;
        log.contains("ran out of memory: its limit is 128 MiB").then_some(())
    })
    .await;
    eventually("it is started again", async || {
        let body = get(address, "victim.edge.test", "/").await?;
        (body == release).then_some(())
    })
    .await;
    get(address, "victim.edge.test", "/spin").await.expect("an answer");
    eventually("it is throttled", async || {
        groups_of(site.pid).iter().find_map(|group| {
            let text = std::fs::read_to_string(group.join("cpu.stat")).ok()?;
            let count = text.lines().find_map(|line| line.strip_prefix("nr_throttled "))?;
            (count.trim().parse::<u64>().ok()? >= 5).then_some(())
        })
    })
    .await;
    neighbour.finish().await;
}
