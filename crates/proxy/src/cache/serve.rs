//! Answers made of stored responses.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, AGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use selvedge_cache::Span;
use selvedge_cache::object::Object;
use selvedge_cache::policy::{Answer, answer, not_modified, partial};

use super::body::Piece;
use super::{DiskBody, StoredBody, StreamBody};
use crate::body::Payload;
use crate::pages::Fault;

/// The answer that a stored response is to a request; the fields as they are stored, and `age`.
///
/// # Errors
/// When the request asks for a part that there is not.
pub(crate) fn respond(
    object: &Object,
    method: &Method,
    request: &HeaderMap,
    now_ms: u64,
) -> Result<Response<Payload>, Fault> {
    let size = object.body.size();
    let mut response = Response::new(Payload::Empty);
    match answer(method, request, object.status, &object.headers, size) {
        Answer::Whole => {
            *response.status_mut() = object.status;
            *response.headers_mut() = object.headers.clone();
            if size > 0 {
                let is_head = method == Method::HEAD;
                *response.body_mut() = match object.body.on_disk() {
                    None if is_head => Payload::Stored(StoredBody::unsent(object.body.clone())),
                    None => Payload::Stored(StoredBody::whole(object.body.clone())),
                    Some(_) if is_head => Payload::Empty,
                    Some(body) => Payload::Disk(Box::new(DiskBody::whole(body.clone()))),
                };
            }
        }
        Answer::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.headers_mut() = object.headers.clone();
            not_modified(response.headers_mut());
        }
        Answer::Parts(spans) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            *response.headers_mut() = object.headers.clone();
            *response.body_mut() = parts(object, &spans, response.headers_mut());
        }
        Answer::Unsatisfiable => return Err(unsatisfiable(size)),
    }
    let age = HeaderValue::from(object.freshness.age_s(now_ms));
    response.headers_mut().insert(AGE, age);
    Ok(response)
}

/// Judges a request's conditions, which were not sent on, against a response.
pub(crate) fn conditional(head: &Parts, mut response: Response<Payload>) -> Response<Payload> {
    let (status, headers) = (response.status(), response.headers());
    if answer(&head.method, &head.headers, status, headers, 0) == Answer::NotModified {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Payload::Empty;
        not_modified(response.headers_mut());
    }
    response
}

/// Judges a request's conditions and ranges against a response that is on its way.
///
/// # Errors
/// When the request asks for a part that there is not.
pub(crate) fn as_asked(
    head: &Parts,
    response: Response<StreamBody>,
) -> Result<Response<Payload>, Fault> {
    let length = response.headers().get(CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let (mut parts, body) = response.into_parts();
    // Of a body whose length is not known yet there are no parts.
    let size = length.unwrap_or(0);
    let payload = match answer(&head.method, &head.headers, parts.status, &parts.headers, size) {
        Answer::NotModified => {
            parts.status = StatusCode::NOT_MODIFIED;
            not_modified(&mut parts.headers);
            Payload::Empty
        }
        Answer::Unsatisfiable if length.is_some() => return Err(unsatisfiable(size)),
        Answer::Parts(spans) => match spans.as_slice() {
            [span] => {
                parts.status = StatusCode::PARTIAL_CONTENT;
                if let Ok(range) = HeaderValue::try_from(partial(*span, size)) {
                    parts.headers.insert(CONTENT_RANGE, range);
                }
                parts.headers.insert(CONTENT_LENGTH, span.bytes().into());
                Payload::Coming(body.part(*span))
            }
            // Several are put together of what is stored only.
            _ => Payload::Coming(body),
        },
        Answer::Whole | Answer::Unsatisfiable => Payload::Coming(body),
    };
    Ok(Response::from_parts(parts, payload))
}

/// The stored fields of a response whose body is `size` bytes, as it is served whole.
pub(super) fn measured(headers: &mut HeaderMap, status: StatusCode, size: u64) {
    if status != StatusCode::NO_CONTENT {
        headers.insert(CONTENT_LENGTH, size.into());
    }
    if status == StatusCode::OK && !headers.contains_key(ACCEPT_RANGES) {
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
}

/// Nothing of the body is where the request asks for it.
fn unsatisfiable(size: u64) -> Fault {
    let title = "The response has no such part";
    let help = "The content-range header says how long it is.";
    let range = HeaderValue::try_from(format!("bytes */{size}"));
    let headers = range.map(|range| (CONTENT_RANGE, range)).into_iter().collect();
    Fault::client(StatusCode::RANGE_NOT_SATISFIABLE, "range", title, help).headers(headers)
}

/// Parts of a body: one as it is, several with what tells them apart (RFC 9110, section 14.6).
fn parts(object: &Object, spans: &[Span], headers: &mut HeaderMap) -> Payload {
    let size = object.body.size();
    let mut pieces = VecDeque::new();
    if let [span] = spans {
        if let Ok(range) = HeaderValue::try_from(partial(*span, size)) {
            headers.insert(CONTENT_RANGE, range);
        }
        pieces.push_back(Piece::Part(*span));
    } else {
        let boundary = boundary();
        let kind = headers.get(CONTENT_TYPE).cloned();
        for span in spans {
            let mut head = format!("\r\n--{boundary}\r\n").into_bytes();
            if let Some(kind) = &kind {
                head.extend_from_slice(b"content-type: ");
                head.extend_from_slice(kind.as_bytes());
                head.extend_from_slice(b"\r\n");
            }
            let range = format!("content-range: {}\r\n\r\n", partial(*span, size));
            head.extend_from_slice(range.as_bytes());
            pieces.push_back(Piece::Between(Bytes::from(head)));
            pieces.push_back(Piece::Part(*span));
        }
        pieces.push_back(Piece::Between(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
        let kind = format!("multipart/byteranges; boundary={boundary}");
        if let Ok(kind) = HeaderValue::try_from(kind) {
            headers.insert(CONTENT_TYPE, kind);
        }
    }
    headers.insert(CONTENT_LENGTH, pieces.iter().map(Piece::bytes).sum::<u64>().into());
    if let Some(body) = object.body.on_disk() {
        return Payload::Disk(Box::new(DiskBody::parts(body.clone(), pieces)));
    }
    let bytes = pieces.into_iter().flat_map(|piece| match piece {
        Piece::Between(bytes) => vec![bytes],
        Piece::Part(span) => object.body.slices(span).collect(),
    });
    Payload::Stored(StoredBody::parts(bytes.collect()))
}

/// What separates parts: at random, so that nobody can have put it into them.
fn boundary() -> String {
    let secret = RandomState::new();
    format!("{:016x}{:016x}", secret.hash_one(0u8), secret.hash_one(1u8))
}
