//! What a request's head must be like before anything is looked up for it.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, StatusCode, Version};

use crate::Limits;
use crate::authority::Authority;
use crate::pages::Fault;
use crate::path;

/// A head that passed.
pub(crate) struct Checked {
    pub(crate) authority: Authority,
    /// Percent-decoded, for routes and files.
    pub(crate) path: String,
}

/// Checks a head.
pub(crate) fn check(head: &Parts, limits: &Limits) -> Result<Checked, Fault> {
    sizes(head, limits)?;
    framing(head, limits)?;
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        let help = "This server is no tunnel and sends no request back.";
        let title = format!("The method {} is not served", head.method);
        return Err(Fault::client(StatusCode::METHOD_NOT_ALLOWED, "method", title, help));
    }
    let bad =
        |title: String, help| Fault::client(StatusCode::BAD_REQUEST, "bad-request", title, help);
    let authority = Authority::of(head).map_err(|error| {
        bad(sentence(&error.to_string()), "Send one Host header with the host's name.")
    })?;
    let path = path::normalise(head.uri.path()).map_err(|error| {
        let help = "Write the path plainly: no dot segments, backslashes or broken encodings.";
        bad(sentence(&error.to_string()), help)
    })?;
    Ok(Checked { authority, path: path.into_owned() })
}

fn sizes(head: &Parts, limits: &Limits) -> Result<(), Fault> {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > limits.max_uri_bytes {
        let help = "Send long data in the request's body.";
        let title = format!("The address is longer than {} bytes", limits.max_uri_bytes);
        return Err(Fault::client(StatusCode::URI_TOO_LONG, "uri-too-long", title, help));
    }
    let bytes: usize =
        head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if head.headers.len() > limits.max_headers || bytes > limits.max_header_bytes as usize {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let title = "The request's headers are too large";
        let help = "Send fewer or shorter headers; in a browser, remove this site's cookies.";
        return Err(Fault::client(status, "headers-too-large", title, help));
    }
    Ok(())
}

/// Whoever sends a body framed in an odd way wants two programs to see two requests. A message
/// with both framings reaches this with `transfer-encoding` alone, and its connection closes after
/// it (RFC 9112, section 6.3); the workload gets framing of our own making in any case.
fn framing(head: &Parts, limits: &Limits) -> Result<(), Fault> {
    let odd = || {
        let help = "Send Content-Length or Transfer-Encoding: chunked, once.";
        let title = "The request's body is framed in an unclear way";
        Fault::client(StatusCode::BAD_REQUEST, "bad-framing", title, help)
    };
    // What HTTP/1.1 says of a connection means nothing in HTTP/3 (RFC 9114, section 4.2). The library
    // of HTTP/2 has seen to that.
    let connection = ["connection", "keep-alive", "proxy-connection", "upgrade"];
    if head.version == Version::HTTP_3 && connection.iter().any(|it| head.headers.contains_key(*it))
    {
        let help = "Leave out Connection, Keep-Alive, Proxy-Connection and Upgrade.";
        let title = "The request speaks of its connection as HTTP/1.1 does";
        return Err(Fault::client(StatusCode::BAD_REQUEST, "bad-request", title, help));
    }
    let mut encodings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        let chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
        let lone = encodings.next().is_none() && !head.headers.contains_key(CONTENT_LENGTH);
        if head.version >= Version::HTTP_2 || !chunked || !lone {
            return Err(odd());
        }
    }
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = length.as_bytes().iter().all(u8::is_ascii_digit);
        let length: Option<u64> = length.to_str().ok().and_then(|text| text.parse().ok());
        let (Some(length), true, None) = (length, digits, lengths.next()) else {
            return Err(odd());
        };
        if length > limits.max_body_bytes {
            return Err(too_large(limits));
        }
    }
    Ok(())
}

pub(crate) fn too_large(limits: &Limits) -> Fault {
    let help = "Send less at once.";
    let title = format!("The request's body is larger than {} bytes", limits.max_body_bytes);
    Fault::client(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", title, help)
}

/// The text with a capital letter.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn status(version: Version, method: &str, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().version(version).method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        let limits = Limits {
            max_uri_bytes: 30,
            max_headers: 3,
            max_header_bytes: 100,
            max_body_bytes: 10,
            ..Limits::default()
        };
        check(&head, &limits).map_or_else(|fault| fault.status.as_u16(), |_| 200)
    }

    #[test]
    fn heads() {
        let host = ("host", "a.test");
        let long = "x".repeat(40);
        for (method, uri, headers, expected) in [
            ("GET", "/", &[host][..], 200),
            ("GET", "/?q=../..%00", &[host], 200),
            ("GET", "/", &[], 400),
            ("GET", "/../x", &[host], 400),
            ("CONNECT", "/", &[host], 405),
            ("TRACE", "/", &[host], 405),
            ("GET", &format!("/{long}"), &[host], 414),
            ("GET", "/", &[host, ("a", "1"), ("b", "2"), ("c", "3")], 431),
            ("GET", "/", &[host, ("a", &long), ("b", &long)], 431),
            ("POST", "/", &[host, ("content-length", "10")], 200),
            ("POST", "/", &[host, ("content-length", "11")], 413),
            ("POST", "/", &[host, ("content-length", "+1")], 400),
            ("POST", "/", &[host, ("content-length", "1, 1")], 400),
            ("POST", "/", &[host, ("content-length", "1"), ("content-length", "1")], 400),
            ("POST", "/", &[host, ("transfer-encoding", "Chunked")], 200),
            ("POST", "/", &[host, ("transfer-encoding", "gzip, chunked")], 400),
            (
                "POST",
                "/",
                &[host, ("transfer-encoding", "x"), ("transfer-encoding", "chunked")],
                400,
            ),
            ("POST", "/", &[host, ("transfer-encoding", "chunked"), ("content-length", "1")], 400),
        ] {
            assert_eq!(
                status(Version::HTTP_11, method, uri, headers),
                expected,
                "{uri} {headers:?}"
            );
        }
        let chunked = [host, ("transfer-encoding", "chunked")];
        assert_eq!(status(Version::HTTP_2, "POST", "/", &chunked), 400);
        assert_eq!(status(Version::HTTP_3, "POST", "/", &chunked), 400);
        let connection = [host, ("connection", "close")];
        assert_eq!(status(Version::HTTP_3, "GET", "/", &connection), 400);
        // An address without a path is one of CONNECT alone.
        assert_eq!(status(Version::HTTP_3, "GET", "a.test", &[]), 400);
    }
}
