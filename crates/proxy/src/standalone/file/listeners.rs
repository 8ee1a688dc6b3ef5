//! `[[listener]]`.

use std::net::SocketAddr;

use serde::Deserialize;

use super::{FileError, wrong};
use crate::{Listener, Listeners, Protocol};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerTable {
    address: SocketAddr,
    #[serde(default)]
    pub(super) tls: bool,
    /// HTTP/3 is served there too, on UDP.
    #[serde(default)]
    http3: bool,
    /// Networks whose connections begin with the PROXY protocol.
    #[serde(default)]
    proxy_protocol: Vec<ipnet::IpNet>,
}

pub(super) fn listeners(tables: &[ListenerTable]) -> Result<Listeners, FileError> {
    let mut all = Vec::new();
    for table in tables {
        let protocol = if table.tls { Protocol::Https } else { Protocol::Http };
        // A listener is known by its address, and so goes on when the file is read anew.
        let mut listener = Listener::new(&table.address.to_string(), table.address, protocol);
        listener.proxy_protocol = table.proxy_protocol.clone();
        all.push(listener);
        match (table.http3, table.tls) {
            (true, true) => {
                let name = format!("{} over QUIC", table.address);
                all.push(Listener::new(&name, table.address, Protocol::Http3));
            }
            (true, false) => return Err(wrong("[[listener]]", "http3 = true needs tls = true")),
            (false, _) => {}
        }
    }
    Ok(Listeners(all))
}
