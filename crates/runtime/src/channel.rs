//! Messages with a descriptor each over a SOCK_SEQPACKET socket: the shim's two conversations.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::MAX_MESSAGE_BYTES;
use crate::sys;

/// Two connected ends; neither survives an exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Sends one message. On a non-blocking socket that is full: `WouldBlock`.
pub(crate) fn send<M: Serialize>(
    socket: impl AsFd,
    message: &M,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(io::Error::other(format!(
            "a message of {} bytes is over the {MAX_MESSAGE_BYTES} that a shim takes; \
             are the environment variables very large?",
            bytes.len()
        )));
    }
    let raw = fd.as_ref().map(AsRawFd::as_raw_fd);
    let fds: Vec<RawFd> = raw.into_iter().collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL;
    retry(|| {
        let parts = [IoSlice::new(&bytes)];
        nix::sys::socket::sendmsg::<()>(socket.as_fd().as_raw_fd(), &parts, control, flags, None)
    })?;
    Ok(())
}

/// Receives one message and the descriptor that came with it; `None` when the other end is gone.
pub(crate) fn receive<M: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(M, Option<OwnedFd>)>> {
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    let mut control = nix::cmsg_space!([RawFd; 4]);
    let mut descriptor = None;
    let length = retry(|| {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received = nix::sys::socket::recvmsg::<()>(
            socket.as_fd().as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let received = match received {
            // Linux says this once, and before what the other end has sent, when that end closed
            // without having read all: its last messages are still to be had.
            Err(nix::errno::Errno::ECONNRESET) => return Err(nix::errno::Errno::EINTR),
            other => other?,
        };
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = message {
                // Each is adopted, so that one too many is closed and not leaked.
                for fd in fds {
                    descriptor = Some(sys::adopt(fd));
                }
            }
        }
        Ok(received.bytes)
    })?;
    if length == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(buffer.get(..length).unwrap_or_default())?;
    Ok(Some((message, descriptor)))
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(nix::errno::Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}
