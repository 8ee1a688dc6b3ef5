//! Pushes and rollbacks that go well.

use selvedge_api::PushEvent;
use selvedge_control::pipeline::RollbackError;
use selvedge_fabric::Typed;
use selvedge_model::documents::{PushCause, PushState};
use selvedge_model::{Release, Stage, keys};

use super::world::{World, app, manifest, repository};

#[tokio::test(flavor = "multi_thread")]
async fn a_push_goes_live_at_every_site() {
    let world = World::start().await;
    let user = world.user("shop").await;
    let said = user.push_ok().await;
    said.has(&["remote: selvedge: push 1 to shop", "remote: validate", "is live at 3 sites"]);
    said.has(&["http://shop.localhost:8080/", "https://shop.edge.test:8443/"]);
    assert_eq!(user.remote_main().await, Some(user.head().await));

    let push = world.push("shop", 1).await;
    assert_eq!(push.state, PushState::Live);
    assert_eq!(push.stages.iter().map(|it| it.stage).collect::<Vec<_>>(), Stage::ALL);
    assert!(push.stages.iter().all(|it| it.duration_ms.is_some()), "{:?}", push.stages);
    let first = world.activation("shop").await.unwrap().newest().unwrap();

    // Large enough for git to send it in chunks, of unknown length beforehand.
    let mut state = 1_u32;
    let noise = (0..3_000_000).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + (state >> 24) as u8 % 90)
    });
    user.write("public/large.txt", &noise.collect::<String>());
    user.change("two", "two").await;
    user.push_ok().await;
    let second = world.activation("shop").await.unwrap().newest().unwrap();
    assert!(second > first);
    let (assignments, _, hosts) = world.wanted().await;
    assert_eq!(assignments.len(), 3);
    assert!(assignments.iter().all(|it| it.entries.len() == 1 && it.entries[0].epoch == second));
    assert_eq!(hosts.len(), 2);
    let record = world.record("shop").await.unwrap();
    assert_eq!(record.history.iter().map(|it| it.push).collect::<Vec<_>>(), [2, 1]);

    // Nothing of the app changes, so nothing is released again, but main moves.
    user.commit("an empty commit").await;
    user.push_ok().await.has(&["No app changes", "validate", "shop unchanged"]);
    assert_eq!(world.activation("shop").await.unwrap().newest(), Some(second));
    assert_eq!(user.remote_main().await, Some(user.head().await));

    // What control keeps for itself is not shown, and a clone is what was pushed.
    assert!(!user.git(&["ls-remote", "origin"]).await.contains("selvedge"));
    user.git(&["clone", "--quiet", &world.remote("shop"), "copy"]).await;
    assert_eq!(std::fs::read_to_string(user.path.join("copy/public/index.html")).unwrap(), "two");
    assert!(!world.data("work/shop-1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_is_a_commit_and_rebuilds_nothing() {
    let world = World::start().await;
    let user = world.user("shop").await;
    let counted = "build = \"echo built >> /cache/count && echo $SELVEDGE_APP $SELVEDGE_RELEASE > public/built\"\ntest = \"test -s public/built\"";
    user.write("selvedge.toml", &manifest("shop", counted));
    user.commit("one").await;
    user.push_ok().await.has(&["build ", "echo built"]);
    let first = world.record("shop").await.unwrap().history[0].release;
    user.change("two", "two").await;
    user.push_ok().await;
    let builds =
        || std::fs::read_to_string(world.data("cache/shop/count")).unwrap().lines().count();
    assert_eq!(builds(), 2);

    let (name, mut ticket) = world.pipeline.rollback(&app("shop"), None).await.unwrap();
    assert_eq!((name, ticket.number), (repository("shop"), 3));
    let mut last = None;
    while let Some(event) = ticket.progress.next().await {
        last = Some(event);
    }
    let Some(PushEvent::Done { push }) = last else { panic!("{last:?}") };
    assert_eq!(push.state, PushState::Live);
    assert_eq!(push.cause, PushCause::Rollback { release: first });
    assert_eq!(builds(), 2);
    let record = world.record("shop").await.unwrap();
    assert_eq!(record.history[0].release, first);
    assert!(record.history[0].epoch > record.history[1].epoch);

    // The users see it as any other commit.
    assert!(!user.push().await.ok || user.remote_main().await != Some(user.head().await));
    user.git(&["pull", "--quiet", "--ff-only", "origin", "main"]).await;
    assert_eq!(std::fs::read_to_string(user.path.join("public/index.html")).unwrap(), "one");
    match world.pipeline.rollback(&app("shop"), Some("0000")).await.err() {
        Some(RollbackError::NotOne { kept, .. }) => assert!(kept.contains(&first.0.short())),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_releases_are_kept_and_the_rest_collected() {
    let world = World::start().await;
    let user = world.user("shop").await;
    for number in 0..7 {
        user.change(&format!("content {number}"), "change").await;
        user.push_ok().await;
    }
    // Collection follows a push's end when no other waits; the next job of the queue comes after it.
    user.commit("nothing").await;
    user.push_ok().await;
    let fabric = Typed(&*world.fabric);
    let releases: Vec<(_, _, Release)> = fabric.list(&keys::releases(&app("shop"))).await.unwrap();
    assert_eq!(releases.len(), 5);
    assert_eq!(world.record("shop").await.unwrap().history.len(), 5);
    assert_eq!(world.fabric.blobs().await.unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_of_one_repository_go_together_and_leave_one_by_one() {
    let world = World::start().await;
    let user = world.user("shop").await;
    user.git(&["rm", "--quiet", "-r", "."]).await;
    for name in ["front", "back"] {
        user.write(&format!("{name}/selvedge.toml"), &manifest(name, ""));
        user.write(&format!("{name}/public/index.html"), name);
    }
    user.commit("two apps").await;
    user.push_ok().await.has(&["front ", "back "]);
    let back = world.activation("back").await.unwrap().newest();

    user.write("front/public/index.html", "changed");
    user.commit("one of them").await;
    user.push_ok().await;
    assert_eq!(world.activation("back").await.unwrap().newest(), back);

    // What is at a site that has left the topology is taken away as well.
    world.leave("sin").await;
    user.git(&["rm", "--quiet", "-r", "back"]).await;
    user.commit("back is gone").await;
    user.push_ok().await.has(&["back is not in the repository any more"]);
    assert_eq!(world.activation("back").await, None);
    let (assignments, activations, hosts) = world.wanted().await;
    assert!(assignments.iter().all(|it| it.app == app("front")), "{assignments:?}");
    assert_eq!((assignments.len(), activations.len(), hosts.len()), (3, 1, 2));
}
