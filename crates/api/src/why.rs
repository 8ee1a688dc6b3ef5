//! Why an app is where it is.

use std::collections::BTreeMap;

use selvedge_model::{AppName, Host, SiteId};
use serde::{Deserialize, Serialize};

use crate::status::LiveRelease;

/// `GET /v1/apps/{app}/why`: the planners' reasons, for the release that users see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// The app.
    pub app: AppName,
    /// What users see.
    pub live: Option<LiveRelease>,
    /// The placement planner's report (`selvedge_plan::placement`), as it is.
    pub placement: serde_json::Value,
    /// The same report in words, line by line.
    pub lines: Vec<String>,
    /// Which sites DNS names for the app's hosts, and why not the others.
    pub hosts: Vec<HostWhy>,
}

/// A host's answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostWhy {
    /// The host.
    pub host: Host,
    /// Sites that DNS names, or is about to.
    pub answered: Vec<SiteId>,
    /// Sites that have the app and are not fit to be named, with the reason in words.
    pub withheld: BTreeMap<SiteId, String>,
    /// No site is healthy, so unhealthy ones are named all the same.
    pub failed_open: bool,
}
