//! Unix sockets between the processes of one machine: of mode 0600, for this process's user and
//! root alone. The fabric is served at one; whoever streams something beside it uses another.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Why the socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process serves at this path.
    #[error("another process serves the fabric at {0}: stop it first")]
    InUse(PathBuf),
    /// There is something else at this path.
    #[error("{0} is there already and is no socket: move it away")]
    NotASocket(PathBuf),
    /// The system said no.
    #[error("can't listen at {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A listening socket. The file goes away with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// The socket's file, so that no other is removed.
    inode: u64,
}

impl Socket {
    /// Listens at `path`, taking the place of a socket that nobody serves anymore. Call within a
    /// Tokio runtime.
    ///
    /// # Errors
    /// When somebody serves there, or the system says no.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError::Listen { path: path.to_owned(), source };
        make_way(path)?;
        let listener = listen(path).map_err(failed)?;
        let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    /// Waits for the next connection. Cancel safe.
    ///
    /// # Errors
    /// Those of the system; the next attempt may succeed.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "a socket stays behind");
        }
    }
}

/// Why the other end may not use what is served here, in words; `None` when it may: it runs as
/// this process's user or as root.
///
/// # Errors
/// When the system does not say who it is.
pub fn refusal(stream: &UnixStream) -> io::Result<Option<String>> {
    let peer = stream.peer_cred()?;
    let own = nix::unistd::geteuid().as_raw();
    if peer.uid() == own || peer.uid() == 0 {
        return Ok(None);
    }
    tracing::warn!(uid = peer.uid(), pid = peer.pid(), "a peer is refused");
    Ok(Some(format!("user {} may not use this fabric: user {own} may", peer.uid())))
}

/// Connects to the socket at `path`.
///
/// # Errors
/// Those of the system, with the path.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_parent, address) = address(path)?;
    UnixStream::connect(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Makes sure that a new socket may take the place of what is at `path`.
fn make_way(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Listen { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {
            let (_parent, address) = address(path).map_err(failed)?;
            match std::os::unix::net::UnixStream::connect(address) {
                Ok(_) => Err(BindError::InUse(path.to_owned())),
                Err(_) => Ok(()),
            }
        }
    }
}

/// Listens under another name first, so that the socket appears with its final mode.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let mut name = path.as_os_str().to_owned();
    name.push("~");
    let new = PathBuf::from(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_parent, address) = address(&new)?;
    let listener = std::os::unix::net::UnixListener::bind(address)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// A socket's address holds about a hundred bytes. A longer path is reached through its directory,
/// which must stay open for as long as the second value is used.
fn address(path: &Path) -> io::Result<(Option<File>, PathBuf)> {
    const LONGEST: usize = 100;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        let reason = "the path of a socket names no file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    };
    if path.as_os_str().len() <= LONGEST {
        return Ok((None, path.to_owned()));
    }
    let parent = File::open(parent)?;
    let address = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
    Ok((Some(parent), address))
}
