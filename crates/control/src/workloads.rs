//! What runs at the sites, asked of each through a tunnel.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use selvedge_api::{TunnelQuestion, WorkloadRow, Workloads};
use selvedge_model::SiteId;
use selvedge_model::operation::TunnelPurpose;

use crate::tunnels::{Opening, TunnelError, Tunnels};

/// How long a site may take to look.
const LOOK: Duration = Duration::from_secs(5);

/// The workloads of these sites.
pub(crate) async fn ask(
    tunnels: &Tunnels,
    sites: &BTreeSet<SiteId>,
) -> Result<Workloads, TunnelError> {
    let openings = tunnels.open(TunnelPurpose::Workloads, sites).await?;
    let answers = openings.into_iter().map(|(site, opening)| async move {
        let answer = tokio::time::timeout(LOOK * 2, one(opening)).await;
        (site, answer.unwrap_or_else(|_| Err("it took too long to answer".to_owned())))
    });
    let mut all = Workloads::default();
    for (site, answer) in join_all(answers).await {
        match answer {
            // A site speaks for itself alone.
            Ok(rows) => all
                .workloads
                .extend(rows.into_iter().map(|row| WorkloadRow { site: site.clone(), ..row })),
            Err(reason) => drop(all.silent.insert(site, reason)),
        }
    }
    all.workloads.sort_by(|a, b| {
        let order = |row: &WorkloadRow| (row.app.clone(), row.service.clone(), row.site.clone());
        order(a).cmp(&order(b))
    });
    Ok(all)
}

async fn one(opening: Opening) -> Result<Vec<WorkloadRow>, String> {
    let mut tunnel = opening.wait().await?;
    tunnel.ask(&TunnelQuestion::Workloads).await?;
    tunnel.next().await.unwrap_or_else(|| Err("the connection to it broke".to_owned()))
}
