//! Damaged files, and disks that take no more.

use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Keys, with the sizes of their bodies.
const OBJECTS: [(&str, usize); 5] =
    [("a", 10), ("b", 3000), ("c", CHUNK + 100), ("d", 0), ("e", 70_000)];

async fn write_objects(directory: &TempDir) {
    let disk = open(directory.path()).await;
    for (name, (key, size)) in OBJECTS.iter().enumerate() {
        put(&disk, key, &body(name as u64, *size)).await;
    }
    disk.close().await;
}

/// Every object is whole or not there. How many are.
async fn whole(disk: &Disk) -> usize {
    let mut found = 0;
    for (name, (key, size)) in OBJECTS.iter().enumerate() {
        if let Some(read) = get(disk, key).await {
            assert!(read == body(name as u64, *size), "{key} is damaged");
            found += 1;
        }
    }
    found
}

#[test]
fn a_flipped_bit_or_a_cut_file_is_a_miss() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    runtime.block_on(write_objects(&directory));
    let files = segments(&directory);
    let [segment] = &files[..] else { panic!("{files:?}") };
    let good = std::fs::read(segment).unwrap();
    let ends =
        [(0usize..200).boxed(), (0..good.len()).boxed(), (good.len() - 80_000..good.len()).boxed()];
    let places = proptest::strategy::Union::new(ends);
    let mut runner = TestRunner::new(Config::with_cases(60));
    let strategy = (places, 0u8..8, any::<bool>(), any::<bool>());
    runner
        .run(&strategy, |(at, bit, cut, running)| {
            let mut bad = good.clone();
            if cut {
                bad.truncate(at);
            } else {
                bad[at] ^= 1 << bit;
            }
            let found = runtime.block_on(async {
                // Damaged before it is opened, or while it is.
                std::fs::write(segment, if running { &good } else { &bad }).unwrap();
                let disk = open(directory.path()).await;
                if running {
                    std::fs::write(segment, &bad).unwrap();
                }
                let found = whole(&disk).await;
                assert_eq!(whole(&disk).await, found, "what was damaged is out of the index");
                disk.close().await;
                found
            });
            // The file's start is not read while it is open.
            prop_assert!(found < OBJECTS.len() || (running && at < 32));
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn files_that_are_none_of_ours_are_left_or_removed() {
    let directory = tempfile::tempdir().unwrap();
    write_objects(&directory).await;
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("0000ffff.segment"), b"no segment").unwrap();
    std::fs::copy(path("00000000.segment"), path("00000007.segment")).unwrap();
    std::fs::write(path("else.segment"), b"not ours").unwrap();
    let disk = open(directory.path()).await;
    assert_eq!(whole(&disk).await, OBJECTS.len());
    assert!(!path("0000ffff.segment").exists() && !path("00000007.segment").exists());
    assert!(path("else.segment").exists());
}

/// Runs a test of this module in a child, with files that can't become larger than so many blocks
/// of half or one KiB. Writing on fails there as it does on a full disk.
fn with_small_files(test: &str, blocks: usize, directory: &Path) {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("disk::tests::errors::{test}"), "--nocapture"])
        .env(DIRECTORY, directory)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

const DIRECTORY: &str = "SELVEDGE_CACHE_TEST_DIRECTORY";

#[test]
fn a_full_disk_fails_no_request() {
    let directory = tempfile::tempdir().unwrap();
    with_small_files("full_disk_child", 2048, directory.path());
}

#[tokio::test]
async fn full_disk_child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let disk = open(Path::new(&directory)).await;
    for number in 0..400 {
        let stamp = disk.shared.purger.ticket().stamp();
        let body = body(number, 100_000);
        let key = format!("{number}");
        // Refused or lost, and then it is not found; or it is there, and whole.
        write(&disk, &key, &stamp, &body);
        disk.flush().await;
        let read = get(&disk, &key).await;
        assert!(read.is_none_or(|read| read == body));
    }
    let counters = disk.counters();
    assert!(counters.errors > 3 && counters.dropped > 3, "{counters:?}");
    assert!(counters.written > 300 && counters.entries > 0, "it goes on: {counters:?}");
    disk.close().await;
}

#[tokio::test]
async fn a_purge_that_can_not_be_kept_takes_everything_with_it() {
    let directory = tempfile::tempdir().unwrap();
    with_small_files("full_journal_child", 64, directory.path());
    let disk = open(directory.path()).await;
    assert_eq!(disk.counters().entries, 0);
}

#[tokio::test]
async fn full_journal_child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let purger = purger();
    let disk = open_with(options(Path::new(&directory)), &purger).await;
    put(&disk, "object", &body(1, 1000)).await;
    for number in 0..1000 {
        purge(&purger, &format!("{number:0>100}"), Kind::Hard);
    }
    assert!(purger.forgot());
    assert_eq!(get(&disk, "object").await, None, "at once");
    assert!(!write(&disk, "other", &purger.ticket().stamp(), &body(1, 10)));
    // The purge holds here.
    let object = Tagged::new(&format!("{:0>100}", 999), Stamp::new(Generation::FIRST));
    assert_eq!(purger.verdict(&object), Verdict::Gone);
    eventually("removed", || {
        let files = std::fs::read_dir(&directory).unwrap();
        !files.flatten().any(|file| file.path().extension().is_some_and(|end| end == "segment"))
    })
    .await;
    assert!(!disk.counters().ready);
    disk.close().await;
}
