//! From a request to who answers it: host, epoch, route.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use selvedge_model::documents::BUCKETS;
use selvedge_model::pin::Pin;

use crate::check::Checked;
use crate::epoch::{Choice, Decision};
use crate::listener::Shared;
use crate::pages::Fault;
use crate::upstream::InFlight;
use crate::{AppView, EpochView, RouteTable, RouteView, Snapshot, Target, pins};

/// How often a request starts over because the snapshot was swapped under it. Swaps are far rarer
/// than requests; the bound only keeps this from depending on it.
const ATTEMPTS: usize = 16;
/// How many hosts an explaining page lists.
const HOSTS_SHOWN: usize = 20;

/// What the snapshot says of a request, as far as it goes.
pub(crate) struct Located {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) app: Option<Arc<AppView>>,
    pub(crate) epoch: Option<Arc<EpochView>>,
    /// The routes of a proxy that runs alone.
    rest: Option<Arc<RouteTable>>,
    route: Option<usize>,
    /// The request's part in the workload's count, where a workload answers.
    pub(crate) in_flight: Option<InFlight>,
    /// The pin that the client gets, where it has to change.
    pub(crate) new_pin: Option<String>,
    /// Why it goes no further.
    pub(crate) fault: Option<Fault>,
}

impl Located {
    /// The route.
    pub(crate) fn route(&self) -> Option<&RouteView> {
        self.table()?.routes.get(self.route?)
    }

    /// What the request was routed by.
    pub(crate) fn table(&self) -> Option<&RouteTable> {
        match &self.epoch {
            Some(epoch) => Some(&epoch.table),
            None => self.rest.as_deref(),
        }
    }

    fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            app: None,
            epoch: None,
            rest: None,
            route: None,
            in_flight: None,
            new_pin: None,
            fault: None,
        }
    }
}

/// Looks a request up.
///
/// A request keeps the snapshot that it was located in. So that it can't have chosen a workload
/// that the agent has just found idle and stops, it counts itself in first and starts over if the
/// snapshot has been swapped meanwhile.
pub(crate) fn locate(shared: &Shared, request: &Checked, headers: &HeaderMap) -> Located {
    let bucket = u16::try_from(shared.ids.next() % u64::from(BUCKETS)).unwrap_or_default();
    let mut located = attempt(shared, request, headers, bucket);
    for _ in 1..ATTEMPTS {
        if Arc::ptr_eq(&located.snapshot, &shared.snapshot.borrow()) {
            break;
        }
        located = attempt(shared, request, headers, bucket);
    }
    located
}

fn attempt(shared: &Shared, request: &Checked, headers: &HeaderMap, bucket: u16) -> Located {
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let mut located = Located::new(snapshot);
    let host = request.authority.host();
    let Some(app) = located.snapshot.hosts.get(host.as_ref()).cloned() else {
        let Some(rest) = located.snapshot.rest.clone() else {
            located.fault = Some(unknown_host(&located.snapshot, &host));
            return located;
        };
        located.route = route(&rest, &host, &request.path);
        located.rest = Some(rest);
        return enter(located, &host);
    };
    located.app = Some(Arc::clone(&app));
    let (epoch, pin) = match choose(shared, &located.snapshot, &app, headers, bucket) {
        Ok(chosen) => chosen,
        Err(fault) => {
            located.fault = Some(fault);
            return located;
        }
    };
    located.new_pin = pin;
    located.route = route(&epoch.table, &host, &request.path);
    located.epoch = Some(epoch);
    enter(located, &host)
}

/// Counts the request in where its route leads to a workload.
fn enter(mut located: Located, host: &str) -> Located {
    match located.route().map(|route| &route.target) {
        Some(Target::Workload(upstream)) => located.in_flight = Some(upstream.enter()),
        Some(Target::Static(_) | Target::Fallback(..) | Target::Redirect(_)) => {}
        None => located.fault = Some(no_route(host)),
    }
    located
}

/// The epoch that the client is served, and its new pin if the one it has is not up to date.
fn choose(
    shared: &Shared,
    snapshot: &Snapshot,
    app: &AppView,
    headers: &HeaderMap,
    bucket: u16,
) -> Result<(Arc<EpochView>, Option<String>), Fault> {
    let pin = snapshot.pins.as_ref().and_then(|pins| pins::read(headers, app, pins));
    let choice = Choice {
        site: &snapshot.site,
        activation: app.activation.as_deref(),
        bucket: pin.map_or(bucket, |pin| pin.bucket),
        floor: match pin {
            Some(pin) => Some(pin.epoch),
            // An app that was taken back is not live, whatever was served of it.
            None if app.activation.is_none() => None,
            None => shared.floors.get(&app.app, &app.environment),
        },
    };
    let epoch = match choice.decide(app.epochs.keys().copied()) {
        Decision::Serve(epoch) => epoch,
        Decision::NotHere(epoch) => {
            let title = "This site does not have the current release yet";
            let help = "It is being fetched. Try again in a moment.";
            return Err(Fault::proxy(
                StatusCode::SERVICE_UNAVAILABLE,
                "epoch-not-here",
                title,
                help,
            )
            .detail(format!("epoch {epoch} of {} is not warm here", app.app))
            .retry_after(1));
        }
        Decision::NotLive => {
            let title = "Nothing has been released here yet";
            let help = "Push a release, or try again when one is live.";
            return Err(Fault::proxy(StatusCode::SERVICE_UNAVAILABLE, "not-live", title, help)
                .detail(format!("{} has no activation", app.app))
                .retry_after(5));
        }
    };
    // What is chosen is among the keys.
    let Some(view) = app.epochs.get(&epoch).cloned() else {
        let title = "The release can't be found";
        let help = "Try again in a moment.";
        return Err(Fault::proxy(StatusCode::INTERNAL_SERVER_ERROR, "epoch-lost", title, help));
    };
    if pin.is_none() {
        shared.floors.raise(&app.app, &app.environment, epoch);
    }
    let new_pin = match &snapshot.pins {
        Some(pins) if pin.is_none_or(|pin| pin.epoch != epoch) => {
            let pin = Pin { epoch, bucket: choice.bucket };
            Some(pins.sign(&app.app, &app.environment, pin))
        }
        _ => None,
    };
    Ok((view, new_pin))
}

/// The first route for host and path. Routes that name no host are for the app's default hosts:
/// those that no route names.
pub(crate) fn route(table: &RouteTable, host: &str, path: &str) -> Option<usize> {
    let names = |route: &RouteView| route.hosts.iter().any(|name| name.as_str() == host);
    let is_default = !table.routes.iter().any(names);
    table.routes.iter().position(|route| {
        let for_host = if route.hosts.is_empty() { is_default } else { names(route) };
        for_host && route.path.matches(path)
    })
}

fn unknown_host(snapshot: &Snapshot, host: &str) -> Fault {
    let title = format!("No app is served at {host} here");
    let help = "Check the address. If it is right, the app may be placed at other sites only, or \
                its first release is still on its way.";
    let fault = Fault::client(StatusCode::MISDIRECTED_REQUEST, "unknown-host", title, help);
    // Shown to developers only; not worth a sort for everybody who guesses names.
    if !snapshot.explain {
        return fault;
    }
    let mut hosts: Vec<&str> = snapshot.hosts.keys().map(|host| host.as_str()).collect();
    hosts.sort_unstable();
    hosts.truncate(HOSTS_SHOWN);
    fault.detail(format!("hosts served here: {}", hosts.join(", ")))
}

fn no_route(host: &str) -> Fault {
    let title = format!("{host} serves nothing at this path");
    let help = "Check the address. In the app's selvedge.toml, a [[route]] must match the path.";
    Fault::client(StatusCode::NOT_FOUND, "no-route", title, help)
}
