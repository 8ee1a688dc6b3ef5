//! What an agent says of itself, gathered in one value for the report and the admin endpoint.

use std::collections::BTreeMap;

use selvedge_model::{AppReport, Digest, Generation, Host};
use serde::Serialize;

use crate::documents::AppKey;

/// The reconciler's view of the site, published after every pass.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Status {
    /// By app and environment.
    #[serde(serialize_with = "values")]
    pub(crate) apps: BTreeMap<AppKey, AppReport>,
    /// Certificates that the proxy presents.
    pub(crate) certificates: BTreeMap<Host, Digest>,
    /// Zones that the DNS server answers from.
    pub(crate) zones: BTreeMap<Host, Generation>,
    /// The keys of session tickets in use; `None`: the proxy's own.
    pub(crate) ticket_keys: Option<Generation>,
    /// What does not work, in words.
    pub(crate) problems: Vec<String>,
    /// Whether everything that users should see now is there or has failed: until then a starting
    /// agent lets clients wait a moment.
    pub(crate) settled: bool,
}

fn values<S: serde::Serializer>(
    apps: &BTreeMap<AppKey, AppReport>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(apps.values())
}
