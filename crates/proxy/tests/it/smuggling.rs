//! The corpus of requests that could be read two ways: `tests/corpus/smuggling.txt`.

use std::path::Path;
use std::sync::{Arc, Mutex};

use selvedge_proxy::{Target, Upstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::clients::read_to_end;
use crate::site::{HOST, Site, app};
use crate::workloads::scripted;

struct Case {
    name: String,
    status: u16,
    upstream: usize,
    bytes: Vec<u8>,
}

fn smuggled() -> String {
    format!("GET /smuggled HTTP/1.1\r\nhost: {HOST}\r\n\r\n")
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/smuggling.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let mut cases = Vec::<Case>::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(head) = line.strip_prefix("= ") {
            let mut words = head.splitn(3, ' ');
            let mut word = || words.next().expect("`= STATUS UPSTREAM NAME`");
            let (status, upstream) = (word().parse().unwrap(), word().parse().unwrap());
            cases.push(Case { name: word().to_owned(), status, upstream, bytes: Vec::new() });
            continue;
        }
        let smuggled = smuggled();
        let line = line
            .replace("{host}", HOST)
            .replace("{length}", &smuggled.len().to_string())
            .replace("{smuggled}", &smuggled);
        cases.last_mut().expect("a case has begun").bytes.extend(bytes(&line));
    }
    cases
}

/// What a line of the file stands for.
pub(crate) fn bytes(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some((before, escape)) = rest.split_once('\\') {
        bytes.extend(before.as_bytes());
        let (byte, length) = match &escape[..1] {
            "r" => (b'\r', 1),
            "n" => (b'\n', 1),
            "t" => (b'\t', 1),
            "0" => (0, 1),
            "\\" => (b'\\', 1),
            "x" => (u8::from_str_radix(&escape[1..3], 16).unwrap(), 3),
            other => panic!("\\{other} stands for nothing"),
        };
        bytes.push(byte);
        rest = &escape[length..];
    }
    bytes.extend(rest.as_bytes());
    bytes
}

#[tokio::test]
async fn what_can_be_read_two_ways_is_read_one_way_or_refused() {
    let seen = Arc::new(Mutex::new(String::new()));
    let noted = Arc::clone(&seen);
    let connect = scripted(move |_, mut stream| {
        let seen = Arc::clone(&noted);
        async move {
            let mut chunk = [0; 4096];
            let mut head = String::new();
            while let Ok(read) = stream.read(&mut chunk).await {
                if read == 0 {
                    return;
                }
                let text = String::from_utf8_lossy(&chunk[..read]).into_owned();
                seen.lock().unwrap().push_str(&text);
                head.push_str(&text);
                // The body has come to its end as well, where there is one.
                let is_chunked = head.contains("transfer-encoding");
                if head.ends_with("0\r\n\r\n") || (!is_chunked && head.contains("\r\n\r\n")) {
                    head.clear();
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                }
            }
        }
    });
    let upstream = Upstream::new("web".into(), connect);
    let site = Site::start(app(Some(1), vec![(1, Target::Workload(Arc::new(upstream)))])).await;
    let mut wrong = Vec::new();
    for case in cases() {
        seen.lock().unwrap().clear();
        let mut stream = TcpStream::connect(site.http).await.unwrap();
        stream.write_all(&case.bytes).await.unwrap();
        let answer = read_to_end(&mut stream).await;
        // A client that asked whether to send its body is told before the answer.
        let answer = answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
        let came = std::mem::take(&mut *seen.lock().unwrap());
        let requests = came.matches(" HTTP/1.1\r\n").count();
        let right = answer.starts_with(&format!("HTTP/1.1 {} ", case.status))
            && answer.matches("HTTP/1.1 ").count() == 1
            && requests <= case.upstream
            && (case.status == 200 || !came.ends_with("0\r\n\r\n"))
            && !came.contains("/smuggled")
            && !came.contains("evil");
        if !right {
            let status = answer.lines().next().unwrap_or_default();
            let answers = answer.matches("HTTP/1.1 ").count();
            wrong.push(format!("{}: {status:?}, {answers} answers, upstream: {came:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
