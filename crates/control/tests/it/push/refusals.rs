//! Pushes that are refused leave everything as it was.

use selvedge_fabric::Typed;
use selvedge_model::documents::{HostClaim, PushState};
use selvedge_model::{Assignment, Stage, keys};

use super::sites::{ANSWERS_500, CRASHES};
use super::world::{World, manifest};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_changes_when_a_push_is_refused() {
    let world = World::start().await;
    let user = world.user("shop").await;
    user.push_ok().await;
    let before = world.wanted().await;
    let main = user.remote_main().await;
    let log = "echo first; echo the cause; exit 3";
    let escape = format!("ls {}", world.data("repositories").display());
    let reach = format!("git ls-remote {}", world.remote("shop"));
    let link = "rm -r public; ln -s /etc public";
    let cases: [(&str, String, Stage, &[&str]); 8] = [
        ("x", manifest("shop", "color = 1"), Stage::Validate, &["selvedge.toml:3:1", "color"]),
        (
            "x",
            manifest("shop", &format!("build = \"{log}\"")),
            Stage::Build,
            &["| the cause", "failed with exit code 3"],
        ),
        (
            "x",
            manifest("shop", &format!("test = \"{log}\"")),
            Stage::Test,
            &["| the cause", "failed with exit code 3"],
        ),
        ("x", manifest("shop", &format!("build = \"{escape}\"")), Stage::Build, &["No such file"]),
        (
            "x",
            manifest("shop", &format!("build = \"{link}\"")),
            Stage::Publish,
            &["leads out of the app"],
        ),
        (
            "x",
            manifest("shop", &format!("build = \"{reach}\"")),
            Stage::Build,
            &["unable to access", "failed with exit code 128"],
        ),
        ("x", manifest("shop", "") + "[placement]\nmin_sites = 9\n", Stage::Validate, &["9"]),
        (
            CRASHES,
            manifest("shop", ""),
            Stage::Warm,
            &["it ended with exit code 3", "| no such module", "Nothing has changed"],
        ),
    ];
    for (number, (subject, toml, stage, words)) in (2..).zip(cases) {
        user.git(&["reset", "--quiet", "--hard", "origin/main"]).await;
        user.write("selvedge.toml", &toml);
        user.change(&format!("content {number}"), subject).await;
        let said = user.push().await;
        assert!(!said.ok, "{}", said.text);
        said.has(words).has(&["remote rejected", &format!("Refused at {stage}")]);
        assert_eq!(world.wanted().await, before, "{stage}");
        assert_eq!(user.remote_main().await, main);
        let push = world.push("shop", number).await;
        assert!(matches!(&push.state, PushState::Refused(why) if why.stage == stage), "{push:?}");
        assert!(!world.data(&format!("work/shop-{number}")).exists());
    }
    user.git(&["reset", "--quiet", "--hard", "origin/main"]).await;
    user.change("good again", "good again").await;
    user.push_ok().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_main_is_released() {
    let world = World::start().await;
    let user = world.user("shop").await;
    user.push_ok().await;
    let said = user.try_git(&["push", "origin", "main:topic"]).await;
    assert!(!said.ok);
    said.has(&["git push origin topic:main"]);
    let said = user.try_git(&["push", "origin", ":main"]).await;
    assert!(!said.ok);
    let said = user.try_git(&["push", "origin", "main:refs/selvedge/x"]).await;
    assert!(!said.ok);
    user.git(&["tag", "v1"]).await;
    user.change("two", "two").await;
    let said = user.try_git(&["push", "origin", "main", "v1", "main:other"]).await;
    assert!(!said.ok);
    said.has(&["main -> main", "[new tag]", "git push origin other:main", "live at 3 sites"]);
    assert_eq!(user.remote_main().await, Some(user.head().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_hosts_belong_to_who_came_first() {
    let world = World::start().await;
    let route = "[[route]]\nhost = \"www.example.com\"\nservice = \"web\"\n";
    let first = world.user("first").await;
    first.write("selvedge.toml", &(manifest("first", "") + route));
    first.commit("a host").await;
    first.push_ok().await.has(&["https://www.example.com:8443/"]);
    let before = world.wanted().await;

    let second = world.user("second").await;
    second.write("selvedge.toml", &(manifest("second", "") + route));
    second.commit("the same host").await;
    let said = second.push().await;
    assert!(!said.ok);
    said.has(&["www.example.com belongs to the app first"]);
    second.write("selvedge.toml", &manifest("first", ""));
    second.commit("the same name").await;
    let said = second.push().await;
    assert!(!said.ok);
    said.has(&["app name first belongs to the repository first"]);
    assert_eq!(world.wanted().await, before);
    assert_eq!(world.record("second").await, None);

    // Given up by the first, the host is the second's.
    first.write("selvedge.toml", &manifest("first", ""));
    first.commit("no host").await;
    first.push_ok().await;
    second.write("selvedge.toml", &(manifest("second", "") + route));
    second.commit("the host").await;
    second.push_ok().await;
    let claim: HostClaim =
        Typed(&*world.fabric).get("host/www.example.com").await.unwrap().unwrap().1;
    assert_eq!(claim.app.as_str(), "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_answers_500_is_rolled_back() {
    let world = World::start().await;
    let user = world.user("shop").await;
    // Without anything before it, nothing is live after.
    user.change("bad", ANSWERS_500).await;
    let said = user.push().await;
    assert!(!said.ok);
    said.has(&["Rolled back at verify", "500", "Nothing was live before"]);
    let (assignments, activations, hosts) = world.wanted().await;
    assert_eq!((assignments.len(), activations.len(), hosts.len()), (0, 0, 0));
    assert_eq!(user.remote_main().await, None);

    user.change("good", "good").await;
    user.push_ok().await;
    let good = user.head().await;
    let live = world.activation("shop").await.unwrap();
    user.change("bad again", ANSWERS_500).await;
    let said = user.push().await;
    assert!(!said.ok);
    said.has(&["Rolled back at verify", "500", "git pull"]);
    assert!(matches!(world.push("shop", 3).await.state, PushState::RolledBack(_)));
    assert_eq!(world.push("shop", 4).await.state, PushState::Live);
    let restored = world.activation("shop").await.unwrap();
    assert_eq!(restored.entries[0].releases, live.entries[0].releases);
    assert!(restored.newest() > live.newest());
    user.git(&["fetch", "--quiet", "origin"]).await;
    let trees = user.git(&["rev-parse", "origin/main^{tree}", &format!("{good}^{{tree}}")]).await;
    let trees: Vec<_> = trees.lines().collect();
    assert_eq!(trees[0], trees[1]);
    let refs = world.fabric.list(keys::PUSHES).await.unwrap().documents.len();
    assert_eq!(refs, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_release_is_where_its_own_placement_wants_it() {
    let world = World::start().await;
    let user = world.user("shop").await;
    let european = manifest("shop", "") + "[placement]\njurisdictions = [\"eu\"]\n";
    for (number, good, bad, sites) in [
        (1, manifest("shop", ""), european.clone(), ["fra", "nyc", "sin"].as_slice()),
        (4, european, manifest("shop", ""), ["fra"].as_slice()),
    ] {
        user.write("selvedge.toml", &good);
        user.change(&format!("good {number}"), "good").await;
        user.push_ok().await;
        user.write("selvedge.toml", &bad);
        user.change(&format!("bad {number}"), ANSWERS_500).await;
        let said = user.push().await;
        said.has(&["Rolled back at verify", "is live again"]);

        let restore = world.push("shop", number + 2).await;
        assert_eq!(restore.state, PushState::Live);
        let planned: Vec<_> = restore.apps[0].sites.iter().map(|it| it.as_str()).collect();
        assert_eq!(planned, sites);
        let live = world.activation("shop").await.unwrap().newest();
        let (assignments, _, _) = world.wanted().await;
        let has_it = |it: &&Assignment| it.entries.iter().any(|entry| Some(entry.epoch) == live);
        let there: Vec<_> = assignments.iter().filter(has_it).map(|it| it.site.as_str()).collect();
        assert_eq!(there, sites);
        user.git(&["fetch", "--quiet", "origin"]).await;
        user.git(&["reset", "--quiet", "--hard", "origin/main"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_cache_goes_with_the_name() {
    let world = World::start().await;
    let (first, second) = (world.user("first").await, world.user("second").await);
    let (own, given_up) = (world.data("cache/first"), world.data("cache/given-up"));
    first.push_ok().await;
    let poison = |cache: &std::path::Path| {
        std::fs::create_dir_all(cache).unwrap();
        std::fs::write(cache.join("package"), "poisoned").unwrap();
    };

    // What is live keeps its cache, also when a push is refused.
    poison(&own);
    first.change("two", CRASHES).await;
    assert!(!first.push().await.ok);
    assert!(own.exists());

    // An app that is taken down loses it.
    first.write("selvedge.toml", &manifest("given-up", ""));
    first.change("three", "another name").await;
    first.push_ok().await;
    assert!(!own.exists());
    poison(&given_up);
    first.write("selvedge.toml", &manifest("third", ""));
    first.change("four", "a third name").await;
    first.push_ok().await;
    assert!(!given_up.exists());

    // Whatever is left of it somehow is not for who takes the name.
    for (cache, name) in
        [(&own, "first"), (&given_up, "given-up"), (&world.data("cache/new"), "new")]
    {
        poison(cache);
        second.write("selvedge.toml", &manifest(name, ""));
        second.change(name, name).await;
        second.push_ok().await;
        assert!(!cache.exists(), "{name}");
    }
}
