//! The app that clients ask for: pages for a browser, and an echo. It counts what it is asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;

/// Seconds of sound.
pub(super) const SOUND_S: usize = 200;
/// Samples in a second, of a byte each.
const RATE: u32 = 8000;

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<title>shop</title>
<link rel="icon" href="/picture.svg">
<link rel="stylesheet" href="/style.css">
<script src="/script.js" defer></script>
<h1>shop</h1>
<img src="/picture.svg?1" alt=""><img src="/picture.svg?2" alt=""><img src="/picture.svg?3" alt="">
"#;

const PICTURE: &str = r#"<svg xmlns="http://www.w3.org/2000/svg" width="10" height="20"></svg>"#;

/// The app while it runs.
pub(super) struct App {
    pub(super) address: String,
    asked: Asked,
}

type Asked = Arc<Mutex<HashMap<String, usize>>>;

impl App {
    /// How often a path was asked for.
    pub(super) fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

/// Starts it.
pub(super) async fn start() -> App {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let routes = Router::new()
        .route("/echo", post(async |body: Body| body))
        .fallback(get(serve))
        .with_state(Arc::clone(&asked));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    App { address, asked }
}

async fn serve(State(asked): State<Asked>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    *asked.lock().unwrap().entry(path.clone()).or_default() += 1;
    let (kind, body) = match path.as_str() {
        "/" => ("text/html", PAGE.into()),
        "/page" => ("text/plain", "page".into()),
        "/style.css" => ("text/css", "h1 { letter-spacing: 3px }\n".repeat(1000).into()),
        "/script.js" => ("text/javascript", "globalThis.ran = true".into()),
        "/picture.svg" => ("image/svg+xml", PICTURE.into()),
        "/sound.wav" => ("audio/wav", sound()),
        _ => return axum::http::StatusCode::NOT_FOUND.into_response(),
    };
    // Browsers are to ask every time, the proxy is not.
    let lifetime = "max-age=0, s-maxage=600";
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, lifetime)], body).into_response()
}

/// Silence, as a WAV file. The origin knows of no ranges.
fn sound() -> Vec<u8> {
    let samples = vec![0x80; SOUND_S * RATE as usize];
    let size = u32::try_from(samples.len()).unwrap();
    let mut file = b"RIFF".to_vec();
    file.extend((size + 36).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    // PCM, of one channel.
    file.extend([1, 0, 1, 0]);
    file.extend(RATE.to_le_bytes());
    file.extend(RATE.to_le_bytes());
    // A byte for each sample.
    file.extend([1, 0, 8, 0]);
    file.extend(b"data");
    file.extend(size.to_le_bytes());
    file.extend(samples);
    file
}
