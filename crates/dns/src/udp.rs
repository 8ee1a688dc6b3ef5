//! DNS over UDP: threads that share a port.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use crate::answer::{Transport, answer};
use crate::batch::{self, Batch};
use crate::snapshot::Snapshot;

/// Room for bursts, in bytes, as far as the system allows.
const RECEIVE_BUFFER: usize = 1 << 20;

pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A thread that answers until it is stopped.
pub(crate) struct Thread {
    // Closing it wakes the thread.
    stop: OwnedFd,
    handle: JoinHandle<()>,
}

impl Thread {
    pub(crate) fn start(
        socket: UdpSocket,
        snapshot: watch::Receiver<Arc<Snapshot>>,
    ) -> io::Result<Self> {
        let (stopped, stop) = nix::unistd::pipe()?;
        let handle = std::thread::Builder::new().name("dns-udp".into()).spawn(move || {
            if let Err(error) = serve(&socket, &stopped, &snapshot) {
                tracing::error!(%error, "a DNS thread ended");
            }
        })?;
        Ok(Self { stop, handle })
    }

    pub(crate) fn stop(self) {
        drop(self.stop);
        let _ = self.handle.join();
    }
}

fn serve(
    socket: &UdpSocket,
    stopped: &OwnedFd,
    snapshot: &watch::Receiver<Arc<Snapshot>>,
) -> io::Result<()> {
    let mut buffers = Batch::new();
    loop {
        let mut wanted = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut wanted, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [_, stop] = &wanted;
        if stop.revents().is_some_and(|events| !events.is_empty()) {
            return Ok(());
        }
        // A batch at a time while there are any: under load there is no poll between them.
        loop {
            let count = match buffers.receive(socket) {
                Ok(0) => break,
                Ok(count) => count,
                // An earlier answer's ICMP error, or nothing there.
                Err(_) => break,
            };
            let snapshot = snapshot.borrow().clone();
            buffers.respond(socket, count, |query, client, out| {
                answer(query, client, Transport::Udp, &snapshot, out)
            });
            if count < batch::SIZE {
                break;
            }
        }
    }
}
