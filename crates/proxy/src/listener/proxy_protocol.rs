//! The PROXY protocol, versions 1 and 2, as receivers read it ("The PROXY protocol", HAProxy
//! Technologies, 2020): a load balancer in front says whom a connection is from.
//!
//! Nothing but the header is read, since what follows may be a TLS handshake. Additional data of
//! version 2 (TLVs) is passed over.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a version 1 header, with its end (section 2.1).
const MAX_V1: usize = 107;
/// Bytes of a version 2 header after the first 16, additional data included.
const MAX_V2: usize = 4096;

/// What is no header of either version.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed PROXY protocol header")]
struct Malformed;

/// Reads a header. Nothing: the balancer speaks for itself, as for its health checks.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    // No header is shorter.
    let mut begin = [0; SIGNATURE.len()];
    stream.read_exact(&mut begin).await?;
    let parsed = if begin == SIGNATURE {
        let mut fixed = [0; 4];
        stream.read_exact(&mut fixed).await?;
        let [command, family, high, low] = fixed;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_V2 {
            return Err(invalid(Malformed));
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        version_2(command, family, &rest)
    } else if begin.starts_with(b"PROXY ") {
        version_1(&read_line(stream, begin.to_vec()).await?)
    } else {
        Err(Malformed)
    };
    parsed.map_err(invalid)
}

fn invalid(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Reads to the end of the line and not a byte further.
async fn read_line(stream: &mut TcpStream, mut line: Vec<u8>) -> io::Result<Vec<u8>> {
    while !line.ends_with(b"\n") {
        let mut seen = [0; MAX_V1];
        let room = seen.get_mut(..MAX_V1.saturating_sub(line.len())).unwrap_or_default();
        let length = stream.peek(room).await?;
        let seen = room.get(..length).unwrap_or_default();
        if seen.is_empty() {
            return Err(invalid(Malformed));
        }
        let length = seen.iter().position(|byte| *byte == b'\n').map_or(length, |end| end + 1);
        let from = line.len();
        line.resize(from + length, 0);
        stream.read_exact(line.get_mut(from..).unwrap_or_default()).await?;
    }
    Ok(line)
}

fn version_1(line: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
    let line = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.ok_or(Malformed)?.split(' ');
    if words.next() != Some("PROXY") {
        return Err(Malformed);
    }
    let family = words.next().ok_or(Malformed)?;
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let [from, to, from_port, to_port] =
        words.collect::<Vec<_>>().try_into().map_err(|_| Malformed)?;
    let port = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u16>().map_err(|_| Malformed),
        false => Err(Malformed),
    };
    port(to_port)?;
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(Into::into).map_err(|_| Malformed),
        "TCP6" => text.parse::<Ipv6Addr>().map(Into::into).map_err(|_| Malformed),
        _ => Err(Malformed),
    };
    address(to)?;
    Ok(Some(SocketAddr::new(address(from)?, port(from_port)?)))
}

fn version_2(command: u8, family: u8, rest: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
    match command {
        // LOCAL: the addresses, if any, mean nothing.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err(Malformed),
    }
    let port = |at: usize| {
        let bytes = rest.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u16::from_be_bytes).ok_or(Malformed)
    };
    match family {
        // TCP over IPv4: two addresses, two ports.
        0x11 => {
            let ip: [u8; 4] = rest.first_chunk().copied().ok_or(Malformed)?;
            let from = port(8)?;
            port(10)?;
            Ok(Some((ip, from).into()))
        }
        // TCP over IPv6.
        0x21 => {
            let ip: [u8; 16] = rest.first_chunk().copied().ok_or(Malformed)?;
            let from = port(32)?;
            port(34)?;
            Ok(Some((ip, from).into()))
        }
        // Unspecified, or a Unix socket: there is no address to believe.
        0x00 | 0x31 => Ok(None),
        _ => Err(Malformed),
    }
}

/// A header of either version. What is read is said again by what says it plainly.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(input: &[u8]) {
    let found = match input.split_first_chunk() {
        Some((&[command, family, high, low], rest)) if command & 0xf0 == 0x20 => {
            let length = usize::from(u16::from_be_bytes([high, low]));
            version_2(command, family, rest.get(..length).unwrap_or(rest))
        }
        _ => version_1(input),
    };
    let Ok(Some(found)) = found else { return };
    let family = if found.is_ipv4() { "TCP4" } else { "TCP6" };
    let (ip, port) = (found.ip(), found.port());
    let line = format!("PROXY {family} {ip} {ip} {port} 443\r\n");
    assert!(line.len() <= MAX_V1, "an address that no header can say");
    assert_eq!(version_1(line.as_bytes()), Ok(Some(found)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v1(line: &str) -> Result<Option<SocketAddr>, Malformed> {
        version_1(line.as_bytes())
    }

    #[test]
    fn version_1_is_read_strictly() {
        let from = |text: &str| Ok(Some(text.parse().unwrap()));
        assert_eq!(v1("PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\n"), from("192.0.2.1:5000"));
        assert_eq!(v1("PROXY TCP6 2001:db8::1 ::1 5 4\r\n"), from("[2001:db8::1]:5"));
        assert_eq!(v1("PROXY UNKNOWN\r\n"), Ok(None));
        assert_eq!(v1("PROXY UNKNOWN ffff:: ffff:: 1 2\r\n"), Ok(None));
        for bad in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 5000\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 5000 443 1\r\n",
            "PROXY TCP4 192.0.2.1  192.0.2.2 5000 443\r\n",
            "PROXY TCP4 2001:db8::1 ::1 5 4\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +5000 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 70000 443\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 5000 443\r\n",
            "PROXY\r\n",
            "GET / HTTP/1.1\r\n",
        ] {
            assert_eq!(v1(bad), Err(Malformed), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn both_versions_say_what_was_said(from: SocketAddr, to: SocketAddr) {
            let same_family = from.is_ipv4() == to.is_ipv4();
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (ip, port) = (from.ip(), from.port());
            let line = format!("PROXY {family} {ip} {} {port} {}\r\n", to.ip(), to.port());
            let expected = SocketAddr::new(ip, port);
            prop_assert!(line.len() <= MAX_V1);
            prop_assert_eq!(v1(&line), if same_family { Ok(Some(expected)) } else { Err(Malformed) });

            let (family, mut bytes) = match ip {
                std::net::IpAddr::V4(ip) => (0x11, [ip.octets(), [9; 4]].concat()),
                std::net::IpAddr::V6(ip) => (0x21, [ip.octets(), [9; 16]].concat()),
            };
            bytes.extend(port.to_be_bytes());
            bytes.extend([1, 187]);
            prop_assert_eq!(version_2(0x21, family, &bytes), Ok(Some(expected)));
            // LOCAL says nothing, and additional data changes nothing.
            prop_assert_eq!(version_2(0x20, family, &bytes), Ok(None));
            bytes.extend([4, 0, 1, 0]);
            prop_assert_eq!(version_2(0x21, family, &bytes), Ok(Some(expected)));
            prop_assert_eq!(version_2(0x21, family, &bytes[..10]), Err(Malformed));
        }

        #[test]
        fn nothing_panics(command: u8, family: u8, bytes: Vec<u8>) {
            let _ = version_1(&bytes);
            let _ = version_2(command, family, &bytes);
        }
    }
}
