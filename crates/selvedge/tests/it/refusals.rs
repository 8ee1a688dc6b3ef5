//! What must not become live does not: refused in plain words, the old release untouched, nothing
//! left running.

use std::collections::BTreeSet;

use crate::harness::repository::{Pushed, Repository};
use crate::harness::{Planet, can_isolate, descendants, eventually};

const SERVER: &str = r#"
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ["SELVEDGE_RELEASE"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn manifest(app: &str, service: &str) -> String {
    format!(
        "[app]\nname = \"{app}\"\n\n[[service]]\nname = \"web\"\nkind = \"process\"\n{service}\n"
    )
}

const GOOD: &str = "command = \"exec python3 server.py\"\nhealth = \"/\"";

/// A box with one app that lives, and what must not change.
struct Scene {
    planet: Planet,
    repository: Repository,
    release: String,
    processes: usize,
}

impl Scene {
    async fn new() -> Self {
        let planet = Planet::start(3, &[]).await;
        let files = [("selvedge.toml", manifest("victim", GOOD)), ("server.py", SERVER.into())];
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        let repository = Repository::with_files("victim", &files).await;
        repository.push_live(&planet).await;
        let release = planet.live_release("victim").await.unwrap();
        let processes = workload_processes(&planet);
        Self { planet, repository, release, processes }
    }

    /// Pushes `files` over the good ones, which must be refused with all of `words` said.
    async fn refused(&self, case: &str, files: &[(&str, &str)], words: &[&str]) {
        let good = self.repository.git(&["rev-parse", "HEAD"]).await;
        for (path, text) in files {
            self.repository.write(path, text);
        }
        self.repository.commit(case).await;
        let pushed = self.repository.push(&self.planet).await;
        self.repository.git(&["reset", "--quiet", "--hard", &good]).await;
        self.check(case, &pushed, words).await;
    }

    async fn check(&self, case: &str, pushed: &Pushed, words: &[&str]) {
        assert!(!pushed.ok, "{case}: was accepted:\n{}", pushed.words);
        for word in words {
            assert!(
                pushed.words.contains(word),
                "{case}: {word:?} was not said:\n{}",
                pushed.words
            );
        }
        assert_eq!(
            self.planet.live_release("victim").await.as_ref(),
            Some(&self.release),
            "{case}"
        );
        eventually(&format!("{case}: nothing is left running"), async || {
            let builds = descendants(self.planet.info.control_pid).len();
            (builds == 0 && workload_processes(&self.planet) == self.processes).then_some(())
        })
        .await;
        let main = self
            .repository
            .fetch(&self.planet, &format!("{}/victim.git", self.planet.info.git))
            .await;
        assert_eq!(main, self.repository.git(&["rev-parse", "HEAD"]).await, "{case}: main moved");
    }
}

/// Processes below the agents: shims and what they run.
fn workload_processes(planet: &Planet) -> usize {
    planet.info.sites.iter().map(|site| descendants(site.pid).len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_before_it_is_live_is_refused_in_words() {
    if !can_isolate() {
        return;
    }
    let scene = Scene::new().await;
    let failing_test =
        manifest("victim", GOOD).replace("[[service]]", "test = \"sh test.sh\"\n\n[[service]]");
    let test = "echo checking sums; echo 'expected 4, got 5' >&2; exit 3\n";
    scene
        .refused(
            "a failing test",
            &[("selvedge.toml", &failing_test), ("test.sh", test)],
            &["test", "expected 4, got 5"],
        )
        .await;
    let crash =
        manifest("victim", "command = \"echo no database here >&2; exit 7\"\nhealth = \"/\"");
    scene
        .refused("a crash at start", &[("selvedge.toml", &crash)], &["warm", "no database here"])
        .await;
    let typo = manifest("victim", GOOD).replace("health", "heath");
    scene
        .refused(
            "a bad selvedge.toml",
            &[("selvedge.toml", &typo)],
            &["selvedge.toml:8", "heath", "health"],
        )
        .await;
    let silent =
        manifest("victim", "command = \"exec sleep 1000\"\nhealth = \"/\"\nstart_timeout = \"2s\"");
    scene.refused("never ready", &[("selvedge.toml", &silent)], &["warm", "ready"]).await;
    let impossible = format!(
        "{}\n[placement]\nmin_sites = 2\njurisdictions = [\"JP\"]\n",
        manifest("victim", GOOD)
    );
    scene
        .refused(
            "impossible placement",
            &[("selvedge.toml", &impossible)],
            &["Refused at validate: selvedge.toml: ", "min_sites is 2", "jurisdictions"],
        )
        .await;
    scene.planet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_reaches_neither_control_nor_its_data() {
    if !can_isolate() {
        return;
    }
    let scene = Scene::new().await;
    let with_build =
        |build: &str| manifest("victim", &format!("{GOOD}\nbuild = '''\n{build}\n'''"));
    let data = scene.planet.data.join("control");
    let listing = with_build(&format!("ls {} && echo SEEN", data.display()));
    scene
        .refused(
            "reading control's data",
            &[("selvedge.toml", &listing)],
            &["build", "No such file"],
        )
        .await;
    let token = with_build(&format!("cat {}/token || exit 9", data.display()));
    scene.refused("reading control's token", &[("selvedge.toml", &token)], &["build"]).await;
    let control = &scene.planet.info.control;
    let direct = with_build(&format!("curl --noproxy '*' -sS -m 5 {control}/healthz"));
    scene.refused("reaching control's port", &[("selvedge.toml", &direct)], &["build"]).await;
    // With --fail, as the sandbox's own way out answers a refusal in words.
    let relayed = with_build(&format!("curl -sS --fail -m 5 {control}/healthz"));
    scene.refused("reaching it by the way out", &[("selvedge.toml", &relayed)], &["build"]).await;
    let agent = &scene.planet.info.sites[0].admin;
    let admin = with_build(&format!("curl -sS --fail -m 5 {agent}/healthz"));
    scene.refused("reaching an agent's port", &[("selvedge.toml", &admin)], &["build"]).await;
    scene.planet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_apps_can_not_claim_one_host() {
    if !can_isolate() {
        return;
    }
    let planet = Planet::start(2, &[]).await;
    let app = |name: &str| {
        format!(
            "[app]\nname = \"{name}\"\n\n[[service]]\nname = \"site\"\nkind = \"static\"\nroot = \".\"\n\n\
             [[route]]\nhost = \"www.example.com\"\npath = \"/*\"\nservice = \"site\"\n"
        )
    };
    let page = ("index.html", "<p>hello</p>");
    let first = Repository::with_files("first", &[("selvedge.toml", &app("first")), page]).await;
    first.push_live(&planet).await;
    let second = Repository::with_files("second", &[("selvedge.toml", &app("second")), page]).await;
    let pushed = second.push(&planet).await;
    assert!(!pushed.ok);
    assert!(
        pushed.words.contains("www.example.com") && pushed.words.contains("first"),
        "{}",
        pushed.words
    );
    assert!(planet.live_release("first").await.is_some());
    assert_eq!(planet.live_release("second").await, None);
    // The same app from another repository is refused as well.
    let third = Repository::with_files("third", &[("selvedge.toml", &app("first")), page]).await;
    let pushed = third.push(&planet).await;
    assert!(!pushed.ok && pushed.words.contains("first"), "{}", pushed.words);
    planet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_git_must_refuse() {
    if !can_isolate() {
        return;
    }
    let scene = Scene::new().await;
    let pushed = scene.repository.push_to(&scene.planet, "HEAD:refs/heads/feature").await;
    scene.check("another branch", &pushed, &["feature", "git push", "main"]).await;
    let url = format!("{}/victim.git", scene.planet.info.git);
    let output =
        scene.repository.authorized(&["push", &url, "HEAD:main"], "wrong").output().await.unwrap();
    assert!(!output.status.success(), "a wrong token was accepted");
    let anonymous = scene.repository.git_command(&["ls-remote", &url]).output().await.unwrap();
    assert!(!anonymous.status.success(), "no token was accepted");
    let pushed = scene.repository.push_to(&scene.planet, ":refs/heads/main").await;
    scene.check("deleting main", &pushed, &["main"]).await;
    // Two pushes on the same base: the second's base has moved when its turn comes.
    let slow = manifest("victim", &format!("{GOOD}\nbuild = \"sleep 1\""));
    scene.repository.write("selvedge.toml", &slow);
    scene.repository.commit("One").await;
    let base = scene.repository.git(&["rev-parse", "HEAD~1"]).await;
    let mut first =
        scene.repository.push_command(&scene.planet, "HEAD:refs/heads/main").spawn().unwrap();
    scene.repository.git(&["branch", "other", &base]).await;
    let other =
        scene.repository.git(&["commit-tree", "-p", &base, "-m", "Two", "HEAD^{tree}"]).await;
    let second = scene.repository.push_to(&scene.planet, &format!("{other}:refs/heads/main")).await;
    let first = first.wait().await.unwrap();
    assert!(
        first.success() != second.ok,
        "both or none of two racing pushes were accepted: {}",
        second.words
    );
    let seen: BTreeSet<usize> =
        scene.planet.info.sites.iter().map(|site| descendants(site.pid).len()).collect();
    assert!(!seen.contains(&0), "a site stopped serving");
    scene.planet.stop().await;
}
