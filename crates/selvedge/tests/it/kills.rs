//! SIGKILL to anything, alone and all at once, under load: sites serve without control, the same
//! releases are live after, no process is left behind, nothing acknowledged is lost.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use selvedge_model::{Push, RepositoryName, Stage};

use crate::harness::clients::{Clients, Page};
use crate::harness::repository::Repository;
use crate::harness::{Planet, can_isolate, descendants, eventually, lives, signal};

const PAGES: [Page; 2] =
    [Page { app: "storefront", path: "/" }, Page { app: "storefront", path: "/api/products" }];
const PAUSE: Duration = Duration::from_millis(60);

async fn planet_with_storefront() -> (Planet, Repository, String) {
    let planet = Planet::start(4, &[]).await;
    let repository = Repository::from_example("storefront").await;
    repository.push_live(&planet).await;
    let release = planet.live_release("storefront").await.unwrap();
    (planet, repository, release)
}

/// Waits until every site of the box serves `release` again.
async fn everywhere(planet: &Planet, release: &str) {
    eventually(&format!("{release} is live at every site"), async || {
        let status = planet.api().status().await.ok()?;
        let app = status.apps.iter().find(|app| app.summary.app.as_str() == "storefront")?;
        let live = app.summary.live.as_ref()?;
        let whole = app.summary.serving == app.summary.assigned && app.summary.assigned > 0;
        (live.release == release && whole).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_is_killed() {
    if !can_isolate() {
        return;
    }
    let (planet, repository, release) = planet_with_storefront().await;
    let clients = Clients::start(&planet, &PAGES, 2, PAUSE);
    let old = planet.info.control_pid;
    signal(old, Signal::SIGKILL);
    eventually("control is started again", async || {
        planet.current_info().filter(|info| info.control_pid != old)
    })
    .await;
    everywhere(&planet, &release).await;
    // In the midst of pushes: each is whole or nothing, and what git acknowledged is live.
    let mut acknowledged = release;
    for stage in [Stage::Build, Stage::Warm, Stage::Activate] {
        repository.write("CHANGES.txt", &format!("killed at {stage}\n"));
        repository.commit(&format!("Killed at {stage}")).await;
        let earlier = newest_push(&planet).await.map_or(0, |push| push.number);
        let mut push = repository.push_command(&planet, "HEAD:refs/heads/main");
        let push = tokio::spawn(async move { push.output().await.unwrap() });
        // At the stage or, where it is over too soon to be seen, after it.
        eventually(&format!("the push reaches {stage}"), async || {
            let push = newest_push(&planet).await.filter(|push| push.number > earlier)?;
            (push.stages.last()?.stage >= stage).then_some(())
        })
        .await;
        let pid = planet.current_info().unwrap().control_pid;
        signal(pid, Signal::SIGKILL);
        let pushed = push.await.unwrap();
        eventually("control is started again", async || {
            planet.current_info().filter(|info| info.control_pid != pid)
        })
        .await;
        let live = settled_release(&planet).await;
        if pushed.status.success() {
            assert_ne!(live, acknowledged, "an acknowledged push is not live");
        }
        everywhere(&planet, &live).await;
        let url = format!("{}/storefront.git", planet.info.git);
        repository.fetch(&planet, &url).await;
        repository.git(&["reset", "--quiet", "--hard", "FETCH_HEAD"]).await;
        acknowledged = live;
    }
    repository.write("CHANGES.txt", "after all\n");
    repository.commit("After all").await;
    repository.push_live(&planet).await;
    clients.stop().await.assert_spotless();
    planet.stop().await;
}

/// The repository's last push.
async fn newest_push(planet: &Planet) -> Option<Push> {
    let repository = RepositoryName::new("storefront").unwrap();
    planet.api().pushes(&repository).await.ok()?.into_iter().next()
}

/// The live release once no push is under way.
async fn settled_release(planet: &Planet) -> String {
    eventually("no push is under way", async || {
        let status = planet.api().status().await.ok()?;
        let app = status.apps.into_iter().find(|app| app.summary.app.as_str() == "storefront")?;
        if app.pushing.is_some() {
            return None;
        }
        app.summary.live.map(|live| live.release)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_killed() {
    if !can_isolate() {
        return;
    }
    let (planet, repository, release) = planet_with_storefront().await;
    let others: Vec<(SocketAddr, SocketAddr)> = planet
        .info
        .sites
        .iter()
        .skip(1)
        .map(|site| {
            (SocketAddr::new(site.address, site.http), SocketAddr::new(site.address, site.https))
        })
        .collect();
    let clients = Clients::start_at(&planet, &others, &PAGES, 2, PAUSE);
    let everywhere_else_too = Clients::start(&planet, &PAGES, 1, PAUSE);
    let victim = planet.info.sites[0].clone();
    let below = descendants(victim.pid);
    assert!(!below.is_empty(), "the site runs no workload");
    signal(victim.pid, Signal::SIGKILL);
    eventually("its workloads end with it", async || {
        below.iter().all(|pid| !lives(*pid)).then_some(())
    })
    .await;
    eventually("it is started again", async || {
        let info = planet.current_info()?;
        info.sites.iter().any(|site| site.id == victim.id && site.pid != victim.pid).then_some(())
    })
    .await;
    everywhere(&planet, &release).await;
    repository.write("CHANGES.txt", "after the kill\n");
    repository.commit("After the kill").await;
    repository.push_live(&planet).await;
    clients.stop().await.assert_spotless();
    everywhere_else_too.stop().await.assert_never_wrong();
    planet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_is_killed_and_then_everything() {
    if !can_isolate() {
        return;
    }
    let (mut planet, repository, release) = planet_with_storefront().await;
    let clients = Clients::start(&planet, &PAGES, 2, PAUSE);
    let below = descendants(planet.supervisor_pid());
    signal(planet.supervisor_pid(), Signal::SIGKILL);
    planet.supervisor_ended().await;
    eventually("everything ends with the supervisor", async || {
        below.iter().all(|pid| !lives(*pid)).then_some(())
    })
    .await;
    planet.restart().await;
    everywhere(&planet, &release).await;
    let below = descendants(planet.supervisor_pid());
    let agents: Vec<u32> = planet.info.sites.iter().map(|site| site.pid).collect();
    for pid in
        std::iter::once(planet.supervisor_pid()).chain([planet.info.control_pid]).chain(agents)
    {
        // One may have ended by the death of another.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
            Signal::SIGKILL,
        );
    }
    planet.supervisor_ended().await;
    eventually("no orphan is left", async || below.iter().all(|pid| !lives(*pid)).then_some(()))
        .await;
    planet.restart().await;
    everywhere(&planet, &release).await;
    repository.write("CHANGES.txt", "after everything\n");
    repository.commit("After everything").await;
    repository.push_live(&planet).await;
    clients.stop().await.assert_never_wrong();
    planet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_serve_while_control_is_down() {
    if !can_isolate() {
        return;
    }
    // Control is not started again here, so everything below happens without it.
    let planet = Planet::start(3, &["--restart-after", "never"]).await;
    let repository = Repository::from_example("storefront").await;
    repository.push_live(&planet).await;
    signal(planet.info.control_pid, Signal::SIGKILL);
    eventually("control is gone", async || (!lives(planet.info.control_pid)).then_some(())).await;
    let clients = Clients::start(&planet, &PAGES, 2, PAUSE);
    // Every client has been at every site for every page, several times over.
    clients.have_made(60 * clients.count()).await;
    clients.stop().await.assert_spotless();
    planet.stop().await;
}
