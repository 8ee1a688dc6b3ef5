//! Streams of events: one JSON object a line, with signs of life in between.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use selvedge_api::{NDJSON, PushEvent};

/// A stream that has nothing to say sends an empty line after this, so that silence means loss.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// The response that carries `events` until they end.
pub(crate) fn response(events: impl Stream<Item = PushEvent> + Send + 'static) -> Response {
    let lines = stream::unfold(Box::pin(events), |mut events| async {
        let line = match tokio::time::timeout(SIGN_OF_LIFE, events.next()).await {
            Ok(event) => line(&event?),
            Err(_) => Bytes::from_static(b"\n"),
        };
        Some((Ok::<_, Infallible>(line), events))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn line(event: &PushEvent) -> Bytes {
    // Its types have string keys alone, so that this can't fail.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken() {
        let (sender, receiver) = mpsc::channel(1);
        let mut body = response(ReceiverStream::new(receiver)).into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "\n");
        sender.send(PushEvent::Queued { ahead: 2 }).await.unwrap();
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, "{\"event\":\"queued\",\"ahead\":2}\n");
        drop(sender);
        assert!(body.frame().await.is_none());
    }
}
