//! `selvedge proxy`, the engine alone, judged by programs of others.

mod alone;
mod cache_tests;

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A proxy in a process of its own; it ends with this.
struct Alone {
    http: SocketAddr,
    _process: Child,
}

impl Alone {
    /// Starts one before `upstream`, with further arguments.
    async fn start(upstream: &str, arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_selvedge"))
            .args(["proxy", "--json", "--listen", "127.0.0.1:0", "--upstream", upstream])
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("it says where it serves");
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let http = said["http"].as_str().unwrap().parse().unwrap();
        Self { http, _process: process }
    }
}
