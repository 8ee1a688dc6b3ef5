//! What is particular to the store on this machine: files, restarts and restores.

use std::sync::Arc;
use std::time::Duration;

use selvedge_fabric::embedded::{Embedded, OpenError, Options, new_incarnation};
use selvedge_fabric::{Change, Expect, Fabric, Message, SharedFabric, WriteError};
use tempfile::TempDir;

use crate::world::{change, documents, message, open, soon};

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let first = open(directory.path().join("fabric"));
    let generation = first.put("a", "1".into(), Expect::Any).await.unwrap();
    let last = first.put("b", "1".into(), Expect::Any).await.unwrap();
    for n in 1..=3 {
        first.publish("s", Some(&format!("id{n}")), n.to_string().into()).await.unwrap();
    }
    first.acknowledge("s", "c", 2).await.unwrap();
    let lease = first.lease("l", "me", LONG).await.unwrap().unwrap();
    let mut watch = first.watch("", None).await.unwrap();
    let mut leases = first.watch_leases("").await.unwrap();
    documents(&mut watch).await;
    drop(first);
    assert_eq!(soon(watch.next()).await, None, "the end of the store ends its watches");
    soon(async { while leases.changed().await.is_ok() {} }).await;

    let second = open(directory.path().join("fabric"));
    assert_eq!(second.incarnation().await.unwrap(), generation.incarnation);
    assert_eq!(second.get("a").await.unwrap().unwrap().generation, generation);
    let mut watch = second.watch("", Some(generation)).await.unwrap();
    assert!(matches!(change(&mut watch).await, Change::Put(document) if document.key == "b"));
    assert_eq!(change(&mut watch).await, Change::Current(last));
    assert_eq!(second.publish("s", Some("id2"), "again".into()).await.unwrap(), 2);
    let mut consumer = second.consume("s", "c").await.unwrap();
    assert_eq!(message(&mut consumer).await, Message::Data { sequence: 3, payload: "3".into() });
    assert_eq!(second.leases("").await.unwrap(), [], "leases restart with the store");
    let again = second.lease("l", "me", LONG).await.unwrap().unwrap();
    assert!(again.epoch > lease.epoch);
    let next = second.put("a", "2".into(), Expect::Generation(generation)).await.unwrap();
    assert!(next > last);
}

#[tokio::test]
async fn a_restored_backup_is_newer_than_what_it_replaces() {
    let directory = TempDir::new().unwrap();
    let (live, backup) = (directory.path().join("live"), directory.path().join("backup"));
    let store = open(live.clone());
    let old = store.put("a", "backed up".into(), Expect::Any).await.unwrap();
    store.publish("s", None, "1".into()).await.unwrap();
    store.acknowledge("s", "c", 1).await.unwrap();
    drop(store);
    std::fs::create_dir(&backup).unwrap();
    std::fs::copy(live.join("fabric.db"), backup.join("fabric.db")).unwrap();
    let store = open(live.clone());
    let lost = store.put("a", "lost".into(), Expect::Any).await.unwrap();
    let lost_sequence = store.publish("s", None, "lost".into()).await.unwrap();
    let lease = store.lease("l", "me", LONG).await.unwrap().unwrap();

    let refused = new_incarnation(&live).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }));
    drop(store);
    let incarnation = new_incarnation(&backup).unwrap();
    let restored = open(backup);
    assert!(incarnation > lost.incarnation);
    assert_eq!(restored.incarnation().await.unwrap(), incarnation);
    let document = restored.get("a").await.unwrap().unwrap();
    assert_eq!(document.value, "backed up");
    assert!(document.generation > lost, "sites take it for newer than what they have");
    let stale = restored.put("a", "stale".into(), Expect::Generation(old)).await.unwrap_err();
    assert!(
        matches!(stale, WriteError::Conflict { current, .. } if current == Some(document.generation))
    );
    let mut watch = restored.watch("", Some(lost)).await.unwrap();
    assert_eq!(change(&mut watch).await, Change::Reset);
    assert_eq!(documents(&mut watch).await.0, ["a"]);
    let mut consumer = restored.consume("s", "c").await.unwrap();
    let Message::Gap { first_available } = message(&mut consumer).await else {
        panic!("what was lost is a gap")
    };
    assert!(first_available > lost_sequence);
    assert_eq!(restored.publish("s", None, "2".into()).await.unwrap(), first_available);
    let next = message(&mut consumer).await;
    assert_eq!(next, Message::Data { sequence: first_available, payload: "2".into() });
    let again = restored.lease("l", "you", LONG).await.unwrap().unwrap();
    assert!(again.epoch > lease.epoch);
}

#[tokio::test]
async fn stores_that_can_not_be_opened_say_why() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("fabric");
    let store = open(path.clone());
    let error = Embedded::open(&path).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    drop(store);

    let file = path.join("fabric.db");
    let newer = rusqlite::Connection::open(&file).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let text = Embedded::open(&path).unwrap_err().to_string();
    assert!(text.contains("version 99") && text.contains("newer program"), "{text}");

    std::fs::remove_file(&file).unwrap();
    let foreign = rusqlite::Connection::open(&file).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (a)").unwrap();
    drop(foreign);
    let before = std::fs::read(&file).unwrap();
    assert!(matches!(Embedded::open(&path).unwrap_err(), OpenError::Foreign(_)));
    assert_eq!(std::fs::read(&file).unwrap(), before, "and it stays as it was");

    std::fs::write(&file, "no database at all, but text that goes on for a while".repeat(20))
        .unwrap();
    assert!(matches!(Embedded::open(&path).unwrap_err(), OpenError::Database { .. }));
    std::fs::write(directory.path().join("file"), "").unwrap();
    let under_a_file = Embedded::open(&directory.path().join("file/fabric")).unwrap_err();
    assert!(matches!(under_a_file, OpenError::Directory { .. }));
}

#[tokio::test]
async fn only_its_user_can_read_the_store() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new().unwrap();
    let store = open(directory.path().join("new/fabric"));
    store.put("secret", "1".into(), Expect::Any).await.unwrap();
    let mode = |name: &str| {
        let path = directory.path().join("new/fabric").join(name);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("."), mode("fabric.db"), mode("fabric.db-wal")), (0o700, 0o600, 0o600));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_watch_learns_how_far_it_is() {
    let directory = TempDir::new().unwrap();
    let store: SharedFabric = Arc::new(open(directory.path().join("fabric")));
    let mut watch = store.watch("quiet", None).await.unwrap();
    let (_, start) = documents(&mut watch).await;
    let noise = (0..2048).map(|n: u32| {
        let store = store.clone();
        async move { store.put("noise", n.to_string().into(), Expect::Any).await.unwrap() }
    });
    futures_util::future::join_all(noise).await;
    let Change::Current(generation) = change(&mut watch).await else {
        panic!("nothing was written that concerns this watch")
    };
    assert!(generation.number >= start.number + 1024);
}

#[tokio::test]
async fn history_is_bounded_in_bytes_too() {
    let directory = TempDir::new().unwrap();
    let options = Options { history_bytes: 2000, ..Options::default() };
    let store = Embedded::open_with(directory.path(), options).unwrap();
    let mut generations = Vec::new();
    for _ in 0..5 {
        generations.push(store.put("a", vec![b'x'; 900].into(), Expect::Any).await.unwrap());
    }
    drop(store);
    // Opened again, so that what is in memory does not help.
    let store = Embedded::open_with(directory.path(), options).unwrap();
    let mut behind = store.watch("", Some(generations[1])).await.unwrap();
    assert_eq!(change(&mut behind).await, Change::Reset);
    let mut within = store.watch("", Some(generations[2])).await.unwrap();
    for generation in &generations[3..] {
        let Change::Put(document) = change(&mut within).await else { panic!("history is kept") };
        assert_eq!(document.generation, *generation);
    }
}
