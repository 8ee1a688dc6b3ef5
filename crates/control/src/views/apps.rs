//! Apps, site by site.

use std::collections::BTreeSet;

use selvedge_api::{AppSite, AppSiteState, AppStatus, AppSummary, FailedPush};
use selvedge_model::documents::AppRecord;
use selvedge_model::{
    AppReport, EnvironmentName, Epoch, EpochState, Host, Push, PushState, ReleaseId, SiteId,
};

use super::live;
use crate::world::World;

/// Every app, by name. The record of one that was taken down only keeps its epochs from coming
/// again.
pub(crate) fn apps(world: &World) -> Vec<AppStatus> {
    let all = world.apps.values();
    let known = all.map(|record| (record.history.is_empty(), app(world, record)));
    let gone = |app: &AppStatus| {
        app.summary.live.is_none()
            && app.sites.is_empty()
            && app.pushing.is_none()
            && app.last_failure.is_none()
    };
    known.filter(|(unborn, app)| !(*unborn && gone(app))).map(|(_, app)| app).collect()
}

/// One app.
fn app(world: &World, record: &AppRecord) -> AppStatus {
    let environment = EnvironmentName::production();
    let live = live(world, record);
    // An app that is not live yet is shown at the hosts that it is about to have.
    let shown = match &live {
        Some(live) => world.release(&record.app, &live.digest),
        None => newest_assigned(world, record, &environment)
            .and_then(|(_, release)| world.release(&record.app, &release)),
    };
    let hosts = shown.map(|release| world.hosts_of(release)).unwrap_or_default();
    let wanted = live.as_ref().map(|live| live.epoch);
    let sites = app_sites(world, record, &environment, wanted);
    // A site whose upstreams are down serves all the same.
    let serves = |row: &AppSite| match row.state {
        AppSiteState::Live => true,
        AppSiteState::Degraded => {
            let key = (row.site.clone(), record.app.clone(), environment.clone());
            world.app_reports.get(&key).is_some_and(|report| is_warm(report, wanted))
        }
        _ => false,
    };
    let pushes = world.pushes.get(&record.repository);
    // A push that has not got as far as its apps concerns all that are live.
    let concerns = |push: &&Push| {
        (push.apps.is_empty() && !record.history.is_empty())
            || push.apps.iter().any(|app| app.app == record.app)
    };
    let last = pushes.and_then(|pushes| pushes.values().rfind(|push| !push.is_open()));
    let pushing = pushes.and_then(|pushes| {
        pushes.values().find(|push| push.is_open() && concerns(push)).map(|push| push.number)
    });
    AppStatus {
        summary: AppSummary {
            app: record.app.clone(),
            repository: record.repository.clone(),
            directory: record.directory.clone(),
            urls: urls(world, &hosts),
            assigned: world.assignments_of(&record.app, &environment).count() as u32,
            serving: sites.iter().filter(|row| serves(row)).count() as u32,
            live,
        },
        environment,
        hosts,
        sites,
        pushing,
        last_failure: last.filter(concerns).and_then(failure),
    }
}

fn failure(push: &Push) -> Option<FailedPush> {
    match &push.state {
        PushState::Refused(failure) | PushState::RolledBack(failure) => Some(FailedPush {
            push: push.number,
            commit: push.new_commit.clone(),
            at_ms: push.received_ms,
            stage: failure.stage,
            reason: failure.reason.clone(),
            last_lines: failure.last_lines.clone(),
        }),
        _ => None,
    }
}

fn newest_assigned(
    world: &World,
    record: &AppRecord,
    environment: &EnvironmentName,
) -> Option<(Epoch, ReleaseId)> {
    world
        .assignments_of(&record.app, environment)
        .flat_map(|(_, assignment)| &assignment.entries)
        .map(|entry| (entry.epoch, entry.release))
        .max()
}

fn app_sites(
    world: &World,
    record: &AppRecord,
    environment: &EnvironmentName,
    live: Option<Epoch>,
) -> Vec<AppSite> {
    let assigned: BTreeSet<&SiteId> =
        world.assignments_of(&record.app, environment).map(|(site, _)| site).collect();
    let left = world
        .app_reports
        .iter()
        .filter(|((_, app, env), report)| {
            *app == record.app && env == environment && !report.epochs.is_empty()
        })
        .map(|((site, _, _), _)| site);
    assigned
        .iter()
        .copied()
        .chain(left)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|site| {
            let key = (site.clone(), record.app.clone(), environment.clone());
            let report = world.app_reports.get(&key);
            let wanted = live.filter(|_| assigned.contains(site));
            app_site(site, world.leases.contains_key(site), report, wanted)
        })
        .collect()
}

/// An app at a site that is to serve `wanted`; `None` where it is not to serve (yet).
fn app_site(
    site: &SiteId,
    leased: bool,
    report: Option<&AppReport>,
    wanted: Option<Epoch>,
) -> AppSite {
    let mut row = AppSite {
        site: site.clone(),
        state: AppSiteState::Unknown,
        active: report.and_then(|report| report.active),
        probe: report.and_then(|report| report.probe.as_ref()).map(|probe| probe.status),
        reason: None,
        last_lines: Vec::new(),
    };
    if !leased {
        row.state = AppSiteState::Lost;
        row.reason = Some("the site's lease has run out".to_owned());
        return row;
    }
    let Some(report) = report else { return row };
    let epoch = match wanted {
        Some(wanted) => report.epochs.get(&wanted),
        None => report.epochs.values().next_back(),
    };
    row.state = match epoch.map(|epoch| &epoch.state) {
        None if wanted.is_some() => AppSiteState::Behind,
        None => AppSiteState::Draining,
        Some(EpochState::Fetching | EpochState::Starting) => AppSiteState::Warming,
        Some(EpochState::Warm) if wanted.is_none() => AppSiteState::Warming,
        Some(EpochState::Warm) if report.active == wanted && !report.warnings.is_empty() => {
            row.reason = Some(report.warnings.join("; "));
            AppSiteState::Degraded
        }
        Some(EpochState::Warm) if report.active == wanted => AppSiteState::Live,
        Some(EpochState::Warm) => AppSiteState::Behind,
        Some(EpochState::Draining) => AppSiteState::Draining,
        Some(EpochState::Degraded { service, reason, last_lines }) => {
            row.reason = Some(format!("{service}: {reason}"));
            row.last_lines.clone_from(last_lines);
            AppSiteState::Degraded
        }
        Some(EpochState::Failed { service, reason, last_lines }) => {
            row.reason = Some(match service {
                Some(service) => format!("{service}: {reason}"),
                None => reason.clone(),
            });
            row.last_lines.clone_from(last_lines);
            AppSiteState::Failed
        }
    };
    row
}

/// Whether a site answers with `wanted`, and has all of it.
fn is_warm(report: &AppReport, wanted: Option<Epoch>) -> bool {
    let epoch = wanted.and_then(|wanted| report.epochs.get(&wanted));
    report.active == wanted && epoch.is_some_and(|epoch| epoch.state == EpochState::Warm)
}

/// Where to open the app: in the box first what a browser opens with no set-up.
fn urls(world: &World, hosts: &BTreeSet<Host>) -> Vec<String> {
    let Some(site) = world.topology.sites.values().next() else { return Vec::new() };
    let url = |scheme: &str, host: &Host, port: u16, usual: u16| {
        if port == usual {
            format!("{scheme}://{host}")
        } else {
            format!("{scheme}://{host}:{port}")
        }
    };
    let (local, named): (Vec<&Host>, Vec<&Host>) =
        hosts.iter().partition(|host| host.as_str().ends_with(".localhost"));
    let plain = local.into_iter().map(|host| url("http", host, site.http_port, 80));
    plain.chain(named.into_iter().map(|host| url("https", host, site.https_port, 443))).collect()
}

/// What the list shows of an app.
pub(crate) fn summaries(world: &World) -> Vec<AppSummary> {
    apps(world).into_iter().map(|app| app.summary).collect()
}
