//! `selvedge proxy`, the engine alone, judged by programs of others.

mod alone;
mod app;
mod browser;
mod cache_tests;
mod disk;
mod floods;
mod programs;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A proxy in a process of its own; it ends with this.
struct Alone {
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
    http3: Option<SocketAddr>,
    process: Child,
}

impl Alone {
    /// Starts one before `upstream`, with further arguments.
    async fn start(upstream: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command.args(["proxy", "--json", "--listen", "127.0.0.1:0", "--upstream", upstream]);
        command.args(arguments);
        Self::run(command).await
    }

    /// Starts one that serves what a file says.
    async fn configured(file: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command.args(["proxy", "--json", "--config"]).arg(file);
        Self::run(command).await
    }

    async fn run(command: Command) -> Self {
        let (process, line) = start(command).await;
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| said[name].as_str().map(|it| it.parse().unwrap());
        Self { http: address("http"), https: address("https"), http3: address("http3"), process }
    }
}

/// A child whose first line is what it has to say.
async fn start(mut command: Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().expect("it says something");
    (child, line)
}
