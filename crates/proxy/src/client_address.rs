//! Whom a request is from, and by which scheme, where proxies that we trust stand before us and say it.

use std::net::{IpAddr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The address of the client: the rightmost in `x-forwarded-for` or `forwarded` (RFC 7239) that is
/// not a trusted proxy's own. What stands left of it was said by somebody we don't trust.
///
/// Which of the two a proxy sets we can't know, and the other may be the client's own: where both
/// are there and differ, neither is believed. An address that can't be read, such as `unknown`,
/// ends the search at the proxy that said it.
pub(crate) fn client_address(
    peer: SocketAddr,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> SocketAddr {
    if !is_trusted(peer.ip(), trusted) {
        return peer;
    }
    let (plain, standard) = claims(peer, headers, trusted);
    match (plain, standard) {
        (Some(one), Some(other)) if one.ip() != other.ip() => peer,
        (Some(found), _) | (None, Some(found)) => found,
        (None, None) => peer,
    }
}

/// Whom a request is from by `x-forwarded-for` and by `forwarded`, where they are there.
fn claims(
    peer: SocketAddr,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let plain = headers
        .contains_key(&X_FORWARDED_FOR)
        .then(|| search(peer, list(headers, &X_FORWARDED_FOR).map(node), trusted));
    let standard = headers.contains_key(FORWARDED).then(|| {
        let elements = list(headers, &FORWARDED);
        search(peer, elements.map(|element| node(said(element, "for"))), trusted)
    });
    (plain, standard)
}

/// The scheme that the client used, where a trusted proxy says it: `x-forwarded-proto` with one
/// value, or the `proto` in `forwarded` beside the client's address. Where both are there and differ,
/// neither is believed, as with the address; nor is either where the addresses differ, since then one of
/// the fields is the client's own.
pub(crate) fn client_scheme(
    peer: SocketAddr,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> Option<&'static str> {
    if !is_trusted(peer.ip(), trusted)
        || matches!(claims(peer, headers, trusted), (Some(one), Some(other)) if one.ip() != other.ip())
    {
        return None;
    }
    let mut plain = list(headers, &X_FORWARDED_PROTO);
    let plain = match (plain.next(), plain.next()) {
        (Some(only), None) => scheme(only),
        (None, _) => None,
        (Some(_), Some(_)) => return None,
    };
    let mut standard = None;
    for element in list(headers, &FORWARDED) {
        standard = scheme(said(element, "proto"));
        if !node(said(element, "for")).is_some_and(|node| is_trusted(node.ip(), trusted)) {
            break;
        }
    }
    match (plain, standard) {
        (Some(one), Some(other)) if one != other => None,
        (found, other) => found.or(other),
    }
}

fn scheme(text: &str) -> Option<&'static str> {
    let text = text.trim().trim_matches('"');
    ["http", "https"].into_iter().find(|known| text.eq_ignore_ascii_case(known))
}

/// The members of a field, the last first.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let lines = headers.get_all(name).iter().rev();
    lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(','))
}

fn search(
    peer: SocketAddr,
    nodes: impl Iterator<Item = Option<SocketAddr>>,
    trusted: &[IpNet],
) -> SocketAddr {
    let mut last = peer;
    for node in nodes {
        let Some(node) = node else { return last };
        last = node;
        if !is_trusted(node.ip(), trusted) {
            return last;
        }
    }
    last
}

fn is_trusted(ip: IpAddr, trusted: &[IpNet]) -> bool {
    let ip = ip.to_canonical();
    trusted.iter().any(|network| network.contains(&ip))
}

/// What an element of `forwarded` says once by this name. A quoted comma or semicolon leaves something
/// that is no value.
fn said<'a>(element: &'a str, wanted: &str) -> &'a str {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut named = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
    match (named.next(), named.next()) {
        (Some((_, value)), None) => value.trim(),
        _ => "",
    }
}

/// An address with or without a port; IPv6 with a port in brackets.
fn node(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let found = bare.parse().map(|ip: IpAddr| SocketAddr::new(ip, 0)).or_else(|_| text.parse());
    found.ok().map(|found| SocketAddr::new(found.ip().to_canonical(), found.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        client_address(peer.parse().unwrap(), &map, &trusted).ip().to_string()
    }

    #[test]
    fn the_rightmost_that_is_not_trusted_is_the_client() {
        for (peer, headers, expected) in [
            ("192.0.2.9:1", &[("x-forwarded-for", "203.0.113.1")][..], "192.0.2.9"),
            ("10.0.0.1:1", &[], "10.0.0.1"),
            ("10.0.0.1:1", &[("x-forwarded-for", "203.0.113.1")], "203.0.113.1"),
            ("[::ffff:10.0.0.1]:1", &[("x-forwarded-for", "203.0.113.1")], "203.0.113.1"),
            (
                "10.0.0.1:1",
                &[("x-forwarded-for", "6.6.6.6, 203.0.113.1:99, 10.2.3.4")],
                "203.0.113.1",
            ),
            (
                "10.0.0.1:1",
                &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "[2001:db8::7]:4, fd00::1")],
                "2001:db8::7",
            ),
            ("10.0.0.1:1", &[("x-forwarded-for", "203.0.113.1, unknown")], "10.0.0.1"),
            ("10.0.0.1:1", &[("x-forwarded-for", "203.0.113.1, evil, 10.0.0.2")], "10.0.0.2"),
            ("10.0.0.1:1", &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
            (
                "[fd00::1]:1",
                &[("forwarded", "for=6.6.6.6, For=\"[2001:db8::1]:80\";proto=https;by=10.0.0.1")],
                "2001:db8::1",
            ),
            ("10.0.0.1:1", &[("forwarded", "for=203.0.113.1;for=6.6.6.6")], "10.0.0.1"),
            ("10.0.0.1:1", &[("forwarded", "for=_hidden")], "10.0.0.1"),
            // A client behind a proxy that sets only one of them sets the other itself.
            (
                "10.0.0.1:1",
                &[("x-forwarded-for", "203.0.113.1"), ("forwarded", "for=6.6.6.6")],
                "10.0.0.1",
            ),
            (
                "10.0.0.1:1",
                &[("x-forwarded-for", "203.0.113.1"), ("forwarded", "for=203.0.113.1")],
                "203.0.113.1",
            ),
        ] {
            assert_eq!(found(peer, headers), expected, "{peer} {headers:?}");
        }
    }

    #[test]
    fn a_trusted_proxy_says_the_scheme() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        for (peer, headers, expected) in [
            ("192.0.2.9:1", &[("x-forwarded-proto", "https")][..], None),
            ("192.0.2.9:1", &[("forwarded", "for=192.0.2.1;proto=https")], None),
            ("10.0.0.1:1", &[], None),
            ("10.0.0.1:1", &[("x-forwarded-proto", "HTTPS")], Some("https")),
            ("10.0.0.1:1", &[("x-forwarded-proto", "http")], Some("http")),
            ("10.0.0.1:1", &[("x-forwarded-proto", "gopher")], None),
            ("10.0.0.1:1", &[("x-forwarded-proto", "https, http")], None),
            ("10.0.0.1:1", &[("x-forwarded-proto", "https"), ("x-forwarded-proto", "https")], None),
            ("10.0.0.1:1", &[("forwarded", "For=192.0.2.1;Proto=\"https\"")], Some("https")),
            // The client's element counts; what stands left of it is the client's own.
            (
                "10.0.0.1:1",
                &[(
                    "forwarded",
                    "for=6.6.6.6;proto=http, for=192.0.2.1;proto=https, for=10.0.0.2;proto=http",
                )],
                Some("https"),
            ),
            ("10.0.0.1:1", &[("forwarded", "proto=https;for=6.6.6.6, for=192.0.2.1")], None),
            (
                "10.0.0.1:1",
                &[("x-forwarded-proto", "https"), ("forwarded", "for=192.0.2.1;proto=http")],
                None,
            ),
            // A proxy that sets one of them passes on the client's other.
            (
                "10.0.0.1:1",
                &[("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=6.6.6.6;proto=https")],
                None,
            ),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().unwrap());
            }
            let found = client_scheme(peer.parse().unwrap(), &map, &trusted);
            assert_eq!(found, expected, "{peer} {headers:?}");
        }
    }
}
