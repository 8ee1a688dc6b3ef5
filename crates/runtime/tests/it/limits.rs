//! What programs may use: who wants more is stopped, in words, with all that it started.

use std::fs;
use std::path::PathBuf;

use selvedge_runtime::{Excess, Limits, Reserve, RuntimeError, TaskOutcome, WorkloadState};

use crate::support::{LIMITS, World, processes_with, unique, until, wait_for};

/// Doubles itself without end; the marker finds what is left of it.
fn fork_bomb(marker: &str) -> String {
    format!("bash -c 'bomb() {{ bomb | bomb & }}; bomb; exec -a {marker} sleep 1000'")
}

/// The kernel's counters for a sandbox of this process, from whichever hierarchy has the file.
fn group_files(file: &str) -> Vec<PathBuf> {
    fn look(directory: &std::path::Path, depth: u32, file: &str, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        let own = format!("selvedge-{}-", std::process::id());
        for entry in entries.flatten().filter(|it| it.file_type().is_ok_and(|it| it.is_dir())) {
            if entry.file_name().to_string_lossy().starts_with(&own) {
                found.extend(Some(entry.path().join(file)).filter(|it| it.exists()));
            } else if depth > 0 {
                look(&entry.path(), depth - 1, file, found);
            }
        }
    }
    let mut found = Vec::new();
    look(std::path::Path::new("/sys/fs/cgroup"), 6, file, &mut found);
    found
}

/// Whether control groups limit everything here; else these tests say so and are not run.
fn limited(world: &World) -> bool {
    let degraded = world.runtime.degraded();
    if !degraded.is_empty() {
        eprintln!("SKIPPED: {degraded:?}");
    }
    degraded.is_empty()
}

#[tokio::test]
async fn a_task_that_wants_more_is_stopped() {
    let world = World::new();
    if !limited(&world) {
        return;
    }
    let marker = unique("bomb");
    let bomb = fork_bomb(&marker);
    let cases = [
        (bomb.as_str(), Excess::Processes(64)),
        ("exec yes $(seq 500)", Excess::Output(64)),
        ("yes $(seq 500) | head -c 200M; true", Excess::Output(64)),
        ("head -c 200M /dev/zero > large", Excess::Disk(96)),
        // In many files, of which none is too large.
        (
            "for i in $(seq 20); do head -c 8M /dev/zero > file$i; done; sleep 1000",
            Excess::Disk(96),
        ),
        // In its cache, and in a file that has no name any more.
        ("head -c 90M /dev/zero > /cache/a; head -c 20M /dev/zero > b; exit 1", Excess::Disk(96)),
        (
            "exec 3> gone; rm gone; head -c 94M /dev/zero >&3; head -c 4M /dev/zero > b; sleep 1000",
            Excess::Disk(96),
        ),
        ("mkdir d; cd d; seq 30000 | xargs touch; sleep 1000", Excess::Files(24576)),
        ("head -c 200M /dev/zero > /tmp/large", Excess::TaskTemporary(64)),
        ("python3 -c 'bytearray(400 << 20)'", Excess::Memory(128)),
    ];
    for (command, excess) in cases {
        let mut spec = world.task(command);
        for (tree, name) in [(&spec.app, "checkout"), (&spec.cache, "cache")] {
            let _ = fs::remove_dir_all(tree);
            fs::create_dir_all(world.path(name)).expect("a directory");
        }
        spec.limits = Limits { memory_mib: 128, cpu_millis: None, processes: 64, disk_mib: 96 };
        let (outcome, lines) = world.run(spec).await;
        assert_eq!(outcome, TaskOutcome::Exceeded(excess), "{command}: {lines:?}");
    }
    assert_eq!(processes_with(&marker), Vec::<u32>::new());
}

#[tokio::test]
async fn a_cache_that_has_grown_too_large_is_emptied() {
    let world = World::new();
    let mut spec = world.task("ls /cache; head -c 3M /dev/zero > /cache/part");
    spec.limits.disk_mib = 8;
    for (file, size) in [("small", 100), ("large", 5 << 20)] {
        fs::create_dir_all(world.path("cache/inner")).expect("a directory");
        fs::write(world.path("cache/inner").join(file), vec![1; size]).expect("a file");
        let (outcome, lines) = world.run(spec.clone()).await;
        assert_eq!(outcome, TaskOutcome::Succeeded, "{lines:?}");
        let kept = lines.iter().any(|line| line == "inner");
        assert_eq!(kept, file == "small", "{lines:?}");
    }
}

#[tokio::test]
async fn nobody_eats_the_last_of_the_disk() {
    let world = World::with(|config| config.reserve = Reserve { mib: u32::MAX, files: 0 });
    let error = world.try_run(world.task("true")).await.expect_err("refused");
    assert!(matches!(error, RuntimeError::NoRoom(Excess::Reserve(_))), "{error}");
    assert!(error.to_string().contains("it would use up the machine's disk"), "{error}");
}

#[tokio::test]
async fn a_workload_that_wants_more_is_stopped() {
    let world = World::new();
    if !limited(&world) {
        return;
    }
    let app = world.app("app", &[]);
    let marker = unique("bomb");
    let cases = [
        (
            fork_bomb(&marker),
            "was stopped because it started too many processes and threads: its limit is 64 \
             (look for what starts them without end, or raise its `processes`)",
        ),
        ("exec yes $(seq 500)".into(), "printed too much: its limit is 64 MiB"),
        (
            "head -c 200M /dev/zero > large".into(),
            "exited with code 1 after it filled its file system in memory (/tmp): its limit is 32 MiB",
        ),
        (
            "head -c 200M /dev/zero > /tmp/large; sleep 1000".into(),
            "was not ready in time and filled its file system in memory (/tmp)",
        ),
        ("python3 -c 'bytearray(400 << 20)'".into(), "after it ran out of memory"),
    ];
    let workloads = cases.map(|(command, words)| {
        let mut spec = world.workload(&app, &command);
        spec.limits =
            Limits { memory_mib: 96, cpu_millis: Some(1000), processes: 64, disk_mib: 32 };
        spec.start_timeout = if command.contains("sleep") && !command.contains("bomb") {
            std::time::Duration::from_secs(2)
        } else {
            spec.start_timeout
        };
        (world.runtime.start(spec), words)
    });
    for (workload, words) in &workloads {
        match wait_for(workload, |state| *state != WorkloadState::Starting).await {
            WorkloadState::CrashLoop { reason, .. } => assert!(reason.contains(words), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    for (workload, _) in workloads {
        workload.stop().await;
    }
    assert_eq!(processes_with(&marker), Vec::<u32>::new());
}

#[tokio::test]
async fn a_ready_workload_that_leaks_is_started_again() {
    let world = World::new();
    if !limited(&world) {
        return;
    }
    let app = world.app("app", &[]);
    // Answers first, and then leaks until it is killed.
    let command =
        "python3 -m http.server $PORT & sleep 1; exec python3 -c 'x = bytearray(400 << 20)'";
    let workload = world.runtime.start(world.workload(&app, command));
    let leaked = |state: &WorkloadState| {
        if let WorkloadState::BackingOff { reason, .. } = state {
            assert!(reason.contains("ran out of memory: its limit is 256 MiB"), "{reason}");
        }
        matches!(state, WorkloadState::BackingOff { restarts: 1, .. })
    };
    wait_for(&workload, leaked).await;
    wait_for(&workload, |state| *state == WorkloadState::Ready).await;
    workload.stop().await;
}

#[tokio::test]
async fn one_that_never_rests_is_held_to_its_share() {
    let world = World::new();
    if !limited(&world) {
        return;
    }
    let app = world.app("app", &[]);
    let command = "python3 -m http.server $PORT & while :; do :; done";
    let mut spec = world.workload(&app, command);
    spec.limits = Limits { cpu_millis: Some(100), ..LIMITS };
    let workload = world.runtime.start(spec);
    wait_for(&workload, |state| *state == WorkloadState::Ready).await;
    // Periods in which it had to wait for the next, by the kernel's count.
    let throttled = || {
        group_files("cpu.stat").iter().any(|file| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let count = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
            count.is_some_and(|count| count.trim().parse::<u64>().is_ok_and(|count| count >= 5))
        })
    };
    until("it is throttled", throttled).await;
    workload.stop().await;
}
