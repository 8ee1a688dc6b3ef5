//! The first process inside: builds the root, becomes the program's user, starts the program and
//! reaps whatever the program leaves behind.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

use super::{Doing as _, Result, calls, identity, processes, root};
use crate::protocol::{Exit, Isolation, Launch, Report};
use crate::{channel, disk, sys};

/// Runs it to its end and returns the exit code of the process, which nobody reads: what matters
/// is reported to the shim.
pub(super) fn run(launch: &Launch, shim: &OwnedFd, output: &OwnedFd) -> i32 {
    let report = match confine(launch, shim).and_then(|()| supervise(launch, shim, output)) {
        Ok(exit) => {
            let full = launch.isolation != Isolation::None && disk::is_full(Path::new("/tmp"));
            Report::Ended { exit, full }
        }
        Err(reason) => Report::Failed { reason },
    };
    if launch.isolation == Isolation::None {
        processes::kill_descendants();
    }
    i32::from(channel::send(shim, &report, None).is_err())
}

fn confine(launch: &Launch, shim: &OwnedFd) -> Result<()> {
    for group in &launch.cgroups {
        std::fs::write(group, "0").doing("join a control group")?;
    }
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    if launch.isolation == Isolation::None {
        nix::sys::prctl::set_child_subreaper(true).doing("become a subreaper")?;
        std::env::set_current_dir(&launch.app).doing("enter the app's directory")?;
    } else {
        let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP;
        nix::sched::unshare(flags).doing("make a mount namespace")?;
        root::build(launch)?;
        std::env::set_current_dir("/app").doing("enter /app")?;
    }
    identity::assume(launch.isolation)?;
    // Not to be traced, nor its memory read, by the program that has the same user.
    nix::sys::prctl::set_dumpable(false).doing("refuse to be traced")?;
    if launch.isolation != Isolation::None {
        // After the change of user, which resets it. Without a PID namespace the first process
        // must outlive the shim, to end the others.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).doing("tie it to the shim")?;
    }
    // The shim may have died before that; then its end of the socket is closed.
    if ended(shim) { Err("the shim is gone".into()) } else { Ok(()) }
}

/// Whether the other end of a socket on which nothing is ever received is closed.
fn ended(socket: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn supervise(launch: &Launch, shim: &OwnedFd, output: &OwnedFd) -> Result<Exit> {
    let signals = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM]);
    signals.thread_block().doing("block signals")?;
    let wakeups = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
    let wakeups = wakeups.doing("listen for signals")?;
    channel::send(shim, &Report::Ready, None).doing("report")?;
    let program = match sys::fork().doing("fork")? {
        Some(pid) => pid,
        None => {
            let Err(reason) = execute(launch, output);
            let _ = channel::send(shim, &Report::Failed { reason }, None);
            sys::exit(127)
        }
    };
    let mut reaper = Reaper { program, exit: None };
    let mut terminating = false;
    loop {
        let mut polled = [
            PollFd::new(wakeups.as_fd(), PollFlags::POLLIN),
            PollFd::new(shim.as_fd(), PollFlags::POLLIN),
        ];
        match nix::poll::poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).doing("wait for signals"),
        }
        let [_, from_shim] = &polled;
        if from_shim.any().unwrap_or(true) {
            return Err("the shim is gone".into());
        }
        while let Ok(Some(signal)) = wakeups.read_signal() {
            if i32::try_from(signal.ssi_signo) == Ok(libc::SIGTERM) {
                terminating = true;
                terminate(launch.isolation);
            }
        }
        let none_left = reaper.reap();
        // Asked to end, the program's other processes may still be ending in good order.
        if let Some(exit) = reaper.exit
            && (none_left || !terminating)
        {
            return Ok(exit);
        }
    }
}

fn terminate(isolation: Isolation) {
    if isolation == Isolation::None {
        processes::signal_descendants(Signal::SIGTERM);
    } else {
        // All in the PID namespace but its first process, which is this one.
        let _ = nix::sys::signal::kill(Pid::from_raw(-1), Signal::SIGTERM);
    }
}

struct Reaper {
    program: Pid,
    exit: Option<Exit>,
}

impl Reaper {
    /// Reaps all that have ended; true when no process is left.
    fn reap(&mut self) -> bool {
        loop {
            let exit = match nix::sys::wait::waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => return false,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => return true,
            };
            if exit.0 == self.program {
                self.exit = Some(exit.1);
            }
        }
    }
}

/// Turns this process into the program.
fn execute(launch: &Launch, output: &OwnedFd) -> Result<std::convert::Infallible> {
    nix::unistd::setsid().doing("start a session")?;
    set_limits(launch)?;
    if let Some(home) = launch.environment.get("HOME") {
        // In the cache it is missing at first. A program that needs it says so itself.
        let _ = std::fs::create_dir_all(home);
    }
    nix::unistd::dup2_stdout(output).doing("direct the output")?;
    nix::unistd::dup2_stderr(output).doing("direct the output")?;
    SigSet::all().thread_unblock().doing("unblock signals")?;
    sys::reset_broken_pipe().doing("reset SIGPIPE")?;
    let argument = |text: &str| CString::new(text).doing("pass the command");
    let arguments = [argument("sh")?, argument("-c")?, argument(&launch.command)?];
    let environment = launch
        .environment
        .iter()
        .map(|(name, value)| CString::new(format!("{name}={value}")))
        .collect::<std::result::Result<Vec<_>, _>>()
        .doing("pass the environment")?;
    if launch.isolation != Isolation::None {
        let mut filter = calls::filter();
        if !filter.is_empty() {
            sys::filter_calls(&mut filter).doing("filter system calls (seccomp)")?;
        }
    }
    nix::unistd::execve(&argument("/bin/sh")?, &arguments, &environment).doing("run /bin/sh")
}

fn set_limits(launch: &Launch) -> Result<()> {
    let limits = launch.limits;
    lower(Resource::RLIMIT_CORE, 0)?;
    lower(Resource::RLIMIT_NOFILE, limits.files)?;
    if launch.isolation != Isolation::None {
        lower(Resource::RLIMIT_NPROC, limits.processes)?;
    }
    if let Some(bytes) = limits.data_bytes {
        lower(Resource::RLIMIT_DATA, bytes)?;
    }
    if let Some(bytes) = limits.file_bytes {
        lower(Resource::RLIMIT_FSIZE, bytes)?;
    }
    sys::be_nice(limits.nice);
    Ok(())
}

/// Sets a limit, but never above the one that holds already.
fn lower(resource: Resource, limit: rlim_t) -> Result<()> {
    let (_, hard) = getrlimit(resource).doing("read a limit")?;
    let limit = limit.min(hard);
    setrlimit(resource, limit, limit).doing("set a limit")
}
