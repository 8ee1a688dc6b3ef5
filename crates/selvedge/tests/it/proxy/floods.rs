//! What clients that send without end cost the proxy in memory: little for each connection, however
//! much they send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Alone;
use crate::harness::eventually;

/// Connections of each flood.
const CONNECTIONS: usize = 50;
/// What each sends at most.
const MAX_SENT: usize = 4 << 20;
/// What each may cost, with all that is kept of them behind: their buffers and what the allocator
/// keeps of those. Together they send much more.
const MAX_EACH: usize = 512 << 10;

type Next = fn(u32) -> Vec<u8>;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A `GET /` of no body, in a header block without names from the table.
fn get() -> Vec<u8> {
    let fields =
        [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
    let field = |(name, value): (&str, &str)| {
        let length = |text: &str| vec![u8::try_from(text.len()).unwrap()];
        [vec![0], length(name), name.into(), length(value), value.into()].concat()
    };
    fields.into_iter().flat_map(field).collect()
}

/// Sends `first`, and then what `next` makes, for as long as that is taken. What comes back is read if
/// `reads`.
async fn flood(address: SocketAddr, first: Vec<u8>, next: impl Fn(u32) -> Vec<u8>, reads: bool) {
    let Ok(stream) = TcpStream::connect(address).await else { return };
    let (mut read, mut write) = stream.into_split();
    let reading = async {
        let mut buffer = vec![0; 64 << 10];
        while reads && read.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        if !reads {
            std::future::pending::<()>().await;
        }
    };
    let writing = async {
        let mut sent = first.len();
        if write.write_all(&first).await.is_err() {
            return;
        }
        for number in 0.. {
            let more = next(number);
            sent += more.len();
            // Who takes no more holds what it has, which is what is measured.
            let taken = write.write_all(&more);
            let taken = tokio::time::timeout(std::time::Duration::from_millis(500), taken).await;
            if sent > MAX_SENT || !matches!(taken, Ok(Ok(()))) {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

/// Has the kernel forget the most memory that a process has had.
fn forget_peak(process: u32) {
    std::fs::write(format!("/proc/{process}/clear_refs"), "5").unwrap();
}

/// The most memory that a process has had since, in bytes.
fn peak(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_cost_little_memory() {
    let proxy = Alone::start("http://127.0.0.1:1", &["--shards", "1"]).await;
    let (address, process) = (proxy.http.unwrap(), proxy.process.id().unwrap());
    let floods: [(&str, Vec<u8>, Next, bool); 8] = [
        (
            "rapid reset",
            PREFACE.to_vec(),
            |number| {
                let stream = number * 2 + 1;
                [frame(1, 5, stream, &get()), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
            },
            true,
        ),
        (
            "a head without end",
            [PREFACE, &frame(1, 0, 1, &get())].concat(),
            |_| frame(9, 0, 1, &[&[0, 1, b'x', 0x7f, 0x80, 0x7f][..], &[b'y'; 16_255]].concat()),
            true,
        ),
        (
            "pings, unread answers",
            PREFACE.to_vec(),
            |_| frame(6, 0, 0, &[0; 8]).repeat(1000),
            false,
        ),
        ("settings, unread answers", PREFACE.to_vec(), |_| frame(4, 0, 0, &[]).repeat(1000), false),
        (
            "priorities of streams that are none",
            PREFACE.to_vec(),
            |number| frame(2, 0, number * 2 + 1, &[0, 0, 0, 0, 1]).repeat(100),
            true,
        ),
        (
            "a field without end",
            b"GET / HTTP/1.1\r\nhost: a.test\r\nx: ".to_vec(),
            |_| vec![b'x'; 4096],
            true,
        ),
        (
            "a head that is held near its limit",
            [&b"GET / HTTP/1.1\r\nx: "[..], &[b'x'; 30 << 10]].concat(),
            |_| b"x".to_vec(),
            true,
        ),
        ("fields without end", b"GET / HTTP/1.1\r\n".to_vec(), |_| b"x: y\r\n".repeat(100), true),
    ];
    for (name, first, next, reads) in floods {
        forget_peak(process);
        let before = peak(process);
        let mut all = JoinSet::new();
        for _ in 0..CONNECTIONS {
            all.spawn(flood(address, first.clone(), next, reads));
        }
        all.join_all().await;
        // The kernel counts roughly, and sometimes less than before.
        let grown = peak(process).saturating_sub(before);
        println!("{name}: {} KiB for each connection", grown / CONNECTIONS / 1024);
        assert!(grown < CONNECTIONS * MAX_EACH, "{name}: {grown} bytes");
    }
    // It is as well as before.
    eventually("it answers", async || {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.starts_with("HTTP/1.1 502 ").then_some(())
    })
    .await;
}
