//! Datagrams taken and sent in batches with recvmmsg(2) and sendmmsg(2): one system call for up to
//! [`SIZE`] of them is most of what makes a DNS server cheap per query.
#![allow(unsafe_code)] // The two system calls have no safe wrapper that allows reuse of buffers.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

/// How many datagrams a system call moves at most.
pub(crate) const SIZE: usize = 32;
/// The largest query taken, in bytes; longer ones are cut and so can't be read.
const MAX_QUERY: usize = 4_096;

/// Buffers for a batch, allocated once.
pub(crate) struct Batch {
    queries: Vec<Box<[u8; MAX_QUERY]>>,
    lengths: [usize; SIZE],
    peers: [libc::sockaddr_storage; SIZE],
    peer_lengths: [libc::socklen_t; SIZE],
    responses: Vec<Vec<u8>>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        // SAFETY: sockaddr_storage is plain data for which all zeroes is a valid value.
        let nobody: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        Self {
            queries: (0..SIZE).map(|_| Box::new([0; MAX_QUERY])).collect(),
            lengths: [0; SIZE],
            peers: [nobody; SIZE],
            peer_lengths: [0; SIZE],
            responses: (0..SIZE).map(|_| Vec::with_capacity(512)).collect(),
        }
    }

    /// Takes what is there, without waiting. Returns how many datagrams came.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut vectors: Vec<libc::iovec> = self
            .queries
            .iter_mut()
            .map(|query| libc::iovec { iov_base: query.as_mut_ptr().cast(), iov_len: MAX_QUERY })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .zip(&mut self.peers)
            .map(|(vector, peer)| header(vector, peer, socklen::<libc::sockaddr_storage>()))
            .collect();
        // SAFETY: each header points to one live, exclusively borrowed buffer, address and iovec of
        // the sizes stated; all outlive the call, and the count is the number of headers.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                SIZE as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (index, header) in headers.iter().enumerate().take(count) {
            if let (Some(length), Some(peer)) =
                (self.lengths.get_mut(index), self.peer_lengths.get_mut(index))
            {
                *length = header.msg_len as usize;
                *peer = header.msg_hdr.msg_namelen;
            }
        }
        Ok(count)
    }

    /// Lets `answer` write a response to each of the first `count` queries; it returns whether
    /// there is one. Then sends them all.
    pub(crate) fn respond(
        &mut self,
        socket: &UdpSocket,
        count: usize,
        mut answer: impl FnMut(&[u8], IpAddr, &mut Vec<u8>) -> bool,
    ) {
        let mut vectors = Vec::with_capacity(count);
        let mut destinations = Vec::with_capacity(count);
        let queries =
            self.queries.iter().zip(&self.lengths).zip(&self.peers).zip(&self.peer_lengths);
        for ((((query, length), peer), peer_length), response) in
            queries.zip(&mut self.responses).take(count)
        {
            let Some(client) = address_of(peer) else { continue };
            let query = query.get(..*length).unwrap_or_default();
            if answer(query, client, response) {
                vectors.push(libc::iovec {
                    iov_base: response.as_mut_ptr().cast(),
                    iov_len: response.len(),
                });
                destinations.push((*peer, *peer_length));
            }
        }
        let mut headers: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .zip(&mut destinations)
            .map(|(vector, (peer, length))| header(vector, peer, *length))
            .collect();
        let mut sent = 0;
        while let Some(rest) = headers.get_mut(sent..).filter(|rest| !rest.is_empty()) {
            // SAFETY: as for `receive`; the response buffers are not touched until the call is over.
            let count = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, 0)
            };
            match usize::try_from(count) {
                Ok(count) => sent += count,
                // The first of the rest can't be sent (an unreachable peer, say): the others can.
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) => sent += 1,
            }
        }
    }
}

fn socklen<T>() -> libc::socklen_t {
    // A few dozen bytes.
    size_of::<T>() as libc::socklen_t
}

fn header(
    vector: &mut libc::iovec,
    peer: &mut libc::sockaddr_storage,
    length: libc::socklen_t,
) -> libc::mmsghdr {
    // SAFETY: mmsghdr is plain data for which all zeroes is a valid value.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header.msg_hdr.msg_name = std::ptr::from_mut(peer).cast();
    header.msg_hdr.msg_namelen = length;
    header
}

fn address_of(peer: &libc::sockaddr_storage) -> Option<IpAddr> {
    match i32::from(peer.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds a sockaddr_in, which is smaller.
            let peer = unsafe { &*std::ptr::from_ref(peer).cast::<libc::sockaddr_in>() };
            Some(IpAddr::from(peer.sin_addr.s_addr.to_ne_bytes()))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the storage holds a sockaddr_in6, which is smaller.
            let peer = unsafe { &*std::ptr::from_ref(peer).cast::<libc::sockaddr_in6>() };
            Some(IpAddr::from(peer.sin6_addr.s6_addr))
        }
        _ => None,
    }
}
