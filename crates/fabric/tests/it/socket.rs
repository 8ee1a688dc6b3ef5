//! What is particular to the socket: absence, refusals, and the protocol's limits.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use selvedge_fabric::client::{Client, Options};
use selvedge_fabric::server::{BindError, Server};
use selvedge_fabric::{Change, Expect, Fabric, FabricError, Message};
use selvedge_model::Digest;
use tokio_util::sync::CancellationToken;

use crate::World;
use crate::world::{change, documents, message, soon};

const HASTY: Options =
    Options { connect_within: Duration::from_millis(50), answer_within: Duration::from_secs(60) };
const PEER: &str = "SELVEDGE_FABRIC_TEST_PEER";

fn serve(world: &World, path: &Path) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let token = CancellationToken::new();
    let server = Server::bind(path, world.fabric.clone()).unwrap();
    (token.clone(), tokio::spawn(server.run(token)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_come_before_its_server_and_outlast_it() {
    let world = World::embedded();
    // Longer than a socket's address may be.
    let deep = world.path(&"d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let path = deep.join("fabric.sock");
    let client = Client::connect_with(&path, HASTY);
    let error = client.get("a").await.unwrap_err();
    let FabricError::Unreachable(why) = error else { panic!("{error:?}") };
    assert!(why.to_string().contains("fabric.sock"), "{why}");
    let missing = client.put_blob(&world.path("fabric/fabric.db")).await.unwrap_err();
    assert!(matches!(missing, FabricError::Unreachable(_)));
    let mut watch = client.watch("a", None).await.unwrap();
    let mut consumer = client.consume("s", "c").await.unwrap();
    let mut leases = client.watch_leases("l").await.unwrap();
    assert!(leases.borrow().is_empty());

    world.fabric.put("a", "1".into(), Expect::Any).await.unwrap();
    world.fabric.publish("s", None, "1".into()).await.unwrap();
    world.fabric.lease("l", "me", Duration::from_secs(600)).await.unwrap();
    let (token, server) = serve(&world, &path);
    let (keys, _) = documents(&mut watch).await;
    assert_eq!(keys, ["a"]);
    assert_eq!(message(&mut consumer).await, Message::Data { sequence: 1, payload: "1".into() });
    soon(leases.wait_for(|leases| leases.len() == 1)).await.unwrap();

    token.cancel();
    soon(server).await.unwrap();
    assert!(!path.exists(), "the socket goes away with the server");
    soon(async { while client.get("a").await.is_ok() {} }).await;
    assert_eq!(leases.borrow().len(), 1, "what was known stays");
    let missed = world.fabric.put("a", "2".into(), Expect::Any).await.unwrap();
    world.fabric.publish("s", None, "2".into()).await.unwrap();
    let (_token, _server) = serve(&world, &path);
    assert!(
        matches!(change(&mut watch).await, Change::Put(document) if document.generation == missed)
    );
    assert_eq!(change(&mut watch).await, Change::Current(missed));
    assert_eq!(message(&mut consumer).await, Message::Data { sequence: 2, payload: "2".into() });
    soon(async { while client.get("a").await.is_err() {} }).await;
    drop(client);
    assert_eq!(soon(watch.next()).await, None);
    assert_eq!(soon(consumer.next()).await, None);
}

/// A frame as the protocol has it.
fn frame(header: &str) -> Vec<u8> {
    let length = header.len() as u32;
    [&(length + 4).to_be_bytes(), &length.to_be_bytes(), header.as_bytes()].concat()
}

/// Whatever the server says to `bytes` until it hangs up.
fn answer(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    // A server that refuses may hang up before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_peers_harm_nobody() {
    let world = World::socket();
    let path = world.path("fabric.sock");
    let hello = |version: u32| frame(&format!(r#"{{"version":{version},"purpose":"Calls"}}"#));
    let refused = answer(&path, &hello(99));
    assert!(refused.contains("Refused") && refused.contains("not 99"), "{refused}");
    assert!(answer(&path, &hello(1)).contains("Ready"));
    assert_eq!(answer(&path, b"GET / HTTP/1.1\r\n\r\n"), "");
    assert_eq!(answer(&path, &frame("{}")), "");
    let huge = [u32::MAX.to_be_bytes(), 20_u32.to_be_bytes()].concat();
    assert_eq!(answer(&path, &huge), "");
    let body = (4 + (2 << 20) + 1_u32).to_be_bytes();
    let called = answer(&path, &[hello(1), [body, 1_u32.to_be_bytes()].concat()].concat());
    assert!(called.contains("Ready"), "{called}");
    let unknown = answer(&path, &[hello(1), frame(r#"{"id":1,"call":"Explode"}"#)].concat());
    assert!(unknown.contains("Ready") && !unknown.contains("answer"), "{unknown}");
    world.fabric.put("a", "1".into(), Expect::Any).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_flight_is_unreachable_when_the_connection_breaks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fabric.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let client = Client::connect_with(&path, HASTY);
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&frame(r#"{"Ready":{"incarnation":1}}"#)).unwrap();
        let mut heard = Vec::new();
        while !String::from_utf8_lossy(&heard).contains("mykey") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            heard.push(byte[0]);
        }
    });
    soon(async {
        while let Err(error) = client.get("mykey").await {
            let FabricError::Unreachable(error) = error else { panic!("{error:?}") };
            if error.kind() == std::io::ErrorKind::ConnectionReset {
                return;
            }
        }
        panic!("there was nobody to answer");
    })
    .await;
    server.join().unwrap();
}

/// A server that gives each connection that asks for `purpose` the next of `scripts`, and hangs up.
fn scripted(path: &Path, purpose: &'static str, scripts: Vec<Vec<u8>>) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let mut scripts = scripts.into_iter();
        // Those that ask for something else stay open.
        let mut others = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut hello = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut hello).unwrap();
            stream.write_all(&frame(r#"{"Ready":{"incarnation":1}}"#)).unwrap();
            if String::from_utf8_lossy(&hello).contains(purpose) {
                let Some(script) = scripts.next() else { return };
                stream.write_all(&script).unwrap();
            } else {
                others.push(stream);
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_list_starts_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fabric.sock");
    let put = |key: &str, generation: &str| {
        frame(&format!(r#"{{"Put":{{"key":"{key}","generation":"{generation}"}}}}"#))
    };
    let current = |generation: &str| frame(&format!(r#"{{"Current":"{generation}"}}"#));
    let scripts = vec![
        put("a", "1.7"),
        [put("b", "1.2"), current("1.8")].concat(),
        [put("b", "1.9"), frame(r#""Reset""#), put("c", "2.1")].concat(),
        [put("d", "2.1"), current("2.2")].concat(),
    ];
    scripted(&path, "Watch", scripts);
    let client = Client::connect(&path);
    let mut watch = client.watch("", None).await.unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "2.2") {
        seen.push(match change(&mut watch).await {
            Change::Put(document) => document.key,
            Change::Current(generation) => generation.to_string(),
            Change::Reset => "reset".to_owned(),
            other @ Change::Delete { .. } => panic!("{other:?}"),
        });
    }
    // `a` may be gone by the time of the second list, and `c` by that of the fourth.
    assert_eq!(seen, ["a", "reset", "b", "1.8", "b", "reset", "c", "reset", "d", "2.2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_checked_after_its_way() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("fabric.sock"), directory.path().join("copy"));
    let mut piece = frame(r#""Piece""#);
    piece.extend(b"content");
    piece[..4].copy_from_slice(&(4 + 7 + 7_u32).to_be_bytes());
    let end = frame(r#""End""#);
    scripted(
        &path,
        "ReadBlob",
        vec![piece.clone(), [piece.clone(), end.clone()].concat(), [piece, end].concat()],
    );
    let client = Client::connect(&path);
    let (sound, other) = (Digest::of(b"content"), Digest::of(b"other content"));
    let cut = client.fetch_blob(&sound, &copy).await.unwrap_err();
    assert!(matches!(cut, FabricError::Unreachable(_)), "{cut:?}");
    let damaged = client.fetch_blob(&other, &copy).await.unwrap_err();
    assert!(matches!(damaged, FabricError::Damaged(digest) if digest == other));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "only the socket");
    client.fetch_blob(&sound, &copy).await.unwrap();
    assert_eq!(std::fs::read(&copy).unwrap(), b"content");
}

#[tokio::test]
async fn a_socket_takes_the_place_of_a_stale_one_only() {
    let world = World::embedded();
    let path = world.path("fabric.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "stale");
    let (token, server) = serve(&world, &path);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = Server::bind(&path, world.fabric.clone()).unwrap_err();
    assert!(matches!(second, BindError::InUse(_)));
    token.cancel();
    server.await.unwrap();
    std::fs::write(&path, "a file").unwrap();
    let file = Server::bind(&path, world.fabric.clone()).unwrap_err();
    assert!(matches!(file, BindError::NotASocket(_)));
    assert_eq!(std::fs::read(&path).unwrap(), b"a file");
    let nowhere = Server::bind(&world.path("no/where"), world.fabric.clone()).unwrap_err();
    assert!(matches!(nowhere, BindError::Listen { .. }));
}

/// The child of the test below: tries the socket as another user.
#[test]
fn peer() {
    let Ok(path) = std::env::var(PEER) else { return };
    let hello = frame(r#"{"version":1,"purpose":"Calls"}"#);
    println!("answer: {}", answer(&PathBuf::from(path), &hello));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_users_are_refused() {
    if !nix::unistd::geteuid().is_root() {
        for name in ["CI", "SELVEDGE_REQUIRE_ROOT"] {
            assert!(std::env::var_os(name).is_none(), "{name} is set, but this test wants root");
        }
        eprintln!("SKIPPED: only root can act as another user");
        return;
    }
    let world = World::socket();
    let path = world.path("fabric.sock");
    // Even if the file's mode let them in.
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    open(world.directory.path());
    open(&path);
    // The binary may lie where the other user may not go.
    let binary = world.path("peer");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    open(&binary);
    let mut command = Command::new(&binary);
    command.args(["--exact", "socket::peer", "--nocapture"]).env(PEER, &path);
    command.uid(65_534).gid(65_534).current_dir("/");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.contains("user 65534 may not use this fabric"), "{output}");
    let own: Arc<dyn Fabric> = Arc::new(Client::connect(&path));
    own.put("a", "1".into(), Expect::Any).await.unwrap();
}
