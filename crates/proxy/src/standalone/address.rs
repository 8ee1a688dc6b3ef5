//! Addresses of upstreams: `http://NAME[:PORT]`.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// Why a text is no address, in words that go on from the text itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is no URL.
    #[error("it is no URL; write http://NAME:PORT")]
    NoUrl,
    /// It is a URL of another kind.
    #[error("upstreams are reached by http; write http://NAME:PORT")]
    Scheme,
    /// It names a path, a query or a user.
    #[error("requests keep their own paths; write http://NAME:PORT alone")]
    Path,
}

impl Address {
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
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let uri: Uri = text.parse().map_err(|_| AddressError::NoUrl)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some(_) => return Err(AddressError::Scheme),
            None => return Err(AddressError::NoUrl),
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(AddressError::NoUrl)?;
        let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || user {
            return Err(AddressError::Path);
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: uri.port_u16().unwrap_or(80) })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_urls() {
        let read = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        for text in ["http://a.test", "http://127.0.0.1:9000", "http://[::1]:9000", "http://[::1]"]
        {
            assert_eq!(read(text).as_deref(), Ok(text));
        }
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
