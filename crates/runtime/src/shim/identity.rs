//! Who the program is: user, group, capabilities.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};

use super::{Doing as _, Result};
use crate::protocol::Isolation;
use crate::{channel, sys};

/// In a fresh user namespace, maps the caller to itself and nobody else.
pub(super) fn map_to_self(user: Uid, group: Gid) -> Result<()> {
    fs::write("/proc/self/setgroups", "deny").doing("give up supplementary groups")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1")).doing("map the user")?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1")).doing("map the group")
}

/// The user and group that the program runs as.
pub(super) fn ids(isolation: Isolation) -> (Uid, Gid) {
    match isolation {
        Isolation::User(id) => (Uid::from_raw(id), Gid::from_raw(id)),
        Isolation::UserNamespace | Isolation::None => {
            (nix::unistd::getuid(), nix::unistd::getgid())
        }
    }
}

/// Becomes the program's user for good: no capabilities, and none to be gained by any exec.
pub(super) fn assume(isolation: Isolation) -> Result<()> {
    nix::sys::prctl::set_no_new_privs().doing("give up privileges by exec")?;
    if isolation == Isolation::None {
        return Ok(());
    }
    sys::new_session_keyring();
    sys::drop_bounding_capabilities().doing("give up capabilities")?;
    if let Isolation::User(_) = isolation {
        let (user, group) = ids(isolation);
        nix::unistd::setgroups(&[]).doing("give up supplementary groups")?;
        nix::unistd::setresgid(group, group, group).doing("change the group")?;
        nix::unistd::setresuid(user, user, user).doing("change the user")?;
    }
    sys::drop_capabilities().doing("give up capabilities")
}

/// Calls `use_it` with a user namespace in which root is the host's `id`, for a mount that shows
/// root's files as that user's.
pub(super) fn with_root_as(
    id: u32,
    use_it: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> Result<()> {
    let (ours, theirs) = channel::pair().doing("make a socket pair")?;
    let Some(child) = sys::fork().doing("fork")? else {
        drop(ours);
        let _ = lend_namespace(&theirs);
        sys::exit(0)
    };
    drop(theirs);
    let used = match channel::receive::<()>(&ours) {
        // The child's directory in /proc: its number there is not the one known here.
        Ok(Some(((), Some(directory)))) => map(&directory, id)
            .and_then(|namespace| use_it(namespace.as_fd()))
            .doing("map the artifact's files to the program's user"),
        _ => Err("no user namespace could be made".into()),
    };
    drop(ours);
    let _ = nix::sys::wait::waitpid(child, None);
    used
}

/// In a child: makes a user namespace and stays in it until the other end closes.
fn lend_namespace(to: &OwnedFd) -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?;
    let directory = fs::File::open("/proc/self")?;
    channel::send(to, &(), Some(directory.as_fd()))?;
    channel::receive::<()>(to)?;
    Ok(())
}

fn map(directory: &OwnedFd, id: u32) -> io::Result<fs::File> {
    let directory = format!("/proc/self/fd/{}", directory.as_raw_fd());
    fs::write(format!("{directory}/uid_map"), format!("0 {id} 1"))?;
    fs::write(format!("{directory}/gid_map"), format!("0 {id} 1"))?;
    fs::File::open(format!("{directory}/ns/user"))
}
