//! Finding out, before anything starts, which ports are taken, and by whom.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

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
    let error = tcp.and(udp).err()?;
    // A machine without IPv6 has no ::1 to relay; the box is whole without it.
    let absent = want.address.is_ipv6() && error.kind() == ErrorKind::AddrNotAvailable;
    (!absent).then_some(error)
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
}
