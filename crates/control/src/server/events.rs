//! Streams of events: one JSON object a line, with signs of life in between.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use selvedge_api::NDJSON;
use serde::Serialize;

/// A stream that has nothing to say sends an empty line after this, so that silence means loss.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One JSON object a line.
    Lines,
    /// Server-sent events (HTML standard, 9.2), whose data is that JSON object.
    ServerSent,
}

impl Form {
    /// The one that a client asks for; lines unless it says otherwise.
    pub(crate) fn wanted(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut types = accepted.flat_map(|value| value.split(','));
        if types.any(|it| it.trim().starts_with(EVENT_STREAM)) {
            Self::ServerSent
        } else {
            Self::Lines
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Lines => NDJSON,
            Self::ServerSent => EVENT_STREAM,
        }
    }
}

const EVENT_STREAM: &str = "text/event-stream";

/// The response that carries `events` until they end.
pub(crate) fn response<T: Serialize>(
    events: impl Stream<Item = T> + Send + 'static,
    form: Form,
) -> Response {
    let lines = stream::unfold(Box::pin(events), move |mut events| async move {
        let line = match (tokio::time::timeout(SIGN_OF_LIFE, events.next()).await, form) {
            (Ok(event), _) => line(&event?, form),
            (Err(_), Form::Lines) => Bytes::from_static(b"\n"),
            (Err(_), Form::ServerSent) => Bytes::from_static(b":\n\n"),
        };
        Some((Ok::<_, Infallible>(line), events))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn line(event: &impl Serialize, form: Form) -> Bytes {
    // The events' types have string keys alone, so that this can't fail.
    let json = serde_json::to_vec(event).unwrap_or_default();
    let (before, after): (&[u8], &[u8]) = match form {
        Form::Lines => (b"", b"\n"),
        Form::ServerSent => (b"data: ", b"\n\n"),
    };
    [before, &json, after].concat().into()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use selvedge_api::PushEvent;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken() {
        let (sender, receiver) = mpsc::channel(1);
        let mut body = response(ReceiverStream::new(receiver), Form::Lines).into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "\n");
        sender.send(PushEvent::Queued { ahead: 2 }).await.unwrap();
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, "{\"event\":\"queued\",\"ahead\":2}\n");
        drop(sender);
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_browser_gets_server_sent_events() {
        let mut headers = HeaderMap::new();
        assert_eq!(Form::wanted(&headers), Form::Lines);
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let (sender, receiver) = mpsc::channel(1);
        let answer = response(ReceiverStream::new(receiver), Form::wanted(&headers));
        assert_eq!(answer.headers()[CONTENT_TYPE], "text/event-stream");
        let mut body = answer.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ":\n\n");
        sender.send(PushEvent::Queued { ahead: 2 }).await.unwrap();
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, "data: {\"event\":\"queued\",\"ahead\":2}\n\n");
    }
}
