//! Addresses that lead to the machine itself or to nowhere in particular: what may not be asked on
//! behalf of somebody who is not the machine's operator.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why `address` is none of another machine's, in words; `None` when it may be. Own addresses that
/// are configured on an interface are for the caller to know.
pub fn unreachable(address: IpAddr) -> Option<&'static str> {
    match plain(address) {
        IpAddr::V4(v4) => unreachable_v4(v4),
        IpAddr::V6(v6) => unreachable_v6(v6),
    }
}

/// The IPv4 address inside an IPv6 one that leads there: mapped, compatible, NAT64 (RFC 6052) or
/// 6to4 (RFC 3056). Any other address is itself.
pub fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| {
        IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) => v4(g, h),
        (0, 0, 0, 0, 0, 0) if g != 0 => v4(g, h),
        (0x64, 0xff9b, 0, 0, 0, 0) => v4(g, h),
        (0x2002, ..) => v4(b, c),
        _ => address,
    }
}

fn unreachable_v4(v4: Ipv4Addr) -> Option<&'static str> {
    if v4.is_loopback() {
        Some("it is this machine's loopback")
    } else if v4.octets().first() == Some(&0) {
        Some("it is unspecified")
    } else if v4.is_link_local() {
        Some("it is link-local")
    } else if v4.is_multicast() || v4.octets().first().is_some_and(|first| *first >= 240) {
        Some("it is a multicast, broadcast or reserved address")
    } else {
        None
    }
}

fn unreachable_v6(v6: Ipv6Addr) -> Option<&'static str> {
    if v6.is_loopback() {
        Some("it is this machine's loopback")
    } else if v6.is_unspecified() {
        Some("it is unspecified")
    } else if v6.is_unicast_link_local() {
        Some("it is link-local")
    } else if v6.is_multicast() {
        Some("it is a multicast address")
    } else {
        None
    }
}
