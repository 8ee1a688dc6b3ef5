//! A box over its life: data of an earlier version, two at once, a full disk, a machine that slept,
//! an ordinary user, and an end that leaves no trace.

mod machine;
mod several;
mod users;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use selvedge_api::{DevInfo, DevSite};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::harness::repository::Repository;
use crate::harness::{PATIENCE, Planet, can_isolate, descendants, eventually, lives, signal};

/// What a command ended with.
struct Ended {
    code: Option<i32>,
    text: String,
    words: String,
}

async fn run(command: &mut Command) -> Ended {
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), text: text(&output.stdout), words: text(&output.stderr) }
}

fn selvedge(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command
        .args(arguments)
        .env("NO_COLOR", "1")
        .env_remove("SELVEDGE_CONTROL")
        .env_remove("SELVEDGE_TOKEN")
        .env_remove("SELVEDGE_DATA");
    command
}

/// The data directory of a box that version 0.1.0 has run, with two apps: `page`, pushed twice,
/// refused once and rolled back, and `counter`, a process.
fn unpack_fixture(data: &Path) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/box-0.1.0.tar.gz");
    std::fs::create_dir(data).unwrap();
    let unpacked = std::process::Command::new("tar")
        .args(["--extract", "--gzip", "--same-permissions", "--file"])
        .arg(fixture)
        .arg("--directory")
        .arg(data)
        .status()
        .unwrap();
    assert!(unpacked.success());
}

/// Fetches the app's front page at the box's first site.
async fn page(planet: &Planet, app: &str) -> Option<String> {
    page_at(planet.info.sites.first()?, app).await
}

async fn page_at(site: &DevSite, app: &str) -> Option<String> {
    let address = std::net::SocketAddr::new(site.address, site.http);
    get(address, &format!("{app}.edge.test")).await
}

/// A box started with these arguments after `dev --json`, as it says of itself.
async fn launch(command: &mut Command) -> (Child, DevInfo) {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it is not ready");
    let line = line.unwrap().expect("it ended before it was ready");
    (child, serde_json::from_str(&line).unwrap())
}

/// Asks a box to end, and waits for it.
async fn end(mut child: Child, info: &DevInfo) {
    signal(info.pid, Signal::SIGTERM);
    assert!(child.wait().await.unwrap().success());
}

/// An app whose only file is built.
const BUILT: [(&str, &str); 2] = [
    (
        "selvedge.toml",
        "[app]\nname = \"built\"\nbuild = \"\"\"\n\
         mkdir public && cp index.html public\n\
         mkdir -p /cache/module/v1 kept/inner && chmod 555 /cache/module && chmod 000 kept\"\"\"\n\
         [[service]]\nname = \"web\"\nkind = \"static\"\nroot = \"public\"\n",
    ),
    ("index.html", "built\n"),
];

/// An app that is its files.
const PLAIN: [(&str, &str); 2] = [
    (
        "selvedge.toml",
        "[app]\nname = \"plain\"\n\
         [[service]]\nname = \"web\"\nkind = \"static\"\nroot = \"public\"\n",
    ),
    ("public/index.html", "plain\n"),
];

/// A process that says as which user it runs.
const PROCESS: [(&str, &str); 1] = [(
    "selvedge.toml",
    "[app]\nname = \"process\"\n\
     [[service]]\nname = \"web\"\nkind = \"process\"\nhealth = \"/\"\n\
     command = \"cd /tmp && echo user $(id -u). > index.html && \
     exec python3 -m http.server --bind 127.0.0.1 $PORT\"\n",
)];

async fn get(address: std::net::SocketAddr, host: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

/// Control groups by name, wherever they are.
fn control_groups() -> BTreeSet<PathBuf> {
    fn below(directory: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(&entry.path(), found);
                if entry.file_name().to_string_lossy().starts_with("selvedge-") {
                    found.insert(entry.path());
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    below(Path::new("/sys/fs/cgroup"), &mut found);
    found
}

/// The control groups that these processes, or sandboxes of theirs, are in or have made.
fn groups_of(pids: &[u32]) -> BTreeSet<PathBuf> {
    let of = |group: &PathBuf| {
        let name = group.file_name().unwrap().to_string_lossy();
        let owner = name.split('-').nth(1).and_then(|pid| pid.parse().ok());
        owner.is_some_and(|owner| pids.contains(&owner))
    };
    control_groups().into_iter().filter(of).collect()
}

/// The machine's own table of tenants, which no box may write.
fn machine_table() -> Option<String> {
    std::fs::read_to_string("/var/lib/selvedge/tenants").ok()
}

fn everything_in(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut next = vec![directory.to_owned()];
    while let Some(directory) = next.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                next.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_the_first_version_is_brought_up_and_then_removed_without_a_trace() {
    if !can_isolate() {
        return;
    }
    let table = machine_table();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("box");
    unpack_fixture(&data);
    let mut planet = Planet::start_at(&data, 2, &[]).await;
    everywhere(&planet, "page", "65034d7d8b5b").await;
    everywhere(&planet, "counter", "2f45044308dc").await;
    assert!(page(&planet, "page").await.unwrap().contains("page, first"));
    assert!(page(&planet, "counter").await.unwrap().contains("counter"));
    for (directory, stamp) in
        [(".", "box 1\n"), ("control", "control 1\n"), ("sites/fra", "agent 2\n")]
    {
        let file = planet.data.join(directory).join("version");
        assert_eq!(std::fs::read_to_string(file).unwrap(), stamp);
    }
    assert!(!planet.data.join("sites/fra/access.jsonl").exists(), "the log has another form now");
    // Its history is whole, and it goes on.
    let repository = Repository::new("page").await;
    let url = format!("{}/page.git", planet.info.git);
    repository.fetch(&planet, &url).await;
    repository.git(&["reset", "--quiet", "--hard", "FETCH_HEAD"]).await;
    repository.write("index.html", "<p>page, third\n");
    repository.commit("Third").await;
    repository.push_live(&planet).await;
    assert!(page(&planet, "page").await.unwrap().contains("page, third"));
    let rolled_back =
        run(planet.command(&repository.path).args(["rollback", "65034d7d8b5b"])).await;
    assert_eq!(rolled_back.code, Some(0), "{}", rolled_back.words);
    everywhere(&planet, "page", "65034d7d8b5b").await;
    removed_without_a_trace(&mut planet).await;
    assert_eq!(machine_table(), table, "the box wrote the machine's table of tenants");
}

#[tokio::test]
async fn what_is_newer_or_of_something_else_is_refused_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let data = directory.path().to_str().unwrap();
    std::fs::write(file("thesis.txt"), "years of work").unwrap();
    for arguments in [&["dev"][..], &["dev", "--reset"], &["dev", "--remove"]] {
        let refused = run(selvedge(arguments).args(["--data", data])).await;
        assert_eq!(refused.code, Some(2), "{arguments:?}: {}", refused.text);
        assert!(refused.words.contains("it holds \"thesis.txt\""), "{}", refused.words);
        assert_eq!(everything_in(directory.path()), [file("thesis.txt")].into());
    }
    std::fs::write(file("version"), "box 7\n").unwrap();
    let refused = run(selvedge(&["dev"]).args(["--data", data])).await;
    assert_eq!(refused.code, Some(2), "{}", refused.text);
    assert!(refused.words.contains("newer Selvedge (data version 7"), "{}", refused.words);
    assert!(refused.words.contains("hint:  `selvedge dev --reset`"), "{}", refused.words);
    assert_eq!(everything_in(directory.path()), [file("thesis.txt"), file("version")].into());
    let removed = run(selvedge(&["dev", "--remove"]).args(["--data", data])).await;
    assert_eq!(removed.code, Some(0), "a newer box can be removed: {}", removed.words);
    assert!(!directory.path().exists());
}

/// Kills the box in the worst way and removes it.
async fn removed_without_a_trace(planet: &mut Planet) {
    let data = planet.data.to_str().unwrap().to_owned();
    let parent = planet.data.parent().unwrap().to_owned();
    let refused = run(&mut selvedge(&["dev", "--remove", "--data", &data])).await;
    assert_eq!(refused.code, Some(5), "a box that runs was removed");
    assert!(refused.words.contains(&planet.supervisor_pid().to_string()), "{}", refused.words);
    let processes = descendants(planet.supervisor_pid());
    assert!(!groups_of(&processes).is_empty());
    signal(planet.supervisor_pid(), Signal::SIGKILL);
    planet.supervisor_ended().await;
    // Nothing is removed below somebody's feet.
    let mut visitor = Command::new("sleep").arg("600").current_dir(&data).spawn().unwrap();
    let refused = run(&mut selvedge(&["dev", "--remove", "--data", &data])).await;
    assert_eq!(refused.code, Some(5), "{}", refused.text);
    let words = format!("process {} (sleep) works in", visitor.id().unwrap());
    assert!(refused.words.contains(&words), "{}", refused.words);
    assert!(planet.data.join("control/repositories/page.git").exists());
    visitor.kill().await.unwrap();
    let removed = run(&mut selvedge(&["dev", "--remove", "--json", "--data", &data])).await;
    assert_eq!(removed.code, Some(0), "{}", removed.words);
    let report: serde_json::Value = serde_json::from_str(&removed.text).unwrap();
    assert_eq!(report["repositories"], serde_json::json!(["counter", "page"]));
    eventually("every process of the box is gone", async || {
        processes.iter().all(|pid| !lives(*pid)).then_some(())
    })
    .await;
    assert_eq!(everything_in(&parent), BTreeSet::new());
    assert_eq!(groups_of(&processes), BTreeSet::new());
    for table in ["/proc/self/mountinfo", "/proc/net/unix"] {
        let table = std::fs::read_to_string(table).unwrap();
        assert!(!table.contains(&data), "{table}");
    }
    let again = run(&mut selvedge(&["dev", "--remove", "--data", &data])).await;
    assert_eq!(again.code, Some(0));
    assert!(again.text.contains("There is no box in"), "{}", again.text);
}

/// Waits until every site of the box serves `release`.
async fn everywhere(planet: &Planet, app: &str, release: &str) {
    eventually(&format!("{app} {release} is live at every site"), async || {
        let status = planet.api().status().await.ok()?;
        let app = status.apps.iter().find(|it| it.summary.app.as_str() == app)?;
        let live = app.summary.live.as_ref()?;
        let whole = app.summary.serving == app.summary.assigned && app.summary.assigned > 0;
        (live.release == release && whole).then_some(())
    })
    .await;
}
