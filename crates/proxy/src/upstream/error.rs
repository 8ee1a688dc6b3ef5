//! Why an upstream gave no response, and the words for it.

use std::io;

use http::StatusCode;

use super::http1::Http1Error;
use crate::body::RequestBodyError;

/// Why a workload gave no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("it is answering as many requests as it may")]
    Busy,
    #[error("the connection was refused")]
    Refused(#[source] io::Error),
    #[error("no connection could be opened in time")]
    ConnectTimeout,
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    #[error("its certificate is not accepted: {reason}")]
    Certificate { reason: &'static str, source: io::Error },
    #[error("it does not speak HTTP/2")]
    NoHttp2,
    #[error("a connection of HTTP/2 can't be upgraded")]
    NoUpgrade,
    #[error("the request's host can't be said in HTTP/2")]
    NoAuthority,
    #[error("the connection closed before the response")]
    ClosedEarly(#[source] Broken),
    #[error("the response's head is too large")]
    HeadTooLarge,
    #[error("the response is no valid HTTP")]
    Malformed(#[source] Broken),
    #[error("no response came in time")]
    ResponseTimeout,
    #[error(transparent)]
    Request(RequestBodyError),
}

/// What broke a connection, as the library for its protocol says it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error(transparent)]
    Http1(#[from] Http1Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl UpstreamError {
    /// The status that a client gets, a stable name for programs, and a title for people.
    pub(crate) fn words(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as Status;
        match self {
            Self::Busy => (Status::SERVICE_UNAVAILABLE, "busy", "The app has too much to do"),
            Self::Refused(_) => {
                (Status::BAD_GATEWAY, "connect-refused", "The app can't be reached")
            }
            Self::ConnectTimeout => {
                (Status::GATEWAY_TIMEOUT, "connect-timeout", "The app can't be reached")
            }
            Self::Handshake(_) => {
                let title = "The app can't be reached over TLS";
                (Status::BAD_GATEWAY, "tls-handshake", title)
            }
            Self::Certificate { .. } => {
                let title = "The app's server could not prove who it is";
                (Status::BAD_GATEWAY, "certificate-invalid", title)
            }
            Self::NoHttp2 => {
                let title = "The app's server does not speak HTTP/2";
                (Status::BAD_GATEWAY, "no-http2", title)
            }
            Self::NoUpgrade => {
                let title = "The app is reached over HTTP/2, without WebSockets";
                (Status::NOT_IMPLEMENTED, "no-upgrade", title)
            }
            Self::NoAuthority => {
                let title = "The request's host can't be passed on";
                (Status::BAD_GATEWAY, "no-authority", title)
            }
            Self::ClosedEarly(_) => {
                (Status::BAD_GATEWAY, "closed-early", "The app hung up before it answered")
            }
            Self::HeadTooLarge => {
                let title = "The app's answer has too large headers";
                (Status::BAD_GATEWAY, "headers-too-large", title)
            }
            Self::Malformed(_) => {
                (Status::BAD_GATEWAY, "malformed", "The app's answer is no valid HTTP")
            }
            Self::ResponseTimeout => {
                let title = "The app did not answer in time";
                (Status::GATEWAY_TIMEOUT, "response-timeout", title)
            }
            Self::Request(error) => {
                let (status, title) = match error {
                    RequestBodyError::TooLarge => {
                        (Status::PAYLOAD_TOO_LARGE, "The request's body is too large")
                    }
                    RequestBodyError::Stalled => {
                        (Status::REQUEST_TIMEOUT, "The request's body did not arrive in time")
                    }
                    RequestBodyError::Broken => {
                        (Status::BAD_REQUEST, "The request's body did not arrive whole")
                    }
                };
                (status, error.kind(), title)
            }
        }
    }
}
