//! The planet in a box: a supervisor that runs the whole product on loopback.
//!
//! One control process and one agent process a site, each this executable again. The supervisor
//! itself serves nothing but the relay of 127.0.0.1 and [::1] to a site that lives; what it runs
//! is production's code with another composition.

mod child;
mod data;
mod leftovers;
mod plan;
pub(crate) mod ports;
mod relay;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use selvedge_api::{AgentInfo, ControlInfo, DevInfo};
use selvedge_model::SiteId;
use selvedge_runtime::ReservedIds;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::child::State;
use self::data::BoxData;
pub(crate) use self::data::inspect;
use self::plan::BoxPlan;
pub(crate) use self::plan::wanted_ports;
use crate::contract;
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::terminal::{Look, Terminal};

/// What `selvedge dev` was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Where the box keeps everything.
    pub(crate) data: PathBuf,
    /// Whether that is where a box is unless told otherwise.
    pub(crate) is_usual_place: bool,
    /// How many sites.
    pub(crate) sites: usize,
    /// TCP port of plain HTTP at every site.
    pub(crate) http: u16,
    /// TCP port of HTTPS at every site.
    pub(crate) https: u16,
    /// Serve HTTP/3 at the port of HTTPS.
    pub(crate) http3: bool,
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
    /// How much each site's log may take on disk, in MiB.
    pub(crate) log_mib: u32,
    /// How much each site's stored responses may take on disk, in bytes; 0 for none.
    pub(crate) cache_disk_size: u64,
}

/// The name under which control is supervised.
pub(crate) const CONTROL: &str = "control";

/// How soon `dev.json` is written again after that failed.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

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
    let plan = BoxPlan::new(&options)?;
    let data = BoxData::lock(&options.data, options.reset)?;
    ports::check(&plan.wanted_ports())?;
    if let (Some(removed), Audience::Terminal(terminal)) = (data.prepare(options.reset)?, &audience)
    {
        terminal.line(removed.words());
    }
    let _ids = reserve_ids(&options.data)?;
    plan.write()?;
    let Options { http, https, dns, .. } = *plan.options();
    let relay = relay::Relay::bind(&[http, https, dns], dns).await.or_fail(
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

/// Removes the box and everything it has left on the machine.
pub(crate) fn remove(options: &Options, terminal: Terminal) -> Outcome {
    let data = &options.data;
    let parent = data.parent().filter(|_| options.is_usual_place);
    let removed = data::remove_all(data, parent)?;
    if let Some(removed) = &removed {
        terminal.object(removed)?;
        terminal.line(removed.words());
        terminal.line(
            "Git remotes in your own repositories are as they were; where you have added one:",
        );
        terminal.line("  git remote remove selvedge");
    } else {
        terminal.object(&serde_json::json!({ "data": data, "files": 0 }))?;
        terminal.line(format!("There is no box in {}: nothing was removed.", data.display()));
    }
    Ok(())
}

/// User ids for the box's tenants. An ordinary user's box runs all of them as that user.
fn reserve_ids(data: &Path) -> Outcome<Option<ReservedIds>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    ReservedIds::reserve(&data.join(data::TENANTS)).map(Some).or_fail(
        Code::Failed,
        "can't reserve user ids for the apps of this box",
        "end another box, or see whether the disk is full",
    )
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
    let mut stale = false;
    loop {
        if let Some(info) = info(plan, &children)? {
            match contract::write(&path, &info) {
                Ok(()) => stale = false,
                // A full disk must not end a box that runs.
                Err(failure) if audience.is_none() => {
                    if !stale {
                        tracing::warn!("{}", failure.what());
                    }
                    stale = true;
                }
                Err(failure) => return Err(failure),
            }
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
            () = tokio::time::sleep(WRITE_AGAIN), if stale => {}
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
    let sites = crate::terminal::count(info.sites.len(), "site");
    let title = format!("Selvedge is up: {sites}, one machine, {took}.");
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
