//! The runtime's end of a shim: starts it, talks to it, and makes sure that it ends.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::Shutdown;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::cgroup::{Counters, Group};
use crate::protocol::{Event, Exit, Hello, Launch, Request, VERSION};
use crate::{RuntimeError, SHIM_VERB};
use crate::{channel, sys};

/// A sandbox is made in some ten milliseconds; one that isn't by now is stuck.
const SETUP_TIMEOUT: Duration = Duration::from_secs(20);
/// The shim itself gives up on a connection after twice that.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a shim may take to end once its socket is closed.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How a sandboxed program came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// It ended, its file system in memory full or not.
    Exited { exit: Exit, full: bool },
    /// It could not be started.
    Failed(String),
    /// The shim was killed, and the program with it.
    ShimLost,
}

/// A running shim. Dropping it ends everything in it.
pub(crate) struct Shim {
    link: Arc<Link>,
    ended: watch::Receiver<Option<End>>,
    reader: JoinHandle<()>,
    child: Option<Child>,
    group: Option<Group>,
    egress: Option<std::net::TcpListener>,
}

/// What requests to a shim go through.
pub(crate) struct Link {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<io::Result<OwnedFd>>>>,
}

impl Shim {
    /// Starts a shim and returns when the program in it has been started, with its output.
    pub(crate) async fn start(
        executable: &Path,
        launch: &Launch,
        group: Option<Group>,
    ) -> Result<(Self, pipe::Receiver), RuntimeError> {
        let setup = |what: &str, error: io::Error| RuntimeError::Setup(format!("{what}: {error}"));
        let (ours, theirs) = channel::pair().map_err(|e| setup("make a socket pair", e))?;
        let (output, write_end) = output_pipe().map_err(|e| setup("make a pipe", e))?;
        let hello = hello(launch).map_err(|e| setup("describe the program", e))?;
        let child = command(executable, &launch.mount_point, theirs, write_end)
            .spawn()
            .map_err(|e| setup(&format!("run {}", executable.display()), e))?;
        let link = Link::new(ours).map_err(|e| setup("watch the shim", e))?;
        let link = Arc::new(link);
        let (started, wait_started) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let reader = tokio::spawn(Arc::clone(&link).read(started, end));
        let mut shim = Self { link, ended, reader, child: Some(child), group, egress: None };
        let sent = shim.link.send(&hello).await;
        let started = tokio::time::timeout(SETUP_TIMEOUT, wait_started).await;
        match started {
            Ok(Ok(listener)) => {
                shim.egress = listener.map(std::net::TcpListener::from);
                Ok((shim, output))
            }
            Err(_) => Err(RuntimeError::Setup("the shim gave no answer".into())),
            Ok(Err(_)) => Err(RuntimeError::Setup(match shim.end().await {
                End::Failed(reason) => reason,
                other => match sent {
                    Err(error) => error.to_string(),
                    Ok(()) => format!("the shim ended early ({other:?})"),
                },
            })),
        }
    }

    /// Waits until the program has ended. Cancel-safe.
    pub(crate) async fn end(&mut self) -> End {
        match self.ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(end)) => end.clone(),
            _ => End::ShimLost,
        }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The listener inside the network namespace that leads out of it.
    pub(crate) fn take_egress(&mut self) -> Option<std::net::TcpListener> {
        self.egress.take()
    }

    /// What the kernel counts of it.
    pub(crate) fn counters(&self) -> Counters {
        self.group.as_ref().map(Group::counters).cloned().unwrap_or_default()
    }

    /// The shim's own process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    /// Ends everything, and returns when it has.
    pub(crate) async fn close(mut self) {
        self.hang_up();
        if let Some(child) = self.child.take() {
            finish(child, self.group.take()).await;
        }
    }

    fn hang_up(&self) {
        self.reader.abort();
        // The shim sees the end of the socket however many handles are still about.
        let _ = nix::sys::socket::shutdown(self.link.socket.as_raw_fd(), Shutdown::Both);
        self.link.abandon();
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        self.hang_up();
        let Some(child) = self.child.take() else { return };
        // Without a runtime to wait in, dropping the child kills the shim, and that the rest.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(finish(child, self.group.take()));
        }
    }
}

/// Waits for a shim that has been hung up on, which takes everything in it along; its group can
/// only go after that.
async fn finish(mut child: Child, group: Option<Group>) {
    if tokio::time::timeout(END_TIMEOUT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
    drop(group);
}

impl Link {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag};
        nix::fcntl::fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let socket = sys::watch(socket)?;
        Ok(Self { socket, next: AtomicU64::new(0), waiting: Mutex::default() })
    }

    /// Asks the shim to send SIGTERM to all processes.
    pub(crate) async fn terminate(&self) {
        // When the shim is gone there is nothing left to terminate.
        let _ = self.send(&Request::Terminate).await;
    }

    /// Asks the shim to kill all processes.
    pub(crate) async fn kill(&self) {
        let _ = self.send(&Request::Kill).await;
    }

    /// Opens a connection to the program's port.
    pub(crate) async fn connect(&self) -> io::Result<tokio::net::TcpStream> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, wait_answer) = oneshot::channel();
        self.waiting().insert(id, answer);
        let asked = async {
            self.send(&Request::Connect { id }).await?;
            wait_answer.await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionReset))?
        };
        let answered = tokio::time::timeout(CONNECT_TIMEOUT, asked).await;
        if !matches!(answered, Ok(Ok(_))) {
            self.waiting().remove(&id);
        }
        let socket = answered.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let stream = std::net::TcpStream::from(socket);
        stream.set_nonblocking(true)?;
        let stream = tokio::net::TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn send<M: serde::Serialize>(&self, message: &M) -> io::Result<()> {
        loop {
            let mut ready = self.socket.writable().await?;
            match ready.try_io(|socket| channel::send(socket.as_fd(), message, None)) {
                Ok(sent) => return sent,
                Err(_would_block) => {}
            }
        }
    }

    /// Takes in the shim's events until it ends.
    async fn read(
        self: Arc<Self>,
        started: oneshot::Sender<Option<OwnedFd>>,
        end: watch::Sender<Option<End>>,
    ) {
        let mut started = Some(started);
        let ended = loop {
            let Ok(mut ready) = self.socket.readable().await else { break End::ShimLost };
            let received = match ready.try_io(|socket| channel::receive(socket.as_fd())) {
                Ok(Ok(Some(received))) => received,
                Ok(Ok(None) | Err(_)) => break End::ShimLost,
                Err(_would_block) => continue,
            };
            match received {
                (Event::Started, listener) => {
                    if let Some(started) = started.take() {
                        let _ = started.send(listener);
                    }
                }
                (Event::Connected { id }, Some(socket)) => self.answer(id, Ok(socket)),
                (Event::Connected { id }, None) => {
                    self.answer(id, Err(io::ErrorKind::InvalidData.into()));
                }
                (Event::Unreachable { id, errno }, _) => {
                    self.answer(id, Err(io::Error::from_raw_os_error(errno)));
                }
                (Event::Failed { reason }, _) => break End::Failed(reason),
                (Event::Ended { exit, full }, _) => break End::Exited { exit, full },
            }
        };
        end.send_replace(Some(ended));
        self.abandon();
    }

    fn answer(&self, id: u64, answer: io::Result<OwnedFd>) {
        if let Some(waiting) = self.waiting().remove(&id) {
            let _ = waiting.send(answer);
        }
    }

    /// Fails what still waits for an answer.
    fn abandon(&self) {
        self.waiting().clear();
    }

    fn waiting(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<io::Result<OwnedFd>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first message.
pub(crate) fn hello(launch: &Launch) -> io::Result<Hello> {
    Ok(Hello { version: VERSION, launch: serde_json::value::to_raw_value(launch)? })
}

/// The pipe for the program's output; the end to write to stays a blocking one.
fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (read, write) = io::pipe()?;
    let read = OwnedFd::from(read);
    use nix::fcntl::{FcntlArg, OFlag};
    nix::fcntl::fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((pipe::Receiver::from_owned_fd(read)?, OwnedFd::from(write)))
}

/// The shim's command line, which says nothing of what it will run: that goes over the socket,
/// where `ps` doesn't see it. It is a process group of its own, so that Ctrl-C at a terminal asks
/// the runtime to end, which then ends programs in good order. Its parent-death signal is not set, because that is tied to the
/// thread that starts it, and tokio's come and go; the closing socket does the same.
fn command(executable: &Path, mount_point: &Path, socket: OwnedFd, output: OwnedFd) -> Command {
    let mut command = Command::new(executable);
    command
        .arg(SHIM_VERB)
        // For people who look at `ps`, and to find a shim that has outlived its runtime.
        .arg(mount_point)
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::from(socket))
        .stdout(Stdio::from(output))
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    command
}
