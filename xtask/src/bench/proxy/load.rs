//! What puts load on a proxy for some seconds: wrk for HTTP/1.1, h2load for HTTP/2, and a client of
//! our own for HTTP/3, which Debian's h2load does not speak.

mod h3;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use super::LOAD_CORE;
use super::case::Over;
use super::children::{Children, Output};
use super::peers::found;
use super::server::Server;
pub(super) use h3::Client as H3Client;

/// What a client says that takes gzip.
pub(super) const ACCEPT_GZIP: &str = "Accept-Encoding: gzip";

/// From here on fewer connections ask, so that what is under way when the time is over does not
/// weigh in the result.
const LARGE: usize = 1024 * 1024;

/// What a load program got.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) requests: u64,
    /// Of bodies at least.
    pub(super) bytes: u64,
}

/// What is asked for.
pub(super) struct Load<'a> {
    pub(super) children: &'a Children,
    pub(super) directory: &'a Path,
    pub(super) path: &'a str,
    pub(super) size: usize,
    pub(super) seconds: u64,
}

#[derive(Deserialize)]
struct WrkSums {
    requests: u64,
    bytes: u64,
    refused: u64,
    broken: u64,
}

impl Load<'_> {
    pub(super) fn run(&self, server: &Server, over: Over) -> anyhow::Result<Answered> {
        let answered = match over {
            Over::H1 | Over::H1Tls => self.wrk(server, over, &[], None),
            Over::H2 => self.h2load(server),
            Over::H3 => self.h3(server),
        }?;
        self.whole(answered)
    }

    /// A connection for every request, over TLS.
    pub(super) fn handshakes(&self, server: &Server) -> anyhow::Result<Answered> {
        let close = ["-H", "Connection: close"];
        self.whole(self.wrk(server, Over::H1Tls, &close, None)?)
    }

    /// Over HTTP/1.1, by a client that takes gzip.
    pub(super) fn compressed(&self, server: &Server) -> anyhow::Result<Answered> {
        self.whole(self.wrk(server, Over::H1, &["-H", ACCEPT_GZIP], None)?)
    }

    /// One of many objects below the path, at random.
    pub(super) fn objects(&self, server: &Server, objects: u64) -> anyhow::Result<Answered> {
        self.whole(self.wrk(server, Over::H1, &[], Some(objects))?)
    }

    fn whole(&self, answered: Answered) -> anyhow::Result<Answered> {
        ensure!(answered.requests > 0, "no request was answered");
        let least = answered.requests * u64::try_from(self.size)?;
        ensure!(answered.bytes >= least, "{} bytes are not {least}: {answered:?}", answered.bytes);
        Ok(answered)
    }

    fn wrk(
        &self,
        server: &Server,
        over: Over,
        more: &[&str],
        objects: Option<u64>,
    ) -> anyhow::Result<Answered> {
        let mut script = include_str!("load/wrk.lua").to_owned();
        if objects.is_some() {
            script.push_str(include_str!("load/objects.lua"));
        }
        let file = self.directory.join("wrk.lua");
        std::fs::write(&file, script)?;
        let connections = if self.size < LARGE { 64 } else { 8 };
        let mut command = Command::new(found("wrk"));
        command.args(["-t1", &format!("-c{connections}"), &format!("-d{}s", self.seconds)]);
        command.args(["--timeout", "10s"]).args(more).arg("-s").arg(file);
        command.arg(server.url(over, self.path));
        if let Some(objects) = objects {
            command.args(["--", &format!("{}/", self.path), &objects.to_string()]);
        }
        let printed = self.children.spawn(LOAD_CORE, &command, Output::Read)?.finish();
        wrk_answered(&printed.context("wrk failed")?)
    }

    /// Connections, and streams on each.
    fn multiplexed(&self) -> (usize, usize) {
        match self.size {
            size if size >= LARGE => (4, 2),
            size if size >= 100 * 1024 => (16, 8),
            _ => (16, 16),
        }
    }

    fn h3(&self, server: &Server) -> anyhow::Result<Answered> {
        let (connections, streams) = self.multiplexed();
        let client = h3::Client::new(server.address(true), server.chain())?;
        let until = Instant::now() + Duration::from_secs(self.seconds);
        client.load(self.path, connections, streams, self.size, until)
    }

    fn h2load(&self, server: &Server) -> anyhow::Result<Answered> {
        let (connections, streams) = self.multiplexed();
        let mut command = Command::new(found("h2load"));
        command.args(["-t1", &format!("-c{connections}"), &format!("-m{streams}")]);
        command.arg(format!("-D{}", self.seconds));
        command.arg(format!("--connect-to={}", server.address(true)));
        command.arg(server.url(Over::H2, self.path));
        let printed = self.children.spawn(LOAD_CORE, &command, Output::Read)?.finish();
        h2load_answered(&printed.context("h2load failed")?)
    }
}

fn wrk_answered(printed: &str) -> anyhow::Result<Answered> {
    let line = printed.lines().find(|line| line.starts_with('{')).context("wrk printed no sums")?;
    let WrkSums { requests, bytes, refused, broken } = serde_json::from_str(line)?;
    ensure!(refused == 0, "{refused} answers with an error's status");
    ensure!(broken == 0, "{broken} broken connections");
    Ok(Answered { requests, bytes })
}

fn h2load_answered(printed: &str) -> anyhow::Result<Answered> {
    let line = |name: &str| {
        let mut lines = printed.lines();
        lines.find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))
    };
    let (requests, statuses, traffic) =
        (line("requests: ")?, line("status codes: ")?, line("traffic: ")?);
    // "12 total, 9 started, ..."
    let count = |list: &str, name: &str| -> anyhow::Result<u64> {
        let mut entries = list.split(", ").filter_map(|entry| entry.split_once(' '));
        let entry = entries.find(|(_, found)| *found == name);
        let (number, _) = entry.with_context(|| format!("h2load printed no {name}"))?;
        Ok(number.parse()?)
    };
    for wrong in ["failed", "errored", "timeout"] {
        let wrongs = count(requests, wrong)?;
        ensure!(wrongs == 0, "{wrongs} requests {wrong}");
    }
    for wrong in ["3xx", "4xx", "5xx"] {
        let wrongs = count(statuses, wrong)?;
        ensure!(wrongs == 0, "{wrongs} answers of {wrong}");
    }
    // "... headers (space savings 1.00%), 1.00KB (1024) data"
    let data = traffic.rsplit(", ").next().and_then(|data| data.split_once('('));
    let (bytes, _) = data.and_then(|(_, rest)| rest.split_once(')')).context("no bytes of data")?;
    Ok(Answered { requests: count(requests, "succeeded")?, bytes: bytes.parse()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_with_an_error_does_not_count() {
        let fine = "Running\n{\"requests\":3,\"bytes\":9,\"refused\":0,\"broken\":0}\n";
        assert_eq!(wrk_answered(fine).unwrap(), Answered { requests: 3, bytes: 9 });
        assert!(wrk_answered(&fine.replace("\"broken\":0", "\"broken\":1")).is_err());
        assert!(wrk_answered(&fine.replace("\"refused\":0", "\"refused\":1")).is_err());
    }

    #[test]
    fn h2load_with_an_error_does_not_count() {
        let fine = "finished in 1.00s, 5.00 req/s, 5.1KB/s\n\
            requests: 5 total, 5 started, 5 done, 5 succeeded, 0 failed, 0 errored, 0 timeout\n\
            status codes: 5 2xx, 0 3xx, 0 4xx, 0 5xx\n\
            traffic: 5.16KB (5280) total, 40B (40) headers (space savings 9.12%), 5.00KB (5120) data\n";
        assert_eq!(h2load_answered(fine).unwrap(), Answered { requests: 5, bytes: 5120 });
        assert!(h2load_answered(&fine.replace("0 errored", "1 errored")).is_err());
        assert!(h2load_answered(&fine.replace("0 5xx", "1 5xx")).is_err());
    }
}
