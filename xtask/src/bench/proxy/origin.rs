//! The origin behind every proxy of a comparison: known bodies by path, and a count of requests.
//!
//! `/hit/SIZE`, and anything below it, may be cached for an hour, as may `/text/SIZE`, which proxies
//! are to compress; `/proxied/SIZE` may not be stored;
//! `/slow/SIZE/...` may be cached too, but is answered only after [`DELAY`], so that requests for
//! one of them meet. It runs inside the benchmark's own process, and so on the load's core. It
//! reads GET requests over HTTP/1.1 and nothing else.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

/// How long a slow answer takes.
const DELAY: Duration = Duration::from_secs(1);
/// A request of a peer is within this many bytes.
const MAX_HEAD: usize = 16 * 1024;
/// A thread reads and writes, and needs no more.
const STACK: usize = 128 * 1024;

/// The bytes of a body of `size`: the same ones at every call, and not compressible to nothing.
pub(super) fn body(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let letter = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + u8::try_from(state >> 24).unwrap_or_default() % 26
    };
    (0..size).map(letter).collect()
}

/// A running origin; it ends with the process.
pub(super) struct Origin {
    port: u16,
    requests: Arc<AtomicU64>,
}

impl Origin {
    /// Listens on a free port of the loopback.
    pub(super) fn start(sizes: &[usize]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
        let port = listener.local_addr()?.port();
        let requests = Arc::new(AtomicU64::new(0));
        let bodies: Arc<BTreeMap<usize, Vec<u8>>> =
            Arc::new(sizes.iter().map(|size| (*size, body(*size))).collect());
        let count = Arc::clone(&requests);
        std::thread::Builder::new().name("origin".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let (bodies, count) = (Arc::clone(&bodies), Arc::clone(&count));
                let serve = move || {
                    // A peer that goes away, or asks for what is not here, loses its connection
                    // and sees to it that the run is thrown away.
                    let _ = serve(stream, &bodies, &count);
                };
                let thread = std::thread::Builder::new().stack_size(STACK);
                if thread.spawn(serve).is_err() {
                    continue;
                }
            }
        })?;
        Ok(Self { port, requests })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Requests read since the start.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

fn serve(
    mut stream: TcpStream,
    bodies: &BTreeMap<usize, Vec<u8>>,
    requests: &AtomicU64,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(MAX_HEAD);
    let mut answer = Vec::new();
    while read_head(&mut stream, &mut buffer)? {
        requests.fetch_add(1, Ordering::SeqCst);
        let (kind, size) = asked(&buffer).context("no path of this origin")?;
        let body = bodies.get(&size).context("no body of this size")?;
        if kind == "slow" {
            std::thread::sleep(DELAY);
        }
        let caching = if kind == "proxied" { "no-store" } else { "max-age=3600" };
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now())?;
        answer.clear();
        write!(
            answer,
            "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: {date}\r\nContent-Type: text/plain\r\n\
             Content-Length: {size}\r\nCache-Control: {caching}\r\nETag: \"{size}\"\r\n\r\n"
        )?;
        answer.extend_from_slice(body);
        stream.write_all(&answer)?;
    }
    Ok(())
}

/// Reads one request's head into the buffer; false when the connection has ended before one.
fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<bool> {
    buffer.clear();
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(false);
        }
        buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
        if buffer.ends_with(b"\r\n\r\n") {
            return Ok(true);
        }
        ensure!(buffer.len() < MAX_HEAD, "a head of more than {MAX_HEAD} bytes");
    }
}

/// The first two segments of the path in a request's head.
fn asked(head: &[u8]) -> Option<(&str, usize)> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let path = std::str::from_utf8(line).ok()?.strip_prefix("GET /")?.split(' ').next()?;
    let mut segments = path.split('/');
    let kind = segments.next()?;
    let size = segments.next()?.parse().ok()?;
    Some((kind, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_kind_and_a_size() {
        assert_eq!(asked(b"GET /hit/1024 HTTP/1.1\r\nHost: a\r\n\r\n"), Some(("hit", 1024)));
        assert_eq!(asked(b"GET /slow/10/7/8 HTTP/1.1\r\n\r\n"), Some(("slow", 10)));
        assert_eq!(asked(b"POST /hit/1024 HTTP/1.1\r\n\r\n"), None);
        assert_eq!(asked(b"GET /hit/x HTTP/1.1\r\n\r\n"), None);
    }

    #[test]
    fn a_body_has_its_size_and_is_the_same_again() {
        assert_eq!(body(1000).len(), 1000);
        assert_eq!(body(1000), body(1000));
        assert_ne!(body(4).first(), body(4).last());
    }
}
