//! Gives every site the certificates for the hosts of the apps that it is assigned.
//!
//! It acts as soon as an assignment appears, so that certificates are in place before the release
//! is warm and DNS has nothing to wait for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use selvedge_fabric::{Expect, SharedFabric, Typed};
use selvedge_model::{CertificateBundle, Generation, Host, SiteId, keys};
use selvedge_plan::certs::{self, Bundles, Policy};
use tokio::sync::watch;

use super::{DriverError, Reconciler, written};
use crate::authority::Authority;
use crate::now_ms;
use crate::steering::LEAVE;
use crate::world::World;

/// The driver of [`selvedge_plan::certs`].
pub(crate) struct Certificates {
    fabric: SharedFabric,
    authority: Arc<Authority>,
    unwanted_since_ms: BTreeMap<SiteId, BTreeMap<Host, u64>>,
}

/// Generations of the bundles that were planned on.
type Generations = BTreeMap<(SiteId, Host), Generation>;

impl Certificates {
    pub(crate) fn new(fabric: SharedFabric, authority: Arc<Authority>) -> Self {
        Self { fabric, authority, unwanted_since_ms: BTreeMap::new() }
    }

    async fn put(
        &self,
        bundle: &CertificateBundle,
        sites: &BTreeSet<SiteId>,
        generations: &Generations,
    ) -> Result<(), DriverError> {
        let writes = sites.iter().map(|site| {
            let seen = generations.get(&(site.clone(), bundle.host.clone()));
            let expect = seen.map_or(Expect::Absent, |seen| Expect::Generation(*seen));
            let key = keys::certificate(site, &bundle.host);
            async move { written(Typed(&*self.fabric).put(&key, bundle, expect).await) }
        });
        try_join_all(writes).await?;
        Ok(())
    }
}

impl Reconciler for Certificates {
    const NAME: &'static str = "certificates";
    const DEBOUNCE: Duration = Duration::ZERO;

    async fn reconcile(
        &mut self,
        world: &mut watch::Receiver<World>,
    ) -> Result<Option<Duration>, DriverError> {
        let now_ms = now_ms();
        let (plan, report, generations) = {
            let world = world.borrow_and_update();
            let mut bundles = Bundles::new();
            let mut generations = Generations::new();
            for ((site, host), (generation, leaf)) in &world.certificates {
                bundles.entry(site.clone()).or_default().insert(host.clone(), leaf.clone());
                generations.insert((site.clone(), host.clone()), *generation);
            }
            let (plan, report) = certs::plan(&certs::Input {
                wanted: &wanted(&world),
                bundles: &bundles,
                unwanted_since_ms: &self.unwanted_since_ms,
                now_ms,
                policy: Policy { grace_ms: LEAVE.as_millis() as u64, ..Policy::default() },
            });
            (plan, report, generations)
        };
        // A host that can't have a certificate must not keep the others from theirs.
        let mut failure = None;
        for (host, sites) in &plan.issue {
            match self.authority.issue(host, now_ms) {
                Ok(bundle) => {
                    tracing::info!(%host, sites = sites.len(), "issued a certificate");
                    self.put(&bundle, sites, &generations).await?;
                }
                Err(error) => failure = Some(error),
            }
        }
        for (host, delivery) in &plan.deliver {
            let key = keys::certificate(&delivery.from, host);
            // Gone or replaced meanwhile: the watch will say so.
            if let Some((_, bundle)) = Typed(&*self.fabric).get::<CertificateBundle>(&key).await?
                && bundle.fingerprint == delivery.fingerprint
            {
                self.put(&bundle, &delivery.to, &generations).await?;
            }
        }
        for (site, hosts) in &plan.remove {
            for host in hosts {
                if let Some(seen) = generations.get(&(site.clone(), host.clone())) {
                    let key = keys::certificate(site, host);
                    written(self.fabric.delete(&key, Expect::Generation(*seen)).await)?;
                }
            }
        }
        self.unwanted_since_ms = plan.unwanted_since_ms;
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        Ok(report.next_ms.map(|at_ms| Duration::from_millis(at_ms.saturating_sub(now_ms))))
    }
}

/// The hosts of every release that a site is assigned, not only of the one that users see.
fn wanted(world: &World) -> BTreeMap<SiteId, BTreeSet<Host>> {
    let mut wanted: BTreeMap<SiteId, BTreeSet<Host>> = BTreeMap::new();
    for ((site, app, _), assignment) in &world.assignments {
        for entry in &assignment.entries {
            // A release that is not here yet wakes the driver when it comes.
            if let Some(release) = world.release(app, &entry.release) {
                wanted.entry(site.clone()).or_default().extend(world.hosts_of(release));
            }
        }
    }
    wanted
}
