//! Sites.

use selvedge_api::{SiteHealth, SiteRow};
use selvedge_model::{Site, SiteReport};

use crate::world::World;

/// Every site of the topology, by id.
pub(crate) fn sites(world: &World) -> Vec<SiteRow> {
    world.topology.sites.values().map(|site| row(world, site)).collect()
}

fn row(world: &World, site: &Site) -> SiteRow {
    let lease = world.leases.get(&site.id);
    // What a lost site said of itself holds no longer.
    let report = world.site_reports.get(&site.id).filter(|_| lease.is_some());
    SiteRow {
        id: site.id.clone(),
        city: site.city.clone(),
        country: site.country.clone(),
        region: site.region,
        point: site.point,
        provider: site.provider.clone(),
        addresses: site.addresses.clone(),
        http_port: site.http_port,
        https_port: site.https_port,
        health: health(site, lease.is_some(), report),
        lease_ms: lease.map(|remaining| remaining.as_millis() as u64),
        problems: report.map(|report| report.problems.clone()).unwrap_or_default(),
        limitations: report.map(|report| report.limitations.clone()).unwrap_or_default(),
        pid: report.map(|report| report.pid),
        version: report.map(|report| report.version.clone()),
        started_ms: report.map(|report| report.started_ms),
        admin: report.map(|report| report.admin.clone()),
        assigned: count(
            world.assignments.iter().filter(|((at, _, _), assignment)| {
                *at == site.id && !assignment.entries.is_empty()
            }),
        ),
        serving: count(world.app_reports.iter().filter(|((at, _, _), report)| {
            *at == site.id && lease.is_some() && report.active.is_some()
        })),
        certificates: report.map_or(0, |report| count(report.certificates.iter())),
    }
}

fn health(site: &Site, leased: bool, report: Option<&SiteReport>) -> SiteHealth {
    match report {
        _ if !leased => SiteHealth::Lost,
        _ if site.draining => SiteHealth::Draining,
        Some(report) if !report.problems.is_empty() => SiteHealth::Degraded,
        _ => SiteHealth::Healthy,
    }
}

fn count(items: impl Iterator) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
