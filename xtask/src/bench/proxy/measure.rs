//! One sample of a case at one proxy.

use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::case::{Case, OBJECT_SIZE, Over, TEXT_SIZE};
use super::check;
use super::client::{Connection, Connector};
use super::load::{Answered, Load};
use super::origin::{Origin, body};
use super::server::{Ground, Server};

/// Connections that fill a cache with many objects.
const FILLERS: u64 = 16;
/// Of objects that were put into a cache, what may be gone again, in parts of a thousand.
const MAX_GONE_PER_MILLE: u64 = 5;
/// Requests that ask for one object at the same time.
const WAITERS: usize = 1000;
/// Each so many of the idle connections asks a second time, to show that it is still there.
const STILL_THERE: usize = 100;
/// What the simultaneous requests ask for.
const COLLAPSED_SIZE: usize = 10 * 1024;

/// What samples are taken with.
pub(super) struct Bench<'a> {
    pub(super) ground: Ground<'a>,
    pub(super) origin: &'a Origin,
    pub(super) seconds: u64,
    pub(super) objects: u64,
    pub(super) connections: usize,
}

/// A case of requests for one object, in terms of what is asked and where it must come from.
struct Asked {
    path: String,
    size: usize,
    over: Over,
    cached: bool,
}

impl Asked {
    fn of(case: Case, server: &Server) -> anyhow::Result<Self> {
        let (size, over, cached) = match case {
            Case::Hit { size, over } => (size, over, true),
            Case::Compressed => (TEXT_SIZE, Over::H1, true),
            Case::Proxied { size, over } => (size, over, false),
            // A proxy without a cache passes the one request on.
            Case::Handshakes => {
                let cached = server.peer().lacks(Case::Objects).is_none();
                (OBJECT_SIZE, Over::H1Tls, cached)
            }
            _ => anyhow::bail!("{case} is not about one object"),
        };
        let kind = match (case, cached) {
            (Case::Compressed, _) => "text",
            (_, true) => "hit",
            (_, false) => "proxied",
        };
        Ok(Self { path: format!("/{kind}/{size}"), size, over, cached })
    }
}

impl Bench<'_> {
    /// That the proxy does what the case is about.
    pub(super) fn check(&self, case: Case, server: &Server) -> anyhow::Result<()> {
        let Asked { path, size, over, cached } = Asked::of(case, server)?;
        if cached {
            let gzip = case == Case::Compressed;
            check::hits(server, self.origin, over, &path, size, gzip)
        } else {
            check::passes(server, self.origin, over, &path, size)
        }
    }

    /// CPU µs per request for one object.
    pub(super) fn requests(&self, case: Case, server: &Server) -> anyhow::Result<f64> {
        let Asked { path, size, over, cached } = Asked::of(case, server)?;
        // Letters at random take more than four bits each, compressed as well as can be.
        let least = if case == Case::Compressed { size / 2 } else { size };
        let load = self.load(&path, least);
        let asked_before = self.origin.requests();
        let (answered, micros) = timed(server, || match case {
            Case::Compressed => load.compressed(server),
            Case::Handshakes => load.handshakes(server),
            _ => load.run(server, over),
        })?;
        let asked = self.origin.requests() - asked_before;
        if cached {
            ensure!(asked == 0, "{asked} of {} hits reached the origin", answered.requests);
        } else {
            ensure!(asked >= answered.requests, "{asked} of {} requests", answered.requests);
        }
        Ok(micros)
    }

    fn load<'b>(&'b self, path: &'b str, size: usize) -> Load<'b> {
        Load {
            children: self.ground.children,
            directory: self.ground.directory,
            path,
            size,
            seconds: self.seconds,
        }
    }

    /// Bytes of memory for each connection that has asked once and stays.
    pub(super) fn idle(&self, server: &Server, encrypted: bool) -> anyhow::Result<f64> {
        let path = format!("/hit/{OBJECT_SIZE}");
        let want = body(OBJECT_SIZE);
        let connector = if encrypted {
            Connector::tls(server.address(true), server.chain())?
        } else {
            Connector::plain(server.address(false))
        };
        let open = || -> anyhow::Result<Connection> {
            self.ground.children.check()?;
            let mut connection = connector.connect()?;
            ask(&mut connection, &path, &want)?;
            Ok(connection)
        };
        // What a first connection brings about once does not count.
        let first = open()?;
        let before = server.memory()?;
        let mut connections = Vec::with_capacity(self.connections);
        for number in 1..=self.connections {
            connections.push(open().with_context(|| format!("connection {number}"))?);
        }
        let after = server.memory()?;
        for connection in connections.iter_mut().step_by(STILL_THERE) {
            ask(connection, &path, &want).context("a connection is no longer there")?;
        }
        drop(first);
        share(after.saturating_sub(before), self.connections)
    }

    /// Fills the cache; bytes of all the proxy's memory for each object.
    pub(super) fn fill(&self, server: &Server) -> anyhow::Result<f64> {
        let connector = Connector::plain(server.address(false));
        let want = body(OBJECT_SIZE);
        let asked_before = self.origin.requests();
        let fill = |filler: u64| -> anyhow::Result<()> {
            let mut connection = connector.connect()?;
            for object in (1..=self.objects).filter(|object| object % FILLERS == filler) {
                if object % 1024 < FILLERS {
                    self.ground.children.check()?;
                }
                ask(&mut connection, &format!("/hit/{OBJECT_SIZE}/{object}"), &want)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let fillers: Vec<_> =
                (0..FILLERS).map(|filler| scope.spawn(move || fill(filler))).collect();
            fillers.into_iter().try_for_each(|filler| match filler.join() {
                Ok(filled) => filled.context("filling the cache"),
                Err(_) => anyhow::bail!("a filler panicked"),
            })
        })?;
        let asked = self.origin.requests() - asked_before;
        ensure!(asked >= self.objects, "of {} objects the origin gave {asked}", self.objects);
        share(server.memory()?, usize::try_from(self.objects)?)
    }

    /// CPU µs per request for objects at random among those of [`Self::fill`].
    pub(super) fn objects(&self, server: &Server) -> anyhow::Result<f64> {
        let load = self.load("/hit/1024", OBJECT_SIZE);
        let asked_before = self.origin.requests();
        let (answered, micros) = timed(server, || load.objects(server, self.objects))?;
        let asked = self.origin.requests() - asked_before;
        ensure!(
            asked * 1000 <= answered.requests * MAX_GONE_PER_MILLE,
            "of {} requests {asked} found their object gone",
            answered.requests
        );
        Ok(micros)
    }

    /// Requests that reach the origin when many ask for the same new object at once.
    pub(super) fn collapse(&self, server: &Server, run: usize) -> anyhow::Result<f64> {
        let path = format!("/slow/{COLLAPSED_SIZE}/{run}");
        let want = body(COLLAPSED_SIZE);
        let connector = Connector::plain(server.address(false));
        let connections: anyhow::Result<Vec<_>> =
            (0..WAITERS).map(|_| connector.connect()).collect();
        let mut connections = connections?;
        let asked_before = self.origin.requests();
        for connection in &mut connections {
            connection.ask(&path)?;
        }
        for connection in &mut connections {
            self.ground.children.check()?;
            ensure!(connection.answer()? == want, "the body is not the origin's");
        }
        Ok(f64::from(u32::try_from(self.origin.requests() - asked_before)?))
    }
}

fn ask(connection: &mut Connection, path: &str, want: &[u8]) -> anyhow::Result<()> {
    connection.ask(path)?;
    ensure!(connection.answer()? == want, "the body is not the origin's");
    Ok(())
}

/// The CPU time of the server over a load, in µs for each request answered.
fn timed(
    server: &Server,
    load: impl FnOnce() -> anyhow::Result<Answered>,
) -> anyhow::Result<(Answered, f64)> {
    let (before, began) = (server.cpu_times()?, Instant::now());
    let answered = load()?;
    let used = server.cpu_times()?.since(&before);
    ensure!(used <= began.elapsed() * 2, "more CPU time than one core has");
    let micros = used.as_secs_f64() * 1e6 / f64::from(u32::try_from(answered.requests)?);
    Ok((answered, micros))
}

fn share(bytes: u64, among: usize) -> anyhow::Result<f64> {
    ensure!(among > 0, "shared among none");
    Ok(f64::from(u32::try_from(bytes / 1024)?) * 1024.0 / f64::from(u32::try_from(among)?))
}
