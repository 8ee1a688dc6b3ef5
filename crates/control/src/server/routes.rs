//! The routes' handlers.

use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Request, State};
use axum::response::{Redirect, Response};
use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, Method, StatusCode, Uri};
use selvedge_api::{
    AppSummary, ConsoleLink, PlanAnswer, PlanRequest, ProblemKind, ReleaseRow, RollbackRequest,
    SiteRow, Status, Version, Why,
};
use selvedge_fabric::Typed;
use selvedge_model::documents::AppRecord;
use selvedge_model::{AppName, Push, RepositoryName, closest, keys};
use selvedge_telemetry::Chain;

use super::events::{self, Form};
use super::{Api, ApiError};
use crate::pipeline::{RemovalError, RollbackError, SubmitError};
use crate::views;
use crate::world::World;

/// The API's major version.
const API: u32 = 1;

impl Api {
    pub(super) async fn world(&self) -> Result<World, ApiError> {
        Ok(World::load(&*self.0.fabric, &views::PREFIXES).await?)
    }
}

pub(crate) async fn version() -> Json<Version> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(Version { name: "selvedge".to_owned(), version, api: API })
}

pub(crate) async fn status(State(api): State<Api>) -> Result<Json<Status>, ApiError> {
    Ok(Json(views::status(&api.world().await?, api.control_status())))
}

pub(crate) async fn sites(State(api): State<Api>) -> Result<Json<Vec<SiteRow>>, ApiError> {
    Ok(Json(views::sites(&api.world().await?)))
}

pub(crate) async fn apps(State(api): State<Api>) -> Result<Json<Vec<AppSummary>>, ApiError> {
    Ok(Json(views::summaries(&api.world().await?)))
}

pub(crate) async fn releases(
    State(api): State<Api>,
    Path(app): Path<String>,
) -> Result<Json<Vec<ReleaseRow>>, ApiError> {
    let world = api.world().await?;
    Ok(Json(views::releases(&world, record(&world, &app)?)))
}

pub(crate) async fn why(
    State(api): State<Api>,
    Path(app): Path<String>,
) -> Result<Json<Why>, ApiError> {
    let world = api.world().await?;
    views::why(&world, record(&world, &app)?).map(Json).ok_or_else(|| {
        ApiError::new(ProblemKind::NotFound, "nothing is live yet")
            .detail(format!("{app} has never gone live"))
            .hint("`selvedge status` says why its last push did not")
    })
}

pub(crate) async fn pushes(
    State(api): State<Api>,
    Path(repository): Path<String>,
) -> Result<Json<Vec<Push>>, ApiError> {
    let name: RepositoryName = repository.parse().map_err(|_| no_repository(&repository))?;
    let pushes = Typed(&*api.0.fabric).list::<Push>(&keys::pushes(&name)).await?;
    if pushes.is_empty() {
        return Err(no_repository(&repository));
    }
    Ok(Json(pushes.into_iter().rev().map(|(_, _, push)| push).collect()))
}

pub(crate) async fn push(
    State(api): State<Api>,
    Path((repository, number)): Path<(String, String)>,
) -> Result<Json<Push>, ApiError> {
    let (name, number) = push_name(&repository, &number)?;
    let found = Typed(&*api.0.fabric).get::<Push>(&keys::push(&name, number)).await?;
    found.map(|(_, push)| Json(push)).ok_or_else(|| no_push(&repository, number))
}

pub(crate) async fn push_events(
    State(api): State<Api>,
    Path((repository, number)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let (name, number) = push_name(&repository, &number)?;
    match api.0.pipeline.subscribe(&name, number).await? {
        Some(progress) => Ok(events::response(progress.into_stream(), Form::Lines)),
        None => Err(no_push(&repository, number)),
    }
}

pub(crate) async fn plan(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<PlanAnswer>, ApiError> {
    let request: PlanRequest = serde_json::from_slice(&read(body)?).map_err(|error| {
        ApiError::new(ProblemKind::BadRequest, "the request is not what is wanted here")
            .detail(error.to_string())
            .hint("`selvedge plan` of the same version as control sends the right one")
    })?;
    Ok(Json(views::plan(&api.world().await?, &request)))
}

fn read(body: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::new(ProblemKind::TooLarge, "the request is too large")
        }
        _ => ApiError::new(ProblemKind::BadRequest, "the request could not be read"),
    })
}

pub(crate) async fn rollback(
    State(api): State<Api>,
    Path(app): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = read(body)?;
    let request: RollbackRequest = if body.is_empty() {
        RollbackRequest::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            ApiError::new(ProblemKind::BadRequest, "the request is not what is wanted here")
                .detail(error.to_string())
                .hint("send {\"release\": \"DIGITS\"}, or nothing for the release before")
        })?
    };
    let name = app.parse().map_err(|_| {
        ApiError::new(ProblemKind::NotFound, "no such app").detail("no app can have this name")
    })?;
    match api.0.pipeline.rollback(&name, request.release.as_deref()).await {
        Ok((_, ticket)) => Ok(events::response(ticket.progress.into_stream(), Form::Lines)),
        Err(RollbackError::NoApp(app)) => Err(no_app(app.as_str(), api.world().await?.apps.keys())),
        Err(error) => Err(rollback_problem(&error)),
    }
}

/// A link that signs a browser in to the console.
pub(crate) async fn console_link(State(api): State<Api>) -> Result<Json<ConsoleLink>, ApiError> {
    match api.0.console.link() {
        Ok((path, life_ms)) => Ok(Json(ConsoleLink { path, life_ms })),
        Err(error) => {
            tracing::error!(error = %Chain(&error), "a link to the console could not be made");
            Err(ApiError::new(ProblemKind::Internal, "the link could not be made")
                .detail(Chain(&error).to_string()))
        }
    }
}

pub(crate) async fn remove(
    State(api): State<Api>,
    Path(app): Path<String>,
) -> Result<Response, ApiError> {
    let name = app.parse().map_err(|_| no_app(&app, []))?;
    match api.0.pipeline.remove(&name).await {
        Ok((_, ticket)) => Ok(events::response(ticket.progress.into_stream(), Form::Lines)),
        Err(RemovalError::NoApp(_)) => {
            let world = api.world().await?;
            Err(no_app(&app, world.apps.keys()))
        }
        Err(error) => Err(removal_problem(&error)),
    }
}

fn removal_problem(error: &RemovalError) -> ApiError {
    let (kind, title) = match error {
        RemovalError::NoApp(_) => (ProblemKind::NotFound, "no such app"),
        RemovalError::NotLive(_) => (ProblemKind::Conflict, "nothing to remove"),
        RemovalError::NotThere { .. } => (ProblemKind::Conflict, "the repository has moved on"),
        RemovalError::Submit(SubmitError::Busy(_) | SubmitError::Stopping) => {
            (ProblemKind::Busy, "not now")
        }
        RemovalError::Fabric(_) | RemovalError::Git(_) | RemovalError::Submit(_) => {
            tracing::error!(error = %Chain(error), "an app's removal could not be started");
            (ProblemKind::Internal, "the removal could not be started")
        }
    };
    ApiError::new(kind, title).detail(Chain(error).to_string())
}

fn rollback_problem(error: &RollbackError) -> ApiError {
    let (kind, title) = match error {
        RollbackError::NoApp(_) => (ProblemKind::NotFound, "no such app"),
        RollbackError::NoEarlier { .. } => (ProblemKind::Conflict, "nothing to go back to"),
        RollbackError::NotOne { .. } => (ProblemKind::NotFound, "no such release"),
        RollbackError::Live { .. } => (ProblemKind::Conflict, "nothing to change"),
        RollbackError::Submit(SubmitError::Busy(_) | SubmitError::Stopping) => {
            (ProblemKind::Busy, "not now")
        }
        RollbackError::Fabric(_) | RollbackError::Git(_) | RollbackError::Submit(_) => {
            tracing::error!(error = %Chain(error), "a rollback could not be started");
            (ProblemKind::Internal, "the rollback could not be started")
        }
    };
    let problem = ApiError::new(kind, title).detail(Chain(error).to_string());
    match error {
        RollbackError::NotOne { kept, .. } => {
            problem.hint(format!("these are kept, newest first: {}", kept.join(", ")))
        }
        RollbackError::NoEarlier { .. } | RollbackError::Live { .. } => {
            problem.hint("`selvedge releases` lists what there is")
        }
        RollbackError::Submit(_) => problem.hint("try again in a moment"),
        RollbackError::NoApp(_) | RollbackError::Fabric(_) | RollbackError::Git(_) => {
            problem.hint("control's log says more; try again")
        }
    }
}

pub(crate) async fn git(
    State(api): State<Api>,
    Path(path): Path<String>,
    request: Request,
) -> Response {
    api.0.git.serve(&path, request).await
}

/// A push's repository and number, if they can be some at all.
fn push_name(repository: &str, number: &str) -> Result<(RepositoryName, u64), ApiError> {
    let name = repository.parse().map_err(|_| no_repository(repository))?;
    let wrong = |_| {
        ApiError::new(ProblemKind::NotFound, "no such push")
            .detail("it is named by its number in the repository, from 1")
    };
    Ok((name, number.parse().map_err(wrong)?))
}

fn no_push(repository: &str, number: u64) -> ApiError {
    ApiError::new(ProblemKind::NotFound, "no such push")
        .detail(format!("{repository} has no push {number}, or keeps it no longer"))
}

fn record<'a>(world: &'a World, app: &str) -> Result<&'a AppRecord, ApiError> {
    let found = app.parse::<AppName>().ok().and_then(|app| world.apps.get(&app));
    found.ok_or_else(|| no_app(app, world.apps.keys()))
}

pub(super) fn no_app<'a>(app: &str, known: impl IntoIterator<Item = &'a AppName>) -> ApiError {
    const SHOWN: usize = 20;
    let known: Vec<&str> = known.into_iter().map(AppName::as_str).collect();
    let hint = match closest(app, known.iter().copied()) {
        _ if known.is_empty() => "no app has been pushed yet".to_owned(),
        Some(likely) => format!("did you mean {likely}?"),
        None => {
            let more = if known.len() > SHOWN { ", and others" } else { "" };
            let shown: Vec<&str> = known.iter().copied().take(SHOWN).collect();
            format!("there are: {}{more}", shown.join(", "))
        }
    };
    ApiError::new(ProblemKind::NotFound, "no such app")
        .detail(app.chars().take(63).collect::<String>())
        .hint(hint)
}

fn no_repository(name: &str) -> ApiError {
    let name: String = name.chars().take(63).collect();
    ApiError::new(ProblemKind::NotFound, "no such repository")
        .detail(format!("nothing was ever pushed to {name:?}"))
}

/// A person who opens the API's address in a browser means the console.
pub(crate) async fn root(headers: HeaderMap, uri: Uri) -> Result<Redirect, ApiError> {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    if accepted.is_some_and(|accepted| accepted.contains("text/html")) {
        return Ok(Redirect::to("/console"));
    }
    Err(not_found(uri).await)
}

pub(crate) async fn not_found(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(ProblemKind::NotFound, "no such path")
        .detail(format!("the API has nothing at {path}"))
}

pub(crate) async fn method_not_allowed(method: Method) -> ApiError {
    ApiError::new(ProblemKind::MethodNotAllowed, "no such method here")
        .detail(format!("{method} can't be used on this path"))
}
