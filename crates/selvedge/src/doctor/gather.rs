//! Looks at this machine and at the installation on it. Changes nothing that lasts.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use nix::unistd::AccessFlags;
use selvedge_api::{Client, ClientConfig, SiteHealth};
use selvedge_fabric::layout::Found;
use selvedge_runtime::Runtime;
use tokio::process::Command;

use super::installation::{Authority, Control, Data, DataState, Directory, Status, Supervisor};
use super::machine::{Disk, Git, Port, Sandbox, UserNamespaces};
use super::{clock, installation, machine};
use crate::dev::ports;
use crate::{context, contract};

/// How long a program may take to print its version: the first start of a JVM is slow.
const VERSION_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;
/// The kinds of namespaces that a sandbox is made of, as /proc names them.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
/// Programs that apps often need, and how each is asked for its version.
const PROGRAMS: [(&str, &str); 5] = [
    ("node", "--version"),
    ("npm", "--version"),
    ("python3", "--version"),
    ("java", "--version"),
    ("curl", "--version"),
];

/// Looks at the machine. `wanted` are a box's listeners, unless one runs here and has them.
pub(crate) async fn machine(data: &Path, wanted: Option<&[ports::Wanted]>) -> machine::Facts {
    let sandbox = tokio::task::spawn_blocking(sandbox);
    let mut programs = Vec::new();
    for (name, argument) in PROGRAMS {
        programs.push((name, first_line(name, &[argument]).await));
    }
    let makes_environments = "import ensurepip; print('pip', ensurepip.version())";
    programs.push((machine::VENV, first_line("python3", &["-c", makes_environments]).await));
    let limit = |resource| getrlimit(resource).map_or(u64::MAX, |(_, hard)| hard);
    machine::Facts {
        kernel: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
        architecture: std::env::consts::ARCH,
        root: nix::unistd::geteuid().is_root(),
        namespaces_missing: NAMESPACES
            .into_iter()
            .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
            .collect(),
        user_namespaces: UserNamespaces {
            most: number("/proc/sys/user/max_user_namespaces"),
            clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        },
        overlay: text("/proc/filesystems").is_some_and(|list| list.contains("\toverlay")),
        seccomp: text("/proc/sys/kernel/seccomp/actions_avail")
            .is_some_and(|actions| actions.contains("errno")),
        git: git().await,
        now_ms: crate::verbs::now_ms(),
        synchronised: clock::is_synchronised(),
        files: limit(Resource::RLIMIT_NOFILE),
        processes: limit(Resource::RLIMIT_NPROC),
        ipv6: std::net::TcpListener::bind("[::1]:0").is_ok(),
        disk: disk(data),
        programs,
        ports: wanted.map(|wanted| wanted.iter().map(port).collect()),
        sandbox: sandbox.await.unwrap_or_default(),
    }
}

fn text(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: &str) -> Option<u64> {
    text(path)?.parse().ok()
}

/// Makes a sandbox, as control and agents do when they start.
fn sandbox() -> Sandbox {
    let impossible = |reason: String| Sandbox { impossible: Some(reason), ..Sandbox::default() };
    let state = match tempfile::tempdir() {
        Ok(state) => state,
        Err(error) => return impossible(format!("no temporary directory can be made: {error}")),
    };
    let executable = match std::env::current_exe() {
        Ok(executable) => executable,
        Err(error) => return impossible(format!("this program's file can't be found: {error}")),
    };
    let config = selvedge_runtime::Config::new(executable, state.path().join("sandbox"));
    match Runtime::new(config) {
        Ok(runtime) => Sandbox {
            impossible: runtime.no_sandbox().map(str::to_owned),
            lacks: runtime.degraded(),
            control_groups: runtime.control_groups(),
        },
        Err(error) => impossible(error.to_string()),
    }
}

/// The first line that a program prints, if there is such a program.
async fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(VERSION_TIMEOUT, output).await.ok()?.ok()?;
    let printed = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let line = String::from_utf8_lossy(&printed).lines().next()?.trim().to_owned();
    // What follows are the versions of libraries.
    let line = line.split(" (").next().unwrap_or_default().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

async fn git() -> Option<Git> {
    let version = first_line("git", &["--version"]).await?;
    let programs = first_line("git", &["--exec-path"]).await?;
    let version = version.trim_start_matches("git version ").to_owned();
    let http_backend = Path::new(&programs).join("git-http-backend").is_file();
    Some(Git { version, http_backend })
}

/// The file system that `data` is on, or will be.
fn disk(data: &Path) -> Option<Disk> {
    let there = data.ancestors().find(|path| path.exists())?;
    let found = statvfs(there).ok()?;
    Some(Disk {
        path: there.display().to_string(),
        free_mib: found.blocks_available() * found.fragment_size() / MIB,
        free_files: (found.files() > 0).then_some(found.files_available()),
    })
}

fn port(wanted: &ports::Wanted) -> Port {
    Port { address: wanted.address, flag: wanted.flag, taken: ports::taken(wanted) }
}

/// Looks at the installation: the box on `data`, and the control that was asked for or is the
/// box's.
pub(crate) async fn installation(
    data: &Path,
    control: Option<ClientConfig>,
) -> installation::Facts {
    let supervisor = supervisor(data);
    let running = context::read_box(data);
    let control = control.or_else(|| {
        let info = running.as_ref()?;
        let (url, token) = (info.control.clone(), info.token.clone());
        Some(ClientConfig { url, token, ca: Some(info.ca.clone()) })
    });
    let control_data = data.join(crate::dev::CONTROL);
    let authority = running.map_or_else(|| control_data.join("authority/ca.pem"), |info| info.ca);
    installation::Facts {
        data: Data { path: crate::verbs::show(data), state: state(data) },
        version: env!("CARGO_PKG_VERSION"),
        user: nix::unistd::geteuid().as_raw(),
        now_ms: crate::verbs::now_ms(),
        supervisor,
        dead_sockets: dead_sockets(&control_data),
        authority: read_authority(authority),
        control: match control {
            Some(config) => Some(ask(config).await),
            None => None,
        },
    }
}

fn state(data: &Path) -> DataState {
    let Ok(found) = std::fs::metadata(data) else { return DataState::Missing };
    let owner = found.uid();
    // What is another's can't be looked into, and says no more than that it is another's.
    let is_ours = owner == nix::unistd::geteuid().as_raw() || nix::unistd::geteuid().is_root();
    match crate::dev::inspect(data) {
        Ok(Found::New) => return DataState::Missing,
        Err(error) if is_ours => {
            return DataState::Unusable(error.to_string());
        }
        Ok(Found::Version(_)) | Err(_) => {}
    }
    let entries = std::fs::read_dir(data).into_iter().flatten().flatten();
    let written = |metadata: &std::fs::Metadata| {
        let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        u64::try_from(since.as_millis()).ok()
    };
    let newest = entries.filter_map(|entry| written(&entry.metadata().ok()?)).max();
    DataState::Box(Directory {
        owner,
        mode: found.mode() & 0o777,
        writable: nix::unistd::access(data, AccessFlags::W_OK | AccessFlags::X_OK).is_ok(),
        newest_ms: newest.unwrap_or_default(),
    })
}

fn supervisor(data: &Path) -> Option<Supervisor> {
    let text = std::fs::read(data.join(contract::DEV)).ok()?;
    let info: Option<selvedge_api::DevInfo> = serde_json::from_slice(&text).ok();
    let pid = info.map(|info| info.pid);
    Some(Supervisor { pid, lives: context::read_box(data).is_some() })
}

/// Sockets on which nobody listens, by name.
fn dead_sockets(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_socket =
        |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_socket());
    let is_dead = |entry: &std::fs::DirEntry| {
        UnixStream::connect(entry.path())
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    let mut dead: Vec<String> = entries
        .filter(is_socket)
        .filter(is_dead)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    dead.sort();
    dead
}

fn read_authority(path: PathBuf) -> Option<Authority> {
    let ends_ms = match std::fs::read(&path) {
        Ok(pem) => selvedge_control::certificate_end(&pem),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => Err(error.to_string()),
    };
    Some(Authority { path: crate::verbs::show(&path), ends_ms })
}

async fn ask(config: ClientConfig) -> Control {
    let url = config.url.clone();
    let status = match Client::new(&config) {
        Ok(client) => client.status().await,
        Err(error) => Err(error),
    };
    let status = status.map(status_of).map_err(|error| {
        let failure = context::client_failure(error);
        (failure.what(), failure.hint.clone())
    });
    Control { url, status }
}

fn status_of(status: selvedge_api::Status) -> Status {
    let mut problems: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for site in &status.sites {
        for problem in &site.problems {
            problems.entry(problem.clone()).or_default().push(site.id.to_string());
        }
    }
    let lost = |site: &&selvedge_api::SiteRow| site.health == SiteHealth::Lost;
    Status {
        version: status.control.version,
        problems: status.control.problems,
        healthy: status.sites.iter().filter(|site| !lost(site)).count(),
        lost: status.sites.iter().filter(lost).map(|site| site.id.to_string()).collect(),
        site_problems: problems.into_iter().collect(),
    }
}
