//! SIGKILL at random points of a load: what is found afterwards is whole, and what was purged
//! before does not come back. The load runs in a child, which is this test binary again.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};

use super::*;

const DIRECTORY: &str = "SELVEDGE_CACHE_CRASH_DIRECTORY";
const KEYS: u64 = 40;
const ROUNDS: usize = 6;

/// A process that ends with this value at the latest.
struct Victim(Child);

impl Victim {
    fn start(directory: &Path) -> Self {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "disk::tests::crash::child", "--nocapture", "--test-threads=1"]);
        command.env(DIRECTORY, directory);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The key of a number, and the size of its bodies: some in a record, some in chunks.
fn object(number: u64) -> (String, usize) {
    (format!("key{number}"), (number * number * 977) as usize % 1_200_000)
}

#[tokio::test]
async fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let disk = open(Path::new(&directory)).await;
    let purger = disk.shared.purger.clone();
    // Versions go up over all lives.
    let mut version = purger.current().as_u64();
    loop {
        version += 1;
        let (key, size) = object(version % KEYS);
        let ticket = purger.ticket();
        let _ = disk.get(key.as_bytes()).await;
        if let Some(mut writer) = disk.writer(key.as_bytes(), ticket.generation()) {
            let meta = Bytes::from(version.to_le_bytes().to_vec());
            if writer.push(body(version, size)) {
                writer.finish(meta, &ticket.stamp());
            }
        }
        drop(ticket);
        if version.is_multiple_of(7) {
            purge(&purger, &key, Kind::Hard);
            // One write, so that lines don't mix with the test harness's.
            let line = format!("\n! {key} {version}\n");
            std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        }
        if version.is_multiple_of(50) {
            disk.flush().await;
        }
    }
}

/// Checks all that is there. How much is.
async fn check(disk: &Disk, purged: &HashMap<String, u64>) -> usize {
    let mut good = 0;
    for number in 0..KEYS {
        let (key, size) = object(number);
        let Some(found) = disk.get(key.as_bytes()).await else { continue };
        let version = u64::from_le_bytes(found.meta[..].try_into().unwrap());
        assert_eq!(version % KEYS, number);
        assert_eq!(found.body.size(), size as u64);
        let read = read(&found.body, 0..found.body.size()).await;
        assert!(read.is_none_or(|read| read == body(version, size)), "a torn object");
        if disk.shared.purger.verdict(&Tagged::new(&key, found.stamp)) != Verdict::Gone {
            let purged = purged.get(&key).copied().unwrap_or(0);
            assert!(version > purged, "{key} {version} came back, purged at {purged}");
            good += 1;
        }
    }
    good
}

#[tokio::test]
async fn what_is_found_after_a_kill_is_whole_and_not_purged() {
    let directory = tempfile::tempdir().unwrap();
    let mut purged = HashMap::new();
    let mut good = 0;
    for round in 0..ROUNDS {
        let mut victim = Victim::start(directory.path());
        let lines = BufReader::new(victim.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut acknowledged = 0;
        for line in lines {
            let Some(line) = line.strip_prefix("! ") else { continue };
            let (key, version) = line.split_once(' ').unwrap();
            purged.insert(key.to_owned(), version.parse().unwrap());
            acknowledged += 1;
            // At another point in each round; lines that are on their way are read to their end.
            if acknowledged == 3 + 5 * round {
                victim.0.kill().unwrap();
            }
        }
        assert!(acknowledged >= 3 + 5 * round, "the child ended");
        drop(victim);
        let disk = open(directory.path()).await;
        good += check(&disk, &purged).await;
        disk.close().await;
    }
    assert!(good > ROUNDS * 5, "only {good} objects were left");
}
