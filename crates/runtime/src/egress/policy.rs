//! Which addresses a sandbox may reach.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use selvedge_model::address::{plain, unreachable};

/// What may be reached: the public internet, and what the operator allows beyond it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    /// Private networks that may be reached all the same.
    pub(crate) allow: Vec<IpNet>,
}

impl Policy {
    /// Why an address can't be reached, in words; `None` when it can. The machine's own addresses
    /// are read anew at each call, since interfaces come and go.
    pub(crate) fn refusal(&self, address: IpAddr) -> io::Result<Option<&'static str>> {
        let own: Vec<IpAddr> = nix::ifaddrs::getifaddrs()?
            .filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            })
            .collect();
        Ok(self.judge(address, &own))
    }

    fn judge(&self, address: IpAddr, own: &[IpAddr]) -> Option<&'static str> {
        let address = plain(address);
        if let Some(never) = unreachable(address) {
            return Some(never);
        }
        if own.iter().any(|own| plain(*own) == address) {
            return Some("it is an address of this machine");
        }
        let private = match address {
            IpAddr::V4(v4) => {
                let [first, second, ..] = v4.octets();
                v4.is_private() || (first == 100 && second & 0xc0 == 64)
            }
            IpAddr::V6(v6) => v6.is_unique_local(),
        };
        (private && !self.allow.iter().any(|network| network.contains(&address)))
            .then_some("it is in a private network")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_world_outside_is_reachable() {
        let policy = Policy { allow: vec!["10.1.0.0/16".parse().expect("a network")] };
        let own = ["198.51.100.7".parse().expect("own"), "2001:db8::7".parse().expect("own")];
        let judge = |address: &str| policy.judge(address.parse().expect(address), &own);
        for refused in [
            "127.0.0.1",
            "127.0.1.2",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "198.51.100.7",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00::1",
            "2001:db8::7",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:198.51.100.7",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            assert!(judge(refused).is_some(), "{refused}");
        }
        for reachable in ["10.1.2.3", "::ffff:10.1.2.3", "203.0.113.9", "1.1.1.1", "2001:db8::8"] {
            assert_eq!(judge(reachable), None, "{reachable}");
        }
    }
}
