//! Answers that send the client elsewhere.

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use selvedge_model::Redirect;

use crate::body::Payload;
use crate::check::Checked;
use crate::pages::Fault;

/// Where a redirect of the app leads.
pub(crate) fn answer(
    redirect: &Redirect,
    head: &Parts,
    checked: &Checked,
    scheme: &str,
) -> Result<Response<Payload>, Fault> {
    let location = redirect.location(head.uri.path(), head.uri.query());
    // The parser finds circles as far as it knows the app's hosts; a request that is sent to itself
    // is the rest.
    let here = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let authority = checked.authority.as_header().to_str().unwrap_or_default();
    if location == here || location == format!("{scheme}://{authority}{here}") {
        let help = "In the app's selvedge.toml, this [[redirect]] leads to itself.";
        let status = StatusCode::LOOP_DETECTED;
        return Err(Fault::proxy(status, "redirect-loop", "The address leads to itself", help));
    }
    let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::TEMPORARY_REDIRECT);
    respond(status, &location)
}

/// The same address over HTTPS, at this port.
pub(crate) fn to_https(
    head: &Parts,
    checked: &Checked,
    port: u16,
) -> Result<Response<Payload>, Fault> {
    let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let host = checked.authority.host();
    let location = match port {
        443 => format!("https://{host}{path}"),
        port => format!("https://{host}:{port}{path}"),
    };
    let mut response = respond(StatusCode::PERMANENT_REDIRECT, &location)?;
    // The app may change its mind, and browsers keep a plain 308 for ever.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn respond(status: StatusCode, location: &str) -> Result<Response<Payload>, Fault> {
    let Ok(location) = HeaderValue::try_from(location) else {
        let help = "Write the path plainly, with everything but ASCII percent-encoded.";
        let title = "The address can't be sent back";
        return Err(Fault::client(StatusCode::BAD_REQUEST, "bad-request", title, help));
    };
    let mut response = Response::new(Payload::Empty);
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    Ok(response)
}
