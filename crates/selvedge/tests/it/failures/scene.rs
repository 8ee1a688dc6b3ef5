//! A box with an app, and what must hold of it after every fault.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use selvedge_api::SiteHealth;
use selvedge_model::{Push, RepositoryName, Stage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::gate::Gate;
use super::{Moment, Process};
use crate::harness::clients::Page;
use crate::harness::repository::{Pushed, Repository};
use crate::harness::{Planet, descendants, eventually, lives, signal};

/// The app answers with its release, and takes as long about it as its files say.
const SERVER: &str = r#"
import http.server, os, time
pause = lambda name: time.sleep(float(open(name).read()))
pause("start-pause")
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path != "/healthz":
            pause("answer-pause")
        body = os.environ["SELVEDGE_RELEASE"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// Build and test wait while a file is in the cache that control gives them.
const MANIFEST: &str = r#"[app]
name = "victim"
build = """
while [ -e /cache/build ]; do touch /cache/build.reached; sleep 0.02; done
mkdir -p public/page && echo $SELVEDGE_RELEASE > public/page/index.html
"""
test = "while [ -e /cache/test ]; do touch /cache/test.reached; sleep 0.02; done"

[[service]]
name = "web"
kind = "process"
command = "exec python3 server.py"
health = "/healthz"
stop_timeout = "1s"

[[service]]
name = "page"
kind = "static"
root = "public"

[[route]]
path = "/page/*"
service = "page"

[[route]]
path = "/*"
service = "web"
"#;

/// The app and its repository.
pub(super) const APP: &str = "victim";
/// What clients ask it for.
pub(super) const PAGES: [Page; 2] =
    [Page { app: APP, path: "/" }, Page { app: APP, path: "/page/" }];
/// A client's pause between two requests.
pub(super) const PAUSE: Duration = Duration::from_millis(60);

/// A box of three sites with one live app.
pub(super) struct Scene {
    pub(super) planet: Planet,
    pub(super) repository: Repository,
    pub(super) gate: Gate,
    /// What is live.
    pub(super) release: String,
    /// Processes below each agent when one release is warm.
    processes: usize,
    changes: u32,
    // After the box, which uses it.
    _tools: tempfile::TempDir,
}

impl Scene {
    pub(super) async fn new(arguments: &[&str]) -> Self {
        let tools = tempfile::tempdir().unwrap();
        let gate = Gate::new(tools.path());
        let environment = [("PATH", gate.path())];
        let planet = Planet::start_with(3, arguments, &environment).await;
        let files = [
            ("selvedge.toml", MANIFEST),
            ("server.py", SERVER),
            ("start-pause", "0"),
            ("answer-pause", "0"),
        ];
        let repository = Repository::with_files(APP, &files).await;
        repository.push_live(&planet).await;
        let release = planet.live_release(APP).await.unwrap();
        let mut scene =
            Self { planet, repository, gate, release, processes: 0, changes: 0, _tools: tools };
        scene.everywhere().await;
        scene.processes = scene.workloads();
        assert!(scene.processes >= 2 * 3, "a shim and a program at every site");
        scene
    }

    /// A commit that changes the app, made so that its push can be caught at `moment`.
    pub(super) async fn change(&mut self, moment: Option<Moment>) {
        self.changes += 1;
        let pause = |at| if moment == Some(at) { "1" } else { "0" };
        self.repository.write("start-pause", pause(Moment::Warm));
        self.repository.write("answer-pause", pause(Moment::Verify));
        self.repository.write("CHANGES.txt", &format!("change {}\n", self.changes));
        self.repository.commit(&format!("Change {}", self.changes)).await;
    }

    /// Pushes HEAD while `meanwhile` is done.
    pub(super) async fn push_while<T>(&self, meanwhile: impl Future<Output = T>) -> (Pushed, T) {
        tokio::join!(self.repository.push(&self.planet), meanwhile)
    }

    /// Lets the next push stop at `moment`.
    pub(super) fn close(&self, moment: Moment) {
        match moment {
            Moment::Build | Moment::Test => {
                std::fs::create_dir_all(self.cache()).unwrap();
                std::fs::write(self.cache().join(moment.name()), "").unwrap();
            }
            moment if moment.is_gated() => self.gate.close(moment.name()),
            _ => {}
        }
    }

    /// Waits until the push after the `earlier`th is at `moment`; where none can be held, at it or
    /// later.
    pub(super) async fn reached(&self, moment: Moment, earlier: u64) {
        match moment {
            Moment::Build | Moment::Test => {
                let mark = self.cache().join(format!("{}.reached", moment.name()));
                let there = async || mark.exists().then_some(());
                eventually(&format!("the push gets to {}", moment.name()), there).await;
            }
            moment if moment.is_gated() => self.gate.reached(moment.name()).await,
            moment => {
                let stage = if moment == Moment::Plan { Stage::Plan } else { moment.stage() };
                eventually(&format!("the push gets to {stage}"), async || {
                    let push = self.newest_push().await.filter(|push| push.number > earlier)?;
                    (push.stages.last()?.stage >= stage).then_some(())
                })
                .await;
            }
        }
    }

    /// Lets everything go on.
    pub(super) fn open(&self, moment: Moment) {
        self.gate.open(moment.name());
        for name in [moment.name().to_owned(), format!("{}.reached", moment.name())] {
            let _ = std::fs::remove_file(self.cache().join(name));
        }
    }

    /// The process id of what is now a process of the box; of agents, another one each turn.
    pub(super) fn pid(&self, process: Process, turn: usize) -> u32 {
        let info = self.planet.current_info().unwrap();
        match process {
            Process::Control => info.control_pid,
            Process::Agent => info.sites[turn % info.sites.len()].pid,
            Process::Supervisor => self.planet.supervisor_pid(),
        }
    }

    /// Kills the box and all that it runs, so that a test can change what is on disk.
    pub(super) async fn kill_all(&mut self) {
        let below = descendants(self.planet.supervisor_pid());
        signal(self.planet.supervisor_pid(), Signal::SIGKILL);
        self.planet.supervisor_ended().await;
        eventually("everything ends with the supervisor", async || {
            below.iter().all(|pid| !lives(*pid)).then_some(())
        })
        .await;
    }

    fn cache(&self) -> PathBuf {
        self.control_data("cache").join(APP)
    }

    /// Something in control's data directory.
    pub(super) fn control_data(&self, name: &str) -> PathBuf {
        self.planet.data.join("control").join(name)
    }

    pub(super) async fn newest_push(&self) -> Option<Push> {
        let name = RepositoryName::new(APP).unwrap();
        self.planet.api().pushes(&name).await.ok()?.into_iter().next()
    }

    /// The number of the last push.
    pub(super) async fn last_number(&self) -> u64 {
        self.newest_push().await.map_or(0, |push| push.number)
    }

    /// Processes below the agents: shims and what they run.
    fn workloads(&self) -> usize {
        let Some(info) = self.planet.current_info() else { return 0 };
        info.sites.iter().map(|site| descendants(site.pid).len()).sum()
    }

    /// Waits until no push is under way and every site serves what is live; returns the release.
    pub(super) async fn everywhere(&self) -> String {
        eventually("every site serves what is live", async || {
            let status = self.planet.api().status().await.ok()?;
            // A site that tells of a mended problem serves like the others.
            let well = status.sites.iter().all(|site| site.health != SiteHealth::Lost);
            let app = status.apps.into_iter().find(|app| app.summary.app.as_str() == APP)?;
            let whole = app.summary.serving == 3 && app.summary.assigned == 3;
            (well && whole && app.pushing.is_none()).then_some(app.summary.live?.release)
        })
        .await
    }

    /// What must hold after every fault: one release is live, everywhere and in git; nothing is left
    /// of another one. Returns the release.
    pub(super) async fn check(&self, fault: &str) -> String {
        let live = self.everywhere().await;
        let info = self.planet.current_info().unwrap();
        for site in &info.sites {
            for path in ["/", "/page/"] {
                let address = std::net::SocketAddr::new(site.address, site.http);
                let (head, body) = get(address, path).await;
                assert!(head.starts_with("HTTP/1.1 200"), "{fault}: {} {path}: {head}", site.id);
                assert_eq!(body.trim(), live, "{fault}: {} answers {path} with another", site.id);
            }
        }
        let main = self
            .repository
            .fetch(&self.planet, &format!("{}/{APP}.git", self.planet.info.git))
            .await;
        let status = self.planet.status().await;
        let app = status.apps.iter().find(|app| app.summary.app.as_str() == APP).unwrap();
        let commit = app.summary.live.as_ref().unwrap().commit.clone();
        assert_eq!(main, commit, "{fault}: main is not what is live");
        eventually(&format!("{fault}: nothing is left running"), async || {
            let control = self.planet.current_info()?.control_pid;
            (descendants(control).is_empty() && self.workloads() == self.processes).then_some(())
        })
        .await;
        eventually(&format!("{fault}: nothing is left on disk"), async || {
            self.leftovers().is_empty().then_some(())
        })
        .await;
        live
    }

    /// Checkouts, half received objects and refs of pushes that are over.
    fn leftovers(&self) -> BTreeSet<PathBuf> {
        let objects = self.control_data("repositories").join(format!("{APP}.git/objects"));
        let refs =
            self.control_data("repositories").join(format!("{APP}.git/refs/selvedge/pushes"));
        let quarantined = |path: &PathBuf| path.to_string_lossy().contains("tmp_objdir");
        let below = |path: PathBuf| {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path())
        };
        below(self.control_data("work"))
            .chain(below(refs))
            .chain(below(objects).filter(quarantined))
            .collect()
    }

    /// Takes the user's repository to what control has.
    pub(super) async fn follow_main(&self) {
        let url = format!("{}/{APP}.git", self.planet.info.git);
        self.repository.fetch(&self.planet, &url).await;
        self.repository.git(&["reset", "--quiet", "--hard", "FETCH_HEAD"]).await;
    }
}

/// Fetches a page of the app from one site.
pub(super) async fn get(address: std::net::SocketAddr, path: &str) -> (String, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {APP}.edge.test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}
