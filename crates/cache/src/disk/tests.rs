mod crash;
mod errors;

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use http::HeaderMap;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::purge::{Kind, Labels, Limits, Purgeable, Scope, Tags, Verdict};

/// A purger that starts now, as a process's does.
fn purger() -> Purger {
    Purger::starting_at(Generation::at_start(SystemTime::now()), Limits::default())
}

fn options(directory: &Path) -> Options {
    Options { pause: Duration::ZERO, ..Options::new(directory.to_owned(), LEAST_CAPACITY) }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(30), "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn open_with(options: Options, purger: &Purger) -> Disk {
    let disk = Disk::open(options, purger.clone()).unwrap();
    eventually("ready", || disk.counters().ready).await;
    disk
}

async fn open(directory: &Path) -> Disk {
    open_with(options(directory), &purger()).await
}

/// A body that differs in every word, and from all others.
fn body(name: u64, size: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(size + 8);
    for word in 0..size.div_ceil(8) as u64 {
        let mixed = (name << 32 | word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        bytes.extend_from_slice(&mixed.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// Writes an object, in parts that don't fit into chunks.
fn write(disk: &Disk, key: &str, stamp: &Stamp, body: &Bytes) -> bool {
    let Some(mut writer) = disk.writer(key.as_bytes(), stamp.generation()) else { return false };
    let mut rest = body.clone();
    while !rest.is_empty() {
        let part = rest.split_to(rest.len().min(100_001));
        if !writer.push(part) {
            return false;
        }
    }
    writer.finish(Bytes::from(format!("meta of {key}")), stamp)
}

async fn put(disk: &Disk, key: &str, body: &Bytes) {
    let stamp = disk.shared.purger.ticket().stamp();
    assert!(write(disk, key, &stamp, body), "{key} is not taken");
    eventually("written", || disk.contains(key.as_bytes())).await;
}

async fn read(body: &Body, mut part: Range<u64>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while part.start < part.end {
        let more = body.read(part.clone()).await?;
        assert!(more.len() <= CHUNK);
        part.start += more.len() as u64;
        bytes.extend_from_slice(&more);
    }
    Some(bytes)
}

async fn get(disk: &Disk, key: &str) -> Option<Vec<u8>> {
    let found = disk.get(key.as_bytes()).await?;
    assert_eq!(found.meta, format!("meta of {key}"));
    read(&found.body, 0..found.body.size()).await
}

/// An object of the app `app` whose one tag is its key.
struct Tagged(Stamp, Tags, HeaderMap);

impl Tagged {
    fn new(key: &str, stamp: Stamp) -> Self {
        let mut tags = Tags::default();
        tags.add(key.as_bytes()).unwrap();
        Self(stamp, tags, HeaderMap::new())
    }
}

impl Purgeable for Tagged {
    fn labels(&self) -> Labels<'_> {
        let (tags, headers) = (&self.1, &self.2);
        Labels { app: b"app", url: b"", host: b"", path: b"/", tags, headers }
    }

    fn stamp(&self) -> &Stamp {
        &self.0
    }
}

async fn verdict(disk: &Disk, key: &str) -> Option<Verdict> {
    let found = disk.get(key.as_bytes()).await?;
    Some(disk.shared.purger.verdict(&Tagged::new(key, found.stamp)))
}

fn purge(purger: &Purger, key: &str, kind: Kind) {
    purger.purge(b"app", &Scope::Tag(key.into()), kind);
}

/// The files of a tier that is closed.
fn segments(directory: &TempDir) -> Vec<PathBuf> {
    let files = std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "segment")).collect();
    files.sort();
    files
}

#[tokio::test]
async fn objects_are_there_after_a_restart_whole_and_in_parts() {
    let directory = tempfile::tempdir().unwrap();
    let disk = open(directory.path()).await;
    let sizes = [0, 1, 3000, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 77];
    for size in sizes {
        put(&disk, &size.to_string(), &body(size as u64, size)).await;
    }
    put(&disk, "replaced", &body(1, 10)).await;
    put(&disk, "replaced", &body(2, 2 * CHUNK)).await;
    put(&disk, "removed", &body(3, 10)).await;
    disk.remove(b"removed");
    for restarted in [false, true] {
        let disk = if restarted { open(directory.path()).await } else { disk.clone() };
        for size in sizes {
            let read = get(&disk, &size.to_string()).await;
            assert!(read == Some(body(size as u64, size).into()), "{size}, {restarted}");
        }
        assert!(get(&disk, "replaced").await == Some(body(2, 2 * CHUNK).into()));
        assert_eq!(get(&disk, "removed").await, None);
        assert_eq!(get(&disk, "never").await, None);
        assert_eq!(disk.counters().entries, sizes.len() + 1);
        disk.close().await;
        assert_eq!(get(&disk, "1").await, None, "it is closed");
        assert!(disk.writer(b"1", Generation::FIRST).is_none());
        assert!(!disk.flush().await);
    }
}

#[test]
fn a_range_reads_its_chunks_only() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let size = 3 * CHUNK + 1000;
    let whole = body(1, size);
    let disk = runtime.block_on(async {
        let disk = open(directory.path()).await;
        put(&disk, "large", &whole).await;
        disk
    });
    let found = runtime.block_on(disk.get(b"large")).unwrap().body;
    let bound = size as u64 + 10;
    proptest!(ProptestConfig::with_cases(100), |(a in 0..bound, b in 0..bound, exact: bool)| {
        // The borders of chunks, half of the time.
        let near = |at: u64| if exact { at / CHUNK as u64 * CHUNK as u64 } else { at };
        let (start, end) = (near(a.min(b)), a.max(b));
        let part = runtime.block_on(found.read(start..end));
        let last = end.min(size as u64).min((start / CHUNK as u64 + 1) * CHUNK as u64);
        let expected = (start < last).then(|| whole.slice(start as usize..last as usize));
        prop_assert!(part == expected);
    });
}

#[tokio::test]
async fn it_is_bounded_and_keeps_what_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let purger = purger();
    let judge_purger = purger.clone();
    let judge: Judge = Arc::new(move |meta, stamp| {
        let key = std::str::from_utf8(meta).unwrap().strip_prefix("meta of ").unwrap();
        let object = Tagged::new(key, stamp);
        (judge_purger.verdict(&object) != Verdict::Gone).then_some(object.0)
    });
    let options = Options { judge: Some(judge), ..options(directory.path()) };
    let disk = open_with(options, &purger).await;
    let asked_for = ["small", "large", "purged"];
    put(&disk, "small", &body(1, 1000)).await;
    put(&disk, "large", &body(2, 3 * CHUNK)).await;
    put(&disk, "purged", &body(3, 1000)).await;
    put(&disk, "not asked for", &body(4, 1000)).await;
    purge(&purger, "purged", Kind::Hard);
    purge(&purger, "small", Kind::Soft);
    // Three times what there is room for.
    let filler = body(5, CHUNK);
    for number in 0..400 {
        put(&disk, &format!("filler {number}"), &filler).await;
        assert!(disk.counters().bytes <= LEAST_CAPACITY);
        for key in asked_for {
            let _ = disk.get(key.as_bytes()).await;
        }
    }
    assert!(disk.counters().kept > 4);
    assert!(disk.counters().bytes > LEAST_CAPACITY * 3 / 4, "it uses what it has");
    for restarted in [false, true] {
        let disk = if restarted { open(directory.path()).await } else { disk.clone() };
        assert!(get(&disk, "small").await == Some(body(1, 1000).into()), "{restarted}");
        assert!(get(&disk, "large").await == Some(body(2, 3 * CHUNK).into()));
        assert!(get(&disk, "filler 399").await == Some(filler.to_vec()));
        for gone in ["purged", "not asked for", "filler 0"] {
            assert_eq!(get(&disk, gone).await, None, "{gone}");
        }
        assert_eq!(verdict(&disk, "small").await, Some(Verdict::Stale), "the judge's stamp");
        disk.close().await;
    }
    let files: u64 = segments(&directory).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(files <= LEAST_CAPACITY);
}

#[tokio::test]
async fn what_is_held_is_read_to_its_end_and_its_marks_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let purger = purger();
    let disk = open_with(options(directory.path()), &purger).await;
    assert_eq!(disk.oldest(), None);
    let first = purger.current();
    put(&disk, "first", &body(1, 4 * CHUNK)).await;
    assert_eq!(disk.oldest(), Some(first));
    let found = disk.get(b"first").await.unwrap();
    purge(&purger, "first", Kind::Hard);
    // What is in the queue counts as well.
    let writer = disk.writer(b"queued", purger.current());
    let filler = body(5, CHUNK);
    for number in 0..200 {
        put(&disk, &format!("filler {number}"), &filler).await;
    }
    disk.remove(b"first");
    assert!(read(&found.body, 0..found.body.size()).await == Some(body(1, 4 * CHUNK).into()));
    assert_eq!(disk.oldest(), Some(first), "it may still be checked");
    drop(found);
    eventually("let go", || disk.oldest() == Some(purger.current())).await;
    drop(writer);
}

#[tokio::test]
async fn a_description_is_renewed_and_the_chunks_stay() {
    let directory = tempfile::tempdir().unwrap();
    let (small, large) = (body(1, 1000), body(2, 3 * CHUNK + 1));
    {
        let disk = open(directory.path()).await;
        put(&disk, "small", &small).await;
        put(&disk, "large", &large).await;
        let stamp = disk.shared.purger.ticket().stamp();
        let bytes = disk.counters().bytes;
        let found = disk.get(b"small").await.unwrap();
        assert!(!disk.renew(b"small", &found.body, Bytes::from("new"), &stamp));
        let found = disk.get(b"large").await.unwrap();
        assert!(disk.renew(b"large", &found.body, Bytes::from("new"), &stamp));
        // It is about what was there then.
        assert!(disk.renew(b"large", &found.body, Bytes::from("newer"), &stamp));
        assert!(disk.flush().await);
        assert!(disk.counters().bytes < bytes + 1000, "chunks are not written again");
        assert_eq!(disk.get(b"large").await.unwrap().meta, "new");
        disk.close().await;
        assert!(disk.get(b"large").await.is_none());
        assert_eq!(read(&found.body, 0..found.body.size()).await.unwrap(), large);
    }
    let disk = open(directory.path()).await;
    let found = disk.get(b"large").await.unwrap();
    assert_eq!(found.meta, "new");
    assert_eq!(read(&found.body, 0..found.body.size()).await.unwrap(), large);
    disk.remove(b"large");
    let stamp = disk.shared.purger.ticket().stamp();
    assert!(disk.renew(b"large", &found.body, Bytes::from("late"), &stamp));
    assert!(disk.flush().await);
    assert!(disk.get(b"large").await.is_none(), "what was removed is not brought back");
}

#[tokio::test]
async fn purges_hold_over_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let keys = ["hard", "soft", "left"];
    let disk = open(directory.path()).await;
    for key in keys {
        put(&disk, key, &body(1, 1000)).await;
    }
    purge(&disk.shared.purger, "hard", Kind::Hard);
    purge(&disk.shared.purger, "soft", Kind::Soft);
    assert!(disk.flush().await);
    // What is written after a purge is not purged by it, in this life and in the next.
    put(&disk, "hard", &body(2, 1000)).await;
    disk.close().await;
    for _ in 0..3 {
        let disk = open(directory.path()).await;
        assert_eq!(verdict(&disk, "hard").await, Some(Verdict::Good));
        assert_eq!(verdict(&disk, "soft").await, Some(Verdict::Stale));
        assert_eq!(verdict(&disk, "left").await, Some(Verdict::Good));
        disk.close().await;
    }
    let disk = open(directory.path()).await;
    disk.shared.purger.purge(b"app", &Scope::App, Kind::Hard);
    disk.close().await;
    let disk = open(directory.path()).await;
    for key in keys {
        assert_eq!(verdict(&disk, key).await, Some(Verdict::Gone));
    }
}

#[tokio::test]
async fn a_process_that_takes_over_waits_and_purges_what_it_is_given() {
    let directory = tempfile::tempdir().unwrap();
    let old = open(directory.path()).await;
    put(&old, "purged", &body(1, 1000)).await;
    put(&old, "removed", &body(2, 1000)).await;
    put(&old, "left", &body(3, 1000)).await;

    let next = Disk::open(options(directory.path()), purger()).unwrap();
    assert!(!write(&next, "purged", &Stamp::new(Generation::FIRST), &body(4, 10)));
    assert_eq!(next.oldest(), Some(Generation::FIRST), "nobody knows yet");
    purge(&next.shared.purger, "purged", Kind::Hard);
    next.remove(b"removed");
    assert!(!next.counters().ready);
    assert_eq!(verdict(&old, "left").await, Some(Verdict::Good), "the old one goes on");
    old.close().await;

    eventually("taken over", || next.counters().ready).await;
    assert_eq!(verdict(&next, "removed").await, None);
    assert_eq!(verdict(&next, "left").await, Some(Verdict::Good));
    // The write that was refused has removed it. Its purge would have, too.
    assert_eq!(verdict(&next, "purged").await, None);
    next.close().await;
}

#[tokio::test]
async fn without_its_purges_nothing_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("purges");
    for what in ["damaged", "unreadable"] {
        let disk = open(directory.path()).await;
        put(&disk, "object", &body(1, 1000)).await;
        disk.close().await;
        if what == "damaged" {
            std::fs::write(&journal, b"something else").unwrap();
        } else {
            std::fs::remove_file(&journal).unwrap();
            std::fs::create_dir(&journal).unwrap();
        }
        let disk = Disk::open(options(directory.path()), purger()).unwrap();
        eventually("segments removed", || segments(&directory).is_empty()).await;
        assert_eq!(get(&disk, "object").await, None, "{what}");
        let _ = std::fs::remove_dir(&journal);
        eventually("usable again", || disk.counters().ready).await;
        put(&disk, "object", &body(2, 1000)).await;
        disk.close().await;
    }

    // The clock was set back: what is there is from the future, and so may be a purge.
    let disk = open(directory.path()).await;
    assert!(get(&disk, "object").await == Some(body(2, 1000).into()));
    disk.close().await;
    let early = Purger::starting_at(Generation::from_u64(5), Limits::default());
    let disk = open_with(options(directory.path()), &early).await;
    assert_eq!(get(&disk, "object").await, None);
    put(&disk, "object", &body(3, 1000)).await;
    purge(&early, "other", Kind::Soft);
    disk.close().await;
    let earlier = Purger::starting_at(Generation::from_u64(4), Limits::default());
    let disk = open_with(options(directory.path()), &earlier).await;
    assert_eq!(get(&disk, "object").await, None);
}

#[tokio::test]
async fn a_write_that_was_overtaken_does_not_end() {
    let directory = tempfile::tempdir().unwrap();
    let disk = open(directory.path()).await;
    let stamp = disk.shared.purger.ticket().stamp();
    let write = |name| {
        let mut writer = disk.writer(b"key", stamp.generation()).unwrap();
        assert!(writer.push(body(name, 2 * CHUNK)));
        writer
    };
    let (first, second) = (write(1), write(2));
    assert!(second.finish(Bytes::from_static(b"meta of key"), &stamp));
    assert!(first.finish(Bytes::from_static(b"meta of key"), &stamp));
    let removed = write(3);
    disk.remove(b"key");
    assert!(removed.finish(Bytes::new(), &stamp));
    let abandoned = write(4);
    drop(abandoned);
    assert!(disk.flush().await);
    assert_eq!(get(&disk, "key").await, None);
    put(&disk, "key", &body(5, 10)).await;
    disk.close().await;
    let disk = open(directory.path()).await;
    assert!(get(&disk, "key").await == Some(body(5, 10).into()));
    assert_eq!(disk.counters().entries, 1);
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let too_small = Options { capacity: LEAST_CAPACITY - 1, ..options(directory.path()) };
    assert!(matches!(Disk::open(too_small, purger()), Err(OpenError::TooSmall(_))));
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(Disk::open(options(&file), purger()), Err(OpenError::Directory { .. })));

    let disk = open(directory.path()).await;
    let stamp = disk.shared.purger.ticket().stamp();
    assert!(!write(&disk, "large", &stamp, &body(1, 17 << 20)));
    assert!(!write(&disk, &"k".repeat(MOST_KEY_BYTES + 1), &stamp, &body(1, 10)));
    let writer = disk.writer(b"key", stamp.generation()).unwrap();
    assert!(!writer.finish(Bytes::from(vec![0; MOST_META_BYTES + 1]), &stamp));
    assert!(disk.flush().await);
    assert_eq!(disk.counters().entries, 0);
    assert_eq!(disk.counters().dropped, 3);
    // What is not written to its end leaves nothing to wait for.
    assert_eq!(disk.shared.index().writes(), 0);
}

#[test]
fn queues_are_bounded() {
    let queue = Queue::new(2, 10);
    assert!(queue.push(1, 6) && !queue.push(2, 5) && queue.push(3, 4));
    assert!(!queue.push(4, 0) && queue.push_small(5));
    let pop = || match queue.pop(Duration::ZERO) {
        queue::Popped::Job(job) => Some(job),
        queue::Popped::Nothing | queue::Popped::Closed => None,
    };
    assert_eq!([pop(), pop(), pop(), pop()], [Some(1), Some(3), Some(5), None]);
    assert!(queue.push(6, 10));
    queue.close();
    assert!(!queue.push(7, 0) && !queue.push_small(8));
    assert_eq!([pop(), pop()], [Some(6), None]);
}
