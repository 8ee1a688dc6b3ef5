//! TLS for a control that listens beyond loopback, with a certificate of the installation's own
//! authority.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use selvedge_telemetry::Chain;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, AuthorityError};
use crate::now_ms;

/// An acceptor that presents a certificate for `names`.
pub(crate) fn acceptor(
    authority: Arc<Authority>,
    names: Vec<String>,
) -> Result<TlsAcceptor, AuthorityError> {
    let own = Own { authority, names, current: Mutex::new(None) };
    // What can go wrong is to be known now, not at the first handshake.
    own.renew()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(own));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The names and addresses by which clients may reach a listener at `address`.
pub(crate) fn names(address: SocketAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    names.extend(host_name());
    if address.ip().is_unspecified() {
        let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
        names.extend(interfaces.filter_map(|interface| {
            let address = interface.address?;
            let four = address.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
            let six = address.as_sockaddr_in6().map(|it| IpAddr::from(it.ip()));
            four.or(six).map(|ip| ip.to_string())
        }));
    } else {
        names.push(address.ip().to_string());
    }
    names.sort();
    names.dedup();
    names
}

/// The machine's name, if it has one that a certificate can carry.
pub(crate) fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    selvedge_model::Host::new(&name).ok().map(String::from)
}

/// Control's own certificate, renewed in time.
struct Own {
    authority: Arc<Authority>,
    names: Vec<String>,
    current: Mutex<Option<Current>>,
}

struct Current {
    key: Arc<CertifiedKey>,
    renew_at_ms: u64,
}

impl Own {
    fn renew(&self) -> Result<Arc<CertifiedKey>, AuthorityError> {
        let own = self.authority.issue_own(&self.names, now_ms())?;
        let key = CertifiedKey::from_der(own.chain, own.key, &aws_lc_rs::default_provider())?;
        let key = Arc::new(key);
        let current = Current { key: key.clone(), renew_at_ms: own.renew_at_ms };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(current);
        Ok(key)
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (key, due) = {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            let current = current.as_ref()?;
            (current.key.clone(), current.renew_at_ms <= now_ms())
        };
        if !due {
            return Some(key);
        }
        match self.renew() {
            Ok(key) => Some(key),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "control's certificate is due");
                Some(key)
            }
        }
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("names", &self.names).finish_non_exhaustive()
    }
}
