//! The console's handlers.

use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{Path, Query, RawQuery, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use http::header::{RETRY_AFTER, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};
use maud::{Markup, html};
use serde::Deserialize;

use super::access::Refusal;
use super::page::View;
use super::{Console, live as stream, tail};
use crate::now_ms;

/// Where everything starts.
const HOME: &str = "/console";

pub(crate) async fn overview(State(console): State<Console>, headers: HeaderMap) -> Response {
    match signed_in(&console, &headers) {
        Some(_) => page(&console, &View::Overview).await,
        // 200, not 401: the page is what was asked for, and says how to go on.
        None => html_page(StatusCode::OK, console.frame().plain("Sign in", &how_to_sign_in())),
    }
}

pub(crate) async fn home() -> Redirect {
    Redirect::to(HOME)
}

pub(crate) async fn view(
    State(console): State<Console>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    if signed_in(&console, &headers).is_none() {
        return Redirect::to(HOME).into_response();
    }
    match View::at(&path, query.as_deref().unwrap_or_default()) {
        Some(view) => page(&console, &view).await,
        None => not_found(&console),
    }
}

pub(crate) async fn live_overview(console: State<Console>, headers: HeaderMap) -> Response {
    live(console, Path(String::new()), RawQuery(None), headers).await
}

pub(crate) async fn live(
    State(console): State<Console>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Some(session) = signed_in(&console, &headers) else {
        return stream::signed_out();
    };
    match View::at(&path, query.as_deref().unwrap_or_default()) {
        Some(view) => stream::stream(console, view, session),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[derive(Deserialize)]
pub(crate) struct Link {
    #[serde(default)]
    code: String,
}

/// Opening a link changes nothing. The code goes into a form whose button uses it.
pub(crate) async fn link(State(console): State<Console>, Query(link): Query<Link>) -> Response {
    let content = html! {
        section.sheet {
            h1 { "Sign in to the console" }
            p { "Of the installation " strong { (console.frame().zone) } "." }
            form method="post" action="/console/sign-in" {
                input type="hidden" name="code" value=(link.code);
                button.main type="submit" autofocus { "Sign in" }
            }
            p.faint { "The link works once, within 5 minutes of being made. Signing in lasts 12 hours." }
        }
    };
    html_page(StatusCode::OK, console.frame().plain("Sign in", &content))
}

pub(crate) async fn sign_in(State(console): State<Console>, body: Bytes) -> Response {
    let code = form_code(&body).unwrap_or_default();
    let redeem = {
        let console = console.clone();
        move || console.access().redeem(&code, Instant::now(), now_ms())
    };
    // It writes a file.
    let opened = tokio::task::spawn_blocking(redeem).await.unwrap_or(Err(Refusal::Failed));
    let (status, title, words) = match opened {
        Ok(opened) => {
            let mut response = Redirect::to(HOME).into_response();
            if let Some(cookie) = console.reach().set_cookie(&opened.0) {
                response.headers_mut().insert(SET_COOKIE, cookie);
            }
            return response;
        }
        Err(Refusal::Void) => (
            StatusCode::FORBIDDEN,
            "This link does not work any more",
            "It was used already, or is older than 5 minutes.",
        ),
        Err(Refusal::TooMany) => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many tries",
            "Too many links that don't work were tried. Wait a few seconds.",
        ),
        Err(Refusal::Failed) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "Signing in failed",
            "Control could not open a session; its log says why.",
        ),
    };
    let content = html! {
        section.sheet {
            h1 { (title) }
            p { (words) " Ask for another:" }
            (command())
        }
    };
    let mut response = html_page(status, console.frame().plain(title, &content));
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}

/// The code of a posted form. Codes need no escapes.
fn form_code(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    text.split('&').find_map(|pair| pair.strip_prefix("code=")).map(str::to_owned)
}

pub(crate) async fn sign_out(State(console): State<Console>, headers: HeaderMap) -> Response {
    if let Some(session) = console.reach().session(&headers) {
        let console = console.clone();
        // It writes a file.
        let ended = tokio::task::spawn_blocking(move || console.access().end(&session)).await;
        if let Err(error) = ended {
            tracing::error!(%error, "a session could not be ended");
        }
    }
    let mut response = Redirect::to(HOME).into_response();
    if let Some(cookie) = console.reach().set_cookie("") {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

fn how_to_sign_in() -> Markup {
    html! {
        section.sheet {
            h1 { "Sign in" }
            p { "On a machine that has the operator's token, run" }
            (command())
            p { "and open the link that it prints. It works once." }
            p.faint { "Signed in already, and came here from another page? " a href=(HOME) { "Go on to the console" } "." }
        }
    }
}

fn command() -> Markup {
    html! { pre.command tabindex="0" { code { "selvedge console" } } }
}

/// The session of a request, if it has one that has not ended.
fn signed_in(console: &Console, headers: &HeaderMap) -> Option<String> {
    let session = console.reach().session(headers)?;
    console.access().is_open(&session, now_ms()).then_some(session)
}

async fn page(console: &Console, view: &View) -> Response {
    let world = console.world();
    let ask = view.ask(&world.borrow());
    let lines = match &ask {
        Some(ask) => Some(tail::read(console.logs(), ask).await),
        None => None,
    };
    let page = view.page(&console.look(&world.borrow(), true));
    match page {
        Some(mut page) => {
            if let Some(lines) = lines {
                page.section("log", lines);
            }
            html_page(StatusCode::OK, console.frame().signed_in(view, &page))
        }
        None => not_found(console),
    }
}

fn not_found(console: &Console) -> Response {
    let content = html! {
        section.sheet {
            h1 { "Not here" }
            p { "There is no such page, or what it was about is kept no longer." }
            p { a href=(HOME) { "Back to the overview" } }
        }
    };
    html_page(StatusCode::NOT_FOUND, console.frame().plain("Not here", &content))
}

fn html_page(status: StatusCode, page: Markup) -> Response {
    (status, Html(page.into_string())).into_response()
}
