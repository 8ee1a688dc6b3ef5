//! Finding out, before anything starts, which ports are taken, and by whom.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use crate::failure::{Code, Failure, Outcome};

/// A listener that the box is going to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Where.
    pub(crate) address: SocketAddr,
    /// Whether UDP is used as well as TCP.
    pub(crate) udp: bool,
    /// The flag that moves it.
    pub(crate) flag: &'static str,
}

/// How often a free port is looked for.
const ATTEMPTS: u32 = 256;

/// Gives each flag with port 0 one that is free at all of `addresses`, and refuses two flags with
/// the same.
pub(crate) fn settle(ports: [(&'static str, &mut u16); 4], addresses: &[IpAddr]) -> Outcome {
    let mut taken: Vec<(u16, &str)> = Vec::new();
    let (free, given): (Vec<_>, Vec<_>) = ports.into_iter().partition(|(_, port)| **port == 0);
    for (flag, port) in given {
        if let Some((_, other)) = taken.iter().find(|(other, _)| *other == *port) {
            return Err(Failure::new(
                Code::Usage,
                format!("{other} and {flag} are both {port}"),
                format!("give {flag} another port, or 0 for one that is free"),
            ));
        }
        taken.push((*port, flag));
    }
    for (flag, port) in free {
        *port = free_port(addresses, &taken).ok_or_else(|| {
            Failure::new(
                Code::Taken,
                format!("no free port was found for {flag}"),
                format!("choose one with {flag} PORT"),
            )
        })?;
        taken.push((*port, flag));
    }
    Ok(())
}

fn free_port(addresses: &[IpAddr], taken: &[(u16, &str)]) -> Option<u16> {
    (0..ATTEMPTS).find_map(|_| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let port = listener.local_addr().ok()?.port();
        drop(listener);
        let is_free = |ip: &IpAddr| {
            let address = SocketAddr::new(*ip, port);
            let bound = TcpListener::bind(address).map(drop);
            is_absent(*ip, bound.and_then(|()| UdpSocket::bind(address).map(drop))).is_ok()
        };
        let used = taken.iter().any(|(other, _)| *other == port);
        (!used && addresses.iter().all(is_free)).then_some(port)
    })
}

/// Binds every wanted address once and lets go of it. The first that is taken is refused, naming
/// the process that has it and the flag that moves the box elsewhere.
pub(crate) fn check(wanted: &[Wanted]) -> Outcome {
    for want in wanted {
        if let Some(error) = refused(want) {
            return Err(refusal(want, &error));
        }
    }
    Ok(())
}

/// Why a wanted address can't be had, in words that go on after the address; `None` when it can.
pub(crate) fn taken(want: &Wanted) -> Option<String> {
    let error = refused(want)?;
    Some(match error.kind() {
        ErrorKind::AddrInUse => format!("is taken by {}", holder_words(want.address)),
        ErrorKind::PermissionDenied => "may not be listened on by this user".to_owned(),
        _ => format!("can't be listened on: {error}"),
    })
}

fn refused(want: &Wanted) -> Option<std::io::Error> {
    let tcp = TcpListener::bind(want.address).map(drop);
    let udp = if want.udp { UdpSocket::bind(want.address).map(drop) } else { Ok(()) };
    is_absent(want.address.ip(), tcp.and(udp)).err()
}

/// A machine without IPv6 has no ::1 to relay; the box is whole without it. Where the protocol is
/// switched off there is no such address, where the kernel lacks it no such family.
fn is_absent(ip: IpAddr, bound: std::io::Result<()>) -> std::io::Result<()> {
    match bound {
        Err(error) if ip.is_ipv6() && is_no_ipv6(&error) => Ok(()),
        bound => bound,
    }
}

/// Whether that is how a machine without IPv6 answers.
pub(super) fn is_no_ipv6(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

fn refusal(want: &Wanted, error: &std::io::Error) -> Failure {
    let Wanted { address, flag, .. } = want;
    match error.kind() {
        ErrorKind::AddrInUse => Failure::new(
            Code::Taken,
            format!("{address} is taken by {}", holder_words(*address)),
            format!("stop it, or choose another port with {flag} PORT"),
        ),
        ErrorKind::PermissionDenied => Failure::new(
            Code::Taken,
            format!("this user may not listen on {address}"),
            format!("choose a port above 1023 with {flag} PORT"),
        ),
        _ => Failure::new(
            Code::Taken,
            format!("can't listen on {address}: {error}"),
            format!("try {flag} PORT"),
        ),
    }
}

/// A process that listens somewhere.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    pid: i32,
    command: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

fn holder_words(address: SocketAddr) -> String {
    holder(address).map_or_else(|| "another process".to_owned(), |holder| holder.to_string())
}

/// The process that holds `address`, as far as this user may see.
fn holder(address: SocketAddr) -> Option<Holder> {
    let inodes: Vec<String> = ["tcp", "tcp6", "udp", "udp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(format!("/proc/net/{table}")).ok())
        .flat_map(|table| {
            table.lines().skip(1).filter_map(|row| holding_inode(row, address)).collect::<Vec<_>>()
        })
        .collect();
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let holds = std::fs::read_dir(entry.path().join("fd")).ok()?.flatten().any(|fd| {
            std::fs::read_link(fd.path()).is_ok_and(|link| {
                link.to_str().is_some_and(|link| {
                    inodes.iter().any(|inode| link == format!("socket:[{inode}]"))
                })
            })
        });
        let command = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        holds.then(|| Holder { pid, command: command.trim().to_owned() })
    })
}

/// The socket inode of a row of /proc/net/{tcp,udp} that is bound to `address` (or to its port on
/// every address) and has no peer.
fn holding_inode(row: &str, address: SocketAddr) -> Option<String> {
    let fields: Vec<&str> = row.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (host, port) = local.split_once(':')?;
    let bound = *state == "0A" || *state == "07";
    let same_port = u16::from_str_radix(port, 16).ok()? == address.port();
    let wildcard = host.bytes().all(|b| b == b'0');
    let same_host = match address.ip() {
        IpAddr::V4(ip) => host.ends_with(&format!("{:08X}", u32::from_ne_bytes(ip.octets()))),
        IpAddr::V6(_) => host.len() == 32,
    };
    (bound && same_port && (wildcard || same_host)).then(|| (*inode).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_process_and_flag() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let want = Wanted { address: listener.local_addr().unwrap(), udp: false, flag: "--http" };
        let failure = check(std::slice::from_ref(&want)).unwrap_err();
        assert!(
            failure.error.to_string().contains(&format!("process {}", std::process::id())),
            "{failure:?}"
        );
        assert!(failure.hint.unwrap().contains("--http"));
        drop(listener);
        assert!(check(&[want]).is_ok());
    }

    #[test]
    fn port_0_becomes_one_that_is_free_and_no_two_flags_share_one() {
        let (mut http, mut https, mut dns, mut control) = (0, 0, 0, 0);
        let addresses = ["127.0.1.1".parse().unwrap(), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
        let ports = [
            ("--http", &mut http),
            ("--https", &mut https),
            ("--dns", &mut dns),
            ("--control", &mut control),
        ];
        settle(ports, &addresses).unwrap();
        let mut all = vec![http, https, dns, control];
        all.sort_unstable();
        all.dedup();
        assert_eq!((all.len(), all.contains(&0)), (4, false));
        let mut others = [8080, 8443, 8080, 7070];
        let [http, https, dns, control] = &mut others;
        let ports = [("--http", http), ("--https", https), ("--dns", dns), ("--control", control)];
        let failure = settle(ports, &addresses).unwrap_err();
        assert_eq!(failure.error.to_string(), "--http and --dns are both 8080");
    }

    #[test]
    fn a_machine_without_ipv6_has_no_relay_there() {
        let without =
            |errno: nix::errno::Errno| is_no_ipv6(&std::io::Error::from_raw_os_error(errno as i32));
        assert!(
            without(nix::errno::Errno::EADDRNOTAVAIL) && without(nix::errno::Errno::EAFNOSUPPORT)
        );
        assert!(!without(nix::errno::Errno::EADDRINUSE));
    }
}
