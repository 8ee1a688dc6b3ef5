//! The address of a plain HTTP server elsewhere.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::id::Host;

/// A name or an address with a port. As text `http://NAME:PORT`, the port always there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UpstreamAddress {
    name: Name,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Name {
    Ip(IpAddr),
    Host(Host),
}

/// Why a text is no address of an upstream, in words that go on from the text itself, and the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {mend}")]
pub struct AddressError {
    /// What is wrong with it.
    pub what: &'static str,
    /// What to do.
    pub mend: &'static str,
}

impl UpstreamAddress {
    /// Reads `http://NAME[:PORT]`.
    pub fn new(text: &str) -> Result<Self, AddressError> {
        let wrong = |what, mend| Err(AddressError { what, mend });
        const FORM: &str =
            "write http://, a name or an address, and a port, such as \"http://10.0.0.5:9000\"";
        let Some(rest) = text.strip_prefix("http://") else {
            return match text.contains("://") {
                true if text.starts_with("https://") => wrong(
                    "asks for TLS, which upstreams don't have yet",
                    "write http://, over a network that you trust, or run a TLS client beside the app",
                ),
                true => wrong("is no plain HTTP address", FORM),
                false => wrong("has no scheme", FORM),
            };
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return wrong("has a user name or password", "remove it: upstreams are asked without");
        }
        if authority.contains(['/', '?', '#']) {
            return wrong(
                "has a path or query",
                "write the address alone, and change paths with the route's `rewrite`",
            );
        }
        let (name, port) = match authority.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((ip, port))) => {
                let Ok(ip) = ip.parse::<Ipv6Addr>() else {
                    return wrong("has no IPv6 address in its brackets", FORM);
                };
                (Name::Ip(ip.into()), port)
            }
            Some(None) => return wrong("has a bracket that is not closed", FORM),
            None => {
                let (name, port) = authority
                    .find(':')
                    .and_then(|at| authority.split_at_checked(at))
                    .unwrap_or((authority, ""));
                let name = match name.parse::<IpAddr>() {
                    Ok(ip) => Name::Ip(ip),
                    // What looks like an address and is none, some resolvers take for one.
                    Err(_) if name.rsplit('.').next().is_some_and(is_number) => {
                        return wrong("is no address of four numbers", FORM);
                    }
                    Err(_) => match Host::new(name) {
                        Ok(host) => Name::Host(host),
                        Err(_) => return wrong("has no host name or address", FORM),
                    },
                };
                (name, port)
            }
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => Some(80),
            None => None,
            Some(digits) if is_number(digits) => digits.parse().ok(),
            Some(_) => None,
        };
        match port {
            Some(port) if port > 0 => Ok(Self { name, port }),
            _ => wrong("has no port between 1 and 65535", FORM),
        }
    }

    /// The IP address, where it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.name {
            Name::Ip(ip) => Some(ip),
            Name::Host(_) => None,
        }
    }

    /// The name to look up, where it is one.
    pub fn name(&self) -> Option<&Host> {
        match &self.name {
            Name::Ip(_) => None,
            Name::Host(host) => Some(host),
        }
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it says by itself that it is the machine's own: a name of `localhost`
    /// (RFC 6761, section 6.3), or an address that leads nowhere else.
    pub fn is_local(&self) -> Option<&'static str> {
        match &self.name {
            Name::Ip(ip) => crate::address::unreachable(*ip),
            Name::Host(host) if host.as_str().rsplit('.').next() == Some("localhost") => {
                Some("it is this machine's loopback")
            }
            Name::Host(_) => None,
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Name::Ip(IpAddr::V6(ip)) => write!(f, "http://[{ip}]:{}", self.port),
            Name::Ip(ip) => write!(f, "http://{ip}:{}", self.port),
            Name::Host(host) => write!(f, "http://{host}:{}", self.port),
        }
    }
}

impl TryFrom<String> for UpstreamAddress {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::new(&text)
    }
}

impl From<UpstreamAddress> for String {
    fn from(address: UpstreamAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_form() {
        for (text, want) in [
            ("http://10.0.0.5:9000", "http://10.0.0.5:9000"),
            ("http://10.0.0.5", "http://10.0.0.5:80"),
            ("http://Legacy.Internal./", "http://legacy.internal:80"),
            ("http://[2001:db8::1]:81", "http://[2001:db8::1]:81"),
            ("http://[2001:DB8:0::1]", "http://[2001:db8::1]:80"),
            ("http://db-1:8080", "http://db-1:8080"),
        ] {
            let address = UpstreamAddress::new(text).unwrap();
            assert_eq!(address.to_string(), want);
            assert_eq!(UpstreamAddress::new(want), Ok(address));
        }
        for text in [
            "",
            "10.0.0.5:9000",
            "https://a",
            "ftp://a",
            "http://",
            "http://:80",
            "http://a:0",
            "http://a:70000",
            "http://a:",
            "http://a:+1",
            "http://a:80:80",
            "http://a/x",
            "http://a?x",
            "http://u:p@a",
            "http://[::1",
            "http://[x]:1",
            "http://::1",
            "http://a b",
            "http://127.1",
            "http://0x7f.1",
            "http://2130706433",
            "http://[::1]x",
        ] {
            assert!(UpstreamAddress::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_machines_own_addresses_are_known() {
        let local = |text| UpstreamAddress::new(text).unwrap().is_local().is_some();
        for text in [
            "http://127.0.0.1:1",
            "http://[::1]",
            "http://localhost",
            "http://x.localhost",
            "http://0.0.0.0",
            "http://169.254.169.254",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert!(local(text), "{text}");
        }
        for text in
            ["http://10.0.0.5", "http://localhost.example", "http://192.168.1.1", "http://1.1.1.1"]
        {
            assert!(!local(text), "{text}");
        }
    }
}
