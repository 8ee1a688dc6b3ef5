//! For the tests: the shim as an executable, and a process that keeps a workload until it is
//! killed.
#![allow(clippy::print_stdout, reason = "it talks to the test over standard output")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use selvedge_runtime::{Config, Runtime, SHIM_VERB, WorkloadSpec, WorkloadState};

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
        _ => Err("shim, or keep DIRECTORY COMMAND".into()),
    }
}

async fn keep(directory: PathBuf, command: String) -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::new("/proc/self/exe".into(), directory.join("state"));
    config.tenants = directory.join("tenants/table");
    let workload = Runtime::new(config)?.start(WorkloadSpec {
        name: "kept".into(),
        tenant: "kept".into(),
        app: directory.join("app"),
        command,
        environment: BTreeMap::new(),
        health: None,
        start_timeout: Duration::from_secs(30),
        stop_timeout: Duration::from_secs(5),
        memory_mib: 256,
        log: None,
    });
    workload.state().wait_for(|state| *state == WorkloadState::Ready).await?;
    println!("ready");
    std::future::pending().await
}
