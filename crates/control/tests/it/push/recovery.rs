//! Queues, pushers who hang up, and controls that are killed.

use selvedge_fabric::{Expect, Typed};
use selvedge_model::documents::PushState;
use selvedge_model::{AppReport, Assignment, Stage, keys};

use super::sites::{ANSWERS_500, FAILS_LATER, SLOW_START, SLOW_SWITCH};
use super::world::{World, manifest, repository};

fn in_stage(stage: Stage) -> impl Fn(&selvedge_model::Push) -> bool {
    move |push| push.stages.last().is_some_and(|record| record.stage == stage)
}

fn ended(push: &selvedge_model::Push) -> bool {
    !push.is_open()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_who_hangs_up_does_not_cancel_and_who_waited_in_vain_is_told() {
    let world = World::start().await;
    let user = world.user("shop").await;
    let other = world.user("other").await;
    user.push_ok().await;
    user.git(&["clone", "--quiet", &world.remote("shop"), "copy"]).await;
    let copy = super::world::User { path: user.path.join("copy") };

    world.sites.held.send_replace(true);
    user.change("two", SLOW_START).await;
    let mut push = user.command(&["push", "origin", "main"]).spawn().unwrap();
    world.until("shop", 2, in_stage(Stage::Warm)).await;
    push.kill().await.unwrap();

    // Another repository is not held up by this one.
    other.push_ok().await;

    copy.change("three", "three").await;
    let waiting = copy.push();
    let release = async {
        world.until("shop", 3, |_| true).await;
        world.sites.held.send_replace(false);
    };
    let (said, ()) = tokio::join!(waiting, release);
    assert!(!said.ok, "{}", said.text);
    said.has(&["waiting for another push", "main has moved to", "git pull --rebase"]);
    assert_eq!(world.push("shop", 2).await.state, PushState::Live);
    assert_eq!(user.remote_main().await, Some(user.head().await));
    copy.git(&["pull", "--quiet", "--rebase", "-X", "theirs", "origin", "main"]).await;
    copy.push_ok().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_prepared_at_a_crash_is_undone() {
    let mut world = World::start().await;
    let user = world.user("shop").await;
    user.push_ok().await;
    let before = world.wanted().await;
    let main = user.remote_main().await;
    world.sites.held.send_replace(true);
    user.change("two", SLOW_START).await;
    let push = user.push();
    tokio::pin!(push);
    tokio::select! {
        said = &mut push => panic!("the push has ended by itself: {said:?}"),
        _ = world.written::<Assignment>(keys::ASSIGNMENTS, |it| it.entries.len() == 2) => {}
    }
    assert_ne!(world.wanted().await, before);
    world.crash().await;
    world.restart().await;
    let push = world.until("shop", 2, ended).await;
    assert!(matches!(&push.state, PushState::Refused(why) if why.reason.contains("restarted")));
    assert_eq!(world.wanted().await, before);
    user.git(&["remote", "set-url", "origin", &world.remote("shop")]).await;
    assert_eq!(user.remote_main().await, main);
    world.sites.held.send_replace(false);
    user.push_ok().await;
    assert_eq!(user.remote_main().await, Some(user.head().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_at_a_crash_is_completed() {
    let mut world = World::start().await;
    let user = world.user("shop").await;
    user.push_ok().await;
    world.sites.held.send_replace(true);
    user.change("two", SLOW_SWITCH).await;
    let pushed = user.push();
    tokio::pin!(pushed);
    tokio::select! {
        said = &mut pushed => panic!("the push has ended by itself: {said:?}"),
        _ = world.until("shop", 2, in_stage(Stage::Verify)) => {}
    }
    world.crash().await;
    // As if it had been killed before the ref moved: the record is all there is.
    let activation = keys::activation(
        &super::world::app("shop"),
        &selvedge_model::EnvironmentName::production(),
    );
    let mut push = world.push("shop", 2).await;
    assert_eq!(push.apps[0].warm, push.apps[0].sites, "who may fail it is on record");
    push.stages.retain(|record| record.stage < Stage::Activate);
    let key = keys::push(&repository("shop"), 2);
    Typed(&*world.fabric).put(&key, &push, Expect::Any).await.unwrap();
    world.fabric.delete(&activation, Expect::Any).await.unwrap();
    world.sites.held.send_replace(false);
    world.restart().await;
    let push = world.until("shop", 2, ended).await;
    assert_eq!(push.state, PushState::Live);
    let record = world.record("shop").await.unwrap();
    assert_eq!(record.history[0].push, 2);
    assert_eq!(world.activation("shop").await.unwrap().newest(), Some(record.history[0].epoch));
    user.git(&["remote", "set-url", "origin", &world.remote("shop")]).await;
    assert_eq!(user.remote_main().await, Some(user.head().await));
    user.change("three", "three").await;
    user.push_ok().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_any_stage_it_completes_or_undoes() {
    let mut world = World::start().await;
    let user = world.user("shop").await;
    user.push_ok().await;
    for (number, stage) in (2..).zip(Stage::ALL) {
        let before = world.wanted().await;
        let main = user.remote_main().await;
        user.change(&format!("content {number}"), "change").await;
        let pushed = user.push();
        let killed = async {
            world.until("shop", number, in_stage(stage)).await;
        };
        tokio::pin!(pushed);
        tokio::select! {
            _ = &mut pushed => {}
            () = killed => {}
        }
        world.crash().await;
        world.restart().await;
        let push = world.until("shop", number, ended).await;
        user.git(&["remote", "set-url", "origin", &world.remote("shop")]).await;
        match push.state {
            PushState::Live => {
                let record = world.record("shop").await.unwrap();
                let live = world.activation("shop").await.unwrap().newest().unwrap();
                assert_eq!((record.history[0].push, record.history[0].epoch), (number, live));
                assert_eq!(user.remote_main().await, Some(user.head().await), "{stage}");
                let (assignments, _, _) = world.wanted().await;
                let only = |it: &Assignment| it.entries.len() == 1 && it.entries[0].epoch == live;
                assert!(assignments.iter().all(only), "{stage}: {assignments:?}");
            }
            PushState::Refused(_) => {
                assert_eq!(world.wanted().await, before, "{stage}");
                assert_eq!(user.remote_main().await, main, "{stage}");
                user.git(&["reset", "--quiet", "--hard", "HEAD~1"]).await;
            }
            other => panic!("{stage}: {other:?}"),
        }
    }
    user.change("the end", "the end").await;
    user.push_ok().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_cut_short_is_carried_on() {
    let mut world = World::start().await;
    let user = world.user("shop").await;
    user.push_ok().await;
    let good = user.git(&["rev-parse", "HEAD^{tree}"]).await;
    let live = world.activation("shop").await.unwrap();
    user.change("bad", ANSWERS_500).await;
    let pushed = user.push();
    tokio::pin!(pushed);
    tokio::select! {
        said = &mut pushed => panic!("the push has ended by itself: {said:?}"),
        _ = world.until("shop", 3, |_| true) => {}
    }
    world.crash().await;
    // A git that was killed as well has left its lock on main.
    let lock = world.data("repositories/shop.git/refs/heads/main.lock");
    let file = std::fs::File::create(&lock).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    world.restart().await;
    let push = world.until("shop", 2, ended).await;
    assert!(matches!(push.state, PushState::RolledBack(_)), "{push:?}");
    let restored = world.activation("shop").await.unwrap();
    assert_eq!(restored.entries[0].releases, live.entries[0].releases);
    assert!(restored.newest() > live.newest());
    user.git(&["remote", "set-url", "origin", &world.remote("shop")]).await;
    user.git(&["fetch", "--quiet", "origin"]).await;
    assert_eq!(user.git(&["rev-parse", "origin/main^{tree}"]).await, good);
    assert!(!lock.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_verified_stays_so_over_a_restart() {
    let mut world = World::start().await;
    let user = world.user("shop").await;
    user.write("old/selvedge.toml", &manifest("old", ""));
    user.write("old/public/index.html", "old");
    user.git(&["mv", "public", "shop-public"]).await;
    user.git(&["rm", "--quiet", "-f", "selvedge.toml"]).await;
    user.write("shop/selvedge.toml", &manifest("shop", ""));
    user.write("shop/public/index.html", "one");
    user.commit("two apps").await;
    user.push_ok().await;
    user.git(&["rm", "--quiet", "-r", "old"]).await;
    user.write("shop/public/index.html", "two");
    user.commit(FAILS_LATER).await;
    user.push_ok().await.has(&["old leaves", "old is not in the repository any more"]);
    let settled = world.wanted().await;
    world.crash().await;
    // As if it had been killed while it took the old app down, before the last record of the push.
    let mut push = world.push("shop", 2).await;
    push.state = PushState::Settling;
    let key = keys::push(&repository("shop"), 2);
    Typed(&*world.fabric).put(&key, &push, Expect::Any).await.unwrap();
    world.sites.held.send_replace(true);
    let fails = |it: &AppReport| it.probe.as_ref().is_some_and(|probe| probe.status == 500);
    world.written(keys::APP_REPORTS, fails).await;
    world.restart().await;
    let push = world.until("shop", 2, ended).await;
    assert_eq!(push.state, PushState::Live, "it was verified, and is not asked again");
    assert_eq!(world.wanted().await, settled);
    user.git(&["remote", "set-url", "origin", &world.remote("shop")]).await;
    assert_eq!(user.remote_main().await, Some(user.head().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_a_later_one_has_followed_changes_nothing_any_more() {
    let mut world = World::start().await;
    let user = world.user("shop").await;
    user.git(&["rm", "--quiet", "-r", "."]).await;
    for (content, apps) in
        [("one", ["shop"].as_slice()), ("two", &["shop"]), ("three", &["shop", "more"])]
    {
        for app in apps {
            user.write(&format!("{app}/selvedge.toml"), &manifest(app, ""));
            user.write(&format!("{app}/public/index.html"), content);
        }
        user.commit(content).await;
        user.push_ok().await;
    }
    let before = world.wanted().await;
    let record = world.record("shop").await;
    world.crash().await;
    let mut push = world.push("shop", 2).await;
    push.state = PushState::Committing;
    let key = keys::push(&repository("shop"), 2);
    Typed(&*world.fabric).put(&key, &push, Expect::Any).await.unwrap();
    world.restart().await;
    let push = world.until("shop", 2, ended).await;
    assert_eq!(push.state, PushState::Live);
    let note = push.stages.last().and_then(|it| it.note.clone());
    assert!(note.is_some_and(|note| note.contains("newer release")), "{push:?}");
    assert_eq!(world.wanted().await, before);
    assert_eq!(world.record("shop").await, record);
    user.git(&["remote", "set-url", "origin", &world.remote("shop")]).await;
    assert_eq!(user.remote_main().await, Some(user.head().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_stuck_holds_up_no_other() {
    let world = World::start().await;
    let (stuck, other) = (world.user("stuck").await, world.user("other").await);
    stuck.push_ok().await;
    other.push_ok().await;
    let refs = world.data("repositories/stuck.git/refs/selvedge/pushes");
    std::fs::create_dir_all(&refs).unwrap();
    let lock = |number: u64| {
        let path = refs.join(format!("{number}.lock"));
        std::fs::write(&path, "").unwrap();
        path
    };

    // What can't be kept is refused, and told.
    let held = lock(2);
    stuck.change("two", "two").await;
    let said = stuck.push().await;
    assert!(!said.ok, "{}", said.text);
    assert!(matches!(world.push("stuck", 2).await.state, PushState::Refused(_)));
    std::fs::remove_file(held).unwrap();

    // A git that waits for as long as it takes.
    let config = world.data("repositories/stuck.git/config");
    stuck
        .git(&["config", "--file", config.to_str().unwrap(), "core.filesRefLockTimeout", "-1"])
        .await;
    let held = lock(3);
    let waiting = stuck.push();
    let meanwhile = async {
        world.until("stuck", 3, |_| true).await;
        other.change("two", "two").await;
        other.push_ok().await;
        std::fs::remove_file(held).unwrap();
    };
    let (said, ()) = tokio::join!(waiting, meanwhile);
    assert!(said.ok, "{}", said.text);
    assert_eq!(world.push("stuck", 3).await.state, PushState::Live);
}
