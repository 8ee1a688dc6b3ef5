//! `selvedge sites`: the sites and how they are.

use selvedge_api::SiteHealth;
use selvedge_model::SiteId;

use crate::cli::Connection;
use crate::context::{client_failure, find_control};
use crate::failure::Outcome;
use crate::terminal::{Cell, Look, Terminal};

/// Runs the verb.
pub(crate) async fn run(connection: &Connection, terminal: Terminal) -> Outcome {
    let control = find_control(connection)?;
    let sites = control.client.sites().await.map_err(client_failure)?;
    terminal.object(&sites)?;
    // In a box, so that it can be killed by hand.
    let pid = |id: &SiteId| {
        let dev = control.dev.as_ref()?;
        dev.sites.iter().find(|site| site.id == *id).map(|site| site.pid.to_string())
    };
    let rows: Vec<Vec<Cell>> = sites
        .iter()
        .map(|site| {
            let address = site.addresses.first().map(ToString::to_string).unwrap_or_default();
            vec![
                site.id.to_string().into(),
                pid(&site.id).unwrap_or_else(|| "-".into()).into(),
                format!("{}, {}", site.city, site.country).into(),
                site.region.to_string().into(),
                site.provider.to_string().into(),
                address.into(),
                format!("{} of {}", site.serving, site.assigned).into(),
                health(site.health, &site.problems),
            ]
        })
        .collect();
    terminal
        .table(&["SITE", "PID", "CITY", "REGION", "PROVIDER", "ADDRESS", "APPS", "HEALTH"], &rows);
    Ok(())
}

/// A site's health in a cell.
pub(crate) fn health(health: SiteHealth, problems: &[String]) -> Cell {
    match (health, problems.first()) {
        (SiteHealth::Healthy, _) => Cell::new("healthy", Look::Good),
        (SiteHealth::Draining, _) => Cell::new("draining", Look::Warn),
        (SiteHealth::Lost, _) => Cell::new("lost: no word from it", Look::Bad),
        (SiteHealth::Degraded, None) => Cell::new("degraded", Look::Warn),
        (SiteHealth::Degraded, Some(problem)) => {
            Cell::new(format!("degraded: {problem}"), Look::Warn)
        }
    }
}
