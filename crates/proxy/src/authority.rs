//! Which host a request is for (RFC 9110, section 7.2; RFC 9113, section 8.3.1).

use std::borrow::Cow;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Version};

/// Why a request's host is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAuthority {
    /// Neither `Host` nor `:authority`.
    #[error("the request names no host")]
    Missing,
    /// More than one, or two that differ.
    #[error("the request names more than one host")]
    Ambiguous,
    /// Not `host` or `host:port`.
    #[error("the request's host is malformed")]
    Malformed,
}

/// `host[:port]` as the client wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    text: HeaderValue,
    host_len: usize,
}

impl Authority {
    /// Takes the authority from the head of a request, whichever HTTP version it came by.
    pub(crate) fn of(head: &Parts) -> Result<Self, BadAuthority> {
        let mut hosts = head.headers.get_all(HOST).iter();
        let header = hosts.next();
        if hosts.next().is_some() {
            return Err(BadAuthority::Ambiguous);
        }
        let target = head.uri.authority().map(http::uri::Authority::as_str);
        let text = match (target, header) {
            (Some(target), Some(header)) => {
                if !header.as_bytes().eq_ignore_ascii_case(target.as_bytes()) {
                    return Err(BadAuthority::Ambiguous);
                }
                header.clone()
            }
            (None, Some(header)) => header.clone(),
            // An HTTP/1.1 request must have the header even with an absolute target.
            (Some(target), None) if head.version >= Version::HTTP_2 => {
                HeaderValue::from_str(target).map_err(|_| BadAuthority::Malformed)?
            }
            _ => return Err(BadAuthority::Missing),
        };
        Self::parse(text)
    }

    fn parse(text: HeaderValue) -> Result<Self, BadAuthority> {
        let all = text.to_str().map_err(|_| BadAuthority::Malformed)?;
        let (host, port) = match all.rfind(':') {
            Some(colon) if !all.ends_with(']') => (all.get(..colon), all.get(colon + 1..)),
            _ => (Some(all), None),
        };
        let host = host.unwrap_or_default();
        let port_is_good = port.is_none_or(|port| {
            port.is_empty()
                || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
        });
        let name = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).map_or_else(
            || !host.contains(':') && host.bytes().all(is_host_byte),
            |address| address.parse::<std::net::Ipv6Addr>().is_ok(),
        );
        if host.is_empty() || host.len() > 255 || !name || !port_is_good {
            return Err(BadAuthority::Malformed);
        }
        let host_len = host.len();
        Ok(Self { text, host_len })
    }

    /// Host and port as the client wrote them.
    pub(crate) fn as_header(&self) -> &HeaderValue {
        &self.text
    }

    /// The host in lower case, without port and trailing dot.
    pub(crate) fn host(&self) -> Cow<'_, str> {
        let text = self.text.to_str().unwrap_or_default();
        let host = text.get(..self.host_len).unwrap_or_default();
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        }
    }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, target: &str, hosts: &[&str]) -> Parts {
        let mut request = http::Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn hosts_are_folded_and_stripped() {
        for (text, host) in [
            ("shop.edge.test", "shop.edge.test"),
            ("Shop.Edge.Test:8080", "shop.edge.test"),
            ("shop.edge.test.:443", "shop.edge.test"),
            ("shop.edge.test:", "shop.edge.test"),
            ("[::1]:80", "[::1]"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            let authority = Authority::of(&head(Version::HTTP_11, "/", &[text])).unwrap();
            assert_eq!(authority.host(), host);
            assert_eq!(authority.as_header(), text);
        }
    }

    #[test]
    fn only_one_well_formed_host() {
        for (version, target, hosts, error) in [
            (Version::HTTP_11, "/", &[][..], BadAuthority::Missing),
            (Version::HTTP_11, "http://a.test/", &[], BadAuthority::Missing),
            (Version::HTTP_11, "/", &["a.test", "a.test"], BadAuthority::Ambiguous),
            (Version::HTTP_11, "http://a.test/", &["b.test"], BadAuthority::Ambiguous),
            (Version::HTTP_2, "https://a.test/", &["b.test"], BadAuthority::Ambiguous),
            (Version::HTTP_11, "/", &[""], BadAuthority::Malformed),
            (Version::HTTP_11, "/", &["a.test:99999"], BadAuthority::Malformed),
            (Version::HTTP_11, "/", &["a.test:8o"], BadAuthority::Malformed),
            (Version::HTTP_11, "/", &["user@a.test"], BadAuthority::Malformed),
            (Version::HTTP_11, "/", &["a.test/x"], BadAuthority::Malformed),
            (Version::HTTP_11, "/", &["a b"], BadAuthority::Malformed),
            (Version::HTTP_11, "/", &["::1"], BadAuthority::Malformed),
        ] {
            assert_eq!(Authority::of(&head(version, target, hosts)), Err(error), "{hosts:?}");
        }
        assert!(Authority::of(&head(Version::HTTP_2, "https://a.test/", &[])).is_ok());
        assert!(Authority::of(&head(Version::HTTP_11, "http://a.test/", &["A.test"])).is_ok());
    }
}
