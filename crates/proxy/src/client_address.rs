//! Whom a request is from, where proxies that we trust stand before us and say it.

use std::net::{IpAddr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

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
    let list = |name: &HeaderName| {
        let lines = headers.get_all(name).iter().rev();
        lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(','))
    };
    let plain = headers
        .contains_key(&X_FORWARDED_FOR)
        .then(|| search(peer, list(&X_FORWARDED_FOR).map(node), trusted));
    let standard = headers.contains_key(FORWARDED).then(|| {
        search(peer, list(&FORWARDED).map(|element| node(forwarded_for(element))), trusted)
    });
    match (plain, standard) {
        (Some(one), Some(other)) if one.ip() != other.ip() => peer,
        (Some(found), _) | (None, Some(found)) => found,
        (None, None) => peer,
    }
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

/// The `for` of an element of `forwarded`. A quoted comma or semicolon leaves something that is no
/// address.
fn forwarded_for(element: &str) -> &str {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut named = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
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
}
