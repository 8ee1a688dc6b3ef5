//! Finds out by trying how programs can be isolated on this machine.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::socket::sockopt;
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::cgroup::{Group, Hierarchy};
use crate::prepare::Ability;
use crate::protocol::{AppAccess, Event, Exit, Isolation, Launch, Limits};
use crate::{SHIM_VERB, channel, link, tenant};

const TIMEOUT: Duration = Duration::from_secs(20);
const MEMORY_MIB: u32 = 64;

/// The best that works: users before a user namespace, memory groups before per-process limits.
pub(crate) fn find(
    executable: &Path,
    mount_point: &Path,
    hierarchy: Option<Hierarchy>,
) -> (Ability, Option<Hierarchy>) {
    let mut reasons = Vec::new();
    let users = (Isolation::User(tenant::PROBE), Ability::Users);
    let namespace = (Isolation::UserNamespace, Ability::UserNamespace);
    let with_users = nix::unistd::geteuid().is_root().then_some(users);
    for (isolation, ability) in with_users.into_iter().chain([namespace]) {
        for hierarchy in hierarchy.clone().map(Some).into_iter().chain([None]) {
            match try_sandbox(executable, mount_point, hierarchy.as_ref(), isolation) {
                Ok(()) => return (ability, hierarchy),
                Err(reason) => reasons.push(reason),
            }
        }
    }
    // The last is that of a user namespace without a memory group, the least that is asked for.
    let reason = reasons.pop().unwrap_or_default();
    let mend = "run Selvedge as root, or allow user namespaces (sysctl \
                user.max_user_namespaces, kernel.unprivileged_userns_clone, \
                kernel.apparmor_restrict_unprivileged_userns; in a container, its seccomp profile \
                and masked /proc)";
    (Ability::None(format!("{reason}. To mend it, {mend}")), None)
}

fn try_sandbox(
    executable: &Path,
    mount_point: &Path,
    hierarchy: Option<&Hierarchy>,
    isolation: Isolation,
) -> Result<(), String> {
    let group = hierarchy.map(|hierarchy| hierarchy.make(MEMORY_MIB)).transpose();
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
        limits: Limits { data_bytes: None, processes: 64, files: 64, temporary_mib: 1 },
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
            Some((Event::Ended(Exit::Code(0)), _)) => return Ok(()),
            other => return Err(format!("the shim ended early ({other:?})")),
        }
    }
}
