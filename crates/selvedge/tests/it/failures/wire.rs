//! Pushes that are cut off, that race, or that may not be.

use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use selvedge_model::AppName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::scene::{APP, Scene};
use super::{Expect, Fault, Inject, Moment, clients, run};
use crate::harness::repository::{Pushed, Repository};
use crate::harness::{can_isolate, eventually};

/// Who ends in the middle of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Pusher,
    Connection,
}

/// Of the upload, what gets through, in bytes.
const THROUGH: usize = 1 << 20;

/// A relay to control that lets [`THROUGH`] bytes of one connection pass. Then it waits, or cuts the
/// connection.
struct Relay {
    address: SocketAddr,
    full: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    async fn start(to: &str, cut: Cut) -> Self {
        let to: SocketAddr = to.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, full) = watch::channel(false);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, to, cut, sender.clone()));
            }
        });
        Self { address, full, task }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, to: SocketAddr, cut: Cut, full: watch::Sender<bool>) {
    let server = TcpStream::connect(to).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::io::copy(&mut from_server, &mut to_client);
    let forth = async {
        let mut buffer = vec![0; 16 << 10];
        let mut passed = 0;
        loop {
            match from_client.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    if to_server.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                    passed += count;
                }
            }
            if passed >= THROUGH {
                full.send_replace(true);
                if cut == Cut::Connection {
                    return;
                }
                // What the pusher sends from here on gets nowhere, until it ends.
                let _ = tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await;
                return;
            }
        }
    };
    tokio::select! {
        _ = back => {}
        () = forth => {}
    }
}

/// Bytes that git can't make smaller.
fn noise(size: usize) -> String {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + (state >> 24) as u8 % 90)
    };
    (0..size).map(next).collect()
}

/// Pushes more than gets through.
pub(super) async fn cut_upload(scene: &mut Scene, cut: Cut) -> Pushed {
    let earlier = scene.last_number().await;
    scene.repository.write("large.txt", &noise(8 << 20));
    scene.change(None).await;
    let relay = Relay::start(&scene.planet.info.control, cut).await;
    let url = format!("http://{}/git/{APP}.git", relay.address);
    let token = scene.planet.info.token.0.clone();
    let mut command = scene.repository.authorized(&["push", &url, "HEAD:refs/heads/main"], &token);
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let group = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    let mut full = relay.full.clone();
    full.wait_for(|full| *full).await.unwrap();
    if cut == Cut::Pusher {
        killpg(group, Signal::SIGKILL).unwrap();
    }
    let output = child.wait_with_output().await.unwrap();
    drop(relay);
    assert!(!output.status.success(), "half a push was taken");
    assert_eq!(scene.last_number().await, earlier, "half a push is on record");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    Pushed { ok: false, words }
}

/// The pusher ends while its push is built; that goes on.
pub(super) async fn hang_up(scene: &mut Scene) -> Pushed {
    let earlier = scene.last_number().await;
    scene.change(None).await;
    scene.close(Moment::Build);
    let mut command = scene.repository.push_command(&scene.planet, "HEAD:refs/heads/main");
    command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    scene.reached(Moment::Build, earlier).await;
    killpg(Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()), Signal::SIGKILL).unwrap();
    child.wait().await.unwrap();
    scene.open(Moment::Build);
    Pushed { ok: false, words: String::new() }
}

/// Pushes two commits of the same parent at once.
pub(super) async fn race(scene: &mut Scene) -> Pushed {
    let base = scene.repository.git(&["rev-parse", "HEAD"]).await;
    scene.change(None).await;
    let one = scene.repository.git(&["rev-parse", "HEAD"]).await;
    scene.repository.git(&["reset", "--quiet", "--hard", &base]).await;
    scene.change(None).await;
    let two = scene.repository.git(&["rev-parse", "HEAD"]).await;
    let (one, two) = (format!("{one}:refs/heads/main"), format!("{two}:refs/heads/main"));
    let (one, two) = tokio::join!(
        scene.repository.push_to(&scene.planet, &one),
        scene.repository.push_to(&scene.planet, &two)
    );
    assert!(one.ok != two.ok, "not one of two:\n{}\n{}", one.words, two.words);
    let (won, lost) = if one.ok { (one, two) } else { (two, one) };
    assert!(lost.words.contains("rejected"), "{}", lost.words);
    won
}

/// Two new apps, in a repository each, want the same host.
pub(super) async fn host_race(scene: &mut Scene) -> Option<Pushed> {
    let toml = |name: &str| {
        format!(
            "[app]\nname = \"{name}\"\n\n[[service]]\nname = \"site\"\nkind = \"static\"\nroot = \".\"\n\n\
             [[route]]\nhost = \"www.example.com\"\nservice = \"site\"\n"
        )
    };
    let (one, two) = (toml("one"), toml("two"));
    let page = ("index.html", "<p>hello</p>");
    let one = Repository::with_files("one", &[("selvedge.toml", &one), page]).await;
    let two = Repository::with_files("two", &[("selvedge.toml", &two), page]).await;
    let (first, second) = tokio::join!(one.push(&scene.planet), two.push(&scene.planet));
    assert!(first.ok != second.ok, "not one of two:\n{}\n{}", first.words, second.words);
    let (winner, loser, lost) = if first.ok { ("one", &two, second) } else { ("two", &one, first) };
    let owner = format!("www.example.com belongs to the app {winner}");
    assert!(lost.words.contains(&owner), "{}", lost.words);
    // Removed, nothing of it is left, so that the other can have the host.
    let api = scene.planet.api();
    let removed = api.remove(&AppName::new(winner).unwrap()).await.unwrap();
    let push = removed.finish(|_| {}).await.unwrap();
    assert_eq!(push.state, selvedge_model::PushState::Live);
    eventually("the winner is gone", async || {
        let apps = api.apps().await.ok()?;
        apps.iter().all(|app| app.app.as_str() != winner).then_some(())
    })
    .await;
    loser.push_live(&scene.planet).await;
    let other = AppName::new(&loser.name).unwrap();
    api.remove(&other).await.unwrap().finish(|_| {}).await.unwrap();
    None
}

/// Pushes with another token.
pub(super) async fn wrong_token(scene: &mut Scene) -> Pushed {
    let earlier = scene.last_number().await;
    scene.change(None).await;
    let url = format!("{}/{APP}.git", scene.planet.info.git);
    let arguments = ["push", &url, "HEAD:refs/heads/main"];
    let output = scene.repository.authorized(&arguments, "wrong").output().await.unwrap();
    assert!(!output.status.success(), "a wrong token was accepted");
    assert_eq!(scene.last_number().await, earlier, "a wrong token left a push");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let asked_again = words.contains("Authentication failed") || words.contains("terminal prompts");
    assert!(asked_again, "{words}");
    Pushed { ok: false, words }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_are_cut_race_or_may_not_be() {
    if !can_isolate() {
        return;
    }
    let mut scene = Scene::new(&[]).await;
    let clients = clients(&scene);
    let faults = [
        Fault::new(Inject::PusherKilled, Expect::Old),
        Fault::new(Inject::ConnectionCut, Expect::Old),
        Fault::new(Inject::PusherGone, Expect::New),
        Fault::new(Inject::Race, Expect::New),
        Fault::new(Inject::HostRace, Expect::Old),
        Fault::new(Inject::WrongToken, Expect::Old),
    ];
    run(&mut scene, &faults).await;
    clients.stop().await.assert_spotless();
    scene.planet.stop().await;
}
