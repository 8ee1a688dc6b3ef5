//! `cargo xtask bench push`: how long it takes from `git push` to live at every site.
//!
//! Runs the real binary as a box in a directory of its own and pushes the examples to it with git,
//! as people do. Two times are taken, independently: until `git push` returns (which is after every
//! site has reported and checked itself), and until this program, asking every site over HTTP all
//! the while, has seen the new release at the last of them.

mod checkout;
mod planet;
mod proxy;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Serialize;

use checkout::Checkout;
use planet::{Planet, StageMedian};
pub(crate) use proxy::{Proxy, proxy};

/// How long a site may take to show a release that was pushed.
const PATIENCE: Duration = Duration::from_secs(300);
/// Time between two rounds of asking the sites: the precision of `live`.
const ROUND: Duration = Duration::from_millis(10);
/// What the 95th percentile of a push should stay under.
const GOAL_MS: u64 = 5_000;

#[derive(Args)]
pub(crate) struct Push {
    /// The binary to measure; `make bench` builds it.
    #[arg(long, default_value = "target/release/selvedge", value_name = "FILE")]
    binary: PathBuf,
    /// How many pushes of each app are measured, after one that fills the caches.
    #[arg(long, default_value_t = 20)]
    pushes: usize,
    /// The example to push; can be given again.
    #[arg(long = "example", value_name = "NAME", default_values = ["static-site", "node-api"])]
    examples: Vec<String>,
    /// Print one JSON object in place of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    cores: usize,
    sites: usize,
    goal_ms: u64,
    apps: Vec<AppReport>,
}

#[derive(Serialize)]
struct AppReport {
    app: String,
    pushes: usize,
    /// Until `git push` returned.
    push_ms: Percentiles,
    /// Until the last site showed the release.
    live_ms: Percentiles,
    /// Medians over the releases that control still keeps.
    stages: Vec<StageMedian>,
}

#[derive(Serialize)]
struct Percentiles {
    p50: u64,
    p95: u64,
    max: u64,
}

impl Percentiles {
    /// By nearest rank.
    fn of(mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        let at = |percent: usize| {
            let rank = (samples.len() * percent).div_ceil(100).max(1);
            samples.get(rank - 1).copied().unwrap_or_default()
        };
        Self { p50: at(50), p95: at(95), max: at(100) }
    }
}

/// Measures, prints, and fails when a push fails.
pub(crate) fn push(root: &Path, options: &Push) -> anyhow::Result<()> {
    ensure!(options.pushes > 0, "--pushes is 0: there is nothing to measure");
    let binary = std::path::absolute(&options.binary)?;
    let planet = Planet::start(&binary)?;
    let mut apps = Vec::new();
    for example in &options.examples {
        apps.push(measure(root, &planet, example, options.pushes)?);
    }
    let report = Report {
        cores: std::thread::available_parallelism()?.get(),
        sites: planet.sites().len(),
        goal_ms: GOAL_MS,
        apps,
    };
    planet.stop()?;
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn measure(root: &Path, planet: &Planet, app: &str, pushes: usize) -> anyhow::Result<AppReport> {
    let mut checkout = Checkout::new(root, planet, app)?;
    eprintln!("{app}: first push, which fills the caches");
    checkout.push().with_context(|| format!("the first push of {app} failed"))?;
    let mut push_ms = Vec::new();
    let mut live_ms = Vec::new();
    for number in 1..=pushes {
        checkout.change(number)?;
        let (push, live) = timed_push(planet, &checkout)
            .with_context(|| format!("push {number} of {app} failed"))?;
        eprintln!("{app}: {number}/{pushes} pushed in {push} ms, live in {live} ms");
        push_ms.push(push);
        live_ms.push(live);
    }
    Ok(AppReport {
        app: app.to_owned(),
        pushes,
        push_ms: Percentiles::of(push_ms),
        live_ms: Percentiles::of(live_ms),
        stages: planet.stages(app)?,
    })
}

/// Pushes while asking the sites; milliseconds until the push returned and until all were new.
fn timed_push(planet: &Planet, checkout: &Checkout<'_>) -> anyhow::Result<(u64, u64)> {
    let host = planet.host(checkout.app());
    let old = planet
        .sites()
        .iter()
        .map(|site| site.release(&host))
        .collect::<anyhow::Result<Vec<_>>>()
        .context("a site does not serve the release before")?;
    let failed = AtomicBool::new(false);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| live_everywhere(planet, &host, &old, &failed));
        let pushed = checkout.push().inspect_err(|_| failed.store(true, Ordering::Relaxed));
        let push = started.elapsed();
        let live = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?;
        pushed?;
        Ok((millis(push), millis(live? - started)))
    })
}

fn live_everywhere(
    planet: &Planet,
    host: &str,
    old: &[String],
    failed: &AtomicBool,
) -> anyhow::Result<Instant> {
    let deadline = Instant::now() + PATIENCE;
    let mut waiting: Vec<_> = planet.sites().iter().zip(old).collect();
    loop {
        // A site that refuses a request just now is asked again in the next round.
        waiting.retain(|(site, old)| site.release(host).map_or(true, |new| new == **old));
        if waiting.is_empty() {
            return Ok(Instant::now());
        }
        ensure!(!failed.load(Ordering::Relaxed), "the push failed");
        ensure!(Instant::now() < deadline, "{} sites never showed the release", waiting.len());
        std::thread::sleep(ROUND);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn print(report: &Report) {
    println!("from git push to live at {} sites, {} cores, ms", report.sites, report.cores);
    println!(
        "{:<16}{:>8}{:>10}{:>10}{:>10}{:>10}",
        "app", "pushes", "push p50", "p95", "live p50", "p95"
    );
    for app in &report.apps {
        println!(
            "{:<16}{:>8}{:>10}{:>10}{:>10}{:>10}",
            app.app, app.pushes, app.push_ms.p50, app.push_ms.p95, app.live_ms.p50, app.live_ms.p95
        );
        let stages: Vec<_> =
            app.stages.iter().map(|StageMedian { stage, ms }| format!("{stage} {ms}")).collect();
        println!("  median of the stages: {}", stages.join(", "));
    }
    let met = report.apps.iter().all(|app| app.push_ms.p95 < report.goal_ms);
    println!("goal: p95 under {} ms: {}", report.goal_ms, if met { "met" } else { "missed" });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let twenty = Percentiles::of((1..=20).rev().collect());
        assert_eq!((twenty.p50, twenty.p95, twenty.max), (10, 19, 20));
        let one = Percentiles::of(vec![7]);
        assert_eq!((one.p50, one.p95, one.max), (7, 7, 7));
    }
}
