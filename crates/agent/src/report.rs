//! Writes what the site says of itself and of its apps to the fabric: at once when it changes, and
//! again when a look at the fabric shows something else there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use selvedge_fabric::{Expect, SharedFabric, WriteError};
use selvedge_model::{SiteId, SiteReport, keys};
use selvedge_proxy::ListenerState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::listeners;
use crate::status::Status;

/// How long to wait after a failed write.
const RETRY: Duration = Duration::from_millis(500);

/// How often the fabric is compared with what should be there.
const COMPARE: Duration = Duration::from_secs(30);

/// How many writes are under way at once.
const PARALLEL: usize = 8;

/// What stays the same about a site's report while the agent lives.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) site: SiteId,
    pub(crate) pid: u32,
    pub(crate) started_ms: u64,
    pub(crate) admin: String,
    /// See [`SiteReport::limitations`].
    pub(crate) limitations: Vec<String>,
}

impl Identity {
    pub(crate) fn report(&self, status: &Status, aside: Vec<String>) -> SiteReport {
        let problems = status.problems.iter().cloned().chain(aside).collect();
        SiteReport {
            site: self.site.clone(),
            pid: self.pid,
            started_ms: self.started_ms,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            certificates: status.certificates.clone(),
            zones: status.zones.clone(),
            admin: self.admin.clone(),
            problems,
            limitations: self.limitations.clone(),
        }
    }
}

/// What may not work and is no business of the reconciler's.
#[derive(Clone)]
pub(crate) struct Aside {
    pub(crate) lease: watch::Receiver<Option<String>>,
    pub(crate) listeners: watch::Receiver<Arc<[ListenerState]>>,
}

impl Aside {
    /// What does not work now, in words.
    pub(crate) fn problems(&mut self) -> Vec<String> {
        let lease = self.lease.borrow_and_update().clone();
        let listeners = self.listeners.borrow_and_update();
        lease.into_iter().chain(listeners.iter().filter_map(listeners::problem)).collect()
    }

    /// Waits until that may be something else.
    async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            changed = self.lease.changed() => changed,
            changed = self.listeners.changed() => changed,
        }
    }
}

type Reports = BTreeMap<String, Bytes>;

/// Reports until `token` is cancelled.
pub(crate) async fn run(
    identity: Identity,
    fabric: SharedFabric,
    mut status: watch::Receiver<Arc<Status>>,
    mut aside: Aside,
    token: CancellationToken,
) {
    // What is known to be in the fabric; `None` until it has been looked at.
    let mut written: Option<Reports> = None;
    let mut compare = tokio::time::interval(COMPARE);
    compare.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    compare.tick().await;
    loop {
        let wanted = {
            let status = status.borrow_and_update().clone();
            reports(&identity, &status, aside.problems())
        };
        let done = synchronise(&identity.site, &fabric, &wanted, &mut written).await;
        if !done {
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(RETRY) => continue,
            }
        }
        tokio::select! {
            () = token.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
            changed = aside.changed() => if changed.is_err() { return },
            _ = compare.tick() => written = None,
        }
    }
}

fn reports(identity: &Identity, status: &Status, aside: Vec<String>) -> Reports {
    let site = &identity.site;
    let apps = status.apps.iter().filter_map(|((app, environment), report)| {
        let json = serde_json::to_vec(report).ok()?;
        Some((keys::app_report(site, app, environment), Bytes::from(json)))
    });
    let own = serde_json::to_vec(&identity.report(status, aside)).ok();
    let own = own.map(|json| (keys::site_report(site), Bytes::from(json)));
    apps.chain(own).collect()
}

/// Brings the fabric from `written` to `wanted`; says whether all of it went through.
async fn synchronise(
    site: &SiteId,
    fabric: &SharedFabric,
    wanted: &Reports,
    written: &mut Option<Reports>,
) -> bool {
    let known = match written {
        Some(known) => known,
        None => match present(site, fabric).await {
            Some(found) => written.insert(found),
            None => return false,
        },
    };
    let puts = wanted
        .iter()
        .filter(|(key, value)| known.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), Some(value.clone())));
    let deletions =
        known.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key.clone(), None));
    let changes: Vec<(String, Option<Bytes>)> = puts.chain(deletions).collect();
    let results: Vec<_> = futures_util::stream::iter(changes)
        .map(|(key, value)| async {
            let result: Result<(), WriteError> = match &value {
                Some(value) => fabric.put(&key, value.clone(), Expect::Any).await.map(|_| ()),
                None => fabric.delete(&key, Expect::Any).await,
            };
            (key, value, result)
        })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    let mut all = true;
    for (key, value, result) in results {
        match (result, value) {
            (Ok(()), Some(value)) => drop(known.insert(key, value)),
            (Ok(()), None) => drop(known.remove(&key)),
            (Err(error), _) => {
                tracing::debug!(%key, "report: {error}");
                all = false;
            }
        }
    }
    all
}

/// The site's reports in the fabric, those of an earlier life included.
async fn present(site: &SiteId, fabric: &SharedFabric) -> Option<Reports> {
    let apps = fabric.list(&keys::app_reports(site)).await.ok()?;
    let own = fabric.get(&keys::site_report(site)).await.ok()?;
    Some(apps.documents.into_iter().chain(own).map(|it| (it.key, it.value)).collect())
}
