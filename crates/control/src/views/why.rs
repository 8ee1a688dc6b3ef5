//! Why an app is where it is.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_api::{HostWhy, Why};
use selvedge_model::documents::AppRecord;
use selvedge_model::geo::DistanceModel;
use selvedge_model::{EnvironmentName, SiteId};
use selvedge_plan::dns::{HostReport, Unfit};
use selvedge_plan::explain;
use selvedge_plan::placement::{self, Demand};

use super::live;
use crate::drivers;
use crate::world::World;

/// The planners' reasons for the release that users see. `None` while there is none.
pub(crate) fn why(world: &World, record: &AppRecord) -> Option<Why> {
    let live = live(world, record)?;
    let release = world.release(&record.app, &live.digest)?;
    let current: BTreeSet<SiteId> = world
        .assignments_of(&record.app, &EnvironmentName::production())
        .map(|(site, _)| site.clone())
        .collect();
    let (_, report) = placement::plan(&placement::Input {
        topology: &world.topology,
        app: &record.app,
        placement: &release.app.placement,
        need_mib: placement::need_mib(&release.app),
        used_mib: &world.used_mib(&record.app),
        current: &current,
        demand: &Demand::cities(),
        round_trips: &DistanceModel,
    });
    let reports = drivers::explain_names(world);
    let hosts = world.hosts_of(release).into_iter().filter_map(|host| {
        let report = reports.get(&host)?;
        Some(HostWhy {
            answered: report.sites.iter().cloned().collect(),
            withheld: withheld(report, &current),
            failed_open: report.failed_open,
            host,
        })
    });
    Some(Why {
        app: record.app.clone(),
        live: Some(live),
        hosts: hosts.collect(),
        lines: explain::placement(&report),
        // Its types have string keys alone, so that this can't fail.
        placement: serde_json::to_value(&report).unwrap_or_default(),
    })
}

/// Sites that have the app and are not fit to be named, with the reasons in words.
fn withheld(report: &HostReport, current: &BTreeSet<SiteId>) -> BTreeMap<SiteId, String> {
    report
        .unfit
        .iter()
        .filter(|(site, _)| current.contains(*site))
        .map(|(site, reasons)| {
            let words: Vec<String> = reasons.iter().map(words).collect();
            (site.clone(), words.join("; "))
        })
        .collect()
}

fn words(reason: &Unfit) -> String {
    match reason {
        Unfit::NotAssigned => "it is not assigned the live release".to_owned(),
        Unfit::Draining => "it is draining".to_owned(),
        Unfit::NoAddress => "it has no address".to_owned(),
        Unfit::NoCertificate => "it has not reported the host's certificate".to_owned(),
        Unfit::NoLease => "its lease has run out".to_owned(),
        Unfit::NoReport => "it has not reported the app".to_owned(),
        Unfit::NotWarm { service: Some(service), state, .. } => format!("{service}: {state}"),
        Unfit::NotWarm { service: None, state, .. } => format!("the live release is {state}"),
        Unfit::Behind { active: Some(active), activated } => {
            format!("it answers with epoch {active}, and {activated} is live")
        }
        Unfit::Behind { active: None, activated } => {
            format!("it does not answer yet; epoch {activated} is live")
        }
    }
}
