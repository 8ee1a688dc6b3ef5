//! What is on disk is damaged, or held by somebody else.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use selvedge_api::{ReleaseRow, RollbackRequest};
use selvedge_model::{AppName, Digest, Push, PushState};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::scene::{APP, Scene};
use super::{Expect, Fault, Inject, Moment, run};
use crate::harness::repository::Pushed;
use crate::harness::{can_isolate, eventually};

/// Holds the database's write lock until its input ends.
const HOLDER: &str = r#"
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"#;

/// Locks the database when a push is at `moment`, until control has failed to write.
pub(super) async fn lock(scene: &mut Scene, moment: Moment) -> Pushed {
    let earlier = scene.last_number().await;
    scene.change(Some(moment)).await;
    scene.close(moment);
    let hold = async {
        scene.reached(moment, earlier).await;
        let failures = failures(scene);
        let mut holder = Command::new("python3")
            .arg("-c")
            .arg(HOLDER)
            .arg(scene.control_data("fabric/fabric.db"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("locked"));
        scene.open(moment);
        eventually("control fails to write", async || {
            (self::failures(scene) > failures).then_some(())
        })
        .await;
        drop(holder.stdin.take());
        holder.wait().await.unwrap();
    };
    let (pushed, ()) = scene.push_while(hold).await;
    if !pushed.ok {
        assert!(pushed.words.contains("database is locked"), "{}", pushed.words);
    }
    pushed
}

/// How often control's log says that the database was locked.
fn failures(scene: &Scene) -> usize {
    let log = std::fs::read_to_string(scene.planet.data.join("logs/control.log")).unwrap();
    log.matches("database is locked").count()
}

/// A blob of the release before is damaged. A rollback that needs it is refused in words; the next
/// builds it anew.
pub(super) async fn damage_blob(scene: &mut Scene) -> Option<Pushed> {
    scene.change(None).await;
    scene.repository.push_live(&scene.planet).await;
    let releases = releases(scene).await;
    let before = releases.iter().find(|row| row.release == scene.release).unwrap();
    let after = releases.first().unwrap();
    let fresh = |digest: &&Digest| after.artifacts.values().all(|other| other != *digest);
    let digest = *before.artifacts.values().find(fresh).unwrap();
    let unpacked = scene.planet.data.join("artifacts").join(digest.to_string());
    eventually("sites have let go of it", async || (!unpacked.exists()).then_some(())).await;
    let name = digest.to_string();
    damage(&scene.control_data("fabric/blobs").join(&name[..2]).join(&name));
    let refused = rollback(scene).await;
    let PushState::Refused(failure) = refused.state else { panic!("{:?}", refused.state) };
    // The first site that reads it finds it damaged; then it is set aside, and the next finds none.
    let found = ["is damaged", "is not stored"].iter().any(|it| failure.reason.contains(it));
    assert!(found, "{failure:?}");
    assert_eq!(rollback(scene).await.state, PushState::Live);
    None
}

async fn releases(scene: &Scene) -> Vec<ReleaseRow> {
    scene.planet.api().releases(&AppName::new(APP).unwrap()).await.unwrap()
}

async fn rollback(scene: &Scene) -> Push {
    let app = AppName::new(APP).unwrap();
    let events = scene.planet.api().rollback(&app, &RollbackRequest::default()).await.unwrap();
    events.finish(|_| {}).await.unwrap()
}

/// Changes a byte, whatever the file's mode.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    overwrite(path, &bytes);
}

fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Every site's ledger is damaged, each in another way.
pub(super) async fn damage_ledgers(scene: &mut Scene) -> Option<Pushed> {
    scene.kill_all().await;
    for (turn, site) in scene.planet.info.sites.iter().enumerate() {
        let files =
            files_below(&scene.planet.data.join("sites").join(site.id.as_str()).join("ledger"));
        assert!(files.len() > 5, "a ledger");
        for file in files {
            let whole = std::fs::read(&file).unwrap();
            match turn {
                0 => overwrite(&file, &whole[..whole.len() / 2]),
                1 => overwrite(&file, b"\x00junk"),
                _ => overwrite(&file, b""),
            }
        }
    }
    scene.planet.restart().await;
    for site in scene.planet.info.sites.clone() {
        eventually(&format!("{} says that it was damaged", site.id), async || {
            let sites = scene.planet.api().sites().await.ok()?;
            let row = sites.into_iter().find(|row| row.id == site.id)?;
            row.problems.iter().any(|it| it.contains("set aside")).then_some(())
        })
        .await;
    }
    None
}

/// What a site has unpacked is damaged: one file cut, one gone. It is mended when an agent starts.
pub(super) async fn damage_unpacked(scene: &mut Scene) -> Option<Pushed> {
    let mut damaged = 0;
    for file in files_below(&scene.planet.data.join("artifacts")) {
        if file.ends_with("page/index.html") {
            overwrite(&file, b"");
            damaged += 1;
        } else if file.ends_with("server.py") {
            std::fs::remove_file(&file).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged >= 2, "the files of both services");
    scene.kill_all().await;
    scene.planet.restart().await;
    None
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_disk_is_damaged_or_held() {
    if !can_isolate() {
        return;
    }
    let mut scene = Scene::new(&[]).await;
    let faults = [
        Fault::new(Inject::Lock(Moment::Build), Expect::Old),
        Fault::new(Inject::Lock(Moment::Activate), Expect::New),
        Fault::new(Inject::DamagedBlob, Expect::Old),
        Fault::new(Inject::DamagedLedgers, Expect::Old),
        Fault::new(Inject::DamagedFiles, Expect::Old),
    ];
    run(&mut scene, &faults).await;
    scene.planet.stop().await;
}
