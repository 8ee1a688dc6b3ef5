//! Where a piece is: a URL in a template, resolved against the template's own (RFC 3986, section 5).

use http::Uri;

use crate::path;

/// The longest URL of a piece, in bytes.
const MAX_URL: usize = 2048;

/// Where a page is.
#[derive(Debug, Clone)]
pub struct Origin {
    /// `host` or `host:port`, as the client asked for it.
    pub authority: String,
    /// `http` or `https`.
    pub scheme: &'static str,
}

/// Why the URL of a piece is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is too long, or no URL, or one that two programs could read differently.
    #[error("its URL is malformed")]
    Malformed,
    /// It is neither `http` nor `https`.
    #[error("its URL's scheme is not supported")]
    Scheme,
    /// It is at a host that pieces may not come from.
    #[error("it is at another host")]
    Host,
}

/// Where a piece is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Path and query if it is the app's own, and otherwise the whole URL.
    pub(super) uri: Uri,
    pub(super) is_own: bool,
}

/// Resolves `src`, which stands in a template whose path and query is `base`.
pub(super) fn resolve(
    origin: &Origin,
    hosts: &[String],
    base: &Uri,
    src: &str,
) -> Result<Place, Refused> {
    let src = src.trim_ascii();
    let src = src.split('#').next().unwrap_or_default();
    if src.is_empty() || src.len() > MAX_URL || !src.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refused::Malformed);
    }
    let (authority, scheme, rest) = match split(src) {
        (None, None, rest) => return Ok(Place { uri: target(base, rest)?, is_own: true }),
        (scheme, Some(authority), rest) => (authority, scheme.unwrap_or(origin.scheme), rest),
        (Some(_), None, _) => return Err(Refused::Scheme),
    };
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => "http",
        "https" => "https",
        _ => return Err(Refused::Scheme),
    };
    // Behind an authority, no path is the top.
    let slash = if rest.starts_with('/') { "" } else { "/" };
    let uri = target(base, &format!("{slash}{rest}"))?;
    if same(authority, scheme, &origin.authority, origin.scheme) {
        return Ok(Place { uri, is_own: true });
    }
    if !hosts.iter().any(|host| same(authority, scheme, host, scheme)) {
        return Err(Refused::Host);
    }
    let uri = format!("{scheme}://{}{uri}", authority.to_ascii_lowercase());
    Ok(Place { uri: uri.parse().map_err(|_| Refused::Malformed)?, is_own: false })
}

/// Scheme, authority, and what follows them.
fn split(url: &str) -> (Option<&str>, Option<&str>, &str) {
    let scheme_end = url.find([':', '/', '?']).filter(|&at| url.as_bytes().get(at) == Some(&b':'));
    let (scheme, rest) = match scheme_end {
        Some(at) => (url.get(..at), url.get(at + 1..).unwrap_or_default()),
        None => (None, url),
    };
    let Some(behind) = rest.strip_prefix("//") else { return (scheme, None, rest) };
    let end = behind.find(['/', '?']).unwrap_or(behind.len());
    let (authority, rest) = behind.split_at(end);
    (scheme, Some(authority), rest)
}

/// Whether two authorities are the same, whether or not they say their scheme's usual port. One with
/// a user in it is like none that is configured or asked for.
fn same(one: &str, scheme: &str, other: &str, other_scheme: &str) -> bool {
    let bare = |authority: &str, scheme: &str| {
        let port = if scheme == "https" { ":443" } else { ":80" };
        authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase()
    };
    bare(one, scheme) == bare(other, other_scheme)
}

/// Path and query of a reference without scheme and authority.
fn target(base: &Uri, reference: &str) -> Result<Uri, Refused> {
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let path = match path {
        "" => base.path().to_owned(),
        path if path.starts_with('/') => undotted(path),
        path => {
            let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
            undotted(&format!("{directory}/{path}"))
        }
    };
    // As for any request: what two programs could read differently is not sent.
    path::normalise(&path).map_err(|_| Refused::Malformed)?;
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    target.parse().map_err(|_| Refused::Malformed)
}

/// Removes dot segments (RFC 3986, section 5.2.4) of a path that begins with a slash.
fn undotted(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_dots = matches!(segment, "." | "..");
        if segment == ".." {
            kept.pop();
        }
        if !is_dots {
            kept.push(segment);
        } else if segments.peek().is_none() {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}
