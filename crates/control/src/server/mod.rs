//! The HTTP API: authentication, limits and routes. What the answers say is decided in
//! [`crate::views`].

mod error;
mod events;
mod listener;
mod observe;
mod routes;
pub(crate) mod tls;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use http::header::AUTHORIZATION;
use selvedge_api::{ControlStatus, ProblemKind, Token};
use selvedge_fabric::SharedFabric;

pub(crate) use error::ApiError;
pub(crate) use listener::serve;

use crate::console::Console;
use crate::drivers::Problems;
use crate::git::GitService;
use crate::logs::Logs;
use crate::operations::Operations;
use crate::tunnels::Tunnels;
use crate::{pipeline, token};

/// The largest body of a request to the API, git's apart.
const MAX_BODY: usize = 64 << 10;
/// The same of a plan's, which has every app of a commit in it.
const MAX_PLAN: usize = 8 << 20;
/// How long an answer may take to begin.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// What the routes work with.
#[derive(Clone)]
pub(crate) struct Api(Arc<Parts>);

/// See [`Api`].
pub(crate) struct Parts {
    pub(crate) fabric: SharedFabric,
    pub(crate) token: Token,
    /// Control, as it is at first.
    pub(crate) control: ControlStatus,
    /// What does not work at the moment.
    pub(crate) problems: Problems,
    pub(crate) git: GitService,
    pub(crate) pipeline: pipeline::Handle,
    pub(crate) console: Console,
    pub(crate) observe: Observe,
}

/// What shows the installation as it runs.
pub(crate) struct Observe {
    pub(crate) logs: Logs,
    pub(crate) tunnels: Tunnels,
    pub(crate) operations: Operations,
}

impl Api {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    fn control_status(&self) -> ControlStatus {
        let mut status = self.0.control.clone();
        status.problems.extend(self.0.problems.list());
        status.problems.extend(self.0.observe.logs.problem());
        status
    }

    /// Everything that is served.
    pub(crate) fn router(self) -> Router {
        let answers = Router::new()
            .route("/v1/version", get(routes::version))
            .route("/v1/status", get(routes::status))
            .route("/v1/sites", get(routes::sites))
            .route("/v1/apps", get(routes::apps))
            .route("/v1/apps/{app}/releases", get(routes::releases))
            .route("/v1/apps/{app}/why", get(routes::why))
            .route("/v1/plan", post(routes::plan).layer(DefaultBodyLimit::max(MAX_PLAN)))
            .route("/v1/operations", get(observe::operations))
            .route("/v1/operations/{id}", get(observe::operation))
            .route("/v1/workloads", get(observe::workloads))
            .route("/v1/pushes/{repository}", get(routes::pushes))
            .route("/v1/pushes/{repository}/{number}", get(routes::push))
            .method_not_allowed_fallback(routes::method_not_allowed)
            .route("/v1/logs", get(observe::logs))
            .route("/v1/pushes/{repository}/{number}/events", get(routes::push_events))
            .route("/v1/apps/{app}", delete(routes::remove))
            .route("/v1/apps/{app}/rollback", post(routes::rollback))
            .route("/v1/console/links", post(routes::console_link))
            .layer(from_fn(in_time))
            .layer(DefaultBodyLimit::max(MAX_BODY));
        let console = self.0.console.clone().router();
        Router::new()
            .merge(answers)
            .route("/git/{*path}", any(routes::git))
            .fallback(routes::not_found)
            .layer(from_fn_with_state(self.clone(), authenticate))
            // Health is for machines that have no token, and says nothing else.
            .route("/healthz", get(async || "ok\n"))
            .route("/", get(routes::root))
            .layer(from_fn(error::problems))
            .with_state(self)
            // The console has a sign-in of its own.
            .merge(console)
    }
}

async fn authenticate(State(api): State<Api>, request: Request, next: Next) -> Response {
    if token::is_shown(&api.0.token, request.headers().get(AUTHORIZATION)) {
        return next.run(request).await;
    }
    let error = if request.headers().contains_key(AUTHORIZATION) {
        ApiError::new(ProblemKind::Unauthorized, "this is not the operator's token")
    } else {
        ApiError::new(ProblemKind::Unauthorized, "the operator's token is missing")
    };
    error
        .hint("the token is in the file `token` of control's data directory; set SELVEDGE_TOKEN")
        .into_response()
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(ProblemKind::Busy, "the answer took too long")
            .hint("try again")
            .into_response(),
    }
}
