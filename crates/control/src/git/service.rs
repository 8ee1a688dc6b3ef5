//! Smart HTTP: `git http-backend` as a child for each request, with bodies streamed both ways.
//!
//! Callers have checked who asks. Only the three requests of the smart protocol pass; the child
//! gets an environment of our making and ends with its request, whatever ends that.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use selvedge_model::RepositoryName;
use selvedge_telemetry::Chain;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::{Git, cgi, command};

/// The largest request body, in bytes; the pack in it is limited by git as well.
const MAX_REQUEST: u64 = (1 << 30) + (1 << 20);
/// How long a client may send nothing while its request is read.
const IDLE: Duration = Duration::from_secs(60);
/// How long a request may take, waiting in the queue and every stage included.
const TOTAL: Duration = Duration::from_secs(4 * 3600);
/// How long git may take to end by itself when a request is over.
const LINGER: Duration = Duration::from_secs(5);
/// Requests at once.
const CONCURRENT: usize = 64;

/// A push is refused when less is free on the disk, in bytes: what git unpacks would be cut short in
/// words of its own, and control's store and the sites' ledgers need the rest.
const MIN_FREE: u64 = 32 << 20;

/// What the endpoint needs.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// The repositories.
    pub git: Git,
    /// Where the pipeline listens for hooks.
    pub hook_socket: PathBuf,
}

/// The git endpoint. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GitService {
    config: Arc<ServiceConfig>,
    permits: Arc<Semaphore>,
}

/// A request of the smart protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    repository: RepositoryName,
    /// The path below the repository.
    action: &'static str,
    /// Whether it is about a push.
    receive: bool,
}

impl GitService {
    /// Makes the endpoint; nothing runs until it is asked.
    pub fn new(config: ServiceConfig) -> Self {
        Self { config: Arc::new(config), permits: Arc::new(Semaphore::new(CONCURRENT)) }
    }

    /// Answers the authenticated `request`, whose path is `path` below the git base:
    /// `REPOSITORY.git/...`. A first push makes the repository.
    pub async fn serve(&self, path: &str, request: Request<Body>) -> Response<Body> {
        let query = request.uri().query().unwrap_or_default();
        let target = match Target::parse(request.method(), path, query) {
            Ok(target) => target,
            Err((status, text)) => return answer(status, text),
        };
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return answer(StatusCode::SERVICE_UNAVAILABLE, "too many git requests at once");
        };
        if target.receive && free_bytes(self.config.git.root()) < MIN_FREE {
            let text = "no push is taken: less than 32 MiB are free on the disk of control's data. \
                        What is live stays live; make room and push again";
            return answer(StatusCode::INSUFFICIENT_STORAGE, text);
        }
        let repository = self.config.git.repository(&target.repository);
        if !repository.exists() {
            if !target.receive {
                let text = "there is no such repository; the first push makes it";
                return answer(StatusCode::NOT_FOUND, text);
            }
            if let Err(error) = self.config.git.create(&target.repository).await {
                tracing::error!(error = %Chain(&error), repository = %target.repository,
                    "no repository made");
                let text = "the repository could not be made; see control's log";
                return answer(StatusCode::INTERNAL_SERVER_ERROR, text);
            }
        }
        match self.run(&target, request, permit).await {
            Some(response) => response,
            None => answer(StatusCode::BAD_GATEWAY, "git did not answer; see control's log"),
        }
    }

    async fn run(
        &self,
        target: &Target,
        request: Request<Body>,
        permit: OwnedSemaphorePermit,
    ) -> Option<Response<Body>> {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default();
        let child = self.spawn(target, &parts.method, query, &parts.headers);
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                tracing::error!(%error, "git http-backend can't be started");
                return None;
            }
        };
        let (head_sender, head) = oneshot::channel();
        let (body_sender, answer_body) = mpsc::channel(16);
        let exchange = Exchange { child, head: Some(head_sender), body: body_sender };
        let name = target.repository.clone();
        tokio::spawn(async move {
            exchange.run(body, &name).await;
            drop(permit);
        });
        let (status, headers) = head.await.ok()?;
        let mut response = Response::new(Body::from_stream(ReceiverStream::new(answer_body)));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Some(response)
    }

    fn spawn(
        &self,
        target: &Target,
        method: &Method,
        query: &str,
        headers: &HeaderMap,
    ) -> std::io::Result<Child> {
        let git = &self.config.git;
        let mut command = Command::new(git.http_backend());
        command::scrub(&mut command, git.home());
        command
            .env("GIT_PROJECT_ROOT", git.root())
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("PATH_INFO", format!("/{}.git/{}", target.repository, target.action))
            .env("QUERY_STRING", query)
            .env("REQUEST_METHOD", method.as_str())
            .env("REMOTE_USER", "pusher")
            .env("SELVEDGE_HOOK_SOCKET", &self.config.hook_socket)
            .env("SELVEDGE_REPOSITORY", target.repository.as_str());
        for (name, variable) in [
            (header::CONTENT_TYPE, "CONTENT_TYPE"),
            (header::CONTENT_LENGTH, "CONTENT_LENGTH"),
            (header::CONTENT_ENCODING, "HTTP_CONTENT_ENCODING"),
            (http::HeaderName::from_static("git-protocol"), "GIT_PROTOCOL"),
        ] {
            if let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) {
                command.env(variable, value);
            }
        }
        command
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    }
}

impl Target {
    fn parse(method: &Method, path: &str, query: &str) -> Result<Self, (StatusCode, &'static str)> {
        let unknown = (StatusCode::NOT_FOUND, "a git remote is GIT/REPOSITORY.git");
        let (name, action) = path.trim_start_matches('/').split_once('/').ok_or(unknown)?;
        let name = name.strip_suffix(".git").unwrap_or(name);
        let Ok(repository) = RepositoryName::new(name) else {
            let text = "a repository's name is 1 to 63 lower-case letters, digits and hyphens";
            return Err((StatusCode::NOT_FOUND, text));
        };
        let (wanted, action, receive) = match (action, query) {
            ("info/refs", "service=git-upload-pack") => (Method::GET, "info/refs", false),
            ("info/refs", "service=git-receive-pack") => (Method::GET, "info/refs", true),
            ("git-upload-pack", _) => (Method::POST, "git-upload-pack", false),
            ("git-receive-pack", _) => (Method::POST, "git-receive-pack", true),
            ("info/refs", _) => return Err((StatusCode::FORBIDDEN, "git over smart HTTP only")),
            _ => return Err(unknown),
        };
        if *method != wanted {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "git over smart HTTP only"));
        }
        Ok(Self { repository, action, receive })
    }
}

/// A child and the request that it works for.
struct Exchange {
    child: Child,
    head: Option<oneshot::Sender<(StatusCode, HeaderMap)>>,
    body: mpsc::Sender<Result<Bytes, std::io::Error>>,
}

impl Exchange {
    async fn run(mut self, request: Body, repository: &RepositoryName) {
        let (stdin, mut stdout, mut stderr) =
            (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        let complaints = async {
            let mut text = Vec::new();
            if let Some(stderr) = &mut stderr {
                let _ = (&mut *stderr).take(4096).read_to_end(&mut text).await;
                let _ = tokio::io::copy(stderr, &mut tokio::io::sink()).await;
            }
            text
        };
        let gone = self.body.clone();
        let exchange = async {
            let feeding = feed(stdin, request);
            let answering = drain(stdout.as_mut(), &mut self.head, &self.body);
            tokio::pin!(feeding, answering);
            tokio::select! {
                biased;
                result = &mut answering => result,
                result = &mut feeding => match result {
                    Ok(()) => answering.await,
                    Err(error) => Err(error),
                },
            }
        };
        let work = async {
            let (result, text) = tokio::join!(exchange, complaints);
            (result, text)
        };
        let (result, text) = tokio::select! {
            done = work => done,
            () = gone.closed() => (Ok(()), Vec::new()),
            () = tokio::time::sleep(TOTAL) => (Err("the request took too long".into()), Vec::new()),
        };
        if let Err(reason) = result {
            let complaint = String::from_utf8_lossy(&text);
            tracing::warn!(%repository, %reason, %complaint, "a git request failed");
            let broken = std::io::Error::other(reason);
            let _ = self.body.try_send(Err(broken));
        }
        // Whatever git has taken in of half a push it clears away when it sees the request's end,
        // unless it is killed, be it by writing to who is gone.
        let rest = async {
            let mut sink = tokio::io::sink();
            if let (Some(stdout), Some(stderr)) = (&mut stdout, &mut stderr) {
                let mut other = tokio::io::sink();
                let _ = tokio::join!(
                    tokio::io::copy(stdout, &mut sink),
                    tokio::io::copy(stderr, &mut other)
                );
            }
        };
        let _ = tokio::time::timeout(LINGER, rest).await;
        // A child that has ended is only reaped by this.
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
    }
}

/// Writes the request's body to the child.
async fn feed(stdin: Option<ChildStdin>, mut body: Body) -> Result<(), String> {
    let Some(mut stdin) = stdin else { return Ok(()) };
    let mut total = 0_u64;
    loop {
        let frame = match tokio::time::timeout(IDLE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(format!("the request broke off: {error}")),
            Ok(None) => return Ok(()),
            Err(_) => return Err("the client has sent nothing for a minute".to_owned()),
        };
        let Ok(data) = frame.into_data() else { continue };
        total = total.saturating_add(data.len() as u64);
        if total > MAX_REQUEST {
            return Err("the push is larger than 1 GiB".to_owned());
        }
        // A child that reads no more says why in its answer.
        if stdin.write_all(&data).await.is_err() {
            return Ok(());
        }
    }
}

/// Reads the child's answer: the head first, then the body until the client is gone.
async fn drain(
    stdout: Option<&mut ChildStdout>,
    head: &mut Option<oneshot::Sender<(StatusCode, HeaderMap)>>,
    body: &mpsc::Sender<Result<Bytes, std::io::Error>>,
) -> Result<(), String> {
    let Some(stdout) = stdout else { return Err("git has no output".to_owned()) };
    let mut buffer = BytesMut::with_capacity(32 << 10);
    let rest = loop {
        if let Some((end, start)) = cgi::head_end(&buffer) {
            let parsed = buffer.get(..end).and_then(cgi::parse_head);
            let parsed = parsed.ok_or("git's answer has a malformed head")?;
            if let Some(sender) = head.take() {
                let _ = sender.send(parsed);
            }
            break buffer.split_off(start).freeze();
        }
        if buffer.len() > cgi::MAX_HEAD {
            return Err("git's answer has too long a head".to_owned());
        }
        match stdout.read_buf(&mut buffer).await {
            Ok(0) => return Err("git ended without an answer".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(format!("git's answer can't be read: {error}")),
        }
    };
    let mut next = rest;
    loop {
        if !next.is_empty() && body.send(Ok(next)).await.is_err() {
            return Ok(());
        }
        let mut buffer = BytesMut::with_capacity(32 << 10);
        match stdout.read_buf(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(_) => next = buffer.freeze(),
            Err(error) => return Err(format!("git's answer can't be read: {error}")),
        }
    }
}

/// What is free for this process; everything where the system doesn't say.
fn free_bytes(path: &Path) -> u64 {
    nix::sys::statvfs::statvfs(path)
        .map_or(u64::MAX, |found| found.blocks_available().saturating_mul(found.fragment_size()))
}

fn answer(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = status;
    let value = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_smart_protocol_passes() {
        let parse = |method, path, query| Target::parse(&method, path, query);
        let target = parse(Method::GET, "shop.git/info/refs", "service=git-receive-pack").unwrap();
        assert_eq!((target.repository.as_str(), target.receive), ("shop", true));
        let target = parse(Method::POST, "/shop.git/git-upload-pack", "").unwrap();
        assert_eq!((target.action, target.receive), ("git-upload-pack", false));
        for (method, path, query, status) in [
            (Method::GET, "shop.git/info/refs", "", 403),
            (Method::GET, "shop.git/HEAD", "", 404),
            (Method::GET, "../x.git/info/refs", "service=git-upload-pack", 404),
            (Method::GET, "shop.git/../etc/info/refs", "service=git-upload-pack", 404),
            (Method::POST, "shop.git/info/refs", "service=git-upload-pack", 405),
            (Method::GET, "Shop.git/info/refs", "service=git-upload-pack", 404),
        ] {
            assert_eq!(parse(method, path, query).unwrap_err().0, status, "{path}");
        }
    }
}
