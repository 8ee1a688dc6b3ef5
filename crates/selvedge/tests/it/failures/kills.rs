//! Every process killed at every stage of a push.

use std::net::SocketAddr;

use nix::sys::signal::Signal;

use super::scene::{PAGES, PAUSE, Scene};
use super::{Expect, Fault, Inject, Moment, Process, clients, run};
use crate::harness::clients::Clients;
use crate::harness::repository::Pushed;
use crate::harness::{can_isolate, descendants, eventually, lives, signal};

const RESTART: [&str; 2] = ["--restart-after", "100ms"];

/// What control had not committed is undone with it, the rest completed; an agent alone holds up
/// nothing.
fn faults(process: Process) -> Vec<Fault> {
    let row = |moment| {
        let expect = match (process, moment) {
            (Process::Agent, _) => Expect::New,
            (_, Moment::Plan) => Expect::Either,
            (_, Moment::Activate | Moment::Verify | Moment::Settle) => Expect::New,
            _ => Expect::Old,
        };
        Fault::new(Inject::Kill(process, moment), expect)
    };
    Moment::ALL.into_iter().map(row).collect()
}

/// Kills `process` when a push is at `moment`, and waits until all is started again.
pub(super) async fn kill(
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
    let kill = async {
        scene.reached(moment, earlier).await;
        let below = descendants(pid);
        signal(pid, Signal::SIGKILL);
        scene.open(moment);
        eventually(&format!("{name}: it is gone, with all that it ran"), async || {
            (!lives(pid) && below.iter().all(|pid| !lives(*pid))).then_some(())
        })
        .await;
    };
    let (pushed, ()) = scene.push_while(kill).await;
    if process == Process::Supervisor {
        scene.planet.supervisor_ended().await;
        scene.planet.restart().await;
        return pushed;
    }
    eventually(&format!("{name}: it is started again"), async || {
        let info = scene.planet.current_info()?;
        let pids: Vec<u32> = info.sites.iter().map(|site| site.pid).collect();
        (info.control_pid != pid && !pids.contains(&pid)).then_some(())
    })
    .await;
    pushed
}

#[tokio::test(flavor = "multi_thread")]
async fn control_at_every_stage() {
    if !can_isolate() {
        return;
    }
    let mut scene = Scene::new(&RESTART).await;
    let clients = clients(&scene);
    run(&mut scene, &faults(Process::Control)).await;
    clients.stop().await.assert_spotless();
    scene.planet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_at_every_stage() {
    if !can_isolate() {
        return;
    }
    let mut scene = Scene::new(&RESTART).await;
    let clients = clients(&scene);
    run(&mut scene, &faults(Process::Agent)).await;
    clients.stop().await.assert_never_wrong();
    scene.planet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_at_every_stage() {
    if !can_isolate() {
        return;
    }
    let mut scene = Scene::new(&RESTART).await;
    let clients = clients(&scene);
    run(&mut scene, &faults(Process::Supervisor)).await;
    clients.stop().await.assert_never_wrong();
    scene.planet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once_and_control_for_good() {
    if !can_isolate() {
        return;
    }
    // Control is not started again here, so that sites must do without it.
    let mut scene = Scene::new(&["--restart-after", "never"]).await;
    let below = descendants(scene.planet.supervisor_pid());
    let agents = scene.planet.info.sites.iter().map(|site| site.pid);
    let all = [scene.planet.supervisor_pid(), scene.planet.info.control_pid].into_iter();
    for pid in all.chain(agents) {
        // One may have ended by the death of another.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
    }
    scene.planet.supervisor_ended().await;
    eventually("no orphan is left", async || below.iter().all(|pid| !lives(*pid)).then_some(()))
        .await;
    scene.planet.restart().await;
    assert_eq!(scene.check("everything killed").await, scene.release);
    run(&mut scene, &[]).await;

    let control = scene.planet.info.control_pid;
    signal(control, Signal::SIGKILL);
    eventually("control is gone", async || (!lives(control)).then_some(())).await;
    let sites: Vec<(SocketAddr, SocketAddr)> = scene
        .planet
        .info
        .sites
        .iter()
        .map(|site| {
            (SocketAddr::new(site.address, site.http), SocketAddr::new(site.address, site.https))
        })
        .collect();
    let clients = Clients::start_at(&scene.planet, &sites, &PAGES, 2, PAUSE);
    // Every client has been at every site for every page, several times over.
    clients.have_made(60 * clients.count()).await;
    clients.stop().await.assert_spotless();
    scene.planet.stop().await;
}
