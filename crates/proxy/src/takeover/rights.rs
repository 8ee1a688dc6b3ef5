//! Descriptors over a Unix socket (SCM_RIGHTS), one with each byte.
#![allow(unsafe_code, reason = "a descriptor that has just been received has no owner yet")]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;

pub(super) async fn send(stream: &UnixStream, fd: &impl AsFd) -> io::Result<()> {
    let fds = [fd.as_fd().as_raw_fd()];
    stream
        .async_io(Interest::WRITABLE, || {
            let rights = [ControlMessage::ScmRights(&fds)];
            let bytes = [IoSlice::new(&[0])];
            sendmsg::<()>(stream.as_raw_fd(), &bytes, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
            Ok(())
        })
        .await
}

pub(super) async fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    stream
        .async_io(Interest::READABLE, || {
            let mut byte = [0];
            let mut bytes = [IoSliceMut::new(&mut byte)];
            let mut control = nix::cmsg_space!([RawFd; 4]);
            let (flags, socket) = (MsgFlags::MSG_CMSG_CLOEXEC, stream.as_raw_fd());
            let received = recvmsg::<()>(socket, &mut bytes, Some(&mut control), flags)?;
            let mut descriptor = None;
            for message in received.cmsgs()? {
                if let ControlMessageOwned::ScmRights(fds) = message {
                    // Each gets an owner, so that one too many is closed.
                    for fd in fds {
                        // SAFETY: the kernel has just made this descriptor for this process, and
                        // nothing else knows of it.
                        descriptor = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                    }
                }
            }
            descriptor.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        })
        .await
}
