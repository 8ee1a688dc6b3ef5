//! How things stand, as the API shows it: pure functions from documents to answers.

mod apps;
mod plan;
mod releases;
mod sites;
mod why;

#[cfg(test)]
mod tests;

use selvedge_api::{ControlStatus, Status};
use selvedge_model::keys;

pub(crate) use apps::{apps, summaries};
pub(crate) use plan::plan;
pub(crate) use releases::{live, releases};
pub(crate) use sites::sites;
pub(crate) use why::why;

use crate::world::World;

/// What the views need of the fabric: no keys of certificates, no blobs.
pub(crate) const PREFIXES: [&str; 10] = [
    keys::INSTALLATION,
    keys::TOPOLOGY,
    keys::APPS,
    keys::RELEASES,
    keys::PUSHES,
    keys::ASSIGNMENTS,
    keys::ACTIVATIONS,
    keys::ZONES,
    keys::SITE_REPORTS,
    keys::APP_REPORTS,
];

/// Everything at one look.
pub(crate) fn status(world: &World, control: ControlStatus) -> Status {
    Status { control, sites: sites(world), apps: apps(world) }
}
