//! Where each document lives in the fabric. A key is `/`-separated; a watch takes a prefix that
//! ends with `/`, or one whole key.
//!
//! | key | document | written by |
//! |---|---|---|
//! | `installation` | [`Installation`](crate::documents::Installation) | control |
//! | `topology` | [`Topology`](crate::Topology) | control |
//! | `pin-keys` | [`PinKeys`](crate::documents::PinKeys) | control |
//! | `ticket-keys` | [`TicketKeys`](crate::documents::TicketKeys) | control |
//! | `app/APP` | [`AppRecord`](crate::documents::AppRecord) | control |
//! | `host/HOST` | [`HostClaim`](crate::documents::HostClaim) | control |
//! | `release/APP/DIGEST` | [`Release`](crate::Release) | control |
//! | `push/REPOSITORY/NUMBER` | [`Push`](crate::Push) | control |
//! | `assign/SITE/APP/ENVIRONMENT` | [`Assignment`](crate::Assignment) | control |
//! | `activate/APP/ENVIRONMENT` | [`Activation`](crate::Activation) | control |
//! | `certificate/SITE/HOST` | [`CertificateBundle`](crate::CertificateBundle) | control |
//! | `zone/ORIGIN` | [`Zone`](crate::Zone) | control |
//! | `site-report/SITE` | [`SiteReport`](crate::SiteReport) | the site |
//! | `app-report/SITE/APP/ENVIRONMENT` | [`AppReport`](crate::AppReport) | the site |
//! | `operation/ID` | [`Operation`](crate::operation::Operation) | control |
//! | `order/SITE/ID` | [`Order`](crate::operation::Order) | control |
//! | `answer/SITE/ID` | [`Answer`](crate::operation::Answer) | the site |

use crate::id::{AppName, EnvironmentName, Host, ReleaseId, RepositoryName, SiteId};
use crate::operation::OperationId;

/// What holds for the whole installation.
pub const INSTALLATION: &str = "installation";
/// The installation's sites.
pub const TOPOLOGY: &str = "topology";
/// The keys that authenticate pins.
pub const PIN_KEYS: &str = "pin-keys";
/// The keys of TLS session tickets.
pub const TICKET_KEYS: &str = "ticket-keys";
/// Prefix of all app records.
pub const APPS: &str = "app/";
/// Prefix of all pushes.
pub const PUSHES: &str = "push/";
/// Prefix of all releases.
pub const RELEASES: &str = "release/";
/// Prefix of all host claims.
pub const HOSTS: &str = "host/";
/// Prefix of all assignments.
pub const ASSIGNMENTS: &str = "assign/";
/// Prefix of all activations.
pub const ACTIVATIONS: &str = "activate/";
/// Prefix of all certificates.
pub const CERTIFICATES: &str = "certificate/";
/// Prefix of all zones.
pub const ZONES: &str = "zone/";
/// Prefix of all site reports.
pub const SITE_REPORTS: &str = "site-report/";
/// Prefix of all app reports.
pub const APP_REPORTS: &str = "app-report/";

/// Prefix of all operations.
pub const OPERATIONS: &str = "operation/";
/// Prefix of all orders.
pub const ORDERS: &str = "order/";
/// Prefix of all answers.
pub const ANSWERS: &str = "answer/";

/// Prefix of the names of all sites' leases. Leases are no documents.
pub const SITE_LEASES: &str = "site/";

/// An app's record.
pub fn app(app: &AppName) -> String {
    format!("{APPS}{app}")
}

/// A host's claim.
pub fn host(host: &Host) -> String {
    format!("{HOSTS}{host}")
}

/// A release.
pub fn release(app: &AppName, release: &ReleaseId) -> String {
    format!("{RELEASES}{app}/{}", release.0)
}

/// Prefix of an app's releases.
pub fn releases(app: &AppName) -> String {
    format!("{RELEASES}{app}/")
}

/// A push; numbers are padded so that keys sort as they do.
pub fn push(repository: &RepositoryName, number: u64) -> String {
    format!("{PUSHES}{repository}/{number:010}")
}

/// Prefix of a repository's pushes.
pub fn pushes(repository: &RepositoryName) -> String {
    format!("{PUSHES}{repository}/")
}

/// A site's assignment of one app and environment.
pub fn assignment(site: &SiteId, app: &AppName, environment: &EnvironmentName) -> String {
    format!("{ASSIGNMENTS}{site}/{app}/{environment}")
}

/// Prefix of a site's assignments.
pub fn assignments(site: &SiteId) -> String {
    format!("{ASSIGNMENTS}{site}/")
}

/// A group's activation.
pub fn activation(group: &AppName, environment: &EnvironmentName) -> String {
    format!("{ACTIVATIONS}{group}/{environment}")
}

/// A host's certificate at a site.
pub fn certificate(site: &SiteId, host: &Host) -> String {
    format!("{CERTIFICATES}{site}/{host}")
}

/// Prefix of a site's certificates.
pub fn certificates(site: &SiteId) -> String {
    format!("{CERTIFICATES}{site}/")
}

/// A zone.
pub fn zone(origin: &Host) -> String {
    format!("{ZONES}{origin}")
}

/// A site's report of itself.
pub fn site_report(site: &SiteId) -> String {
    format!("{SITE_REPORTS}{site}")
}

/// A site's report of one app and environment.
pub fn app_report(site: &SiteId, app: &AppName, environment: &EnvironmentName) -> String {
    format!("{APP_REPORTS}{site}/{app}/{environment}")
}

/// Prefix of a site's reports of apps.
pub fn app_reports(site: &SiteId) -> String {
    format!("{APP_REPORTS}{site}/")
}

/// An operation.
pub fn operation(id: OperationId) -> String {
    format!("{OPERATIONS}{id}")
}

/// A site's part of an operation.
pub fn order(site: &SiteId, id: OperationId) -> String {
    format!("{ORDERS}{site}/{id}")
}

/// Prefix of a site's orders.
pub fn orders(site: &SiteId) -> String {
    format!("{ORDERS}{site}/")
}

/// What a site says of an order.
pub fn answer(site: &SiteId, id: OperationId) -> String {
    format!("{ANSWERS}{site}/{id}")
}

/// The name of a site's lease.
pub fn site_lease(site: &SiteId) -> String {
    format!("{SITE_LEASES}{site}")
}

/// The site whose lease has this name.
pub fn leased_site(name: &str) -> Option<SiteId> {
    SiteId::new(name.strip_prefix(SITE_LEASES)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_names_its_site() {
        let site = SiteId::new("fra").unwrap();
        assert_eq!(leased_site(&site_lease(&site)), Some(site));
        assert_eq!(leased_site("database/fra"), None);
        assert_eq!(leased_site("site/fra/more"), None);
    }
}
