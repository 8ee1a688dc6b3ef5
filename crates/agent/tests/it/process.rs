//! Processes in real sandboxes.

use selvedge_model::{EpochState, ReleaseId, ServiceKind};
use selvedge_runtime::Runtime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::{World, epoch, get, until};

const SERVER: &str = r#"
import http.server, os

INSTANCE = os.urandom(8).hex()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/die":
            print("dying as asked", flush=True)
            os._exit(3)
        self.answer()

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer()

    def answer(self):
        text = f"{os.environ['SELVEDGE_RELEASE']} {os.environ['SELVEDGE_SITE']} {INSTANCE}"
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// Whether this machine can run the tests here.
fn sandboxes() -> bool {
    let state = tempfile::tempdir().unwrap();
    let executable = env!("CARGO_BIN_EXE_selvedge-agent-helper").into();
    let config = selvedge_runtime::Config::new(executable, state.path().into());
    let runtime = Runtime::new(config).unwrap();
    if let Some(reason) = runtime.no_sandbox() {
        for name in ["CI", "SELVEDGE_REQUIRE_ROOT"] {
            assert!(std::env::var_os(name).is_none(), "{name} is set, but {reason}");
        }
        eprintln!("SKIPPED: this machine can't isolate programs: {reason}");
        return false;
    }
    true
}

impl World {
    /// Publishes a release that runs `text` with Python.
    async fn program(&self, text: &str) -> ReleaseId {
        let artifact = self.artifact(&[("server.py", text)]).await;
        let kind = ServiceKind::Process {
            command: "exec python3 server.py".into(),
            health: Some("/healthz".into()),
            start_timeout_s: 60,
            stop_timeout_s: 10,
            memory_mib: 128,
            limits: selvedge_model::manifest::ProcessLimits::default(),
        };
        self.release(kind, artifact).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_shared_drained_and_restarted() {
    if !sandboxes() {
        return;
    }
    let world = World::new().await;
    let agent = world.agent().await;
    let one = world.program(SERVER).await;
    world.assign(&[(1, one)]).await;
    world.warm(1).await;
    world.activate(1, one).await;
    world.verified(1).await;
    let first = agent.get().await.body;
    assert!(first.starts_with(&format!("{} fra ", one.short())), "{first}");

    // The same release at a later epoch: the same process goes on.
    world.assign(&[(1, one), (2, one)]).await;
    world.warm(2).await;
    world.activate(2, one).await;
    world.verified(2).await;
    world.assign(&[(2, one)]).await;
    world.reported(|it| it.epochs.keys().eq([&epoch(2)])).await;
    let answer = agent.get().await;
    assert_eq!(
        (answer.body, answer.headers["selvedge-epoch"].as_bytes()),
        (first.clone(), &b"1.2"[..])
    );

    // A new release: the old process ends when its last request has.
    let mut slow = TcpStream::connect(agent.http).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: shop.edge.test\r\ncontent-length: 4\r\nconnection: close\r\n\r\nab";
    slow.write_all(head.as_bytes()).await.unwrap();
    let three = world.program(&SERVER.replace("INSTANCE", "PROCESS")).await;
    world.assign(&[(2, one), (3, three)]).await;
    world.warm(3).await;
    world.activate(3, three).await;
    world.verified(3).await;
    world.assign(&[(3, three)]).await;
    world.state(2, |it| *it == EpochState::Draining).await;
    assert!(agent.get().await.body.starts_with(&three.short()));
    slow.write_all(b"cd").await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&first), "{answer}");
    world.reported(|it| it.epochs.keys().eq([&epoch(3)])).await;

    // It dies, and is there again.
    get(agent.http, "shop.edge.test", "/die", None).await;
    let state = world.state(3, |it| matches!(it, EpochState::Degraded { .. })).await;
    let EpochState::Degraded { service, .. } = state else { panic!("{state:?}") };
    assert_eq!(service.as_str(), "web");
    world.warm(3).await;
    agent.answers(|it| it.status == 200).await;
    agent.stop().await;
    assert!(world.log("output.shop").contains("dying as asked"));
    let events = world.log("event.shop");
    assert!(
        events.contains("epoch 1.3: degraded: ") && events.contains("dying as asked"),
        "{events}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_first_answer_is_asked_for_again() {
    if !sandboxes() {
        return;
    }
    let world = World::new().await;
    let agent = world.agent().await;
    let program = SERVER.replace("INSTANCE = ", "BAD_ANSWERS = [500]\nINSTANCE = ").replace(
        "self.send_response(200)",
        "probe = self.headers.get('user-agent', '').startswith('selvedge-probe/')\n        \
         self.send_response(BAD_ANSWERS.pop() if probe and BAD_ANSWERS else 200)",
    );
    let one = world.program(&program).await;
    world.assign(&[(1, one)]).await;
    world.warm(1).await;
    world.activate(1, one).await;
    world.verified(1).await;
    agent.stop().await;
    let log = world.log("access.shop");
    assert!(log.contains(r#""status":500"#), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_program_that_fails_its_users_is_found_out() {
    if !sandboxes() {
        return;
    }
    let world = World::new().await;
    let agent = world.agent().await;
    let broken =
        SERVER.replace("send_response(200)", "send_response(500 if self.path == '/' else 200)");
    let one = world.program(&broken).await;
    world.assign(&[(1, one)]).await;
    world.warm(1).await;
    world.activate(1, one).await;
    let report = world.reported(|it| it.probe.is_some()).await;
    let probe = report.probe.unwrap();
    assert_eq!(probe.status, 500);
    assert!(probe.detail.contains("shop.edge.test/ at"), "{}", probe.detail);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_start_is_reported_with_the_last_lines() {
    if !sandboxes() {
        return;
    }
    let world = World::new().await;
    let agent = world.agent().await;
    let broken = world.program("import sys; print('no database'); sys.exit(7)").await;
    world.assign(&[(1, broken)]).await;
    let state = world.state(1, |it| matches!(it, EpochState::Failed { .. })).await;
    let EpochState::Failed { service, reason, last_lines } = state else { panic!("{state:?}") };
    assert_eq!(service.unwrap().as_str(), "web");
    assert!(reason.contains('7'), "{reason}");
    assert_eq!(last_lines, ["no database"]);
    world.assign(&[]).await;
    until("the report's end", || async { world.report().await.is_none().then_some(()) }).await;
    agent.stop().await;
}
