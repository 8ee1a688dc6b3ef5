//! The shim: a single-threaded process between the runtime and one confined program.
//!
//! It makes the namespaces, starts their first process ([`init`]) and stays outside as its parent,
//! to open connections inside the network namespace and to say how the program ended. When its
//! socket closes, because the runtime ended however it ended, it kills the first process, and with
//! that the kernel kills everything in the namespace. When the shim itself is killed, the first
//! process dies of its parent-death signal.

mod calls;
mod connections;
mod identity;
mod init;
mod processes;
mod root;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use crate::protocol::{
    EGRESS_PORT, Event, Exit, Hello, Isolation, Launch, Report, Request, VERSION,
};
use crate::{cgroup, channel, sys};

use connections::Connections;

/// What went wrong at which step, in words for the runtime's error.
type Result<T> = std::result::Result<T, String>;

/// Says what was being done when something failed.
trait Doing<T> {
    fn doing(self, what: &str) -> Result<T>;
}

impl<T, E: std::fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: &str) -> Result<T> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

/// Whether there is a filter of system calls for this processor.
pub(crate) fn filters_calls() -> bool {
    !calls::filter().is_empty()
}

/// Runs the shim to its end and returns the exit code of the process.
pub(crate) fn run() -> i32 {
    let (socket, launch) = match accept_hello() {
        Ok(accepted) => accepted,
        Err(reason) => {
            let _ = writeln!(
                io::stderr(),
                "selvedge {}: {reason} (this verb is for Selvedge's own use)",
                crate::SHIM_VERB
            );
            return 64;
        }
    };
    match start(&launch) {
        Ok(Side::Inside { reports, output }) => {
            // The first process inside has no business with the runtime.
            drop(socket);
            init::run(&launch, &reports, &output)
        }
        Ok(Side::Outside(program)) => answer(&socket, program.supervise(&socket)),
        Err(reason) => answer(&socket, Err(reason)),
    }
}

/// Tells the runtime of a failure; one that is gone needs no answer.
fn answer(socket: &OwnedFd, result: Result<()>) -> i32 {
    let Err(reason) = result else { return 0 };
    let _ = channel::send(socket, &Event::Failed { reason }, None);
    1
}

fn accept_hello() -> Result<(OwnedFd, Launch)> {
    sys::close_from(3).doing("close inherited files")?;
    let socket = sys::take_standard_input().doing("take the socket from standard input")?;
    let (hello, _) = channel::receive::<Hello>(&socket)
        .doing("read from the socket on standard input")?
        .ok_or("nothing was sent over the socket on standard input")?;
    let launch = read_launch(&hello);
    match launch {
        Ok(launch) => Ok((socket, launch)),
        Err(reason) => {
            let _ = channel::send(&socket, &Event::Failed { reason: reason.clone() }, None);
            Err(reason)
        }
    }
}

fn read_launch(hello: &Hello) -> Result<Launch> {
    if hello.version != VERSION {
        return Err(format!(
            "the shim speaks version {VERSION} of its protocol and was asked for version {}; \
             it and what started it are of different releases of Selvedge: restart the latter",
            hello.version
        ));
    }
    serde_json::from_str(hello.launch.get()).doing("read what to launch")
}

/// The end by a signal.
fn killed(signal: i32) -> Event {
    Event::Ended { exit: Exit::Signal(signal), full: false }
}

/// Which of the two processes this is after the fork.
enum Side {
    /// The first process in the namespaces.
    Inside { reports: OwnedFd, output: OwnedFd },
    /// Its parent.
    Outside(Program),
}

/// A program that is being started or has been, seen from outside its namespaces.
struct Program {
    init: Pid,
    reports: OwnedFd,
    egress: Option<TcpListener>,
    port: u16,
    cgroups: Vec<PathBuf>,
}

fn start(launch: &Launch) -> Result<Side> {
    unshare(launch.isolation)?;
    let egress = if launch.isolation == Isolation::None {
        None
    } else {
        sys::bring_loopback_up().doing("bring the loopback interface up")?;
        let address = (Ipv4Addr::LOCALHOST, EGRESS_PORT);
        let listener = launch.egress.then(|| TcpListener::bind(address)).transpose();
        listener.doing("listen for the way out")?
    };
    let (reports, their_end) = channel::pair().doing("make a socket pair")?;
    let output = sys::standard_output().doing("keep the output")?;
    let Some(init) = sys::fork().doing("fork")? else {
        return Ok(Side::Inside { reports: their_end, output });
    };
    // Only processes inside may hold the output open: its end is their end.
    let null = std::fs::File::options().write(true).open("/dev/null").doing("open /dev/null")?;
    nix::unistd::dup2_stdout(null).doing("let go of the output")?;
    let (port, cgroups) = (launch.port, launch.cgroups.clone());
    Ok(Side::Outside(Program { init, reports, egress, port, cgroups }))
}

/// Leaves the host's namespaces for new ones, all but the mount namespace, which only the first
/// process inside leaves.
fn unshare(isolation: Isolation) -> Result<()> {
    let mut flags = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    match isolation {
        Isolation::None => {
            // Orphans of the program come to the shim, so that it can find and end them.
            return nix::sys::prctl::set_child_subreaper(true).doing("become a subreaper");
        }
        Isolation::User(_) => {}
        Isolation::UserNamespace => flags |= CloneFlags::CLONE_NEWUSER,
    }
    let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
    nix::sched::unshare(flags).doing("make namespaces")?;
    if isolation == Isolation::UserNamespace {
        identity::map_to_self(user, group)?;
    }
    nix::unistd::sethostname("selvedge").doing("name the host")
}

impl Program {
    fn wait_until_ready(&self) -> Result<()> {
        match channel::receive::<Report>(&self.reports) {
            Ok(Some((Report::Ready, _))) => Ok(()),
            Ok(Some((Report::Failed { reason }, _))) => Err(reason),
            Ok(Some((Report::Ended { exit, .. }, _))) => Err(format!("it ended at once: {exit:?}")),
            Ok(None) => Err("its first process was killed while setting up; \
                             is the memory limit too small?"
                .into()),
            Err(error) => Err(format!("hear from the first process: {error}")),
        }
    }

    /// Serves the runtime's requests until the program ends or the runtime is gone.
    fn supervise(mut self, socket: &OwnedFd) -> Result<()> {
        self.wait_until_ready()?;
        let egress = self.egress.take();
        let listener = egress.as_ref().map(AsFd::as_fd);
        channel::send(socket, &Event::Started, listener).doing("answer")?;
        drop(egress);
        let mut connections = Connections::new(self.port);
        loop {
            let (asked, reported) = self.wait(socket, &mut connections)?;
            if reported {
                return self.finish(socket);
            }
            if asked {
                match channel::receive::<Request>(socket) {
                    Ok(Some((Request::Connect { id }, _))) => connections.open(id, socket),
                    Ok(Some((Request::Terminate, _))) => {
                        let _ = nix::sys::signal::kill(self.init, Signal::SIGTERM);
                    }
                    Ok(Some((Request::Kill, _))) => {
                        self.kill();
                        let _ = channel::send(socket, &killed(libc::SIGKILL), None);
                        return Ok(());
                    }
                    Ok(None) | Err(_) => {
                        self.kill();
                        cgroup::remove_joined(&self.cgroups);
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Waits for a request or a report, and works on connections meanwhile.
    fn wait(&self, socket: &OwnedFd, connections: &mut Connections) -> Result<(bool, bool)> {
        let mut polled = vec![
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.reports.as_fd(), PollFlags::POLLIN),
        ];
        polled.extend(connections.polled());
        let timeout = connections.timeout().map_or(PollTimeout::NONE, PollTimeout::from);
        match nix::poll::poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).doing("wait for work"),
        }
        let mut any = polled.iter().map(|one| one.any().unwrap_or(true));
        let asked = any.next().unwrap_or(true);
        let reported = any.next().unwrap_or(true);
        let ready: Vec<bool> = any.collect();
        connections.advance(&ready, socket);
        Ok((asked, reported))
    }

    /// The first process has said how the program ended, or has itself ended.
    fn finish(&self, socket: &OwnedFd) -> Result<()> {
        let report = channel::receive::<Report>(&self.reports);
        let event = match report {
            Ok(Some((Report::Failed { reason }, _))) => {
                self.kill();
                Event::Failed { reason }
            }
            Ok(Some((Report::Ended { exit, full }, _))) => {
                self.reap();
                Event::Ended { exit, full }
            }
            _ => match self.reap() {
                Some(WaitStatus::Signaled(_, signal, _)) => killed(signal as i32),
                _ => killed(libc::SIGKILL),
            },
        };
        channel::send(socket, &event, None).doing("answer")
    }

    /// Kills everything inside; it has ended when this returns.
    fn kill(&self) {
        let _ = nix::sys::signal::kill(self.init, Signal::SIGKILL);
        self.reap();
    }

    /// Waits for the first process. The kernel lets it end only after all others in its PID
    /// namespace have; without one, they are orphans that have come to the shim by now.
    fn reap(&self) -> Option<WaitStatus> {
        let status = loop {
            match nix::sys::wait::waitpid(self.init, None) {
                Err(Errno::EINTR) => {}
                other => break other.ok(),
            }
        };
        processes::kill_descendants();
        status
    }
}
