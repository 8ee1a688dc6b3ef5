//! Requests of HTTP/2 that would be something else in HTTP/1.1, for an upstream that speaks that.
//! They are written frame by frame, since no client library sends them.

use std::sync::{Arc, Mutex};

use selvedge_proxy::{Target, Upstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::clients::Client;
use crate::site::{HOST, PATIENCE, Site, app};
use crate::workloads::{read_head, scripted};

type Fields<'a> = Vec<(&'a str, &'a str)>;

/// A header block in which nothing is indexed or compressed (RFC 7541, section 6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let text = |block: &mut Vec<u8>, text: &str| {
        assert!(text.len() < 127 + 128);
        match u8::try_from(text.len()).unwrap().checked_sub(127) {
            None => block.push(text.len() as u8),
            Some(more) => block.extend([127, more]),
        }
        block.extend(text.as_bytes());
    };
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// What comes of a request: the status, or none when the stream or the connection is ended.
async fn send(site: &Site, fields: &[(&str, &str)], body: Option<&[u8]>) -> Option<String> {
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    let ends = if body.is_some() { 4 } else { 5 };
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    request.extend(frame(4, 0, 0, &[]));
    request.extend(frame(1, ends, 1, &block(fields)));
    request.extend(body.map(|body| frame(0, 1, 1, body)).unwrap_or_default());
    stream.write_all(&request).await.unwrap();
    let answer = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return None;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.unwrap();
            match head[3] {
                1 => return Some(status(&payload)),
                // RST_STREAM, GOAWAY
                3 | 7 => return None,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, answer).await.expect("something comes of it")
}

/// The status that a header block begins with: one of the static table's, or spelled out.
fn status(block: &[u8]) -> String {
    match block {
        [0x88, ..] => "200".to_owned(),
        [0x8c, ..] => "400".to_owned(),
        _ => "other".to_owned(),
    }
}

/// A site whose upstream notes every byte that it is sent.
async fn site() -> (Site, Arc<Mutex<String>>) {
    let seen = Arc::new(Mutex::new(String::new()));
    let noted = Arc::clone(&seen);
    let connect = scripted(move |_, mut stream| {
        let seen = Arc::clone(&noted);
        async move {
            loop {
                let head = read_head(&mut stream).await;
                seen.lock().unwrap().push_str(&head);
                if head.is_empty() {
                    return;
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    let upstream = Upstream::new("web of shop".into(), connect);
    let target = Target::Workload(Arc::new(upstream));
    (Site::start(app(Some(1), vec![(1, target)])).await, seen)
}

fn get<'a>(change: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Fields<'a> {
    let mut fields =
        vec![(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", "/")];
    for (name, value) in change {
        fields.iter_mut().filter(|field| field.0 == *name).for_each(|field| field.1 = value);
    }
    fields.extend(more);
    fields
}

#[tokio::test]
async fn nothing_of_http2_becomes_a_second_request_or_header() {
    let (site, seen) = site().await;
    assert_eq!(send(&site, &get(&[], &[("x-good", "1")]), None).await.unwrap(), "200");
    assert_eq!(send(&site, &get(&[], &[("te", "trailers")]), None).await.unwrap(), "200");
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")];
    assert_eq!(send(&site, &get(&[], &crumbs), None).await.unwrap(), "200");
    let good = std::mem::take(&mut *seen.lock().unwrap());
    assert!(good.contains("cookie: a=1; b=2; c=3; d=4\r\n"), "{good}");
    assert!(good.contains("x-good: 1\r\n") && good.contains("te: trailers\r\n"), "{good}");
    assert!(good.contains("connection: te\r\n"), "{good}");

    let split = "/ HTTP/1.1\r\nhost: x\r\n\r\nGET /evil";
    let cases: Vec<Fields> = vec![
        get(&[(":path", split)], &[]),
        get(&[(":path", "/evil HTTP/1.1")], &[]),
        get(&[(":path", "/evil\r\nx: y")], &[]),
        get(&[(":path", "/evil\nx: y")], &[]),
        get(&[(":path", "/evil\0")], &[]),
        get(&[(":path", "evil")], &[]),
        get(&[(":path", "http://evil/")], &[]),
        get(&[(":path", "")], &[]),
        get(&[(":method", "GET /evil HTTP/1.1\r\nx: y\r\n\r\nGET")], &[]),
        get(&[(":method", "GET /evil")], &[]),
        get(&[(":method", "")], &[]),
        get(&[(":scheme", "http\r\nevil: 1")], &[]),
        get(&[(":scheme", "http://evil/?")], &[]),
        get(&[(":authority", "shop.edge.test\r\nevil: 1")], &[]),
        get(&[(":authority", "shop.edge.test evil")], &[]),
        get(&[(":authority", "evil@shop.edge.test")], &[]),
        get(&[(":authority", "shop.edge.test/evil")], &[]),
        get(&[], &[("host", "evil.test")]),
        get(&[], &[("host", HOST), ("host", "evil.test")]),
        get(&[], &[("x", "a\r\nevil: 1")]),
        get(&[], &[("x", "a\nevil: 1")]),
        get(&[], &[("x", "a\revil")]),
        get(&[], &[("x", "a\0evil")]),
        get(&[], &[("x: y\r\nevil", "1")]),
        get(&[], &[("evil ", "1")]),
        get(&[], &[("Evil", "1")]),
        get(&[], &[("evil:", "1")]),
        get(&[], &[("", "evil")]),
        get(&[], &[("transfer-encoding", "chunked")]),
        get(&[], &[("connection", "evil")]),
        get(&[], &[("keep-alive", "evil")]),
        get(&[], &[("proxy-connection", "evil")]),
        get(&[], &[("upgrade", "evil")]),
        get(&[], &[("te", "evil")]),
        get(&[], &[("content-length", "4")]),
        get(&[], &[("x", "y"), (":path", "/evil")]),
        get(&[], &[(":path", "/evil")]),
        get(&[], &[(":evil", "1")]),
        get(&[], &[(":status", "200")]),
        get(&[(":method", "CONNECT")], &[]),
        vec![(":method", "GET"), (":scheme", "http"), (":path", "/evil")],
        vec![(":method", "GET"), (":scheme", "http"), (":authority", HOST)],
    ];
    for fields in cases {
        let status = send(&site, &fields, None).await;
        assert_ne!(status.as_deref(), Some("200"), "{fields:?}");
    }
    assert_eq!(*seen.lock().unwrap(), "");
    assert_eq!(Client::plain_h2(&site).await.get("/").await.text(), "ok");
}

#[tokio::test]
async fn a_body_of_http2_is_as_long_as_it_is() {
    let (site, seen) = site().await;
    let body = b"0\r\n\r\nGET /evil HTTP/1.1\r\nhost: x\r\n\r\n";
    let right = body.len().to_string();
    for more in [
        vec![("content-length", "0")],
        vec![("content-length", "5")],
        vec![("content-length", "500")],
        vec![("content-length", right.as_str()), ("content-length", "0")],
        vec![("content-length", "0"), ("content-length", right.as_str())],
        vec![("content-length", "35, 35")],
        vec![("content-length", "+35")],
        vec![("content-length", right.as_str()), ("transfer-encoding", "chunked")],
        vec![("transfer-encoding", "chunked")],
    ] {
        let status = send(&site, &get(&[(":method", "POST")], &more), Some(body)).await;
        assert_ne!(status.as_deref(), Some("200"), "{more:?}");
    }
    let noted = seen.lock().unwrap().clone();
    assert!(!noted.contains("evil"), "{noted}");
}
