//! What every backend must do, clause by clause of the trait's documentation.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use selvedge_fabric::{
    Change, Expect, FabricError, MAX_VALUE, Message, SharedFabric, Step, Typed, WriteError,
};
use selvedge_model::{Digest, Generation};

use crate::World;
use crate::world::{HISTORY, change, documents, message, soon, step};

const LONG: Duration = Duration::from_secs(600);

async fn put(fabric: &SharedFabric, key: &str, value: &str) -> Generation {
    fabric.put(key, value.to_owned().into(), Expect::Any).await.unwrap()
}

fn conflict(error: &WriteError) -> Option<Generation> {
    match error {
        WriteError::Conflict { current, .. } => *current,
        WriteError::Fabric(error) => panic!("{error} is no conflict"),
    }
}

pub(crate) async fn documents_are_replaced_by_compare_and_set(world: &World) {
    let fabric = &world.fabric;
    assert_eq!(fabric.get("a").await.unwrap(), None);
    let first = fabric.put("a", "1".into(), Expect::Absent).await.unwrap();
    assert_eq!(first.incarnation, fabric.incarnation().await.unwrap());
    let error = fabric.put("a", "2".into(), Expect::Absent).await.unwrap_err();
    assert_eq!(conflict(&error), Some(first));
    let second = fabric.put("a", "2".into(), Expect::Generation(first)).await.unwrap();
    let error = fabric.put("a", "3".into(), Expect::Generation(first)).await.unwrap_err();
    assert_eq!(conflict(&error), Some(second));
    let error = fabric.put("b", "1".into(), Expect::Generation(second)).await.unwrap_err();
    assert_eq!(conflict(&error), None);
    let third = put(fabric, "b", "1").await;
    let fourth = put(fabric, "a", "2").await;
    assert!(first < second && second < third && third < fourth, "one order over all keys");
    let document = fabric.get("a").await.unwrap().unwrap();
    assert_eq!((document.key.as_str(), document.generation), ("a", fourth));
    assert_eq!(document.value, "2");
    let empty = fabric.put("a", Bytes::new(), Expect::Any).await.unwrap();
    assert!(fabric.get("a").await.unwrap().unwrap().value.is_empty());

    let typed = Typed(&**fabric);
    typed.put("n", &1_u32, Expect::Absent).await.unwrap();
    let next = |n: Option<u32>| (Step::Put(n.unwrap() + 1), n);
    assert_eq!(typed.update("n", next).await.unwrap(), Some(1));
    let (generation, n) = typed.get::<u32>("n").await.unwrap().unwrap();
    assert!(n == 2 && generation > empty);
    typed.update("n", |n: Option<u32>| (Step::Keep, n)).await.unwrap();
    assert_eq!(typed.get::<u32>("n").await.unwrap(), Some((generation, 2)));
    for standing in [true, false] {
        let delete = |n: Option<u32>| (Step::Delete, n.is_some());
        assert_eq!(typed.update("n", delete).await.unwrap(), standing);
        assert_eq!(typed.get::<u32>("n").await.unwrap(), None);
    }
    typed.update("m", |n: Option<u32>| (Step::Put(n.unwrap_or(7)), ())).await.unwrap();
    let all: Vec<_> =
        typed.list::<u32>("m").await.unwrap().into_iter().map(|(key, _, n)| (key, n)).collect();
    assert_eq!(all, [("m".to_owned(), 7)]);
    let error = typed.get::<String>("m").await.unwrap_err();
    assert!(matches!(error, FabricError::Document { key, .. } if key == "m"));
}

pub(crate) async fn deletions_say_what_they_expect(world: &World) {
    let fabric = &world.fabric;
    fabric.delete("a", Expect::Any).await.unwrap();
    fabric.delete("a", Expect::Absent).await.unwrap();
    let first = put(fabric, "a", "1").await;
    let error = fabric.delete("a", Expect::Absent).await.unwrap_err();
    assert_eq!(conflict(&error), Some(first));
    let second = put(fabric, "a", "2").await;
    let error = fabric.delete("a", Expect::Generation(first)).await.unwrap_err();
    assert_eq!(conflict(&error), Some(second));
    fabric.delete("a", Expect::Generation(second)).await.unwrap();
    assert_eq!(fabric.get("a").await.unwrap(), None);
    let error = fabric.delete("a", Expect::Generation(second)).await.unwrap_err();
    assert_eq!(conflict(&error), None);
    let again = fabric.put("a", "3".into(), Expect::Absent).await.unwrap();
    assert!(again.number > second.number + 1, "the deletion had a revision of its own");
}

pub(crate) async fn limits_are_kept(world: &World) {
    let fabric = &world.fabric;
    let long = "k".repeat(512);
    put(fabric, &long, "1").await;
    put(fabric, "a/b:C-d_e.~", "1").await;
    for key in ["", "a b", "a\n", "ä", &"k".repeat(513)] {
        let written = fabric.put(key, "1".into(), Expect::Any).await;
        assert!(matches!(written, Err(WriteError::Fabric(FabricError::Invalid(_)))), "{key:?}");
        assert!(matches!(fabric.get(key).await, Err(FabricError::Invalid(_))));
        assert!(matches!(
            fabric.publish(key, None, "1".into()).await,
            Err(FabricError::Invalid(_))
        ));
        assert!(matches!(fabric.lease(key, "me", LONG).await, Err(FabricError::Invalid(_))));
    }
    assert!(matches!(fabric.watch("a b", None).await, Err(FabricError::Invalid(_))));
    assert!(matches!(fabric.list("a b").await, Err(FabricError::Invalid(_))));
    assert!(matches!(fabric.lease("l", "me", Duration::ZERO).await, Err(FabricError::Invalid(_))));
    let largest = Bytes::from(vec![7; MAX_VALUE]);
    fabric.put("large", largest.clone(), Expect::Any).await.unwrap();
    assert_eq!(fabric.get("large").await.unwrap().unwrap().value, largest);
    fabric.publish("large", None, largest.clone()).await.unwrap();
    let more = Bytes::from(vec![7; MAX_VALUE + 1]);
    let written = fabric.put("large", more.clone(), Expect::Any).await;
    assert!(matches!(written, Err(WriteError::Fabric(FabricError::Invalid(_)))));
    assert!(matches!(fabric.publish("large", None, more).await, Err(FabricError::Invalid(_))));
    assert_eq!(fabric.list("large").await.unwrap().documents[0].value, largest);
}

pub(crate) async fn a_list_is_sorted_and_of_one_revision(world: &World) {
    let fabric = &world.fabric;
    for key in ["site/b", "site/a", "site/a/x", "site", "sit", "site0", "zone/a", "site/~"] {
        put(fabric, key, "1").await;
    }
    let keys = |listing: &selvedge_fabric::Listing| -> Vec<String> {
        listing.documents.iter().map(|document| document.key.clone()).collect()
    };
    let listing = fabric.list("site/").await.unwrap();
    assert_eq!(keys(&listing), ["site/a", "site/a/x", "site/b", "site/~"]);
    assert_eq!(fabric.list("").await.unwrap().documents.len(), 8);
    assert_eq!(keys(&fabric.list("zone/a").await.unwrap()), ["zone/a"]);
    let nothing = fabric.list("nothing/").await.unwrap();
    assert!(nothing.documents.is_empty() && nothing.generation >= listing.generation);

    // `pair/b` follows `pair/a`: a list that were not of one revision would see it ahead.
    let writer = fabric.clone();
    let writing = tokio::spawn(async move {
        for n in 0..200 {
            put(&writer, "pair/a", &n.to_string()).await;
            put(&writer, "pair/b", &n.to_string()).await;
        }
    });
    while !writing.is_finished() {
        let listing = fabric.list("pair/").await.unwrap();
        let values: Vec<u32> = listing
            .documents
            .iter()
            .map(|document| std::str::from_utf8(&document.value).unwrap().parse().unwrap())
            .collect();
        if let [a, b] = values[..] {
            assert!(a == b || a == b + 1, "{a} and {b} were never there at once");
        }
        let newest = listing.documents.iter().map(|document| document.generation).max();
        assert!(newest.is_none_or(|newest| newest <= listing.generation));
    }
    writing.await.unwrap();
}

pub(crate) async fn concurrent_increments_lose_nothing(world: &World) {
    let writers = (0..8).map(|_| {
        let fabric = world.fabric.clone();
        tokio::spawn(async move {
            for _ in 0..25 {
                let typed = Typed(&*fabric);
                let next = |n: Option<u32>| (Step::Put(n.unwrap_or(0) + 1), ());
                typed.update("n", next).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let (generation, n) = Typed(&*world.fabric).get::<u32>("n").await.unwrap().unwrap();
    assert_eq!((n, generation.number), (200, 200));
}

pub(crate) async fn a_watch_brings_the_documents_and_then_each_change(world: &World) {
    let fabric = &world.fabric;
    let mut empty = fabric.watch("a/", None).await.unwrap();
    assert_eq!(documents(&mut empty).await.0.len(), 0);
    put(fabric, "a/2", "x").await;
    put(fabric, "b/1", "x").await;
    put(fabric, "a/1", "x").await;
    let mut watch = fabric.watch("a/", None).await.unwrap();
    let (keys, current) = documents(&mut watch).await;
    assert_eq!((keys, current.number), (vec!["a/1".to_owned(), "a/2".to_owned()], 3));
    let mut one = fabric.watch("a/1", None).await.unwrap();
    documents(&mut one).await;

    let written = put(fabric, "a/1", "y").await;
    put(fabric, "b/1", "y").await;
    fabric.delete("a/1", Expect::Any).await.unwrap();
    fabric.delete("a/1", Expect::Any).await.unwrap();
    let last = put(fabric, "a/3", "z").await;
    for watch in [&mut watch, &mut one] {
        assert_eq!(step(watch).await, ("a/1".into(), written, Some("y".into())));
        let (key, generation, value) = step(watch).await;
        assert!(key == "a/1" && value.is_none() && generation > written && generation < last);
    }
    assert_eq!(step(&mut watch).await, ("a/3".into(), last, Some("z".into())));
    assert_eq!(step(&mut empty).await.0, "a/2");
    assert_eq!(step(&mut empty).await.0, "a/1");
    assert_eq!(step(&mut empty).await, ("a/1".into(), written, Some("y".into())));
}

pub(crate) async fn a_watch_resumes_with_exactly_what_it_missed(world: &World) {
    let fabric = &world.fabric;
    let mut generations = Vec::new();
    for n in 0..50 {
        generations.push(put(fabric, &format!("a/{}", n % 7), &n.to_string()).await);
        put(fabric, "b", "x").await;
    }
    for start in [0, 20, 49] {
        let mut watch = fabric.watch("a/", Some(generations[start])).await.unwrap();
        for (n, generation) in generations.iter().enumerate().skip(start + 1) {
            let expected = (format!("a/{}", n % 7), *generation, Some(n.to_string()));
            assert_eq!(step(&mut watch).await, expected);
        }
        assert_eq!(
            change(&mut watch).await,
            Change::Current(fabric.list("").await.unwrap().generation)
        );
    }
    let listing = fabric.list("a/").await.unwrap();
    let mut watch = fabric.watch("a/", Some(listing.generation)).await.unwrap();
    assert_eq!(change(&mut watch).await, Change::Current(listing.generation));
    let next = put(fabric, "a/1", "next").await;
    assert_eq!(step(&mut watch).await, ("a/1".into(), next, Some("next".into())));
}

pub(crate) async fn a_watch_behind_history_starts_anew(world: &World) {
    let fabric = &world.fabric;
    let first = put(fabric, "a/gone", "1").await;
    put(fabric, "a/kept", "1").await;
    fabric.delete("a/gone", Expect::Any).await.unwrap();
    // Concurrent, so that they share the disk.
    let writes = (0..HISTORY).map(|n| {
        let fabric = fabric.clone();
        async move { put(&fabric, "b", &n.to_string()).await }
    });
    futures_util::future::join_all(writes).await;
    let current = fabric.list("").await.unwrap().generation;
    let elsewhere = Generation::new(first.incarnation - 1, current.number);
    let future = Generation::new(first.incarnation, current.number + 1);
    for after in [first, elsewhere, future] {
        let mut watch = fabric.watch("a/", Some(after)).await.unwrap();
        assert_eq!(change(&mut watch).await, Change::Reset, "after {after}");
        assert_eq!(documents(&mut watch).await, (vec!["a/kept".to_owned()], current));
    }
    let kept = Generation::new(first.incarnation, current.number - HISTORY as u64);
    let mut watch = fabric.watch("b", Some(kept)).await.unwrap();
    for n in 1..=HISTORY {
        assert_eq!(step(&mut watch).await.1.number, kept.number + n as u64);
    }
}

pub(crate) async fn a_slow_watch_holds_up_nobody(world: &World) {
    let fabric = &world.fabric;
    let mut slow = fabric.watch("a/", None).await.unwrap();
    let mut quick = fabric.watch("a/", None).await.unwrap();
    let mut consumer = fabric.consume("s", "slow").await.unwrap();
    documents(&mut quick).await;
    let (count, filler) = (600, "x".repeat(4096));
    let writes = (0..count).map(|n| {
        let (fabric, filler) = (fabric.clone(), &filler);
        async move {
            put(&fabric, &format!("a/{n}"), filler).await;
            fabric.publish("s", None, "m".into()).await.unwrap();
        }
    });
    futures_util::future::join_all(writes).await;
    let mut keys = Vec::new();
    for _ in 0..count {
        keys.push(step(&mut quick).await.0);
    }
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), count);
    documents(&mut slow).await;
    for key in keys {
        assert_eq!(step(&mut slow).await.0, key, "the same order for all");
    }
    for sequence in 1..=count as u64 {
        let payload = "m".into();
        assert_eq!(message(&mut consumer).await, Message::Data { sequence, payload });
    }
}

pub(crate) async fn messages_are_ordered_and_published_once(world: &World) {
    let fabric = &world.fabric;
    assert_eq!(fabric.publish("s", Some("one"), "1".into()).await.unwrap(), 1);
    assert_eq!(fabric.publish("s", None, "2".into()).await.unwrap(), 2);
    assert_eq!(fabric.publish("s", Some("one"), "other".into()).await.unwrap(), 1);
    assert_eq!(fabric.publish("s", None, "2".into()).await.unwrap(), 3);
    assert_eq!(fabric.publish("t", Some("one"), "1".into()).await.unwrap(), 1);
    fabric.trim("s", 4).await.unwrap();
    assert_eq!(fabric.publish("s", Some("one"), "1".into()).await.unwrap(), 1, "trimmed, known");
    assert_eq!(fabric.publish("s", None, "4".into()).await.unwrap(), 4);
    let published = (0..100).map(|n: u64| {
        let fabric = fabric.clone();
        async move { (n, fabric.publish("u", None, n.to_string().into()).await.unwrap()) }
    });
    let mut published = futures_util::future::join_all(published).await;
    published.sort_by_key(|(_, sequence)| *sequence);
    let mut consumer = fabric.consume("u", "c").await.unwrap();
    for (n, sequence) in published {
        let payload = n.to_string().into();
        assert_eq!(message(&mut consumer).await, Message::Data { sequence, payload });
    }
}

fn data(sequence: u64) -> Message {
    Message::Data { sequence, payload: sequence.to_string().into() }
}

pub(crate) async fn consumers_go_on_where_they_acknowledged(world: &World) {
    let fabric = &world.fabric;
    let mut early = fabric.consume("s", "early").await.unwrap();
    for n in 1..=4 {
        fabric.publish("s", None, n.to_string().into()).await.unwrap();
    }
    for n in 1..=4 {
        assert_eq!(message(&mut early).await, data(n));
    }
    fabric.acknowledge("s", "early", 2).await.unwrap();
    fabric.acknowledge("s", "early", 1).await.unwrap();
    drop(early);
    let mut again = fabric.consume("s", "early").await.unwrap();
    assert_eq!(message(&mut again).await, data(3));
    let mut other = fabric.consume("s", "other").await.unwrap();
    assert_eq!(message(&mut other).await, data(1));
    let error = fabric.acknowledge("s", "early", 5).await.unwrap_err();
    assert!(matches!(error, FabricError::Invalid(_)), "what was never published");
    fabric.acknowledge("s", "early", 4).await.unwrap();
    let mut caught_up = fabric.consume("s", "early").await.unwrap();
    fabric.publish("s", None, "5".into()).await.unwrap();
    assert_eq!(message(&mut caught_up).await, data(5));
}

pub(crate) async fn trimmed_messages_are_a_gap(world: &World) {
    let fabric = &world.fabric;
    let mut live = fabric.consume("s", "live").await.unwrap();
    drop(fabric.consume("s", "late").await.unwrap());
    soon(async {
        // A consumer is known from the moment that the store has heard of it.
        while fabric.acknowledge("s", "late", 0).await.is_err() {}
    })
    .await;
    for n in 1..=6 {
        fabric.publish("s", None, n.to_string().into()).await.unwrap();
    }
    assert_eq!(message(&mut live).await, data(1));
    fabric.acknowledge("s", "late", 1).await.unwrap();
    fabric.trim("s", 4).await.unwrap();
    fabric.trim("s", 2).await.unwrap();
    let mut late = fabric.consume("s", "late").await.unwrap();
    assert_eq!(message(&mut late).await, Message::Gap { first_available: 4 });
    assert_eq!(message(&mut late).await, data(4));
    let mut new = fabric.consume("s", "new").await.unwrap();
    assert_eq!(message(&mut new).await, data(4), "a new name starts at the oldest kept");
    fabric.acknowledge("s", "new", 4).await.unwrap();
    fabric.trim("s", 100).await.unwrap();
    assert_eq!(fabric.publish("s", None, "7".into()).await.unwrap(), 7, "numbers are not reused");
    let mut new = fabric.consume("s", "new").await.unwrap();
    assert_eq!(message(&mut new).await, Message::Gap { first_available: 7 });
    assert_eq!(message(&mut new).await, data(7));
    fabric.trim("nothing", 5).await.unwrap();
}

pub(crate) async fn leases_exclude_and_fence(world: &World) {
    let fabric = &world.fabric;
    let lease = fabric.lease("l/1", "me", LONG).await.unwrap().unwrap();
    assert_eq!((lease.name.as_str(), lease.holder.as_str()), ("l/1", "me"));
    assert!(lease.remaining <= LONG && lease.remaining > LONG / 2);
    assert_eq!(fabric.lease("l/1", "you", LONG).await.unwrap(), None);
    let renewed = fabric.lease("l/1", "me", LONG).await.unwrap().unwrap();
    assert_eq!(renewed.epoch, lease.epoch);
    let other = fabric.lease("l/0", "you", LONG).await.unwrap().unwrap();
    let names: Vec<_> =
        fabric.leases("l/").await.unwrap().into_iter().map(|lease| lease.name).collect();
    assert_eq!(names, ["l/0", "l/1"]);
    assert_eq!(fabric.leases("m").await.unwrap(), []);

    fabric.release_lease("l/1", "you").await.unwrap();
    assert_eq!(fabric.lease("l/1", "you", LONG).await.unwrap(), None, "not theirs to release");
    fabric.release_lease("l/1", "me").await.unwrap();
    let taken = fabric.lease("l/1", "you", LONG).await.unwrap().unwrap();
    assert!(taken.epoch > lease.epoch && other.epoch != taken.epoch);

    fabric.lease("short", "me", Duration::from_millis(20)).await.unwrap().unwrap();
    let after = soon(async {
        loop {
            if let Some(lease) = fabric.lease("short", "you", LONG).await.unwrap() {
                return lease;
            }
        }
    })
    .await;
    assert!(after.epoch > taken.epoch);
    assert_eq!(fabric.lease("short", "me", LONG).await.unwrap(), None, "it has run out");
}

pub(crate) async fn watched_leases_tell_of_each_change(world: &World) {
    let fabric = &world.fabric;
    fabric.lease("l/a", "me", LONG).await.unwrap();
    let mut watch = fabric.watch_leases("l/").await.unwrap();
    let names = |leases: &Vec<selvedge_fabric::Lease>| -> Vec<String> {
        leases.iter().map(|lease| format!("{}:{}", lease.name, lease.holder)).collect()
    };
    soon(watch.wait_for(|leases| names(leases) == ["l/a:me"])).await.unwrap();
    fabric.lease("m", "me", LONG).await.unwrap();
    fabric.lease("l/b", "me", LONG).await.unwrap();
    soon(watch.wait_for(|leases| names(leases) == ["l/a:me", "l/b:me"])).await.unwrap();
    fabric.release_lease("l/a", "me").await.unwrap();
    soon(watch.wait_for(|leases| names(leases) == ["l/b:me"])).await.unwrap();
    fabric.lease("l/c", "me", Duration::from_millis(300)).await.unwrap();
    soon(watch.wait_for(|leases| leases.len() == 2)).await.unwrap();
    soon(watch.wait_for(|leases| names(leases) == ["l/b:me"])).await.unwrap();
}

pub(crate) async fn blobs_are_what_was_stored(world: &World) {
    let fabric = &world.fabric;
    let (source, copy) = (world.path("source"), world.path("copy"));
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 3) as u8).collect();
    let digest = Digest::of(&content);
    assert!(!fabric.has_blob(&digest).await.unwrap());
    let missing = fabric.fetch_blob(&digest, &copy).await.unwrap_err();
    assert!(matches!(missing, FabricError::NoSuchBlob(named) if named == digest));
    std::fs::write(&source, &content).unwrap();
    assert_eq!(fabric.put_blob(&source).await.unwrap(), digest);
    assert_eq!(fabric.put_blob(&source).await.unwrap(), digest);
    std::fs::write(&source, "edited later").unwrap();
    fabric.fetch_blob(&digest, &copy).await.unwrap();
    assert!(std::fs::read(&copy).unwrap() == content);
    let exists = fabric.fetch_blob(&digest, &copy).await.unwrap_err();
    assert!(matches!(exists, FabricError::File(_)), "only into a new file");
    let mut reader = fabric.read_blob(&digest).await.unwrap();
    let mut read = Vec::new();
    while let Some(piece) = soon(reader.next()).await {
        read.extend_from_slice(&piece.unwrap());
    }
    assert!(read == content);

    std::fs::write(&source, "").unwrap();
    let empty = fabric.put_blob(&source).await.unwrap();
    fabric.fetch_blob(&empty, &world.path("empty")).await.unwrap();
    assert!(std::fs::read(world.path("empty")).unwrap().is_empty());
    let absent = fabric.put_blob(&world.path("absent")).await.unwrap_err();
    assert!(matches!(absent, FabricError::File(_)));

    let mut all = vec![digest, empty];
    all.sort_unstable();
    assert_eq!(fabric.blobs().await.unwrap(), all);
    fabric.delete_blob(&digest).await.unwrap();
    fabric.delete_blob(&digest).await.unwrap();
    assert_eq!(fabric.blobs().await.unwrap(), [empty]);
    assert!(!fabric.has_blob(&digest).await.unwrap());
}

pub(crate) async fn damaged_blobs_are_refused(world: &World) {
    let fabric = &world.fabric;
    let source = world.path("source");
    let content = vec![1; 700_000];
    std::fs::write(&source, &content).unwrap();
    let digest = fabric.put_blob(&source).await.unwrap();
    let file = world.blob_file(&digest.to_string());
    let mut damaged = content.clone();
    damaged[600_000] ^= 1;
    for bytes in [&damaged[..], &content[..1000], &[]] {
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
        let copy = world.path("copy");
        let error = fabric.fetch_blob(&digest, &copy).await.unwrap_err();
        assert!(matches!(error, FabricError::Damaged(named) if named == digest), "{error:?}");
        assert!(!copy.exists());
        assert!(!fabric.has_blob(&digest).await.unwrap(), "it can't be had");
        assert_eq!(fabric.put_blob(&source).await.unwrap(), digest, "storing it again mends it");
        fabric.fetch_blob(&digest, &copy).await.unwrap();
        std::fs::remove_file(&copy).unwrap();
    }
    let leftovers: Vec<_> = std::fs::read_dir(world.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["fabric", "fabric.sock", "source"].contains(&name.as_str()))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}
