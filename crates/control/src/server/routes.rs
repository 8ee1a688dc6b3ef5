//! The routes' handlers.

use axum::Json;
use axum::extract::{Path, State};
use http::{Method, Uri};
use selvedge_api::{AppSummary, ProblemKind, ReleaseRow, SiteRow, Status, Version, Why};
use selvedge_fabric::Typed;
use selvedge_model::documents::AppRecord;
use selvedge_model::{AppName, Push, RepositoryName, keys};

use super::{Api, ApiError};
use crate::views;
use crate::world::World;

/// The API's major version.
const API: u32 = 1;

impl Api {
    async fn world(&self) -> Result<World, ApiError> {
        Ok(World::load(&*self.inner.fabric, &views::PREFIXES).await?)
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
    let pushes = Typed(&*api.inner.fabric).list::<Push>(&keys::pushes(&name)).await?;
    if pushes.is_empty() {
        return Err(no_repository(&repository));
    }
    Ok(Json(pushes.into_iter().rev().map(|(_, _, push)| push).collect()))
}

pub(crate) async fn push(
    State(api): State<Api>,
    Path((repository, number)): Path<(String, String)>,
) -> Result<Json<Push>, ApiError> {
    find_push(&api, &repository, &number).await.map(Json)
}

async fn find_push(api: &Api, repository: &str, number: &str) -> Result<Push, ApiError> {
    let name: RepositoryName = repository.parse().map_err(|_| no_repository(repository))?;
    let found = match number.parse() {
        Ok(number) => Typed(&*api.inner.fabric).get::<Push>(&keys::push(&name, number)).await?,
        Err(_) => None,
    };
    found.map(|(_, push)| push).ok_or_else(|| {
        ApiError::new(ProblemKind::NotFound, "no such push")
            .detail(format!("{repository} has no push {number}, or keeps it no longer"))
    })
}

fn record<'a>(world: &'a World, app: &str) -> Result<&'a AppRecord, ApiError> {
    let found = app.parse::<AppName>().ok().and_then(|app| world.apps.get(&app));
    found.ok_or_else(|| {
        let known: Vec<&str> = world.apps.keys().map(AppName::as_str).take(20).collect();
        let hint = if known.is_empty() {
            "no app has been pushed yet".to_owned()
        } else {
            format!("there are: {}", known.join(", "))
        };
        ApiError::new(ProblemKind::NotFound, "no such app")
            .detail(format!("there is no app {:?}", app.chars().take(63).collect::<String>()))
            .hint(hint)
    })
}

fn no_repository(name: &str) -> ApiError {
    let name: String = name.chars().take(63).collect();
    ApiError::new(ProblemKind::NotFound, "no such repository")
        .detail(format!("nothing was ever pushed to {name:?}"))
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
