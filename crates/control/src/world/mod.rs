//! The documents as one value: what planners plan on and views are made from.
//!
//! A [`World`] is loaded once for an answer of the API, or kept up to date by a [`Mirror`] for the
//! drivers. It holds no secrets: of certificates only what identifies them.

mod mirror;
mod slot;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use selvedge_fabric::{Document, Fabric, FabricError, Lease};
use selvedge_model::documents::AppRecord;
use selvedge_model::{
    Activation, AppName, AppReport, Assignment, AssignmentEntry, CertificateBundle,
    EnvironmentName, Generation, Host, Installation, Push, Release, ReleaseId, RepositoryName,
    SiteId, SiteReport, Topology, Zone, hosts, keys,
};
use selvedge_plan::certs::Leaf;
use selvedge_plan::placement;
use serde::de::DeserializeOwned;

pub(crate) use mirror::Mirror;
pub(crate) use slot::Slot;

/// Documents by their meaning. A document that is absent is absent here.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) installation: Option<Installation>,
    pub(crate) topology: Topology,
    pub(crate) apps: BTreeMap<AppName, AppRecord>,
    pub(crate) releases: BTreeMap<AppName, BTreeMap<ReleaseId, Release>>,
    pub(crate) pushes: BTreeMap<RepositoryName, BTreeMap<u64, Push>>,
    pub(crate) assignments: BTreeMap<(SiteId, AppName, EnvironmentName), Assigned>,
    pub(crate) activations: BTreeMap<(AppName, EnvironmentName), Activation>,
    /// Of the activations.
    pub(crate) activated: BTreeMap<(AppName, EnvironmentName), Generation>,
    pub(crate) certificates: BTreeMap<(SiteId, Host), (Generation, Leaf)>,
    pub(crate) zones: BTreeMap<Host, (Generation, Zone)>,
    pub(crate) site_reports: BTreeMap<SiteId, SiteReport>,
    pub(crate) app_reports: BTreeMap<(SiteId, AppName, EnvironmentName), AppReport>,
    /// Sites whose lease runs, and how long it still did when it was last looked at.
    pub(crate) leases: BTreeMap<SiteId, Duration>,
}

/// What a site is to have warm of an app; see [`Assignment`].
#[derive(Debug, Clone)]
pub(crate) struct Assigned {
    pub(crate) generation: Generation,
    pub(crate) entries: Vec<AssignmentEntry>,
}

impl World {
    /// Reads the documents under `prefixes`, and the leases.
    pub(crate) async fn load(fabric: &dyn Fabric, prefixes: &[&str]) -> Result<Self, FabricError> {
        let mut world = Self::default();
        for prefix in prefixes {
            for document in fabric.list(prefix).await?.documents {
                world.put(&document);
            }
        }
        world.set_leases(&fabric.leases(keys::SITE_LEASES).await?);
        Ok(world)
    }

    /// Takes a document in. One that can't be read is as good as absent, and logged: it was
    /// written by another version, and must not take the rest down.
    pub(crate) fn put(&mut self, document: &Document) {
        let Some(slot) = Slot::of(&document.key) else { return };
        if let Err(error) = self.try_put(slot, document) {
            tracing::warn!(key = %document.key, error = %error, "a document can't be read");
            self.delete(&document.key);
        }
    }

    fn try_put(&mut self, slot: Slot, document: &Document) -> Result<(), serde_json::Error> {
        fn parse<T: DeserializeOwned>(document: &Document) -> Result<T, serde_json::Error> {
            serde_json::from_slice(&document.value)
        }
        match slot {
            Slot::Installation => self.installation = Some(parse(document)?),
            Slot::Topology => self.topology = parse(document)?,
            Slot::App(app) => {
                self.apps.insert(app, parse(document)?);
            }
            Slot::Release(app, release) => {
                self.releases.entry(app).or_default().insert(release, parse(document)?);
            }
            Slot::Push(repository, number) => {
                self.pushes.entry(repository).or_default().insert(number, parse(document)?);
            }
            Slot::Assignment(site, app, environment) => {
                let Assignment { entries, .. } = parse(document)?;
                let assigned = Assigned { generation: document.generation, entries };
                self.assignments.insert((site, app, environment), assigned);
            }
            Slot::Activation(app, environment) => {
                let key = (app, environment);
                self.activations.insert(key.clone(), parse(document)?);
                self.activated.insert(key, document.generation);
            }
            Slot::Certificate(site, host) => {
                let leaf = Leaf::from(&parse::<CertificateBundle>(document)?);
                self.certificates.insert((site, host), (document.generation, leaf));
            }
            Slot::Zone(origin) => {
                self.zones.insert(origin, (document.generation, parse(document)?));
            }
            Slot::SiteReport(site) => {
                self.site_reports.insert(site, parse(document)?);
            }
            Slot::AppReport(site, app, environment) => {
                self.app_reports.insert((site, app, environment), parse(document)?);
            }
        }
        Ok(())
    }

    /// Forgets a document.
    pub(crate) fn delete(&mut self, key: &str) {
        match Slot::of(key) {
            None => {}
            Some(Slot::Installation) => self.installation = None,
            Some(Slot::Topology) => self.topology = Topology::default(),
            Some(Slot::App(app)) => {
                self.apps.remove(&app);
            }
            Some(Slot::Release(app, release)) => {
                if let Some(releases) = self.releases.get_mut(&app) {
                    releases.remove(&release);
                }
            }
            Some(Slot::Push(repository, number)) => {
                if let Some(pushes) = self.pushes.get_mut(&repository) {
                    pushes.remove(&number);
                }
            }
            Some(Slot::Assignment(site, app, environment)) => {
                self.assignments.remove(&(site, app, environment));
            }
            Some(Slot::Activation(app, environment)) => {
                let key = (app, environment);
                self.activations.remove(&key);
                self.activated.remove(&key);
            }
            Some(Slot::Certificate(site, host)) => {
                self.certificates.remove(&(site, host));
            }
            Some(Slot::Zone(origin)) => {
                self.zones.remove(&origin);
            }
            Some(Slot::SiteReport(site)) => {
                self.site_reports.remove(&site);
            }
            Some(Slot::AppReport(site, app, environment)) => {
                self.app_reports.remove(&(site, app, environment));
            }
        }
    }

    /// Forgets every document under `prefix`, one of the constants of [`keys`].
    pub(crate) fn forget(&mut self, prefix: &str) {
        match prefix {
            keys::INSTALLATION => self.installation = None,
            keys::TOPOLOGY => self.topology = Topology::default(),
            keys::APPS => self.apps.clear(),
            keys::RELEASES => self.releases.clear(),
            keys::PUSHES => self.pushes.clear(),
            keys::ASSIGNMENTS => self.assignments.clear(),
            keys::ACTIVATIONS => {
                self.activations.clear();
                self.activated.clear();
            }
            keys::CERTIFICATES => self.certificates.clear(),
            keys::ZONES => self.zones.clear(),
            keys::SITE_REPORTS => self.site_reports.clear(),
            keys::APP_REPORTS => self.app_reports.clear(),
            _ => {}
        }
    }

    /// Takes the leases of sites in.
    pub(crate) fn set_leases(&mut self, leases: &[Lease]) {
        self.leases = leases
            .iter()
            .filter_map(|lease| Some((keys::leased_site(&lease.name)?, lease.remaining)))
            .collect();
    }

    /// A release, if it is there.
    pub(crate) fn release(&self, app: &AppName, release: &ReleaseId) -> Option<&Release> {
        self.releases.get(app)?.get(release)
    }

    /// The assignments of an app by site.
    pub(crate) fn assignments_of<'a>(
        &'a self,
        app: &'a AppName,
        environment: &'a EnvironmentName,
    ) -> impl Iterator<Item = (&'a SiteId, &'a Assigned)> {
        self.assignments
            .iter()
            .filter(move |((_, of, env), assignment)| {
                of == app && env == environment && !assignment.entries.is_empty()
            })
            .map(|((site, _, _), assignment)| (site, assignment))
    }

    /// Every host that a release of `app` answers for.
    pub(crate) fn hosts_of(&self, release: &Release) -> BTreeSet<Host> {
        match &self.installation {
            Some(installation) => hosts::all_hosts(&release.app, installation),
            None => release.app.hosts().into_iter().cloned().collect(),
        }
    }

    /// The memory that apps other than `except` may take at each site, in MiB.
    pub(crate) fn used_mib(&self, except: &AppName) -> BTreeMap<SiteId, u64> {
        let mut used = BTreeMap::new();
        for ((site, app, _), assignment) in &self.assignments {
            let newest = assignment.entries.iter().max_by_key(|entry| entry.epoch);
            if let Some(release) = newest.and_then(|entry| self.release(app, &entry.release))
                && app != except
            {
                *used.entry(site.clone()).or_default() += placement::need_mib(&release.app);
            }
        }
        used
    }
}
