//! Addresses of upstreams: `http://NAME[:PORT]`, `https://…`, or `h2c://…` for HTTP/2 in the clear.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// Where an upstream is, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    scheme: Scheme,
    host: String,
    port: u16,
}

/// What is spoken at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 or HTTP/1.1 over TLS, as is agreed on.
    Https,
    /// HTTP/2 in the clear, with prior knowledge (RFC 9113, section 3.3).
    H2c,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Http | Self::H2c => 80,
            Self::Https => 443,
        }
    }
}

/// Why a text is no address, in words that go on from the text itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is no URL.
    #[error("it is no URL; write http://NAME:PORT")]
    NoUrl,
    /// It is a URL of another kind.
    #[error("upstreams are reached by http, https or h2c; write http://NAME:PORT")]
    Scheme,
    /// It names a path, a query or a user.
    #[error("requests keep their own paths; write http://NAME:PORT alone")]
    Path,
}

impl Address {
    /// What is spoken there.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// A name or an IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// As in a `host` header: the port is left out where it goes without saying.
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        if self.port == self.scheme.port() { host } else { format!("{host}:{}", self.port) }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let uri: Uri = text.parse().map_err(|_| AddressError::NoUrl)?;
        let scheme = uri.scheme_str().ok_or(AddressError::NoUrl)?;
        let all = [Scheme::Http, Scheme::Https, Scheme::H2c];
        let scheme = all.into_iter().find(|known| known.name() == scheme);
        let scheme = scheme.ok_or(AddressError::Scheme)?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(AddressError::NoUrl)?;
        let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || user {
            return Err(AddressError::Path);
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { scheme, host, port: uri.port_u16().unwrap_or(scheme.port()) })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_urls() {
        let read = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        for text in [
            "http://a.test",
            "http://127.0.0.1:9000",
            "http://[::1]:9000",
            "http://[::1]",
            "https://a.test",
            "https://a.test:80",
            "h2c://a.test:443",
        ] {
            assert_eq!(read(text).as_deref(), Ok(text));
        }
        assert_eq!(read("https://a.test:443").unwrap(), "https://a.test");
        assert_eq!(read("http://a.test:80/").unwrap(), "http://a.test");
        for (text, error) in [
            ("a.test:80", AddressError::NoUrl),
            ("/", AddressError::NoUrl),
            ("ftp://a.test", AddressError::Scheme),
            ("http://a.test/x", AddressError::Path),
            ("http://a.test?x", AddressError::Path),
            ("http://u@a.test", AddressError::Path),
        ] {
            assert_eq!(read(text), Err(error), "{text}");
        }
    }
}
