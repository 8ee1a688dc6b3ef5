//! Workloads: how they start, answer, fail and stop.

use std::fs;
use std::time::Duration;

use selvedge_runtime::{Output, WorkloadState};

use crate::support::{World, get, processes_with, unique, until, wait_for};

const NODE: &str = "
const http = require('http');
http.createServer((request, response) => {
  if (request.url === '/healthz') response.writeHead(204);
  response.end(`${process.cwd()} ${process.env.WHO}`);
}).listen(process.env.PORT, 'localhost', () => console.log('listening'));
";

const PYTHON: &str = "
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'python')
http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()
";

/// An output whose lines are received.
fn collect() -> (Output, tokio::sync::mpsc::Receiver<String>) {
    let (sender, lines) = tokio::sync::mpsc::channel(1000);
    let output = Output::new(move |line| drop(sender.try_send(line.to_owned())));
    (output, lines)
}

fn is_ready(state: &WorkloadState) -> bool {
    *state == WorkloadState::Ready
}

#[tokio::test]
async fn node_and_python_answer() {
    let world = World::new();
    let app = world.app("node", &[("server.js", NODE)]);
    let mut spec = world.workload(&app, "node server.js");
    spec.health = Some("/healthz".into());
    spec.environment.insert("WHO".into(), "me".into());
    let (output, mut printed) = collect();
    spec.output = Some(output);
    let node = world.runtime.start(spec);
    let app = world.app("python", &[("server.py", PYTHON)]);
    let python = world.runtime.start(world.workload(&app, "exec python3 server.py"));
    wait_for(&node, is_ready).await;
    wait_for(&python, is_ready).await;
    assert_eq!(get(node.connect().await.expect("a connection"), "/").await, "/app me");
    assert_eq!(get(python.connect().await.expect("a connection"), "/").await, "python");
    until("its output is kept", || node.last_lines() == ["listening"]).await;
    assert_eq!(printed.try_recv().ok().as_deref(), Some("listening"));
    let monitor = node.monitor();
    let usage = monitor.usage();
    let pid = usage.pid.expect("it runs");
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("its command");
    assert!(command.contains("server.js"), "{command:?}");
    assert!(usage.memory_bytes > 10 << 20, "{usage:?}");
    assert_eq!((monitor.state(), monitor.history().restarts), (WorkloadState::Ready, 0));
    assert!(monitor.history().since.is_some());
    node.stop().await;
    python.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connect_at_once() {
    let world = World::new();
    let app = world.app("app", &[("server.js", NODE)]);
    let workload = world.runtime.start(world.workload(&app, "node server.js"));
    wait_for(&workload, is_ready).await;
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let connector = workload.connector();
            tokio::spawn(async move { get(connector.connect().await.expect("open"), "/").await })
        })
        .collect();
    for client in clients {
        assert_eq!(client.await.expect("an answer"), "/app undefined");
    }
}

#[tokio::test]
async fn an_artifact_may_be_written_over_but_never_changes() {
    let world = World::new();
    let app = world.app("app", &[("file", "artifact")]);
    fs::create_dir(app.join("inner")).expect("a directory");
    let command = "echo changed > file && echo new > inner/new && mkdir -p data && \
                   cat file inner/new && exec python3 -m http.server $PORT";
    let workload = world.runtime.start(world.workload(&app, command));
    wait_for(&workload, is_ready).await;
    assert_eq!(workload.last_lines()[..2], ["changed", "new"]);
    workload.stop().await;
    assert_eq!(fs::read_to_string(app.join("file")).expect("there"), "artifact");
    assert_eq!(fs::read_dir(app.join("inner")).expect("there").count(), 0);
}

#[tokio::test]
async fn a_crash_at_start_is_told_at_once() {
    let world = World::new();
    let app = world.app("app", &[]);
    let workload = world.runtime.start(world.workload(&app, "echo no database >&2; exit 7"));
    match wait_for(&workload, |state| *state != WorkloadState::Starting).await {
        WorkloadState::CrashLoop { reason, last_lines } => {
            assert_eq!(reason, "exited with code 7 before it was ready");
            assert_eq!(last_lines, ["no database"]);
        }
        other => panic!("{other:?}"),
    }
    workload.connect().await.expect_err("nothing runs");
    workload.stop().await;
}

#[tokio::test]
async fn one_that_is_never_ready_says_why() {
    let world = World::new();
    let app = world.app("app", &[("server.py", PYTHON)]);
    let cases = [
        ("PORT=3000 exec python3 server.py", None, "it listens on 3000: have it read the PORT"),
        ("exec python3 -m http.server $PORT", Some("/none"), "GET /none answered 404"),
        ("sleep 1000", None, "nothing listens on $PORT"),
    ]
    .map(|(command, health, wanted)| {
        let mut spec = world.workload(&app, command);
        spec.health = health.map(str::to_owned);
        spec.start_timeout = Duration::from_secs(2);
        (world.runtime.start(spec), wanted)
    });
    for (workload, wanted) in &cases {
        match wait_for(workload, |state| *state != WorkloadState::Starting).await {
            WorkloadState::CrashLoop { reason, .. } => assert!(reason.contains(wanted), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn one_that_ends_is_started_again_and_again() {
    let world = World::new();
    let app = world.app("app", &[("server.py", PYTHON)]);
    // Each run answers, and ends after a while.
    let command = "python3 server.py & until [ -e /tmp/end ]; do sleep 0.01; done; exit 5";
    let command = format!("(sleep 0.5; touch /tmp/end) & {command}");
    let workload = world.runtime.start(world.workload(&app, &command));
    let twice = |state: &WorkloadState| {
        if let WorkloadState::BackingOff { reason, restarts, .. } = state {
            assert_eq!(reason, "exited with code 5");
            assert!(*restarts <= 2);
        }
        matches!(state, WorkloadState::BackingOff { restarts: 2, .. })
    };
    wait_for(&workload, twice).await;
    wait_for(&workload, is_ready).await;
    workload.stop().await;
}

#[tokio::test]
async fn sigterm_lets_it_end_in_good_order_and_sigkill_follows() {
    let world = World::new();
    let app = world.app("app", &[]);
    let marker = unique("stubborn");
    let server = "python3 -m http.server $PORT";
    let polite = format!("trap 'sleep 0.2; echo bye; exit 0' TERM; {server} & wait; wait");
    let mut spec = world.workload(&app, &polite);
    let (output, mut printed) = collect();
    spec.output = Some(output);
    let workload = world.runtime.start(spec);
    wait_for(&workload, is_ready).await;
    let state = workload.state();
    workload.stop().await;
    assert_eq!(*state.borrow(), WorkloadState::Stopped);
    let mut lines = Vec::new();
    while let Ok(line) = printed.try_recv() {
        lines.push(line);
    }
    assert!(lines.contains(&"bye".to_owned()), "{lines:?}");

    let stubborn = format!("trap '' TERM; {server} & bash -c 'exec -a {marker} sleep 1000'");
    let mut spec = world.workload(&app, &stubborn);
    spec.stop_timeout = Duration::from_millis(300);
    let workload = world.runtime.start(spec);
    wait_for(&workload, is_ready).await;
    workload.stop().await;
    assert_eq!(processes_with(&marker), Vec::<u32>::new());
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let world = World::new();
    let app = world.app("app", &[]);
    let marker = unique("neighbour");
    let command = format!("echo x > /tmp/{marker}; python3 -m http.server $PORT --directory /tmp");
    let mut spec = world.workload(&app, &command);
    spec.tenant = "two".into();
    let workload = world.runtime.start(spec);
    wait_for(&workload, is_ready).await;
    let output = world
        .output("cat /proc/*/cmdline | tr '\\0' ' '; ls /tmp; curl -s -m 5 127.0.0.1:8080 || echo refused")
        .await;
    assert!(!output.contains(&marker) && output.ends_with("refused"), "{output}");
}
