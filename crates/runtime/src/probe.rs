//! Finds out by trying how programs can be isolated on this machine.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::socket::sockopt;
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::cgroup::{self, Group, Hierarchies};
use crate::prepare::Ability;
use crate::protocol::{AppAccess, Event, Exit, Isolation, Launch, Limits};
use crate::{SHIM_VERB, channel, link, tenant};

const TIMEOUT: Duration = Duration::from_secs(20);
const LIMITS: cgroup::Limits =
    cgroup::Limits { memory_mib: 64, processes: 64, cpu_millis: Some(1000), cpu_weight: 100 };

/// The best that works: users before a user namespace, control groups before per-process limits.
pub(crate) fn find(
    executable: &Path,
    mount_point: &Path,
    hierarchies: Option<Hierarchies>,
) -> (Ability, Option<Hierarchies>) {
    let mut reasons = Vec::new();
    let users = (Isolation::User(tenant::PROBE), Ability::Users);
    let namespace = (Isolation::UserNamespace, Ability::UserNamespace);
    let with_users = nix::unistd::geteuid().is_root().then_some(users);
    for (isolation, ability) in with_users.into_iter().chain([namespace]) {
        for hierarchies in hierarchies.clone().map(Some).into_iter().chain([None]) {
            match try_sandbox(executable, mount_point, hierarchies.as_ref(), isolation) {
                Ok(()) => return (ability, hierarchies),
                Err(reason) => reasons.push(reason),
            }
        }
    }
    // The last is that of a user namespace without control groups, the least that is asked for.
    let reason = reasons.pop().unwrap_or_default();
    let mend = "run Selvedge as root, or allow user namespaces (sysctl \
                user.max_user_namespaces, kernel.unprivileged_userns_clone, \
                kernel.apparmor_restrict_unprivileged_userns; in a container, its seccomp profile \
                and masked /proc); or run what you trust without a sandbox, by --unsafe-builds";
    (Ability::None(format!("{reason}. To mend it, {mend}")), None)
}

fn try_sandbox(
    executable: &Path,
    mount_point: &Path,
    hierarchies: Option<&Hierarchies>,
    isolation: Isolation,
) -> Result<(), String> {
    let group = hierarchies.map(|hierarchies| hierarchies.make(&LIMITS)).transpose();
    let group = group.map_err(|error| format!("no control group could be made: {error}"))?;
    let launch = Launch {
        isolation,
        command: "exit 0".into(),
        environment: BTreeMap::new(),
        app: mount_point.to_owned(),
        app_access: AppAccess::Write,
        cache: None,
        hidden: Vec::new(),
        files: Vec::new(),
        mount_point: mount_point.to_owned(),
        cgroups: group.as_ref().map(Group::joins).unwrap_or_default(),
        limits: Limits {
            data_bytes: None,
            processes: 64,
            files: 64,
            file_bytes: None,
            nice: 0,
            temporary_mib: 1,
            temporary_files: 64,
        },
        egress: false,
        port: 0,
    };
    let (ours, theirs) = channel::pair().map_err(|error| error.to_string())?;
    let mut child = Command::new(executable)
        .arg(SHIM_VERB)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("can't run {}: {error}", executable.display()))?;
    let answer = converse(&ours, &launch);
    drop(ours);
    let _ = child.wait();
    answer
}

fn converse(socket: &OwnedFd, launch: &Launch) -> Result<(), String> {
    let words = |error: io::Error| format!("no word from the shim: {error}");
    let timeout = TimeVal::seconds(TIMEOUT.as_secs().cast_signed());
    nix::sys::socket::setsockopt(socket, sockopt::ReceiveTimeout, &timeout)
        .map_err(|error| words(error.into()))?;
    let hello = link::hello(launch).map_err(words)?;
    channel::send(socket, &hello, None).map_err(words)?;
    loop {
        match channel::receive::<Event>(socket).map_err(words)? {
            Some((Event::Started, _)) => {}
            Some((Event::Failed { reason }, _)) => return Err(reason),
            Some((Event::Ended { exit: Exit::Code(0), .. }, _)) => return Ok(()),
            other => return Err(format!("the shim ended early ({other:?})")),
        }
    }
}
