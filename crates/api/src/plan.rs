//! What a push would do, asked before it is made.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::{App, AppName, Host, Release, ReleaseId, RepositoryName, SiteId};
use serde::{Deserialize, Serialize};

/// `POST /v1/plan`: the apps of a commit that may be pushed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// Where it would be pushed.
    pub repository: RepositoryName,
    /// Every app of the commit.
    pub apps: Vec<WantedApp>,
}

/// An app of the commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedApp {
    /// The normal form.
    pub app: App,
    /// What it and the app's files make.
    pub release: ReleaseId,
}

/// What would happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanAnswer {
    /// The apps of the commit, in the order asked for.
    pub apps: Vec<PlannedApp>,
    /// Live apps of the repository that the commit does not have, with what is live: they would be
    /// taken down.
    pub removed: BTreeMap<AppName, Option<Release>>,
}

/// What would happen to an app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedApp {
    /// The app.
    pub app: AppName,
    /// What is live of it now.
    pub live: Option<Release>,
    /// Whether the wanted release is stored, so that nothing would be built or tested.
    pub stored: bool,
    /// The hosts that it would answer for.
    pub hosts: BTreeSet<Host>,
    /// Where it is now.
    pub current: BTreeSet<SiteId>,
    /// Where it would be; empty when it can't be placed.
    pub sites: BTreeSet<SiteId>,
    /// Why these sites, in words, line by line; or why none.
    pub placement: Vec<String>,
    /// What would refuse the push, in words.
    pub problems: Vec<String>,
}
