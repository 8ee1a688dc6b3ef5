//! The planet in a box: a supervisor that runs the whole product on loopback.
//!
//! One control process and one agent process a site, each this executable again. The supervisor
//! itself serves nothing but the relay of 127.0.0.1 and [::1] to a site that lives; what it runs
//! is production's code with another composition.

mod child;
mod plan;
mod ports;
mod relay;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use selvedge_api::{AgentInfo, ControlInfo, DevInfo};
use selvedge_model::SiteId;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::child::State;
use self::plan::BoxPlan;
use crate::contract;
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::terminal::{Look, Terminal};

/// What `selvedge dev` was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Where the box keeps everything.
    pub(crate) data: PathBuf,
    /// How many sites.
    pub(crate) sites: usize,
    /// TCP port of plain HTTP at every site.
    pub(crate) http: u16,
    /// TCP port of HTTPS at every site.
    pub(crate) https: u16,
    /// UDP and TCP port of DNS at every site.
    pub(crate) dns: u16,
    /// TCP port of the control API on 127.0.0.1.
    pub(crate) control: u16,
    /// How long after its death a child is started again; `None`: never.
    pub(crate) restart_after: Option<Duration>,
    /// Forget what an earlier box left.
    pub(crate) reset: bool,
    /// Where apps that name no host are served.
    pub(crate) zone: selvedge_model::Host,
    /// Run builds and workloads without a sandbox where the machine can't make one.
    pub(crate) unsafe_builds: bool,
}

/// What to do about a data directory that can't be used.
const DATA_HINT: &str = "choose a directory of yours with --data DIR, on a disk with room";

/// The name under which control is supervised.
const CONTROL: &str = "control";

/// Who is told that the box is ready.
#[derive(Debug)]
pub(crate) enum Audience {
    /// The user, and programs that read `--json`.
    Terminal(Terminal),
    /// A caller in this process.
    Caller(oneshot::Sender<DevInfo>),
}

/// Runs the box until SIGINT or SIGTERM, or until `token` is cancelled.
pub(crate) async fn run(options: Options, audience: Audience, token: CancellationToken) -> Outcome {
    let started = std::time::Instant::now();
    let _lock = prepare_data(&options)?;
    let plan = BoxPlan::new(&options)?;
    ports::check(&plan.wanted_ports())?;
    plan.write()?;
    let relay = relay::Relay::bind(&[options.http, options.https, options.dns], options.dns)
        .await
        .or_fail(
            Code::Taken,
            "can't listen on loopback",
            "choose other ports with --http, --https and --dns",
        )?;
    let tasks = TaskTracker::new();
    let stop = crate::signals::cancel_on_signal(token.clone());
    let children = start_children(&plan, &tasks, &token);
    let (live, live_sites) = watch::channel(Vec::new());
    tasks.spawn(track_live_sites(plan.site_addresses(), children.clone(), live, token.clone()));
    tasks.spawn(relay.run(live_sites, token.clone()));
    let result = announce(&plan, children, audience, started, &token).await;
    token.cancel();
    tasks.close();
    tasks.wait().await;
    let _ = std::fs::remove_file(options.data.join(contract::DEV));
    stop.abort();
    result
}

/// Makes the directory ours and locks it. `--reset` empties it, if it is a box's.
fn prepare_data(options: &Options) -> Outcome<Flock<std::fs::File>> {
    let data = &options.data;
    contract::private_directory(data)?;
    let lock = lock(data)?;
    let marker = data.join("box");
    let foreign =
        |entry: &std::fs::DirEntry| entry.file_name() != "lock" && entry.file_name() != "box";
    let list = || {
        std::fs::read_dir(data).or_fail(
            Code::Usage,
            format!("can't read the directory {}", data.display()),
            DATA_HINT,
        )
    };
    let mut entries = list()?.flatten().filter(foreign);
    if !marker.exists() && entries.next().is_some() {
        return Err(Failure::new(
            Code::Usage,
            format!("{} has files that are not a box's", data.display()),
            "give --data an empty or new directory",
        ));
    }
    if options.reset {
        for entry in list()?.flatten().filter(foreign) {
            let path = entry.path();
            let removed = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.or_fail(
                Code::Failed,
                format!("can't remove {}", path.display()),
                "remove it by hand",
            )?;
        }
    }
    std::fs::write(&marker, "This directory belongs to `selvedge dev`.\n").or_fail(
        Code::Failed,
        format!("can't write {}", marker.display()),
        DATA_HINT,
    )?;
    Ok(lock)
}

fn lock(data: &Path) -> Outcome<Flock<std::fs::File>> {
    let path = data.join("lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .open(&path)
        .or_fail(Code::Usage, format!("can't write {}", path.display()), DATA_HINT)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            std::fs::write(&path, std::process::id().to_string()).or_fail(
                Code::Failed,
                format!("can't write {}", path.display()),
                DATA_HINT,
            )?;
            Ok(lock)
        }
        Err(_) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            Err(Failure::new(
                Code::Taken,
                format!("process {pid} already runs a box on {}", data.display()),
                "stop it with Ctrl-C where it runs, or use another directory with --data DIR (and other ports)",
            ))
        }
    }
}

/// Every child's state.
type Children = BTreeMap<String, watch::Receiver<State>>;

fn start_children(plan: &BoxPlan, tasks: &TaskTracker, token: &CancellationToken) -> Children {
    let mut children = Children::new();
    // Control outlives the agents by a moment, so that their last reports find it.
    let control_token = CancellationToken::new();
    let agents = TaskTracker::new();
    for spec in plan.children() {
        let (sender, receiver) = watch::channel(State::Starting);
        children.insert(spec.name.clone(), receiver);
        if spec.name == CONTROL {
            tasks.spawn(child::supervise(spec, sender, control_token.clone()));
        } else {
            tasks.spawn(agents.track_future(child::supervise(spec, sender, token.clone())));
        }
    }
    agents.close();
    tasks.spawn(async move {
        agents.wait().await;
        control_token.cancel();
    });
    children
}

/// Waits until every child is ready, then keeps `dev.json` true until `token` is cancelled.
async fn announce(
    plan: &BoxPlan,
    mut children: Children,
    audience: Audience,
    started: std::time::Instant,
    token: &CancellationToken,
) -> Outcome {
    let path = plan.options().data.join(contract::DEV);
    let mut audience = Some(audience);
    loop {
        if let Some(info) = info(plan, &children)? {
            contract::write(&path, &info)?;
            match audience.take() {
                Some(Audience::Terminal(terminal)) => {
                    terminal.object(&info)?;
                    greet(terminal, &info, started.elapsed());
                }
                // A caller that has gone away wants nothing more.
                Some(Audience::Caller(ready)) => drop(ready.send(info)),
                None => {}
            }
        }
        if audience.is_some()
            && let Some((name, reason)) = first_death(&children)
        {
            return Err(Failure::new(
                Code::Failed,
                format!("{name} ended before the box was ready: {reason}"),
                format!("its last words are in {}", plan.log(&name).display()),
            ));
        }
        let changes = children.values_mut().map(|state| Box::pin(state.changed()));
        tokio::select! {
            _ = futures_util::future::select_all(changes) => {}
            () = token.cancelled() => return Ok(()),
        }
    }
}

fn first_death(children: &Children) -> Option<(String, String)> {
    children.iter().find_map(|(name, state)| match &*state.borrow() {
        State::Dead { reason } => Some((name.clone(), reason.clone())),
        _ => None,
    })
}

/// What a child said can only be misunderstood when its file was exchanged while the box ran.
const STRANGE: &str = "a process of the box does not say what was expected";
const STRANGE_HINT: &str = "this program's file has changed: start the box again";

/// The box as tools see it, when all of it is ready.
fn info(plan: &BoxPlan, children: &Children) -> Outcome<Option<DevInfo>> {
    let mut control: Option<ControlInfo> = None;
    let mut agents: BTreeMap<SiteId, AgentInfo> = BTreeMap::new();
    for (name, state) in children {
        let State::Ready { info, .. } = state.borrow().clone() else { return Ok(None) };
        if name == CONTROL {
            control =
                Some(serde_json::from_value(info).or_fail(Code::Failed, STRANGE, STRANGE_HINT)?);
        } else {
            let agent: AgentInfo =
                serde_json::from_value(info).or_fail(Code::Failed, STRANGE, STRANGE_HINT)?;
            agents.insert(agent.site.clone(), agent);
        }
    }
    Ok(control.map(|control| plan.info(control, &agents)))
}

fn greet(terminal: Terminal, info: &DevInfo, took: Duration) {
    let took = crate::terminal::duration(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    let title = format!("Selvedge is up: {} sites, one machine, {took}.", info.sites.len());
    terminal.line(terminal.paint(Look::Strong, title));
    let port = info.sites.first().map_or(0, |site| site.http);
    for (what, value) in [
        ("control", info.control.clone()),
        ("console", format!("{} (`selvedge console` signs you in)", info.console)),
        ("git remote", format!("{}/REPOSITORY.git", info.git)),
        ("apps", format!("http://APP.localhost:{port}")),
        ("DNS", format!("{} (zone {})", info.dns, info.zone)),
    ] {
        terminal.line(format!("  {what:<12}{value}"));
    }
    terminal.line("");
    terminal.line("In an app's repository, `selvedge deploy` brings it live. Ctrl-C ends the box.");
}

/// Keeps the list of sites that live for the relay.
async fn track_live_sites(
    addresses: BTreeMap<String, IpAddr>,
    mut children: Children,
    live: watch::Sender<Vec<IpAddr>>,
    token: CancellationToken,
) {
    children.remove(CONTROL);
    loop {
        let now: Vec<IpAddr> = children
            .iter()
            .filter(|(_, state)| matches!(&*state.borrow(), State::Ready { .. }))
            .filter_map(|(name, _)| addresses.get(name).copied())
            .collect();
        live.send_replace(now);
        let changes = children.values_mut().map(|state| Box::pin(state.changed()));
        tokio::select! {
            _ = futures_util::future::select_all(changes) => {}
            () = token.cancelled() => return,
        }
    }
}
