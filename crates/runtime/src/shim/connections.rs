//! Connections to the program's port, opened from inside its network namespace and handed out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};

use crate::channel;
use crate::protocol::Event;

/// On loopback a connection is there or refused at once; it only lingers while the program's
/// backlog is full. The runtime gives up on its own before this.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kernel would try again after a second; a short backlog has room much sooner.
const FIRST_PAUSE: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

struct Opening {
    id: u64,
    socket: OwnedFd,
    address: IpAddr,
    deadline: Instant,
    pause: Duration,
    again: Instant,
}

/// The connections that are being opened.
pub(super) struct Connections {
    port: u16,
    opening: Vec<Opening>,
}

impl Connections {
    pub(super) fn new(port: u16) -> Self {
        Self { port, opening: Vec::new() }
    }

    /// Starts to open a connection and answers if that is already decided.
    pub(super) fn open(&mut self, id: u64, answers: &OwnedFd) {
        self.try_address(id, IpAddr::V4(Ipv4Addr::LOCALHOST), answers);
    }

    /// What to poll for, in the order in which `advance` expects it back.
    pub(super) fn polled(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.opening.iter().map(|one| PollFd::new(one.socket.as_fd(), PollFlags::POLLOUT))
    }

    /// How many milliseconds until there is something to do without an event.
    pub(super) fn timeout(&self) -> Option<u16> {
        let first = self.opening.iter().map(|one| one.again.min(one.deadline)).min()?;
        let left = first.saturating_duration_since(Instant::now()).as_millis();
        Some(u16::try_from(left).unwrap_or(u16::MAX).saturating_add(1))
    }

    /// Answers for those that are ready or too old, and tries the others again in time.
    pub(super) fn advance(&mut self, ready: &[bool], answers: &OwnedFd) {
        let ready = ready.iter().copied().chain(std::iter::repeat(false));
        for (one, ready) in std::mem::take(&mut self.opening).into_iter().zip(ready) {
            let now = Instant::now();
            if ready {
                let error = nix::sys::socket::getsockopt(&one.socket, sockopt::SocketError);
                let error = error.map_or(Errno::EIO, Errno::from_raw);
                self.settle(one.id, one.address, &one.socket, error, answers);
            } else if one.deadline <= now {
                refuse(one.id, Errno::ETIMEDOUT, answers);
            } else if one.again <= now {
                let pause = (one.pause * 2).min(LONGEST_PAUSE);
                self.attempt(one.id, one.address, one.deadline, pause, answers);
            } else {
                self.opening.push(one);
            }
        }
    }

    fn try_address(&mut self, id: u64, address: IpAddr, answers: &OwnedFd) {
        self.attempt(id, address, Instant::now() + PATIENCE, FIRST_PAUSE, answers);
    }

    fn attempt(
        &mut self,
        id: u64,
        address: IpAddr,
        deadline: Instant,
        pause: Duration,
        answers: &OwnedFd,
    ) {
        let socket = match socket_for(address) {
            Ok(socket) => socket,
            Err(error) => return refuse(id, error, answers),
        };
        let to = SockaddrStorage::from(SocketAddr::new(address, self.port));
        match nix::sys::socket::connect(socket.as_raw_fd(), &to) {
            Err(Errno::EINPROGRESS | Errno::EINTR) => {
                let again = Instant::now() + pause;
                self.opening.push(Opening { id, socket, address, deadline, pause, again });
            }
            Ok(()) => self.settle(id, address, &socket, Errno::from_raw(0), answers),
            Err(error) => self.settle(id, address, &socket, error, answers),
        }
    }

    fn settle(
        &mut self,
        id: u64,
        address: IpAddr,
        socket: &OwnedFd,
        error: Errno,
        answers: &OwnedFd,
    ) {
        if error as i32 == 0 {
            answer(channel::send(answers, &Event::Connected { id }, Some(socket.as_fd())));
        } else if error == Errno::ECONNREFUSED && address.is_ipv4() {
            // Some programs listen on ::1 alone when told to listen on "localhost".
            self.try_address(id, IpAddr::V6(Ipv6Addr::LOCALHOST), answers);
        } else {
            refuse(id, error, answers);
        }
    }
}

fn socket_for(address: IpAddr) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    nix::sys::socket::socket(family, SockType::Stream, flags, None)
}

fn refuse(id: u64, error: Errno, answers: &OwnedFd) {
    answer(channel::send(answers, &Event::Unreachable { id, errno: error as i32 }, None));
}

/// An answer that can't be sent means that the runtime is gone, which the main loop hears of as
/// the end of the same socket.
fn answer(_sent: io::Result<()>) {}
