//! Logs of a box with several sites, as people and scripts read them: merged, filtered, followed
//! through kills, and within their limit. One box for all of it.

use std::collections::BTreeMap;
use std::process::Stdio;

use nix::sys::signal::Signal;
use selvedge_api::{DevSite, LogEvent, LogRecord, LogSource, Workloads};
use selvedge_model::operation::OperationState;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout};

use crate::harness::repository::Repository;
use crate::harness::{PATIENCE, Planet, can_isolate, eventually, signal};

const TALKER: &str = r#"
import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("request", self.headers["x-request-id"], "for", self.path)
        if self.path == "/die":
            print("dying as asked")
            os._exit(3)
        if self.path == "/hang-up":
            return self.connection.close()
        if self.path == "/flood":
            for number in range(40000):
                print("flood", number, "x" * 200)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;
const FLOOD: u64 = 40_000;

struct World {
    planet: Planet,
    sites: Vec<DevSite>,
    here: tempfile::TempDir,
}

/// What a site answered.
struct Answer {
    status: u16,
    body: String,
}

impl World {
    async fn new() -> Self {
        let planet = Planet::start(3, &["--log-mib", "8"]).await;
        let quiet = "[app]\nname = \"quiet\"\n\n[[service]]\nname = \"web\"\nkind = \"static\"\nroot = \".\"\n";
        let talker = "[app]\nname = \"talker\"\n\n[[service]]\nname = \"api\"\nkind = \"process\"\ncommand = \"exec python3 -u server.py\"\n";
        for (name, files) in [
            ("quiet", vec![("selvedge.toml", quiet), ("index.html", "quiet")]),
            ("talker", vec![("selvedge.toml", talker), ("server.py", TALKER)]),
        ] {
            Repository::with_files(name, &files).await.push_live(&planet).await;
        }
        let sites = planet.info.sites.clone();
        Self { planet, sites, here: tempfile::tempdir().unwrap() }
    }

    /// A browser's request to a site.
    async fn get(&self, site: usize, app: &str, path: &str) -> Answer {
        let site = &self.sites[site];
        let mut stream = TcpStream::connect((site.address, site.http)).await.unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {app}.localhost\r\naccept: text/html\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, body: body.to_owned() }
    }

    /// What `selvedge ARGUMENTS --json` prints, line by line.
    async fn ask(&self, arguments: &str) -> Vec<String> {
        let output = self
            .planet
            .command(self.here.path())
            .args(arguments.split_whitespace())
            .arg("--json")
            .output()
            .await
            .unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "selvedge {arguments}: {words}");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    async fn events(&self, arguments: &str) -> Vec<LogEvent> {
        let lines = self.ask(&format!("logs {arguments}")).await;
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn records(&self, arguments: &str) -> Vec<LogRecord> {
        records(self.events(arguments).await)
    }

    /// Paths of requests to the quiet app that begin with `prefix`, in the order of the log.
    async fn paths(&self, prefix: &str, arguments: &str) -> Vec<String> {
        let records = self.records(&format!("quiet --source access -n 10000 {arguments}")).await;
        let paths = records.into_iter().filter_map(|record| Some(record.access?.path));
        paths.filter(|path| path.starts_with(prefix)).collect()
    }

    async fn follow(&self, arguments: &str) -> Follower {
        let mut child = self
            .planet
            .command(self.here.path())
            .args(["logs", "-f", "--json"])
            .args(arguments.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut follower = Follower { lines, _child: child };
        follower.until(|event| matches!(event, LogEvent::Current { .. })).await;
        follower
    }

    async fn kill_agent(&self, site: usize) {
        let id = &self.sites[site].id;
        let pid = |planet: &Planet| {
            let info = planet.current_info()?;
            info.sites.iter().find(|site| site.id == *id).map(|site| site.pid)
        };
        let old = pid(&self.planet).unwrap();
        signal(old, Signal::SIGKILL);
        eventually("the agent is started again", async || {
            pid(&self.planet).filter(|new| *new != old)
        })
        .await;
    }

    async fn kill_control(&self) {
        let old = self.planet.current_info().unwrap().control_pid;
        signal(old, Signal::SIGKILL);
        eventually("control is started again", async || {
            self.planet.current_info().filter(|info| info.control_pid != old)
        })
        .await;
    }

    /// Waits until the site answers for the quiet app.
    async fn serves(&self, site: usize, path: &str) {
        eventually("the site serves again", async || {
            let site = &self.sites[site];
            TcpStream::connect((site.address, site.http)).await.ok()
        })
        .await;
        eventually("the site answers", async || {
            (self.get(site, "quiet", path).await.status == 404).then_some(())
        })
        .await;
    }
}

/// `selvedge logs -f`.
struct Follower {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Follower {
    /// The events up to one that `last` takes.
    async fn until(&mut self, last: impl Fn(&LogEvent) -> bool) -> Vec<LogEvent> {
        let mut events: Vec<LogEvent> = Vec::new();
        while !events.last().is_some_and(&last) {
            let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("nothing follows {events:?}"));
            events.push(serde_json::from_str(&line.unwrap().expect("it goes on")).unwrap());
        }
        events
    }

    /// The events up to the record of the request for `path`.
    async fn until_path(&mut self, path: &str) -> Vec<LogEvent> {
        self.until(|event| path_of(event).is_some_and(|it| it == path)).await
    }
}

fn path_of(event: &LogEvent) -> Option<&str> {
    match event {
        LogEvent::Record(record) => record.access.as_ref().map(|access| access.path.as_str()),
        _ => None,
    }
}

fn records(events: Vec<LogEvent>) -> Vec<LogRecord> {
    let record = |event| match event {
        LogEvent::Record(record) => Some(*record),
        _ => None,
    };
    events.into_iter().filter_map(record).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_all_sites() {
    if !can_isolate() {
        return;
    }
    let world = World::new().await;
    merged_and_filtered(&world).await;
    from_an_error_page_to_its_cause(&world).await;
    followed_through_kills(&world).await;
    processes_and_operations(&world).await;
    a_flood_pushes_out_only_itself(&world).await;
    world.planet.stop().await;
}

async fn merged_and_filtered(world: &World) {
    let wanted: Vec<String> = (0..15).map(|number| format!("/merged/{number}")).collect();
    for (number, path) in wanted.iter().enumerate() {
        assert_eq!(world.get(number % 3, "quiet", path).await.status, 404);
        let path = format!("/said/{number}");
        world.get(number % 3, "talker", &path).await;
        if number < 10 {
            continue;
        }
        // What a program prints has the time at which it was read: the next one, at another site,
        // must not be read before it.
        eventually("the line is there", async || {
            let said = world.records("talker --source output -n 1 --text /said/").await;
            said.last().is_some_and(|it| it.text.ends_with(&path)).then_some(())
        })
        .await;
    }
    eventually("every line is there, in order", async || {
        (world.paths("/merged/", "").await == wanted).then_some(())
    })
    .await;
    let nyc = world.sites[1].id.clone();
    let at_nyc = world.paths("/merged/", &format!("--site {nyc} --status 4xx")).await;
    assert_eq!(at_nyc, ["/merged/1", "/merged/4", "/merged/7", "/merged/10", "/merged/13"]);
    assert!(world.paths("/merged/", "--status 2xx").await.is_empty());
    assert_eq!(world.paths("/merged/", "--text MERGED/14").await, ["/merged/14"]);

    // Tenants never mix, and a limit counts over all sites.
    for record in world.records("quiet -n 10000").await {
        let of_quiet = record.app.as_ref().is_some_and(|app| app.as_str() == "quiet");
        let of_its_push = record.push.is_some_and(|push| push.repository.as_str() == "quiet");
        assert!(of_quiet || of_its_push, "{}", record.text);
    }
    let last = world.records("talker --source output -n 4 --text /said/").await;
    let said: Vec<&str> = last.iter().filter_map(|it| it.text.rsplit(' ').next()).collect();
    assert_eq!(said, ["/said/11", "/said/12", "/said/13", "/said/14"]);
    assert!(last.iter().all(|it| it.release.is_some() && it.service.is_some()));

    let pushes = world.records("talker --source pipeline").await;
    assert!(pushes.iter().any(|it| it.text.contains("is live at 3 sites")));
    let events = world.records("talker --source event").await;
    for site in &world.sites {
        let warm = |it: &&LogRecord| it.site.as_ref() == Some(&site.id) && it.text.contains("warm");
        assert!(events.iter().any(|it| warm(&it)), "{} says nothing of it", site.id);
    }
    let everything = world.records("--all -n 10000").await;
    let taken = |it: &&LogRecord| it.app.is_none() && it.text.contains("certificate of quiet");
    assert!(everything.iter().any(|it| taken(&it)));
    for source in LogSource::ALL {
        assert!(everything.iter().any(|it| it.source == source), "{source}");
    }
}

async fn from_an_error_page_to_its_cause(world: &World) {
    let page = world.get(2, "talker", "/hang-up").await;
    assert_eq!(page.status, 502);
    let (_, rest) = page.body.split_once("<dt>request<dd>").unwrap();
    let id = rest.split('<').next().unwrap();
    let found = eventually("both lines are there", async || {
        let found = world.records(&format!("--request {id}")).await;
        (found.len() == 2).then_some(found)
    })
    .await;
    let site = Some(&world.sites[2].id);
    assert!(found.iter().all(|it| it.site.as_ref() == site));
    let access = found.iter().find_map(|it| it.access.as_ref()).unwrap();
    assert_eq!((access.status, access.path.as_str()), (502, "/hang-up"));
    assert_eq!(access.error.as_ref().unwrap().source, "workload");
    let output = found.iter().find(|it| it.source == LogSource::Output).unwrap();
    assert_eq!(output.text, format!("request {id} for /hang-up"));
}

async fn followed_through_kills(world: &World) {
    let mut follower = world.follow("quiet --source access -n 0").await;
    let mut seen = Vec::new();
    let get = async |site: usize, path: &str| {
        assert_eq!(world.get(site, "quiet", path).await.status, 404);
    };
    for number in 0..30 {
        get(number % 3, &format!("/followed/{number}")).await;
    }
    seen.extend(follower.until_path("/followed/29").await);

    world.kill_agent(1).await;
    let killed = &world.sites[1].id;
    let away = |event: &LogEvent, back| matches!(event, LogEvent::Site { site, answers, .. } if site == killed && *answers == back);
    seen.extend(follower.until(|event| away(event, false)).await);
    get(0, "/followed/30").await;
    seen.extend(follower.until_path("/followed/30").await);
    world.serves(1, "/again").await;
    get(1, "/followed/31").await;
    // The return of the site and its line may come in either order.
    seen.extend(follower.until_path("/followed/31").await);

    world.kill_control().await;
    for number in 32..40 {
        get(number % 3, &format!("/followed/{number}")).await;
    }
    seen.extend(follower.until_path("/followed/39").await);
    get(0, "/followed/40").await;
    seen.extend(follower.until_path("/followed/40").await);

    assert!(seen.iter().any(|event| away(event, true)), "the site's return is named");
    let mut counts = BTreeMap::<String, u32>::new();
    for path in seen.iter().filter_map(path_of).filter(|path| path.starts_with("/followed/")) {
        *counts.entry(path.to_owned()).or_default() += 1;
    }
    for number in 0..=40 {
        assert_eq!(counts.get(&format!("/followed/{number}")), Some(&1), "{number}: {counts:?}");
    }
    // What was said survives the kills.
    assert_eq!(world.paths("/followed/", "").await.len(), 41);
}

async fn processes_and_operations(world: &World) {
    let ps = async || -> Option<Workloads> {
        let all: Workloads = serde_json::from_str(&world.ask("ps").await.concat()).unwrap();
        all.silent.is_empty().then_some(all)
    };
    let all = eventually("every site answers", async || {
        ps().await.filter(|all| all.workloads.iter().all(|it| it.pid.is_some()))
    })
    .await;
    assert_eq!(all.workloads.len(), 3);
    assert!(all.workloads.iter().all(|it| it.memory_bytes > Some(1 << 20)));
    world.get(0, "talker", "/die").await;
    let died = eventually("it was started again", async || {
        let rows = ps().await?.workloads;
        rows.into_iter().find(|it| it.site == world.sites[0].id && it.restarts == 1)
    })
    .await;
    assert_eq!(died.reason.as_deref(), Some("exited with code 3"));
    assert_eq!(died.last_lines.last().unwrap(), "dying as asked");
    eventually("all is well again", async || {
        let status: serde_json::Value =
            serde_json::from_str(&world.ask("status").await.concat()).unwrap();
        (status["well"] == true).then_some(())
    })
    .await;

    let list: Vec<selvedge_api::OperationRow> =
        serde_json::from_str(&world.ask("ops").await.concat()).unwrap();
    let newest = &list[0];
    let shown: selvedge_api::OperationRow =
        serde_json::from_str(&world.ask(&format!("ops {}", newest.operation)).await.concat())
            .unwrap();
    let complete = list.iter().find(|it| it.outcome.state == OperationState::Complete).unwrap();
    assert_eq!(
        (shown.operation, complete.targets),
        (newest.operation, complete.outcome.nodes.len())
    );
}

async fn a_flood_pushes_out_only_itself(world: &World) {
    let site = world.sites[0].id.clone();
    let quiet = world.paths("/", &format!("--site {site}")).await;
    world.get(0, "talker", "/flood").await;
    let last = format!("flood {} ", FLOOD - 1);
    let query = format!("talker --source output --site {site} --since 1h");
    let (mut kept, mut dropped) = (0, 0);
    eventually("the end of the flood is accounted for", async || {
        (kept, dropped) = (0, 0);
        let mut ended = false;
        for event in world.events(&query).await {
            match event {
                LogEvent::Record(record) => {
                    kept += u64::from(record.text.starts_with("flood "));
                    ended |= record.text.starts_with(&last);
                }
                LogEvent::Gap(gap) => dropped += gap.dropped,
                LogEvent::Pending { .. } | LogEvent::Site { .. } | LogEvent::Current { .. } => {}
            }
        }
        (ended || kept + dropped >= FLOOD).then_some(())
    })
    .await;
    // Besides the flood, the lines before it are dropped: a few for each request.
    assert!(dropped > 0 && kept > 0, "{kept} {dropped}");
    assert!((FLOOD..FLOOD + 200).contains(&(kept + dropped)), "{kept} {dropped}");
    let still = world.paths("/", &format!("--site {site}")).await;
    assert!(still.starts_with(&quiet), "the quiet app has lost lines");
    let people = world
        .planet
        .command(world.here.path())
        .args(["logs", "talker", "--source", "output", "--site", site.as_str(), "--since", "1h"])
        .output()
        .await
        .unwrap();
    let people = String::from_utf8_lossy(&people.stdout);
    assert!(people.lines().any(|line| line.contains(" lines were dropped here (output of talker")));
}
