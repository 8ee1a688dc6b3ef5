//! Proxies that the machine itself goes through (`http_proxy` and its kin).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::policy::Policy;
use super::request::{Target, split_authority};
use super::{Refusal, check};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// One proxy. Its credentials stay here; a sandbox never sees them.
#[derive(Clone)]
pub(crate) struct Upstream {
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<String>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

/// The proxies for each kind of request, and what goes past them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upstreams {
    http: Option<Upstream>,
    https: Option<Upstream>,
    except: Vec<String>,
}

impl Upstreams {
    /// Reads the customary variables, which have lower and upper case names.
    pub(crate) fn from(environment: &BTreeMap<String, String>) -> Self {
        let value = |name: &str| {
            environment
                .get(name)
                .or_else(|| environment.get(&name.to_ascii_uppercase()))
                .filter(|value| !value.is_empty())
        };
        let proxy = |name: &str| value(name).or_else(|| value("all_proxy")).and_then(|v| parse(v));
        let except = value("no_proxy")
            .map(|list| list.split(',').map(|one| one.trim().to_ascii_lowercase()).collect())
            .unwrap_or_default();
        Self { http: proxy("http_proxy"), https: proxy("https_proxy"), except }
    }

    /// The proxy for a target; `None`: go there directly.
    pub(super) fn for_target(&self, target: &Target) -> Option<&Upstream> {
        let host = target.host.to_ascii_lowercase();
        let excepted = self.except.iter().filter(|one| !one.is_empty()).any(|one| {
            let suffix = one.trim_start_matches('*').trim_start_matches('.');
            one == "*"
                || host == suffix
                || host.strip_suffix(suffix).is_some_and(|h| h.ends_with('.'))
        });
        let proxy = if target.tunnel { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !excepted)
    }
}

impl Upstream {
    /// The value of `Proxy-Authorization`.
    pub(super) fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// Connects to the proxy, and for a tunnel through it.
    pub(super) async fn connect(
        &self,
        target: &Target,
        policy: &Policy,
    ) -> Result<TcpStream, Refusal> {
        // The proxy resolves names, maybe others than this machine can; but what this machine
        // knows to be out of bounds stays so.
        for address in resolve(target).await.unwrap_or_default() {
            check(target, address.ip(), policy)?;
        }
        let bad = |error: io::Error| {
            Refusal::new("502 Bad Gateway", format!("the proxy {}: {error}", self.host))
        };
        let own = Target { host: self.host.clone(), port: self.port, tunnel: false };
        let addresses = resolve(&own).await.map_err(bad)?;
        let address = addresses.into_iter().next();
        let address = address.ok_or_else(|| bad(io::ErrorKind::NotFound.into()))?;
        let mut stream = connect(address).await.map_err(bad)?;
        if !target.tunnel {
            return Ok(stream);
        }
        let answer = tokio::time::timeout(CONNECT_TIMEOUT, self.tunnel(&mut stream, target)).await;
        let status = answer.map_err(|_| bad(io::ErrorKind::TimedOut.into()))?.map_err(bad)?;
        if status.starts_with('2') {
            Ok(stream)
        } else {
            Err(Refusal::new("502 Bad Gateway", format!("the proxy answered {status}")))
        }
    }

    /// Asks for a tunnel and returns the status line after the version.
    async fn tunnel(&self, stream: &mut TcpStream, target: &Target) -> io::Result<String> {
        let authority = target.authority();
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("proxy-authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the head belongs to the tunnel.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() > MAX_ANSWER_BYTES {
                return Err(io::Error::other("its answer is too long"));
            }
            answer.push(stream.read_u8().await?);
        }
        let line = String::from_utf8_lossy(&answer);
        let line = line.lines().next().unwrap_or_default();
        Ok(line.split_once(' ').map(|(_, status)| status.to_owned()).unwrap_or_default())
    }
}

fn parse(url: &str) -> Option<Upstream> {
    let rest = url.strip_prefix("http://").or_else(|| (!url.contains("://")).then_some(url))?;
    let rest = rest.split('/').next()?;
    let (user, authority) = match rest.rsplit_once('@') {
        Some((user, authority)) => (Some(user), authority),
        None => (None, rest),
    };
    let (host, port) = split_authority(authority, Some(80))?;
    let authorization = user.map(|user| {
        let user: Vec<u8> = percent_encoding::percent_decode_str(user).collect();
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user))
    });
    Some(Upstream { host, port, authorization })
}

/// The addresses of a target.
pub(super) async fn resolve(target: &Target) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = target.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, target.port)]);
    }
    let found = tokio::net::lookup_host((target.host.as_str(), target.port));
    Ok(tokio::time::timeout(CONNECT_TIMEOUT, found).await??.collect())
}

/// Connects, but not for longer than is reasonable.
pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstreams(variables: &[(&str, &str)]) -> Upstreams {
        let environment =
            variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Upstreams::from(&environment)
    }

    #[test]
    fn the_customary_variables_are_heeded() {
        let upstreams = upstreams(&[
            ("http_proxy", "http://proxy.example:3128/"),
            ("HTTPS_PROXY", "http://us%40er:pass@[2001:db8::1]:8080"),
            ("no_proxy", "internal.example, .corp.example"),
        ]);
        let proxy = |host: &str, tunnel| {
            let target = Target { host: host.into(), port: 80, tunnel };
            upstreams.for_target(&target).map(|proxy| format!("{proxy:?}"))
        };
        assert_eq!(proxy("example.com", false).as_deref(), Some("proxy.example:3128"));
        assert_eq!(proxy("example.com", true).as_deref(), Some("2001:db8::1:8080"));
        for direct in ["internal.example", "a.internal.example", "x.corp.example"] {
            assert_eq!(proxy(direct, true), None, "{direct}");
        }
        assert!(proxy("notinternal.example", true).is_some());
        let https = upstreams.https.as_ref().and_then(Upstream::authorization);
        assert_eq!(https, Some("Basic dXNAZXI6cGFzcw=="));
    }

    #[tokio::test]
    async fn a_tunnel_goes_through_the_proxy_but_never_to_what_is_out_of_bounds() {
        let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = proxy.local_addr().expect("an address");
        let served = tokio::spawn(async move {
            let (mut stream, _) = proxy.accept().await.expect("a client");
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.expect("a request");
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").await.expect("an answer");
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let all = upstreams(&[("all_proxy", &format!("http://{address}"))]);
        let policy = Policy::default();
        let target = |host: &str| Target { host: host.into(), port: 443, tunnel: true };
        let local = target("127.0.0.1");
        let refused = all.for_target(&local).expect("a proxy").connect(&local, &policy).await;
        assert_eq!(refused.expect_err("refused").status, "403 Forbidden");
        let far = target("192.0.2.77");
        let tunnel = all.for_target(&far).expect("a proxy").connect(&far, &policy).await;
        let mut greeting = String::new();
        tunnel.expect("a tunnel").read_to_string(&mut greeting).await.expect("a greeting");
        assert_eq!(greeting, "hello");
        assert!(served.await.expect("served").starts_with("CONNECT 192.0.2.77:443 HTTP/1.1\r\n"));
    }
}
