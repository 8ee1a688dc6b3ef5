//! For the tests: the shim as an executable, and a process that keeps a workload until it is
//! killed.
#![allow(clippy::print_stdout, reason = "it talks to the test over standard output")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use selvedge_runtime::{Config, Limits, Runtime, SHIM_VERB, TaskSpec, WorkloadSpec, WorkloadState};
use tokio::sync::mpsc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(SHIM_VERB) => selvedge_runtime::shim_main(),
        Some("keep") => {
            let mut next = || arguments.next().ok_or("keep DIRECTORY COMMAND");
            let (directory, command) = (PathBuf::from(next()?), next()?);
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(keep(directory, command))
        }
        Some("run") => {
            let mut next = || arguments.next().ok_or("run DIRECTORY COMMAND safe|unsafe");
            let (directory, command) = (PathBuf::from(next()?), next()?);
            let allow_unsafe = next()? == "unsafe";
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(run(directory, command, allow_unsafe))
        }
        Some("degraded") => {
            let directory = PathBuf::from(arguments.next().ok_or("degraded DIRECTORY")?);
            for problem in Runtime::new(config(&directory))?.degraded() {
                println!("{problem}");
            }
            Ok(())
        }
        _ => Err("shim, keep, run or degraded".into()),
    }
}

const LIMITS: Limits = Limits { memory_mib: 256, cpu_millis: None, processes: 512, disk_mib: 128 };

fn config(directory: &Path) -> Config {
    let mut config = Config::new("/proc/self/exe".into(), directory.join("state"));
    config.tenants = directory.join("tenants/table");
    config.allow_unsafe = true;
    config
}

/// Runs a task and prints its output and how it ended.
async fn run(
    directory: PathBuf,
    command: String,
    allow_unsafe: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::new(Config { allow_unsafe, ..config(&directory) })?;
    let (sender, mut receiver) = mpsc::channel(16);
    let spec = TaskSpec {
        name: "run".into(),
        tenant: "run".into(),
        app: directory.join("app"),
        cache: directory.join("cache"),
        command,
        environment: BTreeMap::new(),
        timeout: Duration::from_secs(60),
        limits: Limits { memory_mib: 512, ..LIMITS },
        network: true,
    };
    let lines = async {
        while let Some(line) = receiver.recv().await {
            println!("{line}");
        }
    };
    let (outcome, ()) = tokio::join!(runtime.run_task(spec, sender), lines);
    match outcome {
        Ok(outcome) => println!("{outcome:?}"),
        Err(error) => println!("{error}"),
    }
    Ok(())
}

/// Keeps a workload until killed.
async fn keep(directory: PathBuf, command: String) -> Result<(), Box<dyn std::error::Error>> {
    let workload = Runtime::new(config(&directory))?.start(WorkloadSpec {
        name: "kept".into(),
        tenant: "kept".into(),
        app: directory.join("app"),
        command,
        environment: BTreeMap::new(),
        health: None,
        start_timeout: Duration::from_secs(30),
        stop_timeout: Duration::from_secs(5),
        limits: LIMITS,
        output: None,
    });
    workload.state().wait_for(|state| *state == WorkloadState::Ready).await?;
    println!("ready");
    std::future::pending().await
}
