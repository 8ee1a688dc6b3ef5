//! What is seen of the installation while it runs: logs, workloads, operations.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use http::HeaderMap;
use selvedge_api::{LogFilter, MAX_LOG_LIMIT, OperationRow, ProblemKind, Workloads};
use selvedge_model::{AppName, SiteId, closest};
use selvedge_telemetry::Chain;
use serde::Deserialize;

use super::events::{self, Form};
use super::routes::no_app;
use super::{Api, ApiError};
use crate::workloads::ask;

/// The longest text that lines are searched for, in bytes.
const MAX_TEXT: usize = 1024;

/// `GET /v1/logs`: a stream, by server-sent events where they are asked for.
pub(crate) async fn logs(
    State(api): State<Api>,
    headers: HeaderMap,
    filter: Result<Query<LogFilter>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(filter) = filter.map_err(|error| wrong(error.body_text()))?;
    if filter.limit.is_some_and(|limit| limit > MAX_LOG_LIMIT) {
        return Err(wrong(format!("at most {MAX_LOG_LIMIT} lines can be asked for at once"))
            .hint("leave the limit out and name a time to begin at"));
    }
    let long = |text: &Option<String>| text.as_ref().is_some_and(|it| it.len() > MAX_TEXT);
    if long(&filter.text) || long(&filter.request) || long(&filter.release) {
        return Err(wrong(format!("no text may be longer than {MAX_TEXT} bytes")));
    }
    known(&api, filter.app.as_ref()).await?;
    known_sites(&api, &filter).await?;
    Ok(events::response(api.0.observe.logs.open(filter).into_stream(), Form::wanted(&headers)))
}

fn wrong(detail: impl Into<String>) -> ApiError {
    ApiError::new(ProblemKind::BadRequest, "this filter is not understood").detail(detail)
}

/// Refuses an app that there is not.
async fn known(api: &Api, app: Option<&AppName>) -> Result<(), ApiError> {
    let Some(app) = app else { return Ok(()) };
    let world = api.world().await?;
    if world.apps.contains_key(app) {
        return Ok(());
    }
    Err(no_app(app.as_str(), world.apps.keys()))
}

/// Refuses sites that there are not.
async fn known_sites(api: &Api, filter: &LogFilter) -> Result<(), ApiError> {
    if filter.site.is_empty() {
        return Ok(());
    }
    let sites = api.world().await?.topology.sites;
    let Some(unknown) = filter.site.iter().find(|site| !sites.contains_key(*site)) else {
        return Ok(());
    };
    let hint = match closest(unknown.as_str(), sites.keys().map(SiteId::as_str)) {
        Some(likely) => format!("did you mean {likely}?"),
        None => "`selvedge sites` lists them".to_owned(),
    };
    Err(ApiError::new(ProblemKind::NotFound, "no such site").detail(unknown.to_string()).hint(hint))
}

/// Restricts workloads.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkloadFilter {
    app: Option<AppName>,
}

/// `GET /v1/workloads`.
pub(crate) async fn workloads(
    State(api): State<Api>,
    filter: Result<Query<WorkloadFilter>, QueryRejection>,
) -> Result<Json<Workloads>, ApiError> {
    let Query(filter) = filter.map_err(|error| wrong(error.body_text()))?;
    known(&api, filter.app.as_ref()).await?;
    let sites = api.world().await?.topology.sites.into_keys().collect();
    let mut all = ask(&api.0.observe.tunnels, &sites).await.map_err(|error| {
        let detail = Chain(&error).to_string();
        tracing::error!(error = detail, "sites can't be asked for their workloads");
        ApiError::new(ProblemKind::Internal, "the sites can't be asked").detail(detail)
    })?;
    if let Some(app) = &filter.app {
        all.workloads.retain(|row| row.app == *app);
    }
    Ok(Json(all))
}

/// `GET /v1/operations`.
pub(crate) async fn operations(
    State(api): State<Api>,
) -> Result<Json<Vec<OperationRow>>, ApiError> {
    Ok(Json(api.0.observe.operations.list().await?))
}

/// `GET /v1/operations/{id}`.
pub(crate) async fn operation(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<OperationRow>, ApiError> {
    let none = || {
        ApiError::new(ProblemKind::NotFound, "no such operation")
            .detail("there is no operation with this id, or it is kept no longer")
            .hint("`selvedge ops` lists those that are kept")
    };
    let id = id.parse().map_err(|_| none())?;
    api.0.observe.operations.get(id).await?.map(Json).ok_or_else(none)
}
