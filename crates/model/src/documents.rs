//! The documents that control and sites exchange through the fabric.
//!
//! Documents are whole: a writer replaces one by compare-and-set, a reader never patches. The
//! generation of a document is the fabric revision that wrote it, so it stands beside the document
//! and not in it. Times are Unix milliseconds.

mod installation;
mod push;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{
    AppName, Digest, EnvironmentName, Host, ReleaseId, RepositoryName, ServiceName, SiteId,
};
use crate::manifest::App;
use crate::version::{Epoch, Generation};

pub use installation::Installation;
pub use push::{Push, PushApp, PushCause, PushFailure, PushState, Stage, StageRecord};
pub use secrets::{CertificateBundle, PinKeys, TicketKeys};

/// What an app is at one commit: immutable, and the same at every site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// [`Release::identify`] of what it was made from.
    pub id: ReleaseId,
    /// The normal form.
    pub app: App,
    /// Where it was pushed.
    pub repository: RepositoryName,
    /// The app's directory in the repository, `/`-separated, empty for the top.
    pub directory: String,
    /// The commit that first made it, in hexadecimal.
    pub commit: String,
    /// The git tree of the app's directory, in hexadecimal.
    pub tree: String,
    /// First line of the commit's message.
    pub subject: String,
    /// When it was published.
    pub created_ms: u64,
    /// What each service runs.
    pub artifacts: BTreeMap<ServiceName, Artifact>,
}

impl Release {
    /// The identifier of the release that `tree` (git object id, hexadecimal) and `app` make.
    ///
    /// The normal form is part of it because a newer parser may read the same file differently.
    pub fn identify(app: &App, tree: &str) -> Result<ReleaseId, serde_json::Error> {
        let form = serde_json::to_vec(app)?;
        Ok(ReleaseId(Digest::of_parts([b"release/1".as_slice(), tree.as_bytes(), &form])))
    }

    /// The digest of all that shapes a service's answers: what it runs, how, and with which
    /// variables. Releases that share it may share stored answers. `None`: no such service.
    pub fn shape(&self, service: &ServiceName) -> Option<Digest> {
        let form = self.app.services.iter().find(|it| &it.name == service)?;
        let form = serde_json::to_vec(form).ok()?;
        let environment = serde_json::to_vec(&self.app.environment).ok()?;
        let artifact = self.artifacts.get(service).map_or([0; 32], |it| *it.digest.as_bytes());
        Some(Digest::of_parts([b"shape/1".as_slice(), &form, &environment, &artifact]))
    }
}

/// A blob that holds a service's files as an uncompressed tar (POSIX ustar with pax extensions),
/// sorted by path, times zero and owners zero, so that equal files make equal artifacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// The blob.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
}

/// What a site is to have warm of one app and environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The app.
    pub app: AppName,
    /// The environment.
    pub environment: EnvironmentName,
    /// The site.
    pub site: SiteId,
    /// In order of epoch. Empty (or no document): nothing of this app.
    pub entries: Vec<AssignmentEntry>,
}

/// One warm release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssignmentEntry {
    /// Reserved before warming, so that a warm site can map any pin to its release.
    pub epoch: Epoch,
    /// The release.
    pub release: ReleaseId,
    /// The services of the release that are to be warm here.
    pub services: BTreeSet<ServiceName>,
}

/// What users see of one activation group (until apps declare groups: one app) and environment.
/// Writing it is the only commit point, for all services of the group at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// The group; the app's name while a group is one app.
    pub group: AppName,
    /// The environment.
    pub environment: EnvironmentName,
    /// Newest first. Together they cover every site and bucket.
    pub entries: Vec<ActivationEntry>,
}

/// A share of an activation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationEntry {
    /// The epoch that the share sees.
    pub epoch: Epoch,
    /// What each app of the group is at this epoch.
    pub releases: BTreeMap<AppName, ReleaseId>,
    /// Clients whose bucket is below this see the entry: 0 to [`BUCKETS`], which is everybody.
    pub share: u16,
    /// The sites where it holds.
    pub sites: Ring,
}

/// How many buckets clients are divided into.
pub const BUCKETS: u16 = 10_000;

/// A set of sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ring {
    /// Every site, those to come included.
    All,
    /// These sites.
    Sites(BTreeSet<SiteId>),
}

impl Ring {
    /// Whether `site` is in the ring.
    pub fn contains(&self, site: &SiteId) -> bool {
        match self {
            Self::All => true,
            Self::Sites(sites) => sites.contains(site),
        }
    }
}

impl Activation {
    /// An activation of one entry that everybody sees everywhere.
    pub fn everyone(
        group: AppName,
        environment: EnvironmentName,
        epoch: Epoch,
        releases: BTreeMap<AppName, ReleaseId>,
    ) -> Self {
        let entry = ActivationEntry { epoch, releases, share: BUCKETS, sites: Ring::All };
        Self { group, environment, entries: vec![entry] }
    }

    /// The entry that a client of `bucket` (0 to [`BUCKETS`] - 1) sees at `site`: the first that
    /// its ring and share select.
    pub fn select(&self, site: &SiteId, bucket: u16) -> Option<&ActivationEntry> {
        self.entries.iter().find(|entry| entry.sites.contains(site) && bucket < entry.share)
    }

    /// The entry with the greatest epoch.
    pub fn newest_entry(&self) -> Option<&ActivationEntry> {
        self.entries.iter().max_by_key(|entry| entry.epoch)
    }

    /// The greatest epoch of the activation.
    pub fn newest(&self) -> Option<Epoch> {
        self.newest_entry().map(|entry| entry.epoch)
    }
}

/// What a site says of one app and environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppReport {
    /// The app.
    pub app: AppName,
    /// The environment.
    pub environment: EnvironmentName,
    /// The site.
    pub site: SiteId,
    /// The assignment that the site works towards.
    pub assignment: Option<Generation>,
    /// The activation that the site serves by.
    pub activation: Option<Generation>,
    /// Every epoch that the site has something of.
    pub epochs: BTreeMap<Epoch, EpochReport>,
    /// The newest epoch that the site answers with.
    pub active: Option<Epoch>,
    /// The site's own request through its own proxy, for the active epoch.
    pub probe: Option<Probe>,
    /// What is not well although the active epoch is warm, in words: upstreams that are down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What a site says of one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochReport {
    /// The epoch's release.
    pub release: ReleaseId,
    /// How far it is.
    pub state: EpochState,
}

/// How far a site is with an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EpochState {
    /// Fetching and unpacking artifacts.
    Fetching,
    /// Starting services; not all are ready.
    Starting,
    /// Every service is ready.
    Warm,
    /// It was warm, and a service is not ready any more (restarting).
    Degraded {
        /// The service.
        service: ServiceName,
        /// What happened, in words.
        reason: String,
        /// The last lines of the service's output.
        last_lines: Vec<String>,
    },
    /// It could not be made warm.
    Failed {
        /// The service, where one is to blame.
        service: Option<ServiceName>,
        /// What happened, in words.
        reason: String,
        /// The last lines of the service's output.
        last_lines: Vec<String>,
    },
    /// Out of use; finishing the requests it has.
    Draining,
}

/// A request that a site made to itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The epoch that the response named.
    pub epoch: Epoch,
    /// The worst status over the app's routes; 0 when no response came.
    pub status: u16,
    /// What was requested, and the error if there was no response.
    pub detail: String,
    /// When.
    pub at_ms: u64,
}

/// What a site says of itself. It lives as long as the site's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteReport {
    /// The site.
    pub site: SiteId,
    /// The agent's process id.
    pub pid: u32,
    /// When the agent started.
    pub started_ms: u64,
    /// The agent's version.
    pub version: String,
    /// Certificates that the proxy presents, by host, as the SHA-256 of the leaf (DER).
    pub certificates: BTreeMap<Host, Digest>,
    /// The zone documents that the DNS server answers from, by origin.
    pub zones: BTreeMap<Host, Generation>,
    /// The agent's own HTTP endpoint for machines: health, metrics.
    pub admin: String,
    /// What does not work, in words.
    pub problems: Vec<String>,
    /// What the machine lacks, in words: apps run all the same, held less exactly.
    #[serde(default)]
    pub limitations: Vec<String>,
}

/// A host's claim by an app; create-if-absent makes hosts unique in an installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostClaim {
    /// The app that has the host.
    pub app: AppName,
}

/// What control knows of an app, its history included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppRecord {
    /// The app.
    pub app: AppName,
    /// The only repository that may release it.
    pub repository: RepositoryName,
    /// The app's directory in the repository.
    pub directory: String,
    /// The greatest epoch number reserved so far.
    pub last_epoch: Epoch,
    /// The releases that were live, newest first; kept ones only.
    pub history: Vec<HistoryEntry>,
}

/// A release that was live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryEntry {
    /// The epoch.
    pub epoch: Epoch,
    /// The release.
    pub release: ReleaseId,
    /// The commit that main was moved to.
    pub commit: String,
    /// The push, by its number in the repository.
    pub push: u64,
    /// When it went live.
    pub at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_and_shares_select_the_newest_that_applies() {
        let app = AppName::new("shop").unwrap();
        let (fra, nyc) = (SiteId::new("fra").unwrap(), SiteId::new("nyc").unwrap());
        let release = ReleaseId(Digest::of(b"x"));
        let releases = BTreeMap::from([(app.clone(), release)]);
        let mut activation = Activation::everyone(
            app,
            EnvironmentName::production(),
            Epoch::new(1, 1),
            releases.clone(),
        );
        let ring = Ring::Sites(BTreeSet::from([fra.clone()]));
        activation.entries.insert(
            0,
            ActivationEntry { epoch: Epoch::new(1, 2), releases, share: 100, sites: ring },
        );
        assert_eq!(activation.select(&fra, 99).unwrap().epoch.number, 2);
        assert_eq!(activation.select(&fra, 100).unwrap().epoch.number, 1);
        assert_eq!(activation.select(&nyc, 0).unwrap().epoch.number, 1);
        assert_eq!(activation.newest(), Some(Epoch::new(1, 2)));
    }
}
