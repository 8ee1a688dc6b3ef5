//! Whether a workload is ready: its port accepts, or a path answers.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::link::Link;

/// A program that is asked at the wrong moment may never answer; the next question is cheap.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Asks until the workload is ready. `last` gets what was wrong the last time, in words.
pub(crate) async fn wait(link: &Link, health: Option<&str>, last: &mut String) {
    let mut pause = FIRST_PAUSE;
    loop {
        match ask(link, health).await {
            Ok(()) => return,
            Err(reason) => *last = reason,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn ask(link: &Link, health: Option<&str>) -> Result<(), String> {
    let mut stream = link.connect().await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens on $PORT".to_owned(),
        _ => format!("$PORT can't be connected to: {error}"),
    })?;
    let Some(path) = health else { return Ok(()) };
    match tokio::time::timeout(ANSWER_TIMEOUT, status(&mut stream, path)).await {
        Ok(Ok(200..=399)) => Ok(()),
        Ok(Ok(status)) => Err(format!("GET {path} answered {status}")),
        Ok(Err(error)) => Err(format!("GET {path} failed: {error}")),
        Err(_) => Err(format!("GET {path} gave no answer in {} s", ANSWER_TIMEOUT.as_secs())),
    }
}

/// The status of a GET (RFC 9112 §4).
async fn status(stream: &mut TcpStream, path: &str) -> io::Result<u16> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nuser-agent: selvedge-health\r\n\
         accept: */*\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    std::str::from_utf8(&head)
        .ok()
        .and_then(|head| head.strip_prefix("HTTP/1.")?.get(2..)?.parse().ok())
        .ok_or_else(|| io::Error::other("the answer is not HTTP/1.1"))
}

/// Ports on which something listens in the network namespace of a process, but the runtime's own.
/// For a hint; empty when it can't be told.
pub(crate) fn listening_ports(pid: u32, own: u16) -> Vec<u16> {
    const LISTEN: &str = "0A";
    let mut ports: Vec<u16> = ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .flat_map(|table| {
            table
                .lines()
                .filter_map(|line| {
                    let mut fields = line.split_ascii_whitespace().skip(1);
                    let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
                    let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
                    (state == LISTEN && port != own).then_some(port)
                })
                .collect::<Vec<_>>()
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}
