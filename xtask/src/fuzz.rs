//! Fuzzes every target of `fuzz/` for a bounded number of inputs, beginning with the seeds that the
//! crates keep. What breaks a promise is kept as a file and told; it becomes a seed when it is mended.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;

/// The version of `cargo-afl` that the crate in `fuzz/` is built for.
const VERSION: &str = "0.18.2";
/// When a target is given up that has not come to its number, in seconds.
const MOST_SECONDS: u64 = 600;
/// How long one input may take, in milliseconds, before it is told as one that hangs.
const INPUT_MS: u64 = 2000;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Targets; by default all.
    targets: Vec<String>,
    /// Inputs for each target.
    #[arg(long, default_value_t = 20_000, value_name = "NUMBER")]
    executions: u64,
    /// Fail where cargo-afl is missing, rather than install it.
    #[arg(long)]
    no_install: bool,
}

/// A target, by the directory of its seeds.
struct Target {
    name: String,
    seeds: PathBuf,
}

/// Fuzzes, and says what was found.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<Vec<String>> {
    install(options.no_install)?;
    let target = root.join("target/fuzz");
    let mut build = Command::new("cargo");
    build.args(["afl", "build", "--locked", "--quiet"]).current_dir(root.join("fuzz"));
    let status = build.env("CARGO_TARGET_DIR", &target).status().context("can't run cargo afl")?;
    anyhow::ensure!(status.success(), "the fuzzing build failed: {status}");
    let program = target.join("debug/selvedge-fuzz");
    let targets = targets(root, &program, &options.targets)?;
    let out = target.join("out");
    std::fs::create_dir_all(&out)?;
    let left = Mutex::new(targets.into_iter().collect::<VecDeque<_>>());
    let problems = Mutex::new(Vec::new());
    let work = || {
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        while let Some(target) = next() {
            let found = fuzz(&program, &target, &out.join(&target.name), options.executions)
                .unwrap_or_else(|error| vec![format!("{}: {error:#}", target.name)]);
            problems.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    Ok(problems.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn install(refuse: bool) -> anyhow::Result<()> {
    let version = Command::new("cargo").args(["afl", "--version"]).output();
    if version.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).contains(VERSION)) {
        return Ok(());
    }
    anyhow::ensure!(!refuse, "cargo install cargo-afl --locked --version {VERSION}");
    let mut install = Command::new("cargo");
    install.args(["install", "--quiet", "--locked", "cargo-afl", "--version", VERSION, "--force"]);
    let status = install.status().context("can't run cargo install")?;
    anyhow::ensure!(status.success(), "cargo-afl can't be installed: {status}");
    Ok(())
}

fn targets(root: &Path, program: &Path, wanted: &[String]) -> anyhow::Result<Vec<Target>> {
    let listed = Command::new(program).output().context("can't run the fuzzing build")?;
    let listed = String::from_utf8(listed.stdout)?;
    let named = |seeds: &str| {
        let name = seeds.rsplit('/').next().unwrap_or(seeds).to_owned();
        Target { name, seeds: root.join(seeds) }
    };
    let all: Vec<Target> = listed.lines().map(named).collect();
    for name in wanted {
        let known = all.iter().any(|target| target.name == *name);
        anyhow::ensure!(known, "there is no target {name}, but:\n{listed}");
    }
    let is_wanted = |target: &Target| wanted.is_empty() || wanted.contains(&target.name);
    Ok(all.into_iter().filter(is_wanted).collect())
}

/// Runs one target, and returns what is wrong with it.
fn fuzz(
    program: &Path,
    target: &Target,
    out: &Path,
    executions: u64,
) -> anyhow::Result<Vec<String>> {
    // Every run begins with the seeds.
    if out.exists() {
        std::fs::remove_dir_all(out)?;
    }
    let mut afl = Command::new("cargo");
    afl.args(["afl", "fuzz", "-i"]).arg(&target.seeds).arg("-o").arg(out);
    // The same inputs in every run, as far as a fuzzer that measures time can.
    afl.args(["-s", "1", "-E", &executions.to_string(), "-V", &MOST_SECONDS.to_string()]);
    afl.args(["-t", &INPUT_MS.to_string(), "--"]).arg(program).arg(&target.name);
    // What it would have root set for speed only, and a screen that is in nobody's way.
    for name in [
        "AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES",
        "AFL_SKIP_CPUFREQ",
        "AFL_NO_AFFINITY",
        "AFL_NO_UI",
        "AFL_FAST_CAL",
    ] {
        afl.env(name, "1");
    }
    let output = afl.stdin(Stdio::null()).output().context("can't run cargo afl")?;
    let said = || String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(output.status.success(), "the fuzzer failed: {}\n{}", output.status, said());
    let stats = std::fs::read_to_string(out.join("default/fuzzer_stats"))
        .with_context(|| format!("the fuzzer left no statistics\n{}", said()))?;
    let stat = |name: &str| {
        let mut lines = stats.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map_or("?", |(_, value)| value.trim())
    };
    let (name, done, edges) = (&target.name, stat("execs_done"), stat("edges_found"));
    println!("{name}: {done} inputs, {edges} edges, {} kept", stat("corpus_count"));
    let mut problems = Vec::new();
    if done.parse::<u64>().unwrap_or(0) < executions {
        problems.push(format!("{name}: only {done} of {executions} inputs in {MOST_SECONDS} s"));
    }
    for (kind, what) in [("crashes", "breaks a promise"), ("hangs", "takes too long")] {
        for entry in std::fs::read_dir(out.join("default").join(kind))? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("id")) {
                let (input, program) = (path.display(), program.display());
                problems.push(format!(
                    "{name}: {input} {what}: see {program} {name} < {input}; mend it, and keep the \
                     input in {}",
                    target.seeds.display()
                ));
            }
        }
    }
    Ok(problems)
}
