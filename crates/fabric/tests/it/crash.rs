//! SIGKILL at random points of a write load: whatever was acknowledged is there, whole and in
//! order. The load runs in a child, which is this test binary again.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use selvedge_fabric::client::{Client, Options};
use selvedge_fabric::embedded::Embedded;
use selvedge_fabric::server::Server;
use selvedge_fabric::{Change, Expect, Fabric, FabricError, Message, SharedFabric, WriteError};
use selvedge_model::{Digest, Generation};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::world::{change, documents, message, soon};

/// Tells the child what to do, and where.
const ROLE: &str = "SELVEDGE_FABRIC_TEST_ROLE";
const DIRECTORY: &str = "SELVEDGE_FABRIC_TEST_DIRECTORY";

/// A process that ends with this value at the latest.
struct Victim(Child);

impl Victim {
    fn start(role: &str, directory: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crash::child", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env(DIRECTORY, directory);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        let output = BufReader::new(self.0.stdout.take().unwrap());
        output.lines().map_while(Result::ok)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Numbers that are the same at every run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// A value that can't be torn unseen: its last part is the digest of the first.
fn sealed(text: &str) -> String {
    let filler = "x".repeat(text.len() * 397 % 9000);
    let body = format!("{text} {filler}");
    format!("{body} {}", Digest::of(body.as_bytes()))
}

/// The text of a sealed value, checked.
fn unsealed(value: &[u8]) -> String {
    let value = std::str::from_utf8(value).unwrap();
    let (body, digest) = value.rsplit_once(' ').unwrap();
    assert_eq!(Digest::of(body.as_bytes()).to_string(), digest, "a torn value");
    body.split(' ').next().unwrap().to_owned()
}

#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let directory = PathBuf::from(std::env::var(DIRECTORY).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(child_main(&role, &directory));
}

async fn child_main(role: &str, directory: &Path) {
    let fabric: SharedFabric = Arc::new(Embedded::open(&directory.join("fabric")).unwrap());
    match role {
        "load" => load(fabric, directory).await,
        _ => {
            let server = Server::bind(&directory.join("fabric.sock"), fabric).unwrap();
            acknowledge("ready");
            server.run(CancellationToken::new()).await;
        }
    }
}

/// Says on standard output that something is durable. One write, so that lines don't mix.
fn acknowledge(line: &str) {
    let line = format!("\n! {line}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

/// Writes until it is killed.
async fn load(fabric: SharedFabric, directory: &Path) {
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..3 {
        tasks.spawn(write_documents(fabric.clone(), format!("document/{writer}")));
    }
    tasks.spawn(write_and_delete(fabric.clone()));
    for publisher in 0..2 {
        tasks.spawn(publish(fabric.clone(), publisher));
    }
    tasks.spawn(put_blobs(fabric, directory.join("source")));
    while tasks.join_next().await.is_some() {}
}

async fn write_documents(fabric: SharedFabric, key: String) {
    let current = fabric.get(&key).await.unwrap();
    let mut n = current.as_ref().map_or(0, |found| unsealed(&found.value).parse().unwrap());
    let mut expect = current.map_or(Expect::Absent, |found| Expect::Generation(found.generation));
    loop {
        n += 1_u64;
        let generation = fabric.put(&key, sealed(&n.to_string()).into(), expect).await.unwrap();
        acknowledge(&format!("document {key} {n} {generation}"));
        expect = Expect::Generation(generation);
    }
}

async fn write_and_delete(fabric: SharedFabric) {
    for n in 0_u64.. {
        let key = format!("deleted/{}", n % 3);
        let generation = fabric.put(&key, "1".into(), Expect::Any).await.unwrap();
        fabric.delete(&key, Expect::Generation(generation)).await.unwrap();
        acknowledge(&format!("deleted {key} 0 {generation}"));
    }
}

async fn publish(fabric: SharedFabric, publisher: u32) {
    let life = std::process::id();
    for n in 0_u64.. {
        let id = format!("{publisher}.{life}.{n}");
        let sequence = fabric.publish("s", Some(&id), sealed(&id).into()).await.unwrap();
        acknowledge(&format!("message {id} {sequence} 0.0"));
    }
}

async fn put_blobs(fabric: SharedFabric, source: PathBuf) {
    for n in 0_u64.. {
        std::fs::write(&source, sealed(&format!("{}.{n}", std::process::id()))).unwrap();
        let digest = fabric.put_blob(&source).await.unwrap();
        acknowledge(&format!("blob {digest} 0 0.0"));
    }
}

/// What the children have acknowledged, over all rounds.
#[derive(Default)]
struct Acknowledged {
    documents: BTreeMap<String, u64>,
    messages: BTreeMap<u64, String>,
    blobs: Vec<Digest>,
    newest: Option<Generation>,
    count: u64,
}

impl Acknowledged {
    fn note(&mut self, line: &str) {
        // The last line may have been cut short.
        let Some(line) = line.strip_prefix("! ") else { return };
        let [kind, name, number, generation] = line.split(' ').collect::<Vec<_>>()[..] else {
            return;
        };
        let Ok(generation) = generation.parse::<Generation>() else { return };
        let number = number.parse().unwrap();
        self.count += 1;
        match kind {
            "document" => {
                let before = self.documents.insert(name.to_owned(), number);
                assert!(before.is_none_or(|before| before < number));
            }
            "message" => {
                let before = self.messages.insert(number, name.to_owned());
                assert_eq!(before, None, "a sequence number given twice");
            }
            "blob" => self.blobs.push(name.parse().unwrap()),
            _ => {}
        }
        if generation.number > 0 {
            self.newest = self.newest.max(Some(generation));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let directory = TempDir::new().unwrap();
    let mut random = Random(20);
    let mut acknowledged = Acknowledged::default();
    let mut seen: Option<Generation> = None;
    for _ in 0..20 {
        let kill_at = acknowledged.count + 1 + random.below(300);
        let mut victim = Victim::start("load", directory.path());
        for line in victim.lines() {
            acknowledged.note(&line);
            if acknowledged.count == kill_at {
                victim.kill();
            }
        }
        drop(victim);
        let fabric = Embedded::open(&directory.path().join("fabric")).unwrap();
        check_documents(&fabric, &mut acknowledged, &mut seen).await;
        check_blobs(&fabric, &mut acknowledged, directory.path()).await;
        check_messages(&fabric, &acknowledged).await;
    }
    assert!(acknowledged.documents.len() == 3 && acknowledged.messages.len() > 20);
}

/// `seen` is how far the round before got.
async fn check_documents(
    fabric: &Embedded,
    acknowledged: &mut Acknowledged,
    seen: &mut Option<Generation>,
) {
    let listing = fabric.list("").await.unwrap();
    let mut values = BTreeMap::new();
    for document in listing.documents {
        if document.key.starts_with("document/") {
            values.insert(document.key, unsealed(&document.value).parse::<u64>().unwrap());
        }
    }
    for (key, n) in &acknowledged.documents {
        let found = values.get(key).copied().unwrap_or(0);
        assert!(found == *n || found == n + 1, "{key} is {found}, and {n} was acknowledged");
    }
    // The last write of each need not have been acknowledged: it counts from now on.
    acknowledged.documents.extend(values);
    assert!(Some(listing.generation) >= acknowledged.newest);
    if let Some(start) = *seen {
        let mut watch = fabric.watch("", Some(start)).await.unwrap();
        for number in start.number + 1..=listing.generation.number {
            let generation = match change(&mut watch).await {
                Change::Put(document) => document.generation,
                Change::Delete { generation, .. } => generation,
                other => panic!("{other:?} instead of the change {number}"),
            };
            assert_eq!(generation, Generation::new(start.incarnation, number));
        }
        assert_eq!(change(&mut watch).await, Change::Current(listing.generation));
    }
    *seen = Some(listing.generation);
}

async fn check_messages(fabric: &Embedded, acknowledged: &Acknowledged) {
    let last = fabric.publish("s", None, sealed("probe").into()).await.unwrap();
    let mut consumer = fabric.consume("s", "checker").await.unwrap();
    let mut found = BTreeMap::new();
    let mut previous = None;
    while previous != Some(last) {
        let Message::Data { sequence, payload } = message(&mut consumer).await else {
            panic!("nothing was trimmed")
        };
        assert!(previous.is_none_or(|previous| sequence == previous + 1));
        previous = Some(sequence);
        found.insert(sequence, unsealed(&payload));
    }
    let oldest = *found.keys().next().unwrap();
    for (sequence, id) in acknowledged.messages.range(oldest..) {
        assert_eq!(found.get(sequence), Some(id));
    }
    if let Some((sequence, id)) = acknowledged.messages.last_key_value() {
        assert_eq!(fabric.publish("s", Some(id), "again".into()).await.unwrap(), *sequence);
    }
    fabric.acknowledge("s", "checker", last).await.unwrap();
}

async fn check_blobs(fabric: &Embedded, acknowledged: &mut Acknowledged, directory: &Path) {
    for digest in acknowledged.blobs.drain(..) {
        let copy = directory.join("copy");
        fabric.fetch_blob(&digest, &copy).await.unwrap();
        unsealed(&std::fs::read(&copy).unwrap());
        std::fs::remove_file(&copy).unwrap();
    }
    for digest in fabric.blobs().await.unwrap() {
        let copy = directory.join("copy");
        fabric.fetch_blob(&digest, &copy).await.unwrap();
        std::fs::remove_file(&copy).unwrap();
        fabric.delete_blob(&digest).await.unwrap();
    }
}

/// The server is killed again and again while clients write, watch and consume over its socket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_outlive_the_server() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("fabric.sock");
    let patient = Options { connect_within: Duration::from_secs(60), ..Options::default() };
    // Before there is a server.
    let fabric: SharedFabric = Arc::new(Client::connect_with(&socket, patient));
    let mut server = serve(directory.path());
    let mut watch = fabric.watch("n/", None).await.unwrap();
    let mut consumer = fabric.consume("s", "c").await.unwrap();
    let (_, start) = documents(&mut watch).await;

    let writing = tokio::spawn(write_through(fabric.clone()));
    let mut random = Random(5);
    let mut next = start.number + 1;
    for _ in 0..6 {
        for _ in 0..random.below(60) {
            next = expect_revision(&mut watch, next).await;
        }
        drop(server);
        server = serve(directory.path());
    }
    fabric.put("n/stop", sealed("stop").into(), Expect::Any).await.unwrap();
    let acknowledged = soon(writing).await.unwrap();
    let last = fabric.list("n/").await.unwrap().generation.number;
    while next <= last {
        next = expect_revision(&mut watch, next).await;
    }
    let mut previous = 0;
    for (id, sequence) in acknowledged {
        while previous < sequence {
            let Message::Data { sequence: got, payload } = message(&mut consumer).await else {
                panic!("nothing was trimmed")
            };
            assert_eq!(got, previous + 1, "in order, none twice");
            previous = got;
            if got == sequence {
                assert_eq!(unsealed(&payload), id);
            }
        }
    }
}

fn serve(directory: &Path) -> Victim {
    let mut victim = Victim::start("serve", directory);
    let ready = victim.lines().any(|line| line == "! ready");
    assert!(ready, "the server has not started");
    victim
}

/// Writes until there is a document `n/stop`: a counter and messages by id, each
/// again when the answer was lost. Returns the messages with their sequence numbers.
async fn write_through(fabric: SharedFabric) -> Vec<(String, u64)> {
    let mut acknowledged = Vec::new();
    for n in 0_u64.. {
        let value = sealed(&n.to_string());
        loop {
            match fabric.put("n/n", value.clone().into(), Expect::Any).await {
                Ok(_) => break,
                Err(WriteError::Fabric(FabricError::Unreachable(_))) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let id = n.to_string();
        let sequence = loop {
            match fabric.publish("s", Some(&id), sealed(&id).into()).await {
                Ok(sequence) => break sequence,
                Err(FabricError::Unreachable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(sequence, n + 1, "published once");
        acknowledged.push((id, sequence));
        if let Ok(Some(_)) = fabric.get("n/stop").await {
            break;
        }
    }
    acknowledged
}

/// Every revision is one of this watch's, so none may be missing. Returns the next.
async fn expect_revision(watch: &mut selvedge_fabric::Watch, number: u64) -> u64 {
    loop {
        match change(watch).await {
            Change::Put(document) => {
                unsealed(&document.value);
                assert_eq!(document.generation.number, number);
                return number + 1;
            }
            Change::Current(_) => {}
            other => panic!("{other:?} instead of the change {number}"),
        }
    }
}
