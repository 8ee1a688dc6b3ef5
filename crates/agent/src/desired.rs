//! What a site is to have, worked out from its documents. Pure.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::manifest::{ProcessLimits, UpstreamAddress};
use selvedge_model::{
    Activation, App, AppName, Artifact, AssignmentEntry, Digest, Epoch, Release, ReleaseId,
    Service, ServiceKind, ServiceName, SiteId,
};
use serde::Serialize;

use crate::documents::{AppKey, Documents};
use crate::log::Label;

/// An epoch of an app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EpochKey {
    pub(crate) app: AppKey,
    pub(crate) epoch: Epoch,
}

/// A release of an app.
pub(crate) type ReleaseKey = (AppName, ReleaseId);

/// What makes a workload the one it is: two epochs that ask for the same share it, and it goes on
/// running from one to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WorkloadId(pub(crate) Digest);

/// A workload as the documents ask for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct WorkloadPlan {
    pub(crate) name: String,
    pub(crate) tenant: String,
    /// For the log.
    pub(crate) label: Label,
    pub(crate) artifact: Artifact,
    pub(crate) command: String,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) health: Option<String>,
    pub(crate) start_timeout_s: u32,
    pub(crate) stop_timeout_s: u32,
    pub(crate) memory_mib: u32,
    #[serde(skip_serializing_if = "ProcessLimits::is_default")]
    pub(crate) limits: ProcessLimits,
}

impl WorkloadPlan {
    /// The identity: everything that shapes the workload's answers, and the limits it runs under.
    pub(crate) fn id(&self) -> WorkloadId {
        let form = serde_json::to_vec(self).unwrap_or_default();
        WorkloadId(Digest::of_parts([b"workload/1".as_slice(), &form]))
    }
}

/// What makes an upstream the one it is, as for a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UpstreamId(pub(crate) Digest);

/// A server elsewhere as the documents ask for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct UpstreamPlan {
    pub(crate) name: String,
    pub(crate) addresses: Vec<UpstreamAddress>,
    pub(crate) host: Option<String>,
    pub(crate) health: Option<String>,
    /// Whether it may be at an address of this machine.
    pub(crate) allow_local: bool,
}

impl UpstreamPlan {
    /// The identity.
    pub(crate) fn id(&self) -> UpstreamId {
        let form = serde_json::to_vec(self).unwrap_or_default();
        UpstreamId(Digest::of_parts([b"upstream/1".as_slice(), &form]))
    }
}

/// A service of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// The artifact, and the file that answers for pages that are not in it.
    Static(Artifact, Option<String>),
    Process(Box<WorkloadPlan>),
    Upstream(Box<UpstreamPlan>),
}

impl Part {
    pub(crate) fn artifact(&self) -> Option<&Artifact> {
        match self {
            Self::Static(artifact, _) => Some(artifact),
            Self::Process(plan) => Some(&plan.artifact),
            Self::Upstream(_) => None,
        }
    }
}

/// What an epoch consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// The release is not here yet.
    Unknown,
    /// The release does not have what the assignment asks for.
    Impossible {
        service: ServiceName,
        reason: String,
    },
    Known(BTreeMap<ServiceName, Part>),
}

/// An epoch that the site is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DesiredEpoch {
    pub(crate) release: ReleaseId,
    pub(crate) content: Content,
}

impl DesiredEpoch {
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&ServiceName, &Part)> {
        let known = match &self.content {
            Content::Known(parts) => Some(parts),
            _ => None,
        };
        known.into_iter().flatten()
    }
}

/// Everything that the site is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) epochs: BTreeMap<EpochKey, DesiredEpoch>,
}

impl Desired {
    /// Reads the documents. `shown` is what the proxy answers with now: an epoch that users see
    /// stays until the one that they should see is shown, although it is not assigned any more.
    pub(crate) fn of<'a>(
        site: &SiteId,
        documents: &Documents,
        release: impl Fn(&ReleaseKey) -> Option<&'a Release>,
        shown: &BTreeMap<EpochKey, DesiredEpoch>,
    ) -> Self {
        let mut epochs = BTreeMap::new();
        let installation = documents.installation.as_ref();
        let allow_local = installation.is_some_and(|it| it.value.allows_local_upstreams());
        for (app, assignment) in &documents.assignments {
            for entry in &assignment.value.entries {
                let found = release(&(app.0.clone(), entry.release));
                let content =
                    found.map_or(Content::Unknown, |it| content(site, app, entry, it, allow_local));
                let key = EpochKey { app: app.clone(), epoch: entry.epoch };
                epochs.insert(key, DesiredEpoch { release: entry.release, content });
            }
            let activation = documents.activations.get(app).map(|it| it.value.as_ref());
            if assignment.value.entries.is_empty() {
                continue;
            }
            for wanted in selected(site, activation) {
                if let Some((key, kept)) = last_good(app, wanted, shown) {
                    epochs.entry(key.clone()).or_insert_with(|| kept.clone());
                }
            }
        }
        Self { epochs }
    }

    pub(crate) fn releases(&self) -> BTreeSet<ReleaseKey> {
        self.epochs.iter().map(|(key, epoch)| (key.app.0.clone(), epoch.release)).collect()
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.epochs.values().flat_map(|epoch| epoch.parts().map(|(_, part)| part))
    }

    pub(crate) fn artifacts(&self) -> BTreeMap<Digest, &Artifact> {
        self.parts().filter_map(Part::artifact).map(|it| (it.digest, it)).collect()
    }

    pub(crate) fn statics(&self) -> BTreeSet<Digest> {
        self.parts()
            .filter_map(|part| match part {
                Part::Static(artifact, _) => Some(artifact.digest),
                Part::Process(_) | Part::Upstream(_) => None,
            })
            .collect()
    }

    pub(crate) fn workloads(&self) -> BTreeMap<WorkloadId, &WorkloadPlan> {
        self.parts()
            .filter_map(|part| match part {
                Part::Process(plan) => Some((plan.id(), plan.as_ref())),
                Part::Static(..) | Part::Upstream(_) => None,
            })
            .collect()
    }

    pub(crate) fn upstreams(&self) -> BTreeMap<UpstreamId, &UpstreamPlan> {
        self.parts()
            .filter_map(|part| match part {
                Part::Upstream(plan) => Some((plan.id(), plan.as_ref())),
                Part::Static(..) | Part::Process(_) => None,
            })
            .collect()
    }
}

/// The epochs that an activation lets clients of `site` see.
pub(crate) fn selected<'a>(
    site: &'a SiteId,
    activation: Option<&'a Activation>,
) -> impl Iterator<Item = Epoch> + 'a {
    activation
        .into_iter()
        .flat_map(|it| &it.entries)
        .filter(|entry| entry.share > 0 && entry.sites.contains(site))
        .map(|entry| entry.epoch)
}

/// What a client that should see `wanted` is answered with.
fn last_good<'a>(
    app: &AppKey,
    wanted: Epoch,
    shown: &'a BTreeMap<EpochKey, DesiredEpoch>,
) -> Option<(&'a EpochKey, &'a DesiredEpoch)> {
    shown.iter().rfind(|(key, _)| &key.app == app && key.epoch <= wanted)
}

fn content(
    site: &SiteId,
    app: &AppKey,
    entry: &AssignmentEntry,
    release: &Release,
    allow_local: bool,
) -> Content {
    let mut parts = BTreeMap::new();
    for name in &entry.services {
        match part(site, app, name, release, allow_local) {
            Ok(part) => drop(parts.insert(name.clone(), part)),
            Err(reason) => return Content::Impossible { service: name.clone(), reason },
        }
    }
    Content::Known(parts)
}

/// A service of a release, or in words why it can't be here.
fn part(
    site: &SiteId,
    app: &AppKey,
    name: &ServiceName,
    release: &Release,
    allow_local: bool,
) -> Result<Part, String> {
    let missing = || format!("release {} has no service {name} to run", release.id);
    let service = release.app.service(name).ok_or_else(missing)?;
    let artifact = || release.artifacts.get(name).cloned().ok_or_else(missing);
    Ok(match &service.kind {
        ServiceKind::Static { fallback, .. } => Part::Static(artifact()?, fallback.clone()),
        ServiceKind::Upstream { addresses, host, health } => {
            let local = addresses.iter().find_map(|it| Some((it, it.is_local()?)));
            if let Some((address, why)) = local.filter(|_| !allow_local) {
                return Err(format!("{address} is not reached from here: {why}"));
            }
            Part::Upstream(Box::new(UpstreamPlan {
                name: format!("{site}/{}/{}/{name}", app.0, app.1),
                addresses: addresses.clone(),
                host: host.clone(),
                health: health.clone(),
                allow_local,
            }))
        }
        ServiceKind::Process {
            command,
            health,
            start_timeout_s,
            stop_timeout_s,
            memory_mib,
            limits,
        } => Part::Process(Box::new(WorkloadPlan {
            name: format!("{site}/{}/{}/{name}", app.0, app.1),
            tenant: app.0.to_string(),
            label: Label {
                app: app.0.clone(),
                environment: app.1.clone(),
                service: name.clone(),
                release: release.id.short(),
            },
            artifact: artifact()?,
            command: command.clone(),
            environment: environment(site, app, &release.app, service, &release.id),
            health: health.clone(),
            start_timeout_s: *start_timeout_s,
            stop_timeout_s: *stop_timeout_s,
            memory_mib: *memory_mib,
            limits: *limits,
        })),
    })
}

/// The service's variables over the app's, and Selvedge's own over both.
fn environment(
    site: &SiteId,
    key: &AppKey,
    app: &App,
    service: &Service,
    release: &ReleaseId,
) -> BTreeMap<String, String> {
    let mut environment = app.environment.clone();
    environment.extend(service.environment.clone());
    let own = [
        ("SELVEDGE_APP", key.0.to_string()),
        ("SELVEDGE_ENVIRONMENT", key.1.to_string()),
        ("SELVEDGE_RELEASE", release.short()),
        ("SELVEDGE_SERVICE", service.name.to_string()),
        ("SELVEDGE_SITE", site.to_string()),
    ];
    environment.extend(own.map(|(name, value)| (name.to_owned(), value)));
    environment
}
