//! What the caller gives: the way to a piece.

use bytes::Bytes;
use http::{HeaderMap, Response, Uri};
use http_body::Body;

use crate::body::BodyError;

/// A piece that is asked for, with `GET`.
#[derive(Debug, Clone)]
pub struct Fragment {
    /// Path and query, if it is the app's own; otherwise the whole URL.
    pub uri: Uri,
    /// Whether it is at the page's own host.
    pub is_own: bool,
    /// The headers of the request. Those of the client, without what is about its body, its
    /// connection, ranges and conditions; cookies and credentials only if the piece is the app's own.
    pub headers: HeaderMap,
}

/// Fetches pieces. Each is a request like others: located in the app's routes, and answered by its
/// cache or whoever is behind it.
pub trait Fetch: Send + Sync + 'static {
    /// The body of a response.
    type Body: Body<Data = Bytes, Error: Into<BodyError>> + Send + Unpin + 'static;

    /// Fetches a piece. Dropping the future gives it up.
    ///
    /// # Errors
    /// When there is no response. One with an error's status counts as failed all the same.
    fn fetch(
        &self,
        fragment: Fragment,
    ) -> impl Future<Output = Result<Response<Self::Body>, BodyError>> + Send;
}
