//! The files of the console: part of the binary, known to browsers by a digest so that they keep
//! them for good.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use selvedge_model::Digest;

use super::Console;

struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
}

const ASSETS: [Asset; 4] = [
    Asset {
        name: "console.css",
        kind: "text/css; charset=utf-8",
        content: include_str!("assets/console.css"),
    },
    Asset {
        name: "console.js",
        kind: "text/javascript; charset=utf-8",
        content: include_str!("assets/console.js"),
    },
    Asset { name: "land.svg", kind: "image/svg+xml", content: include_str!("assets/land.svg") },
    Asset { name: "icon.svg", kind: "image/svg+xml", content: include_str!("assets/icon.svg") },
];

/// Names the assets of this program; a page of another has other ones.
pub(crate) fn version() -> String {
    let all: String = ASSETS.iter().map(|asset| asset.content).collect();
    Digest::of(all.as_bytes()).short()
}

/// `GET /console/assets/{version}/{name}`.
pub(crate) async fn serve(
    State(console): State<Console>,
    Path((version, name)): Path<(String, String)>,
) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut response = asset.content.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    let keep = if version == console.version() {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(keep));
    response
}
