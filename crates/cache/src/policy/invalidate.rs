//! What a request that changes something makes invalid (RFC 9111, section 4.4).

use http::header::{CONTENT_LOCATION, HOST, HeaderMap, LOCATION};
use http::request::Parts;
use http::{Method, StatusCode, Uri};

/// The targets, as path and query at the request's own origin, whose stored responses are no longer
/// good; none where nothing was changed. `scheme` is the request's.
pub fn invalidated(
    request: &Parts,
    scheme: &str,
    status: StatusCode,
    headers: &HeaderMap,
) -> Vec<String> {
    let safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE];
    let worked = status.is_success() || status.is_redirection();
    if safe.contains(&request.method) || !worked {
        return Vec::new();
    }
    let own = request.uri.path_and_query().map(|target| target.as_str().to_owned());
    let others = [LOCATION, CONTENT_LOCATION];
    let others = others
        .iter()
        .filter_map(|name| resolve(request, scheme, headers.get(name)?.to_str().ok()?));
    own.into_iter().chain(others).collect()
}

/// Whether a response to POST is what a GET of the same URL would get (RFC 9110, section 9.3.3).
pub fn is_what_get_gets(request: &Parts, scheme: &str, headers: &HeaderMap) -> bool {
    let location = headers.get(CONTENT_LOCATION).and_then(|value| value.to_str().ok());
    let target = location.and_then(|location| resolve(request, scheme, location));
    let own = request.uri.path_and_query().map(http::uri::PathAndQuery::as_str);
    target.is_some() && target.as_deref() == own
}

/// A reference (RFC 3986, section 5.2) as path and query, if it leads to the request's own origin:
/// nobody is to make others' responses stale.
fn resolve(request: &Parts, scheme: &str, reference: &str) -> Option<String> {
    let reference = reference.split('#').next()?;
    if reference.starts_with("//") || reference.contains("://") {
        let absolute = reference.strip_prefix("//").map(|rest| format!("{scheme}://{rest}"));
        let uri: Uri = absolute.as_deref().unwrap_or(reference).parse().ok()?;
        let host = request.uri.authority().map(http::uri::Authority::as_str);
        let host = host.or_else(|| request.headers.get(HOST)?.to_str().ok())?;
        let same = uri.scheme_str().is_some_and(|own| own == scheme)
            && portless(uri.authority()?.as_str(), scheme)
                .eq_ignore_ascii_case(portless(host, scheme));
        // `http://a.test?x` is `/?x` there (RFC 9110, section 4.2.3).
        let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
        return same.then(|| format!("{}{query}", uri.path()));
    }
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let base = request.uri.path();
    if path.is_empty() {
        let query = query.or(request.uri.query());
        return Some(query.map_or_else(|| base.to_owned(), |query| format!("{base}?{query}")));
    }
    let merged = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{}/{path}", base.rsplit_once('/').map_or("", |(directory, _)| directory)),
    };
    let path = without_dots(&merged);
    Some(query.map_or_else(|| path.clone(), |query| format!("{path}?{query}")))
}

/// An authority without the port that is the scheme's own.
fn portless<'a>(authority: &'a str, scheme: &str) -> &'a str {
    let port = if scheme == "https" { ":443" } else { ":80" };
    authority.strip_suffix(port).unwrap_or(authority)
}

/// Takes `.` and `..` out (RFC 3986, section 5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for segment in &segments {
        match *segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let directory = matches!(segments.last(), Some(&"." | &".."));
    let mut path = format!("/{}", kept.join("/"));
    if directory && !path.ends_with('/') {
        path.push('/');
    }
    path
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn targets(method: &str, status: u16, lines: &[(&str, &str)]) -> Vec<String> {
        let request = Request::builder().method(method).uri("/a/b?c").header(HOST, "shop.test");
        let request = request.body(()).unwrap().into_parts().0;
        let headers = lines.iter().map(|(name, value)| {
            (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())
        });
        invalidated(&request, "http", StatusCode::from_u16(status).unwrap(), &headers.collect())
    }

    #[test]
    fn what_a_post_was_answered_with_may_be_what_get_gets() {
        let request = Request::post("/a?b").header(HOST, "shop.test").body(()).unwrap();
        let request = request.into_parts().0;
        for (location, expected) in
            [("/a?b", true), ("?b", true), ("http://shop.test/a?b", true), ("/a", false)]
        {
            let headers = HeaderMap::from_iter([(CONTENT_LOCATION, location.parse().unwrap())]);
            assert_eq!(is_what_get_gets(&request, "http", &headers), expected, "{location}");
        }
        assert!(!is_what_get_gets(&request, "http", &HeaderMap::new()));
    }

    #[test]
    fn changes_invalidate() {
        assert_eq!(targets("POST", 200, &[]), ["/a/b?c"]);
        assert_eq!(targets("M-SEARCH", 302, &[]), ["/a/b?c"]);
        for (method, status) in [("GET", 200), ("HEAD", 200), ("OPTIONS", 200), ("PUT", 404)] {
            assert!(targets(method, status, &[("location", "/x")]).is_empty(), "{method} {status}");
        }
        for (location, expected) in [
            ("/x?y#z", Some("/x?y")),
            ("x", Some("/a/x")),
            ("../x/./y/..", Some("/x/")),
            ("?z", Some("/a/b?z")),
            ("http://SHOP.test/x", Some("/x")),
            ("//shop.test/x", Some("/x")),
            ("http://shop.test:80/x", Some("/x")),
            ("http://shop.test:8080/x", None),
            ("https://shop.test/x", None),
            ("http://other.test/x", None),
        ] {
            let found = targets("DELETE", 204, &[("content-location", location)]);
            assert_eq!(found.get(1).map(String::as_str), expected, "{location}");
        }
    }
}
