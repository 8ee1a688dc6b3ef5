//! Errors as problem details.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use selvedge_api::{PROBLEM_JSON, Problem, ProblemKind};
use selvedge_fabric::FabricError;
use selvedge_telemetry::Chain;

/// A problem on its way out; [`problems`] writes it.
#[derive(Debug, Clone)]
pub(crate) struct ApiError(Box<Problem>);

impl ApiError {
    pub(crate) fn new(kind: ProblemKind, title: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(kind, title)))
    }

    pub(crate) fn detail(self, detail: impl Into<String>) -> Self {
        Self(Box::new(self.0.detail(detail)))
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self(Box::new(self.0.hint(hint)))
    }
}

impl From<FabricError> for ApiError {
    fn from(error: FabricError) -> Self {
        let detail = Chain(&error).to_string();
        tracing::error!(error = detail, "the fabric failed a request");
        Self::new(ProblemKind::Internal, "control's store failed").detail(detail)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(*self.0);
        response
    }
}

/// Writes the problem of a response, with the path that it is about.
pub(crate) async fn problems(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    let Some(mut problem) = response.extensions_mut().remove::<Problem>() else {
        return response;
    };
    problem.instance = Some(path.clone());
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut answer = (status, body).into_response();
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if status == StatusCode::UNAUTHORIZED {
        // Git asks for a password only when it is asked for one; other clients have the token.
        let challenge = if path.starts_with("/git/") {
            HeaderValue::from_static("Basic realm=\"selvedge\", charset=\"UTF-8\"")
        } else {
            HeaderValue::from_static("Bearer realm=\"selvedge\"")
        };
        answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    answer
}
