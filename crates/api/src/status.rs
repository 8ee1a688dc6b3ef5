//! How an installation stands. Times are Unix milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use selvedge_model::geo::Point;
use selvedge_model::id::ProviderName;
use selvedge_model::topology::Region;
use selvedge_model::{
    AppName, Digest, EnvironmentName, Epoch, Host, ReleaseId, RepositoryName, ServiceName, SiteId,
    Stage,
};
use serde::{Deserialize, Serialize};

/// `GET /v1/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Always `selvedge`.
    pub name: String,
    /// Control's version.
    pub version: String,
    /// The API's major version; grows when a client of the old one would misunderstand.
    pub api: u32,
}

/// `GET /v1/status`: everything at one look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The control process.
    pub control: ControlStatus,
    /// Every site of the topology, by id.
    pub sites: Vec<SiteRow>,
    /// Every app, by name.
    pub apps: Vec<AppStatus>,
}

/// The control process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlStatus {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started_ms: u64,
    /// The store's incarnation.
    pub incarnation: u64,
    /// Where apps that name no host are served: `APP.ZONE`.
    pub zone: Host,
    /// What does not work, in words.
    pub problems: Vec<String>,
    /// What the machine lacks, in words: builds run all the same, held less exactly.
    #[serde(default)]
    pub limitations: Vec<String>,
}

/// `GET /v1/sites`: a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteRow {
    /// Its id.
    pub id: SiteId,
    /// The city, for people.
    pub city: String,
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// The continent.
    pub region: Region,
    /// Where it stands.
    pub point: Point,
    /// Whose machines these are.
    pub provider: ProviderName,
    /// Where users reach it.
    pub addresses: Vec<IpAddr>,
    /// TCP port of plain HTTP.
    pub http_port: u16,
    /// TCP port of HTTPS.
    pub https_port: u16,
    /// How it is, in one word.
    pub health: SiteHealth,
    /// How long its lease still runs; `None` without one.
    pub lease_ms: Option<u64>,
    /// What does not work there, in words.
    pub problems: Vec<String>,
    /// What the machine lacks, in words: apps run all the same, held less exactly.
    #[serde(default)]
    pub limitations: Vec<String>,
    /// The agent's process id.
    pub pid: Option<u32>,
    /// The agent's version.
    pub version: Option<String>,
    /// When the agent started.
    pub started_ms: Option<u64>,
    /// The agent's own endpoint for machines.
    pub admin: Option<String>,
    /// Apps assigned to it.
    pub assigned: u32,
    /// Apps that it serves.
    pub serving: u32,
    /// Certificates that it presents.
    pub certificates: u32,
}

/// How a site is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiteHealth {
    /// Its lease runs and it reports no problem.
    Healthy,
    /// Its lease runs and it reports problems.
    Degraded,
    /// It is being emptied.
    Draining,
    /// Its lease has run out.
    Lost,
}

/// `GET /v1/apps`: an app in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSummary {
    /// Its name.
    pub app: AppName,
    /// The repository that releases it.
    pub repository: RepositoryName,
    /// Its directory there; empty for the top.
    pub directory: String,
    /// What users see.
    pub live: Option<LiveRelease>,
    /// Where to open it.
    pub urls: Vec<String>,
    /// Sites that it is assigned to.
    pub assigned: u32,
    /// Of those, sites that serve the live epoch.
    pub serving: u32,
}

/// An app, site by site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppStatus {
    /// What the list shows.
    #[serde(flatten)]
    pub summary: AppSummary,
    /// The environment.
    pub environment: EnvironmentName,
    /// The hosts that it answers to.
    pub hosts: BTreeSet<Host>,
    /// Every site that it is assigned to or that still has something of it.
    pub sites: Vec<AppSite>,
    /// The number of a push of its repository that is under way.
    pub pushing: Option<u64>,
    /// The repository's last push, if it did not go live.
    pub last_failure: Option<FailedPush>,
}

/// A push that did not go live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedPush {
    /// Its number in the repository.
    pub push: u64,
    /// The commit that was pushed.
    pub commit: String,
    /// When it was received.
    pub at_ms: u64,
    /// The stage that failed.
    pub stage: Stage,
    /// What happened and what to do, in words.
    pub reason: String,
    /// The last lines of the output that shows it.
    pub last_lines: Vec<String>,
}

/// What users see of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRelease {
    /// The first 12 digits, as in response headers.
    pub release: String,
    /// The whole identifier.
    pub digest: ReleaseId,
    /// The epoch.
    pub epoch: Epoch,
    /// The commit that main was moved to.
    pub commit: String,
    /// First line of the commit's message.
    pub subject: String,
    /// When it went live; `None` while the push is not recorded as such.
    pub at_ms: Option<u64>,
}

/// An app at a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSite {
    /// The site.
    pub site: SiteId,
    /// How it is, in one word.
    pub state: AppSiteState,
    /// The epoch that the site answers with.
    pub active: Option<Epoch>,
    /// The worst status of the site's request to itself; 0 when no answer came.
    pub probe: Option<u16>,
    /// What is wrong, in words.
    pub reason: Option<String>,
    /// The last lines of the output that shows it.
    pub last_lines: Vec<String>,
}

/// How an app is at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AppSiteState {
    /// It serves the live epoch.
    Live,
    /// It serves an epoch that is not the live one.
    Behind,
    /// It is getting ready.
    Warming,
    /// A service of it is not ready any more, or an upstream of it is not well.
    Degraded,
    /// It can't be started.
    Failed,
    /// It is being stopped.
    Draining,
    /// The site has not said anything.
    Unknown,
    /// The site's lease has run out.
    Lost,
}

/// `GET /v1/apps/{app}/releases`: a release, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRow {
    /// The first 12 digits.
    pub release: String,
    /// The whole identifier.
    pub digest: ReleaseId,
    /// The epoch; a release that was live twice has two rows.
    pub epoch: Epoch,
    /// The commit that main was moved to.
    pub commit: String,
    /// First line of the commit's message.
    pub subject: String,
    /// Whether users see it now.
    pub live: bool,
    /// When it went live.
    pub at_ms: u64,
    /// The push, by its number in the repository.
    pub push: u64,
    /// What started the push: `push`, `rollback` or `restore`.
    pub cause: String,
    /// The push's stages.
    pub stages: Vec<StageTiming>,
    /// From reception to the end of verification; `None` when the push is not kept any more.
    pub total_ms: Option<u64>,
    /// From reception to activation: what the five-minute budget is about.
    pub to_active_ms: Option<u64>,
    /// The stage that took longest.
    pub slowest: Option<Stage>,
    /// Blobs by service, for tools that compare releases.
    pub artifacts: BTreeMap<ServiceName, Digest>,
}

/// A stage's time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTiming {
    /// Which.
    pub stage: Stage,
    /// How long it took; `None` while it runs.
    pub duration_ms: Option<u64>,
    /// A word on what was done.
    pub note: Option<String>,
}
