//! What a shim and its parent say to each other.
//!
//! The parent sends one [`Hello`], then [`Request`]s; the shim answers with [`Event`]s. Both are
//! the same executable, but an agent that has been replaced by a newer one may meet an older shim,
//! so the first message carries a version and the shim refuses one that it doesn't know.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The version of everything in this file. Raise it with every change.
pub(crate) const VERSION: u32 = 2;

/// The largest message, below the kernel's default limit for one message on a local socket.
pub(crate) const MAX_MESSAGE_BYTES: usize = 128 * 1024;

/// Where a workload in its own network namespace is told to listen (`$PORT`).
pub(crate) const WORKLOAD_PORT: u16 = 8080;

/// Where the way out listens inside the network namespace.
pub(crate) const EGRESS_PORT: u16 = 3128;

/// The first message to a shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// A [`Launch`], looked at only when the version is known.
    pub(crate) launch: Box<RawValue>,
}

/// What to run, and how confined. Not `Debug`: the environment may hold secrets.
#[derive(Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) isolation: Isolation,
    /// Run by `/bin/sh -c`.
    pub(crate) command: String,
    /// The whole environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// On the host; at `/app` inside.
    pub(crate) app: PathBuf,
    pub(crate) app_access: AppAccess,
    /// On the host; at `/cache` inside, writable.
    pub(crate) cache: Option<PathBuf>,
    /// Canonical paths that must not show through any mount.
    pub(crate) hidden: Vec<PathBuf>,
    /// Single files to show read-only at their own path (certificates).
    pub(crate) files: Vec<PathBuf>,
    /// An existing directory over which the new root is mounted; nothing is written into it.
    pub(crate) mount_point: PathBuf,
    /// `cgroup.procs` of the groups to join.
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) limits: Limits,
    /// Whether to open a way out, a listener at [`EGRESS_PORT`] that the parent serves.
    pub(crate) egress: bool,
    /// Where the program is told to listen.
    pub(crate) port: u16,
}

/// How a program is kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Isolation {
    /// Own namespaces, as this user and group; needs root.
    User(u32),
    /// Own namespaces in a user namespace that maps the caller alone.
    UserNamespace,
    /// None at all (`--unsafe-builds`).
    None,
}

/// What the program may do to `/app`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AppAccess {
    /// Change it.
    Write,
    /// Write over it in memory, within the size of that; what it writes ends with it.
    Overlay,
}

/// Limits by setrlimit(2), and the sizes of the memory-backed file systems.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Bytes of private memory for each process; where no control group limits them together.
    pub(crate) data_bytes: Option<u64>,
    /// Processes and threads of the user.
    pub(crate) processes: u64,
    /// Open files of a process.
    pub(crate) files: u64,
    /// Bytes of one file; `None` where the file system is limited instead.
    pub(crate) file_bytes: Option<u64>,
    /// How far it yields to others (nice(2)); where no control group says so.
    pub(crate) nice: i32,
    /// Size of the file system in memory that `/tmp`, and what is written over `/app`, is in.
    pub(crate) temporary_mib: u32,
    /// The files that it has room for.
    pub(crate) temporary_files: u64,
}

/// From the parent to the shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Open a connection to the program's port; answered by `Connected` or `Unreachable`.
    Connect { id: u64 },
    /// SIGTERM to every process.
    Terminate,
    /// SIGKILL to every process.
    Kill,
}

/// From the shim to the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// The program has been started. With a way out, its listener comes along.
    Started,
    /// It could not be; the shim has ended everything.
    Failed { reason: String },
    /// The connection comes along.
    Connected { id: u64 },
    /// No connection, because of this error number.
    Unreachable { id: u64, errno: i32 },
    /// The program has ended and everything that it started with it; `full` when the file system
    /// in memory was then.
    Ended { exit: Exit, full: bool },
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Exit {
    /// Its exit code.
    Code(i32),
    /// The signal that ended it.
    Signal(i32),
}

/// From the first process inside to the shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Ready,
    Failed { reason: String },
    Ended { exit: Exit, full: bool },
}
