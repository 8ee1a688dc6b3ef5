//! The client against a server that says what a test wants.

use std::error::Error as _;
use std::time::Duration;

use selvedge_api::{Client, ClientConfig, ClientError, ProblemKind, PushEvent, Token};
use selvedge_model::{AppName, RepositoryName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A server that reads one request and sends `parts` of an answer, each by itself.
async fn server(parts: Vec<&'static str>) -> (Client, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut request = Vec::new();
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        for part in parts {
            stream.write_all(part.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
        String::from_utf8(request).unwrap()
    });
    (client(&url).unwrap(), served)
}

fn client(url: &str) -> Result<Client, ClientError> {
    Client::new(&ClientConfig { url: url.to_owned(), token: Token("s3cret".to_owned()), ca: None })
}

#[tokio::test]
async fn an_answer_and_what_was_asked() {
    let body = r#"{"name":"selvedge","version":"1","api":1}"#;
    let (client, served) = server(vec![
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n",
        body,
    ])
    .await;
    assert_eq!(client.version().await.unwrap().api, 1);
    let request = served.await.unwrap();
    assert!(request.starts_with("GET /v1/version HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Bearer s3cret\r\n"), "{request}");
}

#[tokio::test]
async fn a_problem_is_passed_on_with_its_hint() {
    let (client, _served) = server(vec![
        "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\nconnection: close\r\n\r\n",
        r#"{"type":"urn:selvedge:problem:not-found","title":"no such app","status":404,"#,
        r#""detail":"there is no app \"shop\"","hint":"there are: blog"}"#,
    ])
    .await;
    let error = client.why(&AppName::new("shop").unwrap()).await.unwrap_err();
    let ClientError::Problem(problem) = &error else { panic!("{error:?}") };
    assert!(problem.is(ProblemKind::NotFound));
    assert_eq!(error.to_string(), "no such app: there is no app \"shop\"");
    assert_eq!(error.hint().as_deref(), Some("there are: blog"));
}

#[tokio::test]
async fn what_is_not_control_is_said_to_be_so() {
    let (client, _served) =
        server(vec!["HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\noops"]).await;
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    assert!(error.to_string().contains("502"), "{error}");
}

#[tokio::test]
async fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = client(&url).unwrap().status().await.unwrap_err();
    assert_eq!(error.to_string(), format!("control at {url} can't be reached"));
    assert!(error.source().unwrap().to_string().to_lowercase().contains("refused"));
    assert!(error.hint().unwrap().contains("selvedge dev"));
}

#[test]
fn odd_urls_are_refused() {
    for url in ["", "127.0.0.1:1", "ftp://a", "http://", "http://u@h", "http://h/x", "https://h"] {
        let error = client(url).err().unwrap_or_else(|| panic!("{url} was taken"));
        assert!(matches!(error, ClientError::Config { .. }), "{url}: {error:?}");
    }
}

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn events_however_they_are_cut() {
    let (client, _served) = server(vec![
        HEAD,
        "{\"event\":\"queued\",\"ahead\":1}\n\n\n{\"event\":\"stage-sta",
        "rted\",\"stage\":\"build\",\"at_ms\":5}\n{\"event\":\"line\",\"stage\":\"build\",\"text\":\"a",
        "\"}\n",
    ])
    .await;
    let mut events = client.push_events(&RepositoryName::new("shop").unwrap(), 1).await.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        seen.push(event.unwrap());
    }
    assert!(
        matches!(
            seen.as_slice(),
            [
                PushEvent::Queued { ahead: 1 },
                PushEvent::StageStarted { at_ms: 5, .. },
                PushEvent::Line { .. }
            ]
        ),
        "{seen:?}"
    );
}

#[tokio::test]
async fn a_stream_that_ends_early_is_an_error() {
    let (client, _served) = server(vec![HEAD, "{\"event\":\"queued\",\"ahead\":0}\n"]).await;
    let events = client.push_events(&RepositoryName::new("shop").unwrap(), 1).await.unwrap();
    let mut seen = 0;
    let error = events.finish(|_| seen += 1).await.unwrap_err();
    assert_eq!(seen, 1);
    assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let held = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        drop(stream);
    });
    let error = client(&url).unwrap().status().await.unwrap_err();
    assert!(matches!(error, ClientError::Silent { .. }), "{error:?}");
    held.abort();
}
