//! Processes that stand still: they hold their sockets and answer nobody, as across a network that
//! is cut.

use nix::sys::signal::Signal;

use super::scene::{APP, Scene};
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

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_still_holds_up_nobody() {
    if !can_isolate() {
        return;
    }
    let mut scene = Scene::new(&[]).await;
    let faults = [
        Fault::new(Inject::Freeze(Process::Control, Moment::Build), Expect::New),
        Fault::new(Inject::Freeze(Process::Agent, Moment::Warm), Expect::New),
        Fault::new(Inject::Freeze(Process::Agent, Moment::Verify), Expect::New),
        Fault::new(Inject::Freeze(Process::Supervisor, Moment::Warm), Expect::New),
    ];
    run(&mut scene, &faults).await;
    scene.planet.stop().await;
}
