//! The system calls that have no safe wrapper elsewhere.
//!
//! All `unsafe` of this crate is here, each block with the reason why it is sound. Apart from
//! [`adopt`], [`watch`] and [`has_attribute`], everything here is for the shim, which is single-threaded.
#![allow(unsafe_code, reason = "the one place for it")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::{ForkResult, Pid};
use tokio::io::unix::AsyncFd;

/// A mount flag of [`set_mount_attributes`]: read-only.
pub(crate) const MOUNT_READ_ONLY: u64 = 0x1;
/// Set-user-id bits have no effect.
pub(crate) const MOUNT_NO_SUID: u64 = 0x2;
/// Device files can't be opened.
pub(crate) const MOUNT_NO_DEV: u64 = 0x4;
const MOUNT_ID_MAPPED: u64 = 0x0010_0000;

const AT_RECURSIVE: libc::c_uint = 0x8000;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Takes ownership of a descriptor that the kernel has just handed to this process.
pub(crate) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass descriptors fresh from SCM_RIGHTS, which nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Has tokio watch a descriptor.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd keeps one descriptor open until it is dropped, which is after the AsyncFd
    // that owns it has deregistered it; nothing here takes it out or replaces it.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// Moves the shim's socket off standard input (where its parent put it) and puts `/dev/null`
/// there, so that no child can inherit it.
pub(crate) fn take_standard_input() -> io::Result<OwnedFd> {
    // SAFETY: descriptor 0 is open for the whole life of this process (it is only replaced by
    // dup2) and is borrowed just for the call.
    let socket = unsafe { BorrowedFd::borrow_raw(0) }.try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(socket)
}

/// Standard output, where the parent put the pipe for the program's output.
pub(crate) fn standard_output() -> io::Result<OwnedFd> {
    // SAFETY: as for descriptor 0 above.
    unsafe { BorrowedFd::borrow_raw(1) }.try_clone_to_owned()
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: called first thing in the shim, when nothing owns a descriptor above the standard
    // three; the call touches no memory.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) })
}

/// fork(2).
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: only the shim calls this, and it has one thread, so the child may go on as usual.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Ends the process without running destructors or exit handlers.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit never returns and has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn bring_loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    let up = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(up).unwrap_or(libc::c_short::MAX);
    // SAFETY: `request` is a valid ifreq that outlives the call, as SIOCSIFFLAGS wants.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into())
}

/// Adds `attributes` to the mount at `path` and all below it (mount_setattr(2), Linux 5.12). It
/// only ever adds, so flags that a user namespace must not clear stay as they are.
pub(crate) fn set_mount_attributes(path: &Path, attributes: u64) -> io::Result<()> {
    let attributes =
        MountAttributes { set: attributes, clear: 0, propagation: 0, user_namespace: 0 };
    let path = c_path(path)?;
    mount_setattr(libc::AT_FDCWD, &path, AT_RECURSIVE, &attributes)
}

/// Mounts `source` at `target` read-only with user and group 0 shown as those to which
/// `user_namespace` maps them (an id-mapped mount, Linux 5.12).
pub(crate) fn bind_mapped(
    source: &Path,
    target: &Path,
    user_namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let source = c_path(source)?;
    let target = c_path(target)?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: `source` is a NUL-terminated string that outlives the call.
    let tree =
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags) };
    check(tree)?;
    let tree = adopt(RawFd::try_from(tree).map_err(io::Error::other)?);
    let attributes = MountAttributes {
        set: MOUNT_ID_MAPPED | MOUNT_READ_ONLY | MOUNT_NO_SUID | MOUNT_NO_DEV,
        clear: 0,
        propagation: 0,
        user_namespace: u64::try_from(user_namespace.as_raw_fd()).map_err(io::Error::other)?,
    };
    let empty = CString::default();
    let at_empty_path = libc::AT_EMPTY_PATH.cast_unsigned();
    mount_setattr(tree.as_raw_fd(), &empty, at_empty_path, &attributes)?;
    // SAFETY: both strings are NUL-terminated and outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
}

fn mount_setattr(
    directory: RawFd,
    path: &CString,
    flags: libc::c_uint,
    attributes: &MountAttributes,
) -> io::Result<()> {
    // SAFETY: the string and the structure outlive the call, and the size passed is its own.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    })
}

/// Leaves the session keyring that was inherited for an empty one.
pub(crate) fn new_session_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // A kernel without keyrings has none to leave, so the result doesn't matter.
    // SAFETY: a null name asks for an anonymous keyring; no memory is read.
    let _ = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
}

/// Empties the bounding and ambient sets, so that no later exec can gain a capability. Needs
/// CAP_SETPCAP, so it comes before the user id changes.
pub(crate) fn drop_bounding_capabilities() -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: prctl with integer arguments touches no memory.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if dropped != 0 {
            let error = io::Error::last_os_error();
            // EINVAL: the kernel knows no capability of this number, nor any higher.
            if error.raw_os_error() == Some(libc::EINVAL) {
                break;
            }
            return Err(error);
        }
    }
    // SAFETY: as above.
    check(
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }
            .into(),
    )
}

/// Empties the permitted, effective and inheritable sets.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let sets = [0u32; 6];
    // SAFETY: header and sets have the layout of version 3 (two 32-bit words; two triples of
    // 32-bit words) and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })
}

/// Filters the system calls of this process and all that it starts from now on (seccomp(2)).
pub(crate) fn filter_calls(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: libc::c_ushort::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_mut_ptr(),
    };
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: `program` points to as many instructions as it says; both outlive the call, in which
    // the kernel copies and checks them.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) }.into())
}

/// Gives SIGPIPE its default effect again: Rust's start-up code ignores it, and programs would
/// inherit that.
pub(crate) fn reset_broken_pipe() -> io::Result<()> {
    // SAFETY: the default disposition runs no code of this process.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}

/// Yields the processor to others (nice(2)); one that may not any more already does.
pub(crate) fn be_nice(by: i32) {
    if by > 0 {
        // SAFETY: an integer argument; no memory is touched.
        let _ = unsafe { libc::nice(by) };
    }
}

/// Whether a file has an extended attribute of this value (getxattr(2)).
pub(crate) fn has_attribute(path: &Path, name: &str, value: &[u8]) -> bool {
    let (Ok(path), Ok(name)) = (c_path(path), CString::new(name)) else { return false };
    let mut found = [0_u8; 16];
    // SAFETY: both strings are NUL-terminated, `found` has as many bytes as is said, and all three
    // outlive the call.
    let length = unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), found.as_mut_ptr().cast(), found.len())
    };
    usize::try_from(length).is_ok_and(|length| found.get(..length) == Some(value))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
