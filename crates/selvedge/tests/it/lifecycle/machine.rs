//! What happens to machines: a full disk, and sleep.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use selvedge_model::Stage;

use super::*;

/// A file system of its own; unmounted when dropped.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(size: &str) -> Self {
        Self::mount_in(&std::env::temp_dir(), size)
    }

    fn mount_in(parent: &Path, size: &str) -> Self {
        let directory = tempfile::tempdir_in(parent).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(mounted.success());
        Self { directory }
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.directory.path().join("fill")).unwrap();
        let zeros = vec![0; 1 << 16];
        while file.write_all(&zeros).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.directory.path().join("fill")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ =
            std::process::Command::new("umount").arg("--lazy").arg(self.directory.path()).status();
    }
}

#[tokio::test]
async fn a_box_behind_links_is_removed_with_the_same_care() {
    if !can_isolate() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (disk, data) = (scratch.path().join("disk"), scratch.path().join("disk/box"));
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("version"), "box 1\n").unwrap();
    std::fs::write(data.join("dev.json"), "{}").unwrap();
    // The directory's parent is a link, and then the directory itself is one.
    symlink(&disk, scratch.path().join("usual")).unwrap();
    symlink(scratch.path().join("usual/box"), scratch.path().join("box")).unwrap();
    let names = ["usual/box", "box"].map(|name| scratch.path().join(name));

    let other = SmallDisk::mount_in(&data, "1m");
    let precious = other.directory.path().join("thesis.txt");
    std::fs::write(&precious, "of somebody else").unwrap();
    for name in &names {
        for verb in ["--remove", "--reset"] {
            let refused = run(selvedge(&["dev", verb, "--data"]).arg(name)).await;
            assert_eq!(refused.code, Some(1), "{verb}: {} {}", refused.text, refused.words);
            let words = format!("something is mounted at {}", other.directory.path().display());
            assert!(refused.words.contains(&words), "{}", refused.words);
            assert!(precious.exists() && data.join("dev.json").exists(), "{verb} removed");
        }
    }
    drop(other);
    let mut visitor = Command::new("sleep").arg("600").current_dir(&data).spawn().unwrap();
    for name in &names {
        let refused = run(selvedge(&["dev", "--remove", "--data"]).arg(name)).await;
        assert_eq!(refused.code, Some(5), "{} {}", refused.text, refused.words);
        assert!(data.join("dev.json").exists());
    }
    visitor.kill().await.unwrap();
    let removed = run(selvedge(&["dev", "--remove", "--data"]).arg(&names[1])).await;
    assert_eq!(removed.code, Some(0), "{}", removed.words);
    assert!(
        !data.exists() && !names[1].is_symlink() && disk.exists(),
        "only the box, and its link"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_pushes_and_nothing_else() {
    if !can_isolate() {
        return;
    }
    let disk = SmallDisk::mount("96m");
    let data = disk.directory.path().join("box");
    let mut planet = Planet::start_at(&data, 2, &[]).await;
    let plain = Repository::with_files("plain", &PLAIN).await;
    plain.push_live(&planet).await;
    Repository::with_files("process", &PROCESS).await.push_live(&planet).await;
    let release = planet.live_release("plain").await.unwrap();
    disk.fill();
    for site in &planet.info.sites {
        for app in ["plain", "process"] {
            page_at(site, app).await.expect("a full disk is nothing to a site");
        }
    }
    assert_eq!(planet.live_release("plain").await, Some(release.clone()), "control answers");
    plain.write("public/index.html", "plain, second\n");
    plain.commit("Second").await;
    let refused = plain.push(&planet).await;
    assert!(!refused.ok);
    assert!(refused.words.contains("less than 32 MiB are free"), "{}", refused.words);

    // An agent starts from its ledger, without room for anything new.
    let before = planet.info.sites[0].pid;
    signal(before, Signal::SIGKILL);
    eventually("the agent is back", async || {
        let again = descendants(planet.supervisor_pid()).iter().all(|pid| *pid != before);
        if again { page_at(&planet.info.sites[0], "process").await } else { None }
    })
    .await;
    let site = &planet.info.sites[0];
    assert!(page_at(site, "plain").await.is_some());
    // Control can't write what it has to at a start: it waits for room.
    signal(planet.info.control_pid, Signal::SIGKILL);
    assert!(page_at(site, "plain").await.is_some(), "sites serve without control");
    disk.make_room();
    eventually("dev.json is true again", async || {
        let info = planet.current_info()?;
        (info.sites[0].pid != before && info.control_pid != planet.info.control_pid).then_some(())
    })
    .await;
    everywhere(&planet, "plain", &release).await;
    plain.push_live(&planet).await;
    assert!(page(&planet, "plain").await.unwrap().contains("plain, second"));

    // Nothing is damaged: all of it starts anew.
    let release = planet.live_release("plain").await.unwrap();
    signal(planet.supervisor_pid(), Signal::SIGTERM);
    planet.supervisor_ended().await;
    planet.restart().await;
    everywhere(&planet, "plain", &release).await;
    for site in &planet.info.sites {
        let aside = data.join("sites").join(site.id.as_str()).join("ledger-set-aside");
        assert!(!aside.exists(), "{}", aside.display());
    }
    planet.stop().await;
}

/// Longer than sites' leases run.
const SLEEP: Duration = Duration::from_secs(7);

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_slept_goes_on_where_it_was() {
    if !can_isolate() {
        return;
    }
    let planet = Planet::start(2, &[]).await;
    Repository::with_files("process", &PROCESS).await.push_live(&planet).await;
    let release = planet.live_release("process").await.unwrap();
    let before = descendants(planet.supervisor_pid());

    // In the midst of a push that waits for its sites.
    let slow = "[app]\nname = \"slow\"\n\
                [[service]]\nname = \"web\"\nkind = \"process\"\nhealth = \"/\"\n\
                command = \"sleep 2; exec python3 -m http.server --bind 127.0.0.1 $PORT\"\n";
    let slow = Repository::with_files("slow", &[("selvedge.toml", slow)]).await;
    let mut push = slow.push_command(&planet, "HEAD:refs/heads/main");
    let push = tokio::spawn(async move { push.output().await.unwrap() });
    let name = selvedge_model::RepositoryName::new("slow").unwrap();
    eventually("the push waits for its sites", async || {
        let push = planet.api().pushes(&name).await.ok()?.into_iter().next()?;
        (push.stages.last()?.stage >= Stage::Warm).then_some(())
    })
    .await;
    let asleep: Vec<u32> = std::iter::once(planet.supervisor_pid())
        .chain(descendants(planet.supervisor_pid()))
        .collect();
    let each = |kind: Signal| {
        for pid in &asleep {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(*pid).unwrap());
            // One may have ended meanwhile.
            let _ = nix::sys::signal::kill(pid, kind);
        }
    };
    each(Signal::SIGSTOP);
    // The time itself is what is tried here: the leases run out in it.
    let wakes = Instant::now() + SLEEP;
    while let Some(rest) = wakes.checked_duration_since(Instant::now()) {
        tokio::time::sleep(rest).await;
    }
    each(Signal::SIGCONT);
    let pushed = push.await.unwrap();
    let words = String::from_utf8_lossy(&pushed.stderr);
    assert!(pushed.status.success(), "{words}");
    assert!(words.contains("at 2 sites"), "a site was left out: {words}");
    everywhere(&planet, "process", &release).await;
    page(&planet, "slow").await.expect("the push is live");
    let gone: Vec<_> = before.iter().filter(|pid| !lives(**pid)).collect();
    assert!(gone.is_empty(), "processes were restarted: {gone:?}");
    planet.stop().await;
}
