//! The HTTP working group's tests for caches (npm: http-cache-tests), all of them: what does not
//! pass stands in `misses.txt` with its reason.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::process::{Child, Command};

use super::Alone;
use crate::harness::eventually;

const PACKAGE: &str = "http-cache-tests@0.4.5";

#[derive(Deserialize)]
struct Test {
    suite: String,
    id: String,
    kind: String,
    passed: bool,
    words: String,
}

/// A file beside the tests.
fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cache-tests").join(name)
}

/// The suite as npm installs it; without the packages that its programs for browsers need.
async fn install(directory: &Path) -> PathBuf {
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save", PACKAGE]);
    let output = npm.arg("--prefix").arg(directory).output().await.expect("npm runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    directory.join("node_modules/http-cache-tests")
}

fn node(package: &Path, program: &str) -> Command {
    let mut node = Command::new("node");
    node.arg("--no-warnings").arg(program).current_dir(package).kill_on_drop(true);
    node
}

/// The suite's own origin.
async fn origin(package: &Path, port: u16) -> Child {
    let child = node(package, "server/server.mjs")
        .env("npm_config_port", port.to_string())
        .env("npm_config_protocol", "http")
        .env("npm_config_pidfile", package.join("server.pid"))
        .stdout(Stdio::null())
        .spawn()
        .expect("node runs");
    eventually("the origin listens", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)
    })
    .await;
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn the_working_groups_tests_pass_but_for_those_listed() {
    let directory = tempfile::tempdir().unwrap();
    let package = install(directory.path()).await;
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let _origin = origin(&package, port).await;
    let proxy = Alone::start(&format!("http://127.0.0.1:{port}"), &[]).await;

    let output = node(&package, "cli.mjs")
        .env("npm_config_base", format!("http://{}", proxy.http.unwrap()))
        .env("npm_config_id", "")
        .env("npm_package_config_id", "")
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results = directory.path().join("results.json");
    std::fs::write(&results, &output.stdout).unwrap();

    let report = beside("report.mjs");
    let mut scored = node(&package, report.to_str().unwrap());
    let output = scored.arg(&package).arg(&results).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tests: Vec<Test> = serde_json::from_slice(&output.stdout).unwrap();

    let listed = std::fs::read_to_string(beside("misses.txt")).unwrap();
    let listed: BTreeSet<&str> =
        listed.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let missed: BTreeSet<String> = tests
        .iter()
        .filter(|test| test.kind != "check" && !test.passed)
        .map(|test| format!("{} {}", test.kind, test.id))
        .collect();
    for test in tests.iter().filter(|test| !test.passed) {
        println!("{} {}/{}: {}", test.kind, test.suite, test.id, test.words);
    }
    for kind in ["required", "optimal"] {
        let of_kind = || {
            // Surrogate-Control is a note of long ago, counted apart by those who compare caches.
            tests.iter().filter(|test| test.kind == kind && test.suite != "surrogate-control")
        };
        let passed = of_kind().filter(|test| test.passed).count();
        println!("{kind}: {passed} of {}", of_kind().count());
    }
    assert_eq!(missed.iter().map(String::as_str).collect::<BTreeSet<_>>(), listed);
}
