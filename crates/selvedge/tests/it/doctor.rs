//! The doctor on machines and installations in several states.

use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Planet, can_isolate, eventually, lives, signal};

/// The report, and whether the exit code says that all runs.
async fn examine(command: &mut Command) -> (Value, bool) {
    let output = command.output().await.unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.success())
}

fn doctor(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(["doctor", "--json", "--sites", "1", "--data"]).arg(data).args(arguments);
    command.current_dir("/").env_remove("SELVEDGE_CONTROL").env_remove("SELVEDGE_TOKEN");
    command
}

/// What is found of one thing, with its level and mend.
fn of<'a>(report: &'a Value, area: &str, check: &str) -> (&'a str, &'a str, &'a str) {
    let found = report[area].as_array().unwrap().iter().find(|finding| finding["check"] == check);
    let found = found.unwrap_or_else(|| panic!("nothing of {check}: {report:#}"));
    let text = |key: &str| found[key].as_str().unwrap_or_default();
    (text("level"), text("what"), text("mend"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_is_examined_while_it_runs_and_after_it_was_killed() {
    if !can_isolate() {
        return;
    }
    let mut planet = Planet::start(1, &[]).await;
    let site = &planet.info.sites[0];
    let (site_pid, control_pid) = (site.pid, planet.info.control_pid);
    let (http, data) = (site.http.to_string(), planet.data.clone());
    let (report, runs) = examine(&mut doctor(&data, &[])).await;
    assert!(runs, "{report:#}");
    for (check, what) in [
        ("directory", "is yours alone"),
        ("box", "runs as process"),
        ("control", "takes the token"),
        ("sites", "all 1 are heard of"),
    ] {
        let (level, found, _) = of(&report, "installation", check);
        assert!(level == "ok" && found.contains(what), "{report:#}");
    }
    // Another box beside it would meet its ports.
    let other = data.join("../other");
    let (report, runs) = examine(&mut doctor(&other, &["--http", &http])).await;
    let (level, found, mend) = of(&report, "machine", "ports");
    assert!(!runs && level == "fail" && found.contains("is taken by process"), "{report:#}");
    assert!(mend.contains("--http PORT"), "{mend}");
    assert_eq!(of(&report, "installation", "directory").0, "note");

    signal(planet.supervisor_pid(), nix::sys::signal::Signal::SIGKILL);
    planet.supervisor_ended().await;
    eventually("its processes have ended with it", async || {
        (!lives(site_pid) && !lives(control_pid)).then_some(())
    })
    .await;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&data, mode).unwrap();
    let (report, runs) = examine(&mut doctor(&data, &[])).await;
    let (level, found, _) = of(&report, "installation", "box");
    assert!(level == "warn" && found.contains("was killed"), "{report:#}");
    let (level, found, _) = of(&report, "installation", "sockets");
    assert!(level == "note" && found.contains("hooks.sock"), "{report:#}");
    let (level, found, mend) = of(&report, "installation", "directory");
    assert!(!runs && level == "fail" && found.contains("mode 755"), "{report:#}");
    assert!(mend.starts_with("chmod 700 "), "{mend}");
}

#[tokio::test]
async fn an_ordinary_user_is_told_what_is_missing() {
    if !can_isolate() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(directory.path(), mode).unwrap();
    let program = directory.path().join("selvedge");
    if std::fs::hard_link(env!("CARGO_BIN_EXE_selvedge"), &program).is_err() {
        std::fs::copy(env!("CARGO_BIN_EXE_selvedge"), &program).unwrap();
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program)
        .args(["doctor", "--json", "--sites", "1", "--data"])
        .arg(directory.path().join("box"))
        .current_dir("/")
        .env("TMPDIR", directory.path());
    let (report, _) = examine(&mut command).await;
    assert_eq!(of(&report, "machine", "sandbox").0, "ok", "{report:#}");
    let (level, found, mend) = of(&report, "machine", "limits");
    assert!(level == "warn" && found.starts_with("no control group can be made"), "{report:#}");
    assert!(mend.contains("Delegate=yes"), "{mend}");
    assert_eq!(of(&report, "installation", "directory").0, "note");
}
