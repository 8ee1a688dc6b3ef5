//! A client of the control API. Each call makes its own connection: callers are people and
//! scripts, and control is near.

use std::io;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::uri::Scheme;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use selvedge_model::operation::OperationId;
use selvedge_model::{AppName, Push, RepositoryName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    AppSummary, ConsoleLink, LogEvent, LogFilter, NDJSON, OperationRow, PROBLEM_JSON, PlanAnswer,
    PlanRequest, Problem, PushEvent, ReleaseRow, RollbackRequest, SiteRow, Status, Token, Version,
    Why, Workloads, transport,
};

/// How long a whole answer may take that isn't a stream of events.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a stream of events may be silent. Control sends an empty line at least every 10 s.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Media type of an answer.
const JSON: &str = "application/json";
/// The largest answer taken, in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// The longest event taken, in bytes: a push document and some.
const MAX_EVENT: usize = 2 << 20;

/// Where control is and what opens it.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    pub url: String,
    /// The operator's token.
    pub token: Token,
    /// For HTTPS: the authority's certificate, PEM (`SELVEDGE_CA`).
    pub ca: Option<PathBuf>,
}

/// A client of one control.
pub struct Client {
    url: String,
    host: String,
    port: u16,
    authority: HeaderValue,
    authorization: HeaderValue,
    tls: Option<TlsConnector>,
}

/// Why a call failed. See [`ClientError::hint`] for what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL or token is of no use.
    #[error("can't use {url:?} as control's URL: {reason}")]
    Config {
        /// The URL.
        url: String,
        /// Why, in words.
        reason: String,
    },
    /// The token is of no use.
    #[error("the token holds a line break, or another character that no token has")]
    Token,
    /// The file of authorities can't be read.
    #[error("can't read the certificate authority {}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No connection.
    #[error("control at {url} can't be reached")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke; what was asked may or may not have happened.
    #[error("the connection to control at {url} broke")]
    Broken {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Control took too long.
    #[error("control at {url} did not answer within {} s", limit.as_secs())]
    Silent {
        /// Where.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// Control answered with a problem.
    #[error(transparent)]
    Problem(Box<Problem>),
    /// What answered is not control, or another version of it.
    #[error("what answers at {url} is no control of this version: {reason}")]
    Protocol {
        /// Where.
        url: String,
        /// What is odd about the answer.
        reason: String,
    },
}

impl ClientError {
    /// What to do about it, in words.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config { .. } => Some("give a URL such as http://127.0.0.1:7070".to_owned()),
            Self::Token => Some(
                "take it from the file `token` of control's data directory, as one line".to_owned(),
            ),
            Self::Authority { .. } => Some(
                "name the file with --ca or SELVEDGE_CA: the authority's certificate, PEM, is in \
                 control's data directory"
                    .to_owned(),
            ),
            Self::Unreachable { source, .. } => Some(unreachable_hint(source)),
            Self::Broken { .. } | Self::Silent { .. } => {
                Some("see whether control still runs, then ask `selvedge status`".to_owned())
            }
            Self::Problem(problem) => problem.hint.clone(),
            Self::Protocol { .. } => {
                Some("check the URL, and that both ends are of the same version".to_owned())
            }
        }
    }
}

fn unreachable_hint(source: &io::Error) -> String {
    let untrusted = source.get_ref().is_some_and(|error| error.is::<rustls::Error>());
    if untrusted {
        "see that --ca or SELVEDGE_CA is the authority of this control, and the URL its own"
            .to_owned()
    } else {
        "is `selvedge dev` running? If control is elsewhere, see that the URL is right".to_owned()
    }
}

impl Client {
    /// Prepares a client; nothing is sent yet.
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let wrong = |reason: &str| ClientError::Config {
            url: config.url.clone(),
            reason: reason.to_owned(),
        };
        let url = config.url.trim_end_matches('/').to_owned();
        let uri: Uri = url.parse().map_err(|_| wrong("it is not a URL"))?;
        let secure = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(wrong("it starts with neither http:// nor https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it carries a user; the token goes apart"));
        }
        if !matches!(uri.path(), "" | "/") {
            return Err(wrong("it has a path"));
        }
        let tls = match (secure, &config.ca) {
            (false, _) => None,
            (true, None) => {
                return Err(wrong("for https, --ca or SELVEDGE_CA must name the authority"));
            }
            (true, Some(path)) => Some(
                transport::trust(path)
                    .map_err(|source| ClientError::Authority { path: path.clone(), source })?,
            ),
        };
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", config.token.0))
            .map_err(|_| ClientError::Token)?;
        authorization.set_sensitive(true);
        Ok(Self {
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority.as_str())
                .map_err(|_| wrong("its host can't be sent"))?,
            authorization,
            tls,
            url,
        })
    }

    /// The URL that the client calls, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What control is.
    pub async fn version(&self) -> Result<Version, ClientError> {
        self.get("/v1/version").await
    }

    /// Everything at one look.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Every app.
    pub async fn apps(&self) -> Result<Vec<AppSummary>, ClientError> {
        self.get("/v1/apps").await
    }

    /// Every site.
    pub async fn sites(&self) -> Result<Vec<SiteRow>, ClientError> {
        self.get("/v1/sites").await
    }

    /// An app's releases that are kept, newest first.
    pub async fn releases(&self, app: &AppName) -> Result<Vec<ReleaseRow>, ClientError> {
        self.get(&format!("/v1/apps/{app}/releases")).await
    }

    /// Why an app is where it is.
    pub async fn why(&self, app: &AppName) -> Result<Why, ClientError> {
        self.get(&format!("/v1/apps/{app}/why")).await
    }

    /// Makes an earlier release live again and follows the push that does it.
    pub async fn rollback(
        &self,
        app: &AppName,
        request: &RollbackRequest,
    ) -> Result<EventStream, ClientError> {
        self.events(Method::POST, &format!("/v1/apps/{app}/rollback"), Some(request)).await
    }

    /// Removes an app from its repository and follows the push that takes it down.
    pub async fn remove(&self, app: &AppName) -> Result<EventStream, ClientError> {
        self.events(Method::DELETE, &format!("/v1/apps/{app}"), None::<&()>).await
    }

    /// What a push of these apps would do. Nothing changes by it.
    pub async fn plan(&self, request: &PlanRequest) -> Result<PlanAnswer, ClientError> {
        self.ask(Method::POST, "/v1/plan", Some(request)).await
    }

    /// A repository's pushes that are kept, newest first.
    pub async fn pushes(&self, repository: &RepositoryName) -> Result<Vec<Push>, ClientError> {
        self.get(&format!("/v1/pushes/{repository}")).await
    }

    /// A push.
    pub async fn push(
        &self,
        repository: &RepositoryName,
        number: u64,
    ) -> Result<Push, ClientError> {
        self.get(&format!("/v1/pushes/{repository}/{number}")).await
    }

    /// Follows a push from its start to its end.
    pub async fn push_events(
        &self,
        repository: &RepositoryName,
        number: u64,
    ) -> Result<EventStream, ClientError> {
        let path = format!("/v1/pushes/{repository}/{number}/events");
        self.events(Method::GET, &path, None::<&()>).await
    }

    /// Makes a link that signs one browser in to the console, once.
    pub async fn console_link(&self) -> Result<ConsoleLink, ClientError> {
        self.ask(Method::POST, "/v1/console/links", None::<&()>).await
    }

    /// Asks for log lines; while the filter follows, the stream ends only when it breaks.
    pub async fn logs(&self, filter: &LogFilter) -> Result<EventStream<LogEvent>, ClientError> {
        let query = serde_urlencoded::to_string(filter)
            .map_err(|error| self.protocol(error.to_string()))?;
        self.events(Method::GET, &format!("/v1/logs?{query}"), None::<&()>).await
    }

    /// What runs at the sites now; of one app, or all.
    pub async fn workloads(&self, app: Option<&AppName>) -> Result<Workloads, ClientError> {
        let query = app.map_or_else(String::new, |app| format!("?app={app}"));
        self.get(&format!("/v1/workloads{query}")).await
    }

    /// The operations that are kept, newest first.
    pub async fn operations(&self) -> Result<Vec<OperationRow>, ClientError> {
        self.get("/v1/operations").await
    }

    /// An operation.
    pub async fn operation(&self, id: OperationId) -> Result<OperationRow, ClientError> {
        self.get(&format!("/v1/operations/{id}")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, None::<&()>).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let answer = async {
            let (response, _connection) = self.send(method, path, body).await?;
            if content_type(&response) != JSON {
                return Err(self.protocol("it does not answer with JSON".to_owned()));
            }
            let bytes = self.collect(response).await?;
            let parsed = serde_json::from_slice(&bytes);
            parsed.map_err(|error| {
                self.protocol(format!("its answer is of another version ({error})"))
            })
        };
        tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| {
            Err(ClientError::Silent { url: self.url.clone(), limit: ANSWER_TIMEOUT })
        })
    }

    async fn events<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<EventStream<T>, ClientError> {
        let start = async {
            let (response, connection) = self.send(method, path, body).await?;
            if content_type(&response) != NDJSON {
                return Err(self.protocol(format!("{path} is no stream of events")));
            }
            Ok(EventStream {
                url: self.url.clone(),
                body: response.into_body(),
                buffer: BytesMut::new(),
                scanned: 0,
                _events: PhantomData,
                _connection: connection,
            })
        };
        tokio::time::timeout(ANSWER_TIMEOUT, start).await.unwrap_or_else(|_| {
            Err(ClientError::Silent { url: self.url.clone(), limit: ANSWER_TIMEOUT })
        })
    }

    /// Sends a request and returns the head of a successful answer, with the task that drives its
    /// connection.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), ClientError> {
        let body = match body {
            Some(body) => {
                serde_json::to_vec(body).map_err(|error| self.protocol(error.to_string()))?
            }
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.authority.clone())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(ACCEPT, "application/json, application/x-ndjson, application/problem+json")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.protocol(error.to_string()))?;
        let stream = transport::connect(&self.host, self.port, self.tls.as_ref())
            .await
            .map_err(|source| ClientError::Unreachable { url: self.url.clone(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error))?;
        // An error of the connection also fails the request or body that it carries.
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = connection.await;
        }));
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        if response.status().is_success() {
            return Ok((response, connection));
        }
        Err(self.problem(response).await)
    }

    async fn problem(&self, response: Response<Incoming>) -> ClientError {
        let status = response.status();
        if content_type(&response) != PROBLEM_JSON {
            return self.protocol(format!("it answered {status}"));
        }
        match self.collect(response).await {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(problem) => ClientError::Problem(Box::new(problem)),
                Err(error) => self.protocol(error.to_string()),
            },
            Err(error) => error,
        }
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok(body.map_err(|error| self.broken(error))?.to_bytes())
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Broken { url: self.url.clone(), source: source.into() }
    }

    fn protocol(&self, reason: String) -> ClientError {
        ClientError::Protocol { url: self.url.clone(), reason }
    }
}

fn content_type(response: &Response<Incoming>) -> &str {
    response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
}

/// Events as they come: those of a push, unless it says otherwise.
pub struct EventStream<T = PushEvent> {
    url: String,
    body: Incoming,
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no line's end.
    scanned: usize,
    _events: PhantomData<fn() -> T>,
    _connection: AbortOnDropHandle<()>,
}

impl<T: DeserializeOwned> EventStream<T> {
    /// Waits for the next event; `None` after the last. Control waiting for something long sends
    /// signs of life, so that silence is an error.
    pub async fn next(&mut self) -> Option<Result<T, ClientError>> {
        loop {
            match self.take_line() {
                Some(line) if line.trim_ascii().is_empty() => continue,
                Some(line) => {
                    return Some(serde_json::from_slice(&line).map_err(|error| {
                        ClientError::Protocol { url: self.url.clone(), reason: error.to_string() }
                    }));
                }
                None => {}
            }
            if self.buffer.len() > MAX_EVENT {
                let reason = format!("an event is longer than {MAX_EVENT} bytes");
                return Some(Err(ClientError::Protocol { url: self.url.clone(), reason }));
            }
            match tokio::time::timeout(SILENCE_TIMEOUT, self.body.frame()).await {
                Err(_) => {
                    let limit = SILENCE_TIMEOUT;
                    return Some(Err(ClientError::Silent { url: self.url.clone(), limit }));
                }
                Ok(None) => return None,
                Ok(Some(Err(error))) => {
                    let source = Box::new(error);
                    return Some(Err(ClientError::Broken { url: self.url.clone(), source }));
                }
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn take_line(&mut self) -> Option<BytesMut> {
        let fresh = self.buffer.get(self.scanned..).unwrap_or_default();
        match fresh.iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let line = self.buffer.split_to(self.scanned + at + 1);
                self.scanned = 0;
                Some(line)
            }
            None => {
                self.scanned = self.buffer.len();
                None
            }
        }
    }
}

impl EventStream {
    /// Follows to the end and returns the push as it ended; `each` sees every event before that.
    /// A stream that ends without saying how is an error.
    pub async fn finish(mut self, mut each: impl FnMut(&PushEvent)) -> Result<Push, ClientError> {
        while let Some(event) = self.next().await {
            match event? {
                PushEvent::Done { push } => return Ok(push),
                event => each(&event),
            }
        }
        let source = io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before the push did");
        Err(ClientError::Broken { url: self.url, source: Box::new(source) })
    }
}
