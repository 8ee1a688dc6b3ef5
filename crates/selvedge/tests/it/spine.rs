//! The main job: pushes and rollbacks in a row, while clients that change site at every request
//! never see a failed, a mixed or an older answer.

use std::time::{Duration, Instant};

use crate::harness::clients::{Clients, Page};
use crate::harness::repository::Repository;
use crate::harness::{Planet, can_isolate, descendants, eventually};

const PUSHES: usize = 50;
const ROLLBACKS: usize = 10;
const APPS: [&str; 3] = ["static-site", "node-api", "storefront"];
const PAGES: [Page; 5] = [
    Page { app: "static-site", path: "/" },
    Page { app: "static-site", path: "/release.txt" },
    Page { app: "node-api", path: "/" },
    Page { app: "storefront", path: "/" },
    Page { app: "storefront", path: "/api/products" },
];

#[tokio::test(flavor = "multi_thread")]
async fn pushes_and_rollbacks_in_a_row_without_a_wrong_answer() {
    if !can_isolate() {
        return;
    }
    let planet = Planet::start(8, &[]).await;
    let mut repositories = Vec::new();
    for name in APPS {
        let repository = Repository::from_example(name).await;
        repository.push_live(&planet).await;
        repositories.push(repository);
    }
    let started = Instant::now();
    let clients = Clients::start(&planet, &PAGES, 4, Duration::from_millis(100));
    for number in 0..PUSHES {
        let repository = &repositories[number % repositories.len()];
        repository.write("CHANGES.txt", &format!("change {number}\n"));
        repository.commit(&format!("Change {number}")).await;
        repository.push_live(&planet).await;
        if number % (PUSHES / ROLLBACKS) == PUSHES / ROLLBACKS - 1 {
            roll_back(&planet, repository).await;
        }
    }
    let tally = clients.stop().await;
    eprintln!(
        "{} requests in {:.0} s: {:.0} a second, during {PUSHES} pushes and {ROLLBACKS} rollbacks",
        tally.requests,
        started.elapsed().as_secs_f64(),
        tally.requests as f64 / started.elapsed().as_secs_f64(),
    );
    tally.assert_spotless();
    for app in APPS {
        let epochs = tally.epochs.get(app).map_or(0, std::collections::BTreeSet::len);
        assert!(epochs > PUSHES / APPS.len(), "clients of {app} saw only {epochs} epochs");
    }
    // Old releases' processes are drained and stopped: one process service at each site for each
    // of two apps is all that is left.
    eventually("old processes are stopped", async || {
        let nodes = planet
            .info
            .sites
            .iter()
            .flat_map(|site| descendants(site.pid))
            .filter(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|comm| comm.starts_with("node"))
            })
            .count();
        (nodes == 2 * planet.info.sites.len()).then_some(())
    })
    .await;
    planet.stop().await;
}

/// Rolls back and checks that it was a commit which brought the earlier release back, not rebuilt.
async fn roll_back(planet: &Planet, repository: &Repository) {
    let app = repository.name.as_str();
    let before = planet.live_release(app).await.unwrap();
    let output = planet
        .command(&repository.path)
        .args(["rollback", "--app", app, "--json"])
        .output()
        .await
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the rollback of {app} failed:\n{words}");
    let push: selvedge_model::Push = serde_json::from_slice(&output.stdout).unwrap();
    let after = planet.live_release(app).await.unwrap();
    assert_ne!(before, after);
    assert!(push.apps.iter().any(|pushed| pushed.release.short() == after));
    // The working copy follows, so that the next push stands on the rollback's commit.
    let url = format!("{}/{app}.git", planet.info.git);
    let fetched = repository.fetch(planet, &url).await;
    assert_eq!(fetched, push.new_commit, "main is not the rollback's commit");
    repository.git(&["reset", "--quiet", "--hard", "FETCH_HEAD"]).await;
}
