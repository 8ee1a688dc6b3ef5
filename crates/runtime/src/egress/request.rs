//! The head of a request to the way out.

use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::{Refusal, Upstream};

const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Through a tunnel (CONNECT), so that only its ends see what is said.
    pub(super) tunnel: bool,
}

impl Target {
    /// `HOST:PORT`, with brackets around an IPv6 address, and without HTTP's own port where that
    /// goes without saying.
    pub(super) fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if !self.tunnel && self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }
}

/// A request's head, and what came behind it in the same reads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) target: Target,
    method: String,
    /// From the path on; empty for CONNECT.
    path: String,
    /// Header lines that are passed on, each with its line end.
    headers: String,
    rest: Vec<u8>,
}

impl Head {
    pub(super) fn is_connect(&self) -> bool {
        self.target.tunnel
    }

    /// What goes to the other side first: to the origin, or to another proxy that wants to know
    /// the whole URL and perhaps who asks.
    pub(super) fn forward(&self, proxy: Option<&Upstream>) -> Vec<u8> {
        let mut head = String::new();
        if !self.target.tunnel {
            let Self { method, path, headers, .. } = self;
            let authority = self.target.authority();
            let start = if proxy.is_some() { format!("http://{authority}") } else { String::new() };
            head = format!("{method} {start}{path} HTTP/1.1\r\nhost: {authority}\r\n{headers}");
            if let Some(authorization) = proxy.and_then(Upstream::authorization) {
                head.push_str(&format!("proxy-authorization: {authorization}\r\n"));
            }
            head.push_str("connection: close\r\n\r\n");
        }
        [head.as_bytes(), &self.rest].concat()
    }
}

/// Reads a head.
pub(super) async fn read(client: &mut TcpStream) -> io::Result<Result<Head, Refusal>> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok(parse(&bytes, rest));
        }
        if bytes.len() > MAX_HEAD_BYTES {
            let reason = format!("a request's head is limited to {MAX_HEAD_BYTES} bytes");
            return Ok(Err(Refusal::new("431 Request Header Fields Too Large", reason)));
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn parse(head: &[u8], rest: Vec<u8>) -> Result<Head, Refusal> {
    let bad = |reason: &str| Refusal::new("400 Bad Request", reason);
    let text = std::str::from_utf8(head).map_err(|_| bad("the head is not UTF-8"))?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let [method, uri, version] = first.split(' ').collect::<Vec<_>>()[..] else {
        return Err(bad("the first line is not METHOD TARGET VERSION"));
    };
    if !version.starts_with("HTTP/1.") {
        return Err(bad("this proxy speaks HTTP/1.1"));
    }
    if method == "CONNECT" {
        let (host, port) = split_authority(uri, None).ok_or_else(|| bad("no HOST:PORT"))?;
        let target = Target { host, port, tunnel: true };
        let (path, headers) = (String::new(), String::new());
        return Ok(Head { target, method: method.into(), path, headers, rest });
    }
    let address = uri
        .get(..7)
        .filter(|scheme| scheme.eq_ignore_ascii_case("http://"))
        .and_then(|_| uri.get(7..))
        .ok_or_else(|| bad("a proxy takes CONNECT HOST:PORT or a full http:// URL"))?;
    let end = address.find(['/', '?']).unwrap_or(address.len());
    let (authority, path) = address.split_at(end);
    let (host, port) =
        split_authority(authority, Some(80)).ok_or_else(|| bad("the URL names no host"))?;
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut headers = String::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        // One request for a connection: where the next one goes is not looked at.
        if !matches!(&*name, "host" | "connection" | "keep-alive" | "upgrade" | "te")
            && !name.starts_with("proxy-")
        {
            headers.push_str(line);
            headers.push_str("\r\n");
        }
    }
    let target = Target { host, port, tunnel: false };
    Ok(Head { target, method: method.into(), path: format!("{slash}{path}"), headers, rest })
}

/// Splits `HOST:PORT`, where the host may be an IPv6 address in brackets.
pub(super) fn split_authority(authority: &str, default: Option<u16>) -> Option<(String, u16)> {
    if authority.contains('@') {
        return None;
    }
    let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, port) = bracketed.split_once(']')?;
        (host, port.strip_prefix(':').or(if port.is_empty() { Some("") } else { None })?)
    } else {
        authority.split_once(':').unwrap_or((authority, ""))
    };
    let port = if port.is_empty() { default? } else { port.parse().ok()? };
    let plausible = !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte));
    (plausible && port != 0).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_rewritten_for_the_origin() {
        let head = b"GET http://example.com/a?b HTTP/1.1\r\nHost: other\r\nProxy-Connection: x\r\n\
                     Accept: */*\r\nConnection: keep-alive\r\n\r\n";
        let head = parse(head, b"rest".to_vec()).expect("parses");
        assert_eq!(head.target.authority(), "example.com");
        assert_eq!(
            String::from_utf8_lossy(&head.forward(None)),
            "GET /a?b HTTP/1.1\r\nhost: example.com\r\nAccept: */*\r\nconnection: close\r\n\r\nrest"
        );
        let connect = parse(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n\r\n", Vec::new());
        let target = connect.expect("parses").target;
        assert_eq!((target.host.as_str(), target.port, target.tunnel), ("2001:db8::1", 443, true));
        for refused in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET https://example.com/ HTTP/1.1\r\n\r\n",
            "CONNECT example.com HTTP/1.1\r\n\r\n",
            "CONNECT a@example.com:443 HTTP/1.1\r\n\r\n",
            "CONNECT example.com:0 HTTP/1.1\r\n\r\n",
            "GET http:///x HTTP/1.1\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            parse(refused.as_bytes(), Vec::new()).expect_err(refused);
        }
    }
}
