//! The corpus of responses that break the rules: `tests/corpus/responses.txt`.

use std::path::Path;
use std::sync::{Arc, Mutex};

use selvedge_proxy::{Target, Upstream};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;

use crate::clients::raw;
use crate::site::{HOST, Site, app};
use crate::smuggling::bytes;
use crate::workloads::{read_head, scripted};

const NEXT: &[u8] = b"HTTP/1.1 200 OK\r\ncache-control: no-store\r\ncontent-length: 4\r\n\r\nnext";

#[derive(Clone, Default)]
struct Case {
    name: String,
    answer: String,
    closes: bool,
    method: String,
    bytes: Vec<u8>,
    late: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/responses.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let replaced = [
        ("{evil}", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil".to_owned()),
        ("{storm}", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(65)),
        ("{fields}", "x: y\r\n".repeat(129)),
        ("{longer}", "x".repeat(70_000)),
        ("{long}", "x".repeat(5_000)),
    ];
    let mut cases = Vec::<Case>::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(head) = line.strip_prefix("= ") {
            let mut words = head.splitn(4, ' ');
            let mut word = || words.next().expect("`= ANSWER THEN METHOD NAME`").to_owned();
            let (answer, closes, method) = (word(), word() == "closed", word());
            cases.push(Case { answer, closes, method, name: word(), ..Case::default() });
            continue;
        }
        let case = cases.last_mut().expect("a case has begun");
        let late = line.strip_prefix("+ ");
        let mut line = late.unwrap_or(line).to_owned();
        for (name, text) in &replaced {
            line = line.replace(name, text);
        }
        let to = if late.is_some() { &mut case.late } else { &mut case.bytes };
        to.extend(bytes(&line));
    }
    cases
}

/// An upstream that answers as the case has it while there is one, and well afterwards.
#[derive(Default)]
struct Hostile {
    case: Mutex<Option<Case>>,
    answered: Notify,
    /// Everything was sent.
    sent: Notify,
}

impl Hostile {
    async fn serve(&self, mut stream: tokio::io::DuplexStream) {
        while !read_head(&mut stream).await.is_empty() {
            let case = self.case.lock().unwrap().clone();
            let Some(case) = case else {
                let _ = stream.write_all(NEXT).await;
                continue;
            };
            // The proxy may have seen enough by then.
            let _ = stream.write_all(&case.bytes).await;
            if !case.late.is_empty() {
                self.answered.notified().await;
                let _ = stream.write_all(&case.late).await;
                self.sent.notify_one();
            }
            if case.closes {
                return;
            }
        }
    }
}

/// Whether a client can tell that it has all of an answer.
fn is_whole(answer: &str, method: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    let is_without = method == "HEAD" || [" 204 ", " 304 "].iter().any(|it| head.contains(it));
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    match length {
        _ if is_without => body.is_empty(),
        Some(length) => length.parse() == Ok(body.len()),
        None => body.ends_with("0\r\n\r\n"),
    }
}

#[tokio::test]
async fn what_an_upstream_does_wrong_reaches_nobody_else() {
    let hostile = Arc::new(Hostile::default());
    let serving = Arc::clone(&hostile);
    let connect = scripted(move |_, stream| {
        let hostile = Arc::clone(&serving);
        async move { hostile.serve(stream).await }
    });
    let upstream = Upstream::new("web".into(), connect);
    let site = Site::start(app(Some(1), vec![(1, Target::Workload(Arc::new(upstream)))])).await;
    let ask = async |method: &str, path: &str| {
        let fields = "te: trailers\r\nconnection: te, close\r\n";
        raw(site.http, &format!("{method} {path} HTTP/1.1\r\nhost: {HOST}\r\n{fields}\r\n")).await
    };
    let mut wrong = Vec::new();
    for (number, case) in cases().into_iter().enumerate() {
        let path = format!("/{number}");
        *hostile.case.lock().unwrap() = Some(case.clone());
        let answer = ask(&case.method, &path).await;
        *hostile.case.lock().unwrap() = None;
        if !case.late.is_empty() {
            hostile.answered.notify_one();
            hostile.sent.notified().await;
        }
        // The same is asked for again, which finds nothing torn, and something else.
        let again = ask("GET", &path).await;
        let other = ask("GET", &format!("{path}/other")).await;
        let status = if case.answer == "torn" { "200" } else { &case.answer };
        let right = answer.starts_with(&format!("HTTP/1.1 {status} "))
            && is_whole(&answer, &case.method) == (case.answer != "torn")
            && ![&answer, &again, &other].iter().any(|answer| answer.contains("evil"))
            && again.ends_with("\r\n\r\nnext")
            && other.ends_with("\r\n\r\nnext");
        if !right {
            wrong.push(format!("{}: {answer:?}, {again:?}, {other:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
