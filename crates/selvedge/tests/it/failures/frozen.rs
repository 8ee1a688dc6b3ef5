//! Processes that stand still, holding their sockets and answering nobody, as across a network that
//! is cut; and an agent that runs and can't reach the others.

use nix::sys::signal::Signal;
use selvedge_api::SiteHealth;

use super::scene::{APP, Scene, get};
use super::{Expect, Fault, Inject, Moment, Process, clients, run};
use crate::harness::repository::Pushed;
use crate::harness::{can_isolate, eventually, signal};

/// Wakes the process again, also when the test fails: it could not be ended otherwise.
struct Frozen(u32);

impl Frozen {
    fn new(pid: u32) -> Self {
        signal(pid, Signal::SIGSTOP);
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0).unwrap());
        let _ = nix::sys::signal::kill(pid, Signal::SIGCONT);
    }
}

/// Stops `process` when a push is at `moment`. An agent's absence shows in its lease, and the push
/// ends without it; control's shows in nothing but that it does not answer, while sites serve on.
pub(super) async fn freeze(
    scene: &mut Scene,
    name: &str,
    process: Process,
    moment: Moment,
    turn: usize,
) -> Pushed {
    let earlier = scene.last_number().await;
    scene.change(Some(moment)).await;
    scene.close(moment);
    let pid = scene.pid(process, turn);
    let stop = async {
        scene.reached(moment, earlier).await;
        let frozen = Frozen::new(pid);
        scene.open(moment);
        match process {
            Process::Agent => {
                eventually(&format!("{name}: the push ends without the site"), async || {
                    let push = scene.newest_push().await?;
                    (!push.is_open()).then_some(())
                })
                .await;
                let status = scene.planet.status().await;
                let app = status.apps.iter().find(|it| it.summary.app.as_str() == APP).unwrap();
                assert_eq!(app.summary.serving, 2, "{name}: the site can't have followed");
            }
            Process::Control | Process::Supervisor => {
                let clients = clients(scene);
                clients.have_made(200).await;
                clients.stop().await.assert_spotless();
            }
        }
        drop(frozen);
    };
    scene.push_while(stop).await.0
}

/// An agent starts while the fabric is out of its reach: it serves what it has, the others see it
/// lost, and it takes part again when the fabric is back.
pub(super) async fn disconnect(scene: &mut Scene, name: &str, turn: usize) -> Pushed {
    let (socket, away) = (scene.control_data("fabric.sock"), scene.control_data("fabric.away"));
    std::fs::rename(&socket, &away).unwrap();
    let site = scene.planet.info.sites[turn % 3].clone();
    let before = scene.pid(Process::Agent, turn);
    signal(before, Signal::SIGKILL);
    eventually(&format!("{name}: the site's lease runs out"), async || {
        let sites = scene.planet.api().sites().await.ok()?;
        let row = sites.into_iter().find(|row| row.id == site.id)?;
        (row.health == SiteHealth::Lost).then_some(())
    })
    .await;
    let serves = async || {
        let address = std::net::SocketAddr::new(site.address, site.http);
        tokio::net::TcpStream::connect(address).await.ok()?;
        let (head, body) = get(address, "/").await;
        (head.starts_with("HTTP/1.1 200") && body.trim() == scene.release).then_some(())
    };
    eventually(&format!("{name}: it serves by its ledger alone"), serves).await;
    assert_ne!(scene.pid(Process::Agent, turn), before, "it is another process");
    std::fs::rename(&away, &socket).unwrap();
    scene.change(None).await;
    scene.repository.push(&scene.planet).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_still_or_is_cut_off_holds_up_nobody() {
    if !can_isolate() {
        return;
    }
    let mut scene = Scene::new(&[]).await;
    let faults = [
        Fault::new(Inject::Freeze(Process::Control, Moment::Build), Expect::New),
        Fault::new(Inject::Freeze(Process::Agent, Moment::Warm), Expect::New),
        Fault::new(Inject::Freeze(Process::Agent, Moment::Verify), Expect::New),
        Fault::new(Inject::Freeze(Process::Supervisor, Moment::Warm), Expect::New),
        Fault::new(Inject::Disconnect, Expect::New),
    ];
    run(&mut scene, &faults).await;
    scene.planet.stop().await;
}
