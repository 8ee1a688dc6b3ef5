//! Clients of HTTP/2 that send what costs more than it costs them: each is sent away, and the site
//! serves others.

use selvedge_proxy::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::clients::Client;
use crate::downgrade::{block, frame};
use crate::site::{HOST, PATIENCE, Site, app, files};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];
const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame of any stream.
fn on(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame(kind, flags, 0, payload);
    frame[5..9].copy_from_slice(&stream.to_be_bytes());
    frame
}

fn get() -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", "/")])
}

/// The error that a connection is ended with; none when it is closed without one. `next` makes what is
/// sent, for as long as it is taken.
async fn flood(site: &Site, mut next: impl FnMut(u32) -> Vec<u8> + Send + 'static) -> Option<u32> {
    let (mut read, mut write) = TcpStream::connect(site.http).await.unwrap().into_split();
    let sending = tokio::spawn(async move {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        write.write_all(&[&preface[..], &frame(SETTINGS, 0, 0, &[])].concat()).await?;
        for number in 0..1_000_000 {
            write.write_all(&next(number)).await?;
        }
        Ok::<_, std::io::Error>(())
    });
    let end = async {
        loop {
            let mut head = [0; 9];
            read.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            read.read_exact(&mut payload).await.ok()?;
            if head[3] == GOAWAY {
                return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
    };
    let end = tokio::time::timeout(PATIENCE, end).await.expect("the client is sent away");
    sending.abort();
    end
}

#[tokio::test]
async fn clients_that_flood_are_sent_away() {
    let target = files(&[("index.html", "page")]);
    let site = Site::with_limits(app(Some(1), vec![(1, target)]), Limits::default()).await;
    let stream = |number: u32| number * 2 + 1;

    // Rapid reset (CVE-2023-44487): taken back before they are looked at.
    let resets = move |number| {
        let one = |number| {
            let head = on(stream(number), HEADERS, END_STREAM | END_HEADERS, &get());
            [head, on(stream(number), RST_STREAM, 0, &CANCEL)].concat()
        };
        (0..100).flat_map(|more| one(number * 100 + more)).collect()
    };
    assert_eq!(flood(&site, resets).await, Some(ENHANCE_YOUR_CALM), "rapid reset");

    // A head without end (CVE-2024-27316 and others).
    let continued = move |number| match number {
        0 => on(1, HEADERS, 0, &get()),
        _ => on(1, CONTINUATION, 0, &block(&[("x", &"y".repeat(200))])),
    };
    assert_eq!(flood(&site, continued).await, Some(ENHANCE_YOUR_CALM), "continuation flood");

    // MadeYouReset (CVE-2025-8671): the server has to take streams back.
    let mistaken = move |number| {
        let head = on(stream(number), HEADERS, END_HEADERS, &get());
        [head, on(stream(number), WINDOW_UPDATE, 0, &[0; 4])].concat()
    };
    assert_eq!(flood(&site, mistaken).await, Some(PROTOCOL_ERROR), "a window that does not grow");
    let too_wide = move |number| {
        let head = on(stream(number), HEADERS, END_HEADERS, &get());
        [head, on(stream(number), WINDOW_UPDATE, 0, &[0x7f, 0xff, 0xff, 0xff])].concat()
    };
    assert_eq!(flood(&site, too_wide).await, Some(ENHANCE_YOUR_CALM), "a window beyond all");

    // A head that is small on the wire: one large field in the table, named again and again.
    let mut bomb = get();
    bomb.push(0x40);
    bomb.extend([1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend([b'y'; 4000]);
    bomb.extend([0xbe; 12_000]);
    let bomb = move |number| on(stream(number), HEADERS, END_STREAM | END_HEADERS, &bomb);
    assert!(flood(&site, bomb).await.is_some(), "HPACK bomb");

    // The same by data beyond what the head says.
    let too_long = move |number| {
        let fields =
            [(":method", "POST"), (":scheme", "http"), (":authority", HOST), (":path", "/")];
        let head = block(&[&fields[..], &[("content-length", "1")]].concat());
        let head = on(stream(number), HEADERS, END_HEADERS, &head);
        [head, on(stream(number), DATA, 0, b"more")].concat()
    };
    assert_eq!(flood(&site, too_long).await, Some(ENHANCE_YOUR_CALM), "more data than said");

    // Frames of no use, on a stream that was never opened.
    let idle = move |_| on(1, DATA, 0, &[]);
    assert_eq!(flood(&site, idle).await, Some(PROTOCOL_ERROR), "data on no stream");

    let mut client = Client::plain_h2(&site).await;
    assert_eq!(client.get("/").await.text(), "page");
}

#[tokio::test]
async fn header_blocks_that_can_not_be_read_end_the_connection() {
    let target = files(&[("index.html", "page")]);
    let site = Site::start(app(Some(1), vec![(1, target)])).await;
    for (name, bad) in [
        ("an index that nothing has", &[0xfe][..]),
        ("a number without end", &[0xff; 20]),
        ("a string longer than the block", &[0, 0x7f, 0xff, 0x7f, b'x']),
        ("a table larger than allowed", &[0x3f, 0xff, 0xff, 0x7f]),
    ] {
        let bad = bad.to_vec();
        let bad = move |number| on(number * 2 + 1, HEADERS, END_STREAM | END_HEADERS, &bad);
        // RFC 9113, section 4.3, has a code of its own for this, which h2 does not use.
        assert_eq!(flood(&site, bad).await, Some(PROTOCOL_ERROR), "{name}");
    }
    let mut client = Client::plain_h2(&site).await;
    assert_eq!(client.get("/").await.text(), "page");
}
