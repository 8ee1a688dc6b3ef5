//! What a fabric key is about: the inverse of [`selvedge_model::keys`].

use selvedge_model::{AppName, EnvironmentName, Host, ReleaseId, RepositoryName, SiteId, keys};

/// A document's place, parsed from its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Slot {
    Installation,
    Topology,
    App(AppName),
    Release(AppName, ReleaseId),
    Push(RepositoryName, u64),
    Assignment(SiteId, AppName, EnvironmentName),
    Activation(AppName, EnvironmentName),
    Certificate(SiteId, Host),
    Zone(Host),
    SiteReport(SiteId),
    AppReport(SiteId, AppName, EnvironmentName),
}

impl Slot {
    /// The slot of `key`; `None` for keys that mean nothing here.
    pub(crate) fn of(key: &str) -> Option<Self> {
        match key {
            keys::INSTALLATION => return Some(Self::Installation),
            keys::TOPOLOGY => return Some(Self::Topology),
            _ => {}
        }
        let (kind, rest) = key.split_at_checked(key.find('/')? + 1)?;
        let mut parts = rest.split('/');
        let slot = match kind {
            keys::APPS => Self::App(parse(parts.next())?),
            keys::RELEASES => Self::Release(parse(parts.next())?, ReleaseId(parse(parts.next())?)),
            keys::PUSHES => Self::Push(parse(parts.next())?, parse(parts.next())?),
            keys::ASSIGNMENTS => {
                Self::Assignment(parse(parts.next())?, parse(parts.next())?, parse(parts.next())?)
            }
            keys::ACTIVATIONS => Self::Activation(parse(parts.next())?, parse(parts.next())?),
            keys::CERTIFICATES => Self::Certificate(parse(parts.next())?, parse(parts.next())?),
            keys::ZONES => Self::Zone(parse(parts.next())?),
            keys::SITE_REPORTS => Self::SiteReport(parse(parts.next())?),
            keys::APP_REPORTS => {
                Self::AppReport(parse(parts.next())?, parse(parts.next())?, parse(parts.next())?)
            }
            _ => return None,
        };
        parts.next().is_none().then_some(slot)
    }
}

fn parse<T: std::str::FromStr>(part: Option<&str>) -> Option<T> {
    part?.parse().ok()
}

#[cfg(test)]
mod tests {
    use selvedge_model::Digest;

    use super::*;

    #[test]
    fn every_key_leads_back() {
        let app = AppName::new("shop").unwrap();
        let site = SiteId::new("fra").unwrap();
        let environment = EnvironmentName::production();
        let host = Host::new("shop.edge.test").unwrap();
        let release = ReleaseId(Digest::of(b"x"));
        let repository = RepositoryName::new("shops").unwrap();
        let table = [
            (keys::INSTALLATION.to_owned(), Slot::Installation),
            (keys::TOPOLOGY.to_owned(), Slot::Topology),
            (keys::app(&app), Slot::App(app.clone())),
            (keys::release(&app, &release), Slot::Release(app.clone(), release)),
            (keys::push(&repository, 12), Slot::Push(repository, 12)),
            (
                keys::assignment(&site, &app, &environment),
                Slot::Assignment(site.clone(), app.clone(), environment.clone()),
            ),
            (
                keys::activation(&app, &environment),
                Slot::Activation(app.clone(), environment.clone()),
            ),
            (keys::certificate(&site, &host), Slot::Certificate(site.clone(), host.clone())),
            (keys::zone(&host), Slot::Zone(host)),
            (keys::site_report(&site), Slot::SiteReport(site.clone())),
            (keys::app_report(&site, &app, &environment), Slot::AppReport(site, app, environment)),
        ];
        for (key, slot) in table {
            assert_eq!(Slot::of(&key), Some(slot), "{key}");
            assert_eq!(Slot::of(&format!("{key}/more")), None, "{key}");
        }
        for other in ["", "/", "pin-keys", "host/a.b", "app/", "app/UPPER", "assign/fra"] {
            assert_eq!(Slot::of(other), None, "{other}");
        }
    }
}
