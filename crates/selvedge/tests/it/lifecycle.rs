//! A box over its life: data of an earlier version, two at once, a full disk, a machine that slept,
//! an ordinary user, and an end that leaves no trace.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::harness::repository::Repository;
use crate::harness::{Planet, can_isolate, descendants, eventually, lives, signal};

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
    command.args(arguments).env("NO_COLOR", "1").env_remove("SELVEDGE_CONTROL");
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
    let site = planet.info.sites.first()?;
    let address = std::net::SocketAddr::new(site.address, site.http);
    get(address, &format!("{app}.{}", planet.info.zone)).await
}

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
        [(".", "box 1\n"), ("control", "control 1\n"), ("sites/fra", "agent 1\n")]
    {
        let file = planet.data.join(directory).join("version");
        assert_eq!(std::fs::read_to_string(file).unwrap(), stamp);
    }
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
