//! Requests with bodies on their way to a workload: what is sent again, and whose fault it is that
//! one breaks off.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::Method;
use selvedge_proxy::{Connect, Stream, Target, Upstream};
use selvedge_telemetry::access::ErrorSource;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::io::{ReadBuf, duplex};
use tokio::net::TcpStream;

use crate::clients::{Client, read_to_end};
use crate::site::{HOST, Site, app};
use crate::workloads::{read_head, scripted};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn site(connect: Arc<dyn Connect>) -> Site {
    let upstream = Arc::new(Upstream::new("web".into(), connect));
    Site::start(app(Some(1), vec![(1, Target::Workload(upstream))])).await
}

/// Connections that take nothing more once they have been `cut`, and don't say so before.
#[derive(Default)]
struct Cutting {
    opened: AtomicUsize,
    cut: Arc<AtomicBool>,
    /// What has come by any connection.
    seen: Arc<Mutex<String>>,
}

struct Cut(DuplexStream, Arc<AtomicBool>);

#[async_trait::async_trait]
impl Connect for Cutting {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let (ours, mut theirs) = duplex(64 << 10);
        let seen = Arc::clone(&self.seen);
        tokio::spawn(async move {
            loop {
                let head = read_head(&mut theirs).await;
                let ended = head.is_empty();
                seen.lock().unwrap().push_str(&head);
                if ended || theirs.write_all(OK).await.is_err() {
                    return;
                }
            }
        });
        self.opened.fetch_add(1, Ordering::Relaxed);
        let cut = match self.opened.load(Ordering::Relaxed) {
            1 => Arc::clone(&self.cut),
            _ => Arc::default(),
        };
        Ok(Box::new(Cut(ours, cut)))
    }
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.1.load(Ordering::Relaxed) {
            true => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            false => Pin::new(&mut self.0).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_request_of_which_nothing_was_sent_is_sent_on_another_connection() {
    let connect = Arc::new(Cutting::default());
    let site = site(Arc::clone(&connect) as Arc<dyn Connect>).await;
    let mut client = Client::plain(&site).await;
    assert_eq!(client.get("/").await.text(), "ok");
    connect.cut.store(true, Ordering::Relaxed);
    assert_eq!(client.send(Method::POST, "/", &[], "order").await.text(), "ok");
    assert_eq!(connect.opened.load(Ordering::Relaxed), 2);
    let seen = connect.seen.lock().unwrap();
    assert_eq!(seen.matches("POST ").count(), 1, "{seen}");
    assert!(seen.ends_with("\r\n\r\norder") && seen.contains("content-length: 5\r\n"), "{seen}");
}

#[tokio::test]
async fn what_is_sent_again_says_the_same() {
    let (tell, mut told) = tokio::sync::mpsc::channel(10);
    let connect = scripted(move |_, mut stream| {
        let tell = tell.clone();
        async move {
            for request in 0..2 {
                let head = read_head(&mut stream).await;
                let _ = tell.send(head).await;
                if request == 0 {
                    stream.write_all(OK).await.unwrap();
                }
            }
        }
    });
    let site = site(connect).await;
    let mut client = Client::plain(&site).await;
    for _ in 0..2 {
        let answer = client.send(Method::GET, "/", &[("te", "trailers")], "").await;
        assert_eq!(answer.text(), "ok");
    }
    // The second request went by the first connection, which closed, and by another.
    for _ in 0..3 {
        let head = told.recv().await.unwrap();
        assert!(head.contains("\r\nte: trailers\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: te\r\n"), "{head}");
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_behind_the_head_is_to_blame() {
    let connect = scripted(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
        // The rest would follow if the request came to its end.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let mut site = site(connect).await;
    let mut stream = TcpStream::connect(site.http).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(format!("{head}1\r\na\r\n").as_bytes()).await.unwrap();
    crate::clients::read_until(&mut stream, "half").await;
    stream.write_all(b"no chunk\r\n").await.unwrap();
    read_to_end(&mut stream).await;
    let record = site.record().await;
    let error = record.error.unwrap();
    assert_eq!((error.source, error.kind.as_str()), (ErrorSource::Client, "body-broken"));
}

/// An upstream that leaves the body of a GET takes it for the next request, and is slow to answer
/// that ("CL.0").
#[tokio::test]
async fn a_body_that_an_upstream_leaves_is_nobodys_request() {
    let connect = scripted(|_, mut stream| async move {
        let mut text = String::new();
        loop {
            while !text.contains("\r\n\r\n") {
                let mut chunk = [0; 4096];
                match stream.read(&mut chunk).await {
                    Ok(read) if read > 0 => text.push_str(&String::from_utf8_lossy(&chunk[..read])),
                    _ => return,
                }
            }
            let rest = text.split_off(text.find("\r\n\r\n").unwrap() + 4);
            let smuggled = std::mem::replace(&mut text, rest).starts_with("GET /smuggled");
            if smuggled && text.is_empty() {
                // Its answer comes when somebody waits for one.
                let mut byte = [0; 1];
                if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                    return;
                }
                text.push(byte[0].into());
            }
            let body = if smuggled { "evil" } else { "good" };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{body}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let site = site(connect).await;
    let mut client = Client::plain(&site).await;
    let smuggled = format!("GET /smuggled HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    for method in [Method::GET, Method::OPTIONS, Method::DELETE] {
        assert_eq!(client.send(method, "/first", &[], &smuggled).await.text(), "good");
        assert_eq!(client.get("/next").await.text(), "good");
    }
}
