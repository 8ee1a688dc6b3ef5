//! Several apps of one repository: together or not at all, and what does not change is left alone.

use selvedge_fabric::{Expect, Typed};
use selvedge_model::documents::{HostClaim, PushCause, PushState};
use selvedge_model::{EnvironmentName, Host, Stage, keys};

use super::sites::{ANSWERS_500, CRASHES, SLOW_SWITCH};
use super::world::{User, World, app, manifest, repository};

const HOST: &str = "[[route]]\nhost = \"www.example.com\"\nservice = \"web\"\n";

fn write(user: &User, directory: &str, toml: &str, content: &str) {
    user.write(&format!("{directory}/selvedge.toml"), toml);
    user.write(&format!("{directory}/public/index.html"), content);
}

/// A repository with the apps `front` and `back`, live.
async fn two_apps(world: &World) -> User {
    let user = world.user("shop").await;
    user.git(&["rm", "--quiet", "-r", "."]).await;
    for name in ["front", "back"] {
        write(&user, name, &manifest(name, ""), name);
    }
    user.commit("two apps").await;
    user.push_ok().await;
    user
}

async fn owner(world: &World, host: &str) -> Option<String> {
    let key = keys::host(&Host::new(host).unwrap());
    let claim: Option<(_, HostClaim)> = Typed(&*world.fabric).get(&key).await.unwrap();
    claim.map(|(_, claim)| claim.app.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_change_is_neither_built_nor_activated() {
    let world = World::start().await;
    let user = world.user("shop").await;
    user.git(&["rm", "--quiet", "-r", "."]).await;
    let counted = |name: &str| manifest(name, "build = \"echo x >> /cache/count\"");
    for name in ["front", "back"] {
        write(&user, name, &counted(name), name);
    }
    user.commit("two apps").await;
    user.push_ok().await;
    let builds = |name: &str| {
        let path = world.data(&format!("cache/{name}/count"));
        std::fs::read_to_string(path).unwrap().lines().count()
    };
    let back = (world.record("back").await, world.activation("back").await);
    write(&user, "front", &counted("front"), "changed");
    user.write("README.md", "outside of both");
    user.commit("one of them").await;
    let said = user.push_ok().await;
    said.has(&["validate", "back unchanged, front ", "front ", "is live at 3", "Unchanged: back."]);
    assert_eq!((builds("front"), builds("back")), (2, 1));
    assert_eq!((world.record("back").await, world.activation("back").await), back);
    let push = world.push("shop", 2).await;
    let with_epoch: Vec<_> =
        push.apps.iter().filter(|it| it.epoch.is_some()).map(|it| it.app.as_str()).collect();
    assert_eq!(with_epoch, ["front"]);

    // A directory that is renamed is the same release, and where it is now is known.
    user.git(&["mv", "back", "behind"]).await;
    user.commit("a move").await;
    user.push_ok().await.has(&["back unchanged", "No app changes"]);
    assert_eq!(world.activation("back").await, back.1);
    assert_eq!(world.record("back").await.unwrap().directory, "behind");
    // So a rollback goes there.
    write(&user, "behind", &counted("back"), "second");
    user.commit("second").await;
    user.push_ok().await;
    let (_, ticket) = world.pipeline.rollback(&app("back"), None).await.unwrap();
    assert!(ended_live(ticket).await);
    user.git(&["pull", "--quiet", "--ff-only", "origin", "main"]).await;
    let content = std::fs::read_to_string(user.path.join("behind/public/index.html")).unwrap();
    assert_eq!(content, "back");
    assert!(!user.path.join("back").exists());
    assert_eq!(builds("back"), 2);
}

async fn ended_live(mut ticket: selvedge_control::pipeline::Ticket) -> bool {
    let mut live = false;
    while let Some(event) = ticket.progress.next().await {
        if let selvedge_api::PushEvent::Done { push } = event {
            live = push.state == PushState::Live;
        }
    }
    live
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_several_is_taken_or_refused_whole() {
    let world = World::start().await;
    let user = two_apps(&world).await;
    let before = world.wanted().await;
    let main = user.remote_main().await;
    let good = manifest("back", "");
    let twice = format!("{}{HOST}", manifest("back", ""));
    let cases: [(&str, String, String, Stage, &[&str]); 7] = [
        ("x", manifest("back", "build = \"exit 3\""), "front".into(), Stage::Build, &["back"]),
        ("x", manifest("back", "test = \"exit 3\""), "front".into(), Stage::Test, &["back"]),
        (CRASHES, good.clone(), "front".into(), Stage::Warm, &["it ended with exit code 3"]),
        (
            "x",
            manifest("front", ""),
            "front".into(),
            Stage::Validate,
            &["called front, in back/selvedge.toml and in front/selvedge.toml"],
        ),
        (
            "x",
            twice,
            format!("front\"\n{HOST}#"),
            Stage::Validate,
            &["claimed twice", "back (back/selvedge.toml)", "front (front/selvedge.toml)"],
        ),
        (
            "x",
            manifest("back", "color = 1"),
            "front\"\nkolor = \"1".into(),
            Stage::Validate,
            &["2 mistakes", "back/selvedge.toml:3", "front/selvedge.toml:3"],
        ),
        (
            "nested",
            good,
            "front".into(),
            Stage::Validate,
            &["this app lies in the app of \"back\""],
        ),
    ];
    for (number, (subject, back, front, stage, words)) in (2..).zip(cases) {
        user.git(&["reset", "--quiet", "--hard", "origin/main"]).await;
        write(&user, "back", &back, &format!("back {number}"));
        // A good change of the other app must not get through.
        let front = match front.split_once("\"\n") {
            Some((name, rest)) if rest.starts_with("[[route]]") => manifest(name, "") + HOST,
            Some((name, rest)) => manifest(name, &rest.replace("= \"1", "= 1")),
            None => manifest(&front, ""),
        };
        write(&user, "front", &front, &format!("front {number}"));
        if subject == "nested" {
            write(&user, "back/inner", &manifest("inner", ""), "x");
        }
        user.commit(subject).await;
        let said = user.push().await;
        assert!(!said.ok, "{}", said.text);
        said.has(words).has(&[&format!("Refused at {stage}")]);
        assert_eq!(world.wanted().await, before, "{stage}");
        assert_eq!(user.remote_main().await, main);
        assert!(!world.data(&format!("work/shop-{number}")).exists());
    }
    user.git(&["reset", "--quiet", "--hard", "origin/main"]).await;
    write(&user, "front", &manifest("front", ""), "good again");
    user.commit("good again").await;
    user.push_ok().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_verify_takes_all_of_the_push_back() {
    let world = World::start().await;
    let user = two_apps(&world).await;
    write(&user, "third", &manifest("third", ""), "third");
    user.commit("a third").await;
    user.push_ok().await;
    let live = |name| world.activation(name);
    let (front, back, third) = (live("front").await, live("back").await, live("third").await);
    // Of this push `front` changes, `back` goes, `new` comes, and `third` is left alone.
    write(&user, "front", &manifest("front", ""), "bad");
    user.git(&["rm", "--quiet", "-r", "back"]).await;
    write(&user, "new", &manifest("new", ""), "new");
    user.commit(ANSWERS_500).await;
    let said = user.push().await;
    assert!(!said.ok);
    said.has(&["back leaves", "Rolled back at verify", "500", "is live again"]);
    let restore = world.push("shop", 4).await;
    assert_eq!((restore.cause, restore.state), (PushCause::Restore { push: 3 }, PushState::Live));
    assert_eq!(world.fabric.list(keys::PUSHES).await.unwrap().documents.len(), 4, "one restore");
    let releases = |it: Option<selvedge_model::Activation>| it.unwrap().entries[0].releases.clone();
    assert_eq!(releases(live("front").await), releases(front));
    assert_eq!((live("back").await, live("third").await, live("new").await), (back, third, None));
    user.git(&["fetch", "--quiet", "origin"]).await;
    let trees = user.git(&["rev-parse", "origin/main^{tree}", "HEAD~1^{tree}"]).await;
    let trees: Vec<_> = trees.lines().collect();
    assert_eq!(trees[0], trees[1]);
    assert_eq!(user.git(&["rev-list", "--count", "HEAD..origin/main"]).await.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_two_activations_both_are_completed() {
    let mut world = World::start().await;
    let user = two_apps(&world).await;
    let before = (world.activation("front").await, world.activation("back").await);
    world.sites.held.send_replace(true);
    for name in ["front", "back"] {
        write(&user, name, &manifest(name, ""), "two");
    }
    user.commit(SLOW_SWITCH).await;
    let pushed = user.push();
    tokio::pin!(pushed);
    let verifying = |push: &selvedge_model::Push| {
        push.stages.last().is_some_and(|it| it.stage == Stage::Verify)
    };
    tokio::select! {
        said = &mut pushed => panic!("the push has ended by itself: {said:?}"),
        _ = world.until("shop", 2, verifying) => {}
    }
    world.crash().await;
    // As if it had been killed when one was written, and the other not.
    let key = keys::activation(&app("front"), &EnvironmentName::production());
    Typed(&*world.fabric).put(&key, before.0.as_ref().unwrap(), Expect::Any).await.unwrap();
    let mut push = world.push("shop", 2).await;
    push.stages.retain(|record| record.stage < Stage::Verify);
    let key = keys::push(&repository("shop"), 2);
    Typed(&*world.fabric).put(&key, &push, Expect::Any).await.unwrap();
    world.sites.held.send_replace(false);
    world.restart().await;
    let push = world.until("shop", 2, |push| !push.is_open()).await;
    assert_eq!(push.state, PushState::Live);
    for (name, before) in [("front", before.0), ("back", before.1)] {
        let live = world.activation(name).await.unwrap().newest();
        assert!(live > before.unwrap().newest(), "{name}");
        assert_eq!(world.record(name).await.unwrap().history[0].epoch, live.unwrap());
        let (assignments, _, _) = world.wanted().await;
        let of_app = assignments.iter().filter(|it| it.app == app(name));
        assert!(of_app.clone().count() == 3 && of_app.clone().all(|it| it.entries.len() == 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_goes_from_app_to_app_in_one_push() {
    let world = World::start().await;
    let user = two_apps(&world).await;
    let other = world.user("other").await;
    write(&user, "front", &(manifest("front", "") + HOST), "front");
    user.commit("a host").await;
    user.push_ok().await;
    assert_eq!(owner(&world, "www.example.com").await.as_deref(), Some("front"));

    // From one that stays. Another repository can't have it at any time.
    write(&user, "front", &manifest("front", ""), "front");
    write(&user, "back", &(manifest("back", "") + HOST), "back");
    user.commit("the host moves").await;
    user.push_ok().await;
    assert_eq!(owner(&world, "www.example.com").await.as_deref(), Some("back"));
    other.write("selvedge.toml", &(manifest("other", "") + HOST));
    other.commit("the same host").await;
    other.push().await.has(&["www.example.com belongs to the app back"]);

    // From one that is renamed in place.
    write(&user, "back", &(manifest("store", "") + HOST), "back");
    user.commit("another name").await;
    user.push_ok().await.has(&["back leaves", "back is not in the repository any more"]);
    assert_eq!(owner(&world, "www.example.com").await.as_deref(), Some("store"));
    assert_eq!(world.activation("back").await, None);

    // A push that fails leaves it where it was.
    write(&user, "front", &(manifest("front", "") + HOST), "front");
    write(&user, "back", &manifest("store", ""), "back");
    user.commit(ANSWERS_500).await;
    user.push().await.has(&["Rolled back at verify"]);
    assert_eq!(owner(&world, "www.example.com").await.as_deref(), Some("store"));
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_is_a_commit_and_frees_all_that_the_app_had() {
    let world = World::start().await;
    let user = two_apps(&world).await;
    let other = world.user("other").await;
    let error = |result: Result<_, selvedge_control::pipeline::RemovalError>| {
        result.map(|_: (_, selvedge_control::pipeline::Ticket)| ()).unwrap_err().to_string()
    };
    assert!(error(world.pipeline.remove(&app("nobody")).await).contains("no app nobody"));
    let front = world.activation("front").await;
    let (_, ticket) = world.pipeline.remove(&app("back")).await.unwrap();
    assert_eq!(ticket.number, 2);
    assert!(ended_live(ticket).await);
    assert_eq!(world.push("shop", 2).await.cause, PushCause::Removal { app: app("back") });
    assert_eq!((world.activation("front").await, world.activation("back").await), (front, None));
    assert!(error(world.pipeline.remove(&app("back")).await).contains("not live"));

    // The user sees a commit without the file, and the rest of the app's directory.
    user.git(&["pull", "--quiet", "--ff-only", "origin", "main"]).await;
    assert!(!user.path.join("back/selvedge.toml").exists());
    assert!(user.path.join("back/public/index.html").exists());

    // The last app as well; the repository itself stays.
    let (_, ticket) = world.pipeline.remove(&app("front")).await.unwrap();
    assert!(ended_live(ticket).await);
    let (assignments, activations, hosts) = world.wanted().await;
    assert_eq!((assignments.len(), activations.len(), hosts.len()), (0, 0, 0));
    for prefix in [keys::RELEASES, keys::APP_REPORTS] {
        world.emptied(prefix).await;
    }
    // Without an app there is nothing to push, but reverting brings one back.
    user.git(&["pull", "--quiet", "--ff-only", "origin", "main"]).await;
    user.git(&["revert", "--no-edit", "HEAD"]).await;
    user.push_ok().await.has(&["front ", "is live at 3 sites"]);
    // The other's name is free for any repository.
    other.write("selvedge.toml", &manifest("back", ""));
    other.commit("back").await;
    other.push_ok().await;
    let record = world.record("back").await.unwrap();
    assert_eq!(record.repository, repository("other"));
    assert!(record.history[0].epoch.number > 1, "epochs never come again");
}
