//! The documents that a site works from, by type, and the rule by which it takes new ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use selvedge_model::documents::{Installation, PinKeys, TicketKeys};
use selvedge_model::pin::PinAuthority;
use selvedge_model::{
    Activation, AppName, Assignment, CertificateBundle, EnvironmentName, Generation, Host, SiteId,
    Topology, Zone, keys,
};
use selvedge_telemetry::logging::Chain;
use serde::de::DeserializeOwned;

use crate::{certificates, tickets};

/// An app in one of its environments.
pub(crate) type AppKey = (AppName, EnvironmentName);

/// A document and the revision that wrote it.
#[derive(Debug, Clone)]
pub(crate) struct Versioned<T> {
    pub(crate) generation: Generation,
    pub(crate) value: Arc<T>,
}

/// What a document is about, read from its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Installation,
    Topology,
    PinKeys,
    TicketKeys,
    Assignment(AppKey),
    Activation(AppKey),
    Certificate(Host),
    Zone(Host),
}

impl Name {
    /// The name that `key` stands for at `site`; `None` for keys that are not for this site.
    pub(crate) fn parse(key: &str, site: &SiteId) -> Option<Self> {
        match key {
            keys::INSTALLATION => return Some(Self::Installation),
            keys::TOPOLOGY => return Some(Self::Topology),
            keys::PIN_KEYS => return Some(Self::PinKeys),
            keys::TICKET_KEYS => return Some(Self::TicketKeys),
            _ => {}
        }
        if let Some(rest) = key.strip_prefix(&keys::assignments(site)) {
            return app_key(rest).map(Self::Assignment);
        }
        if let Some(rest) = key.strip_prefix(keys::ACTIVATIONS) {
            return app_key(rest).map(Self::Activation);
        }
        if let Some(rest) = key.strip_prefix(&keys::certificates(site)) {
            return host(rest).map(Self::Certificate);
        }
        key.strip_prefix(keys::ZONES).and_then(host).map(Self::Zone)
    }

    /// The document's key in the fabric and in the ledger.
    pub(crate) fn key(&self, site: &SiteId) -> String {
        match self {
            Self::Installation => keys::INSTALLATION.to_owned(),
            Self::Topology => keys::TOPOLOGY.to_owned(),
            Self::PinKeys => keys::PIN_KEYS.to_owned(),
            Self::TicketKeys => keys::TICKET_KEYS.to_owned(),
            Self::Assignment((app, environment)) => keys::assignment(site, app, environment),
            Self::Activation((app, environment)) => keys::activation(app, environment),
            Self::Certificate(host) => keys::certificate(site, host),
            Self::Zone(origin) => keys::zone(origin),
        }
    }
}

fn app_key(text: &str) -> Option<AppKey> {
    let (app, environment) = text.split_once('/')?;
    Some((AppName::new(app).ok()?, EnvironmentName::new(environment).ok()?))
}

/// Only the one spelling that control writes counts, so that a key has one name and back.
fn host(text: &str) -> Option<Host> {
    Host::new(text).ok().filter(|host| host.as_str() == text)
}

/// Why a document is not taken; the last good one stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{key} of generation {offered} is older than the {held} in use; it is not taken")]
    Older { key: String, offered: Generation, held: Generation },
    #[error("{key} of generation {generation} can't be read, so the last good one stays: {source}")]
    Unreadable { key: String, generation: Generation, source: serde_json::Error },
    #[error("{key} holds the document of {other}, so the last good one stays")]
    Misplaced { key: String, other: String },
    #[error("{key} of generation {generation} can't be used, so the last good one stays: {reason}")]
    Unusable { key: String, generation: Generation, reason: String },
}

/// The last accepted documents of a site.
#[derive(Debug, Clone, Default)]
pub(crate) struct Documents {
    pub(crate) installation: Option<Versioned<Installation>>,
    pub(crate) topology: Option<Versioned<Topology>>,
    pub(crate) pin_keys: Option<Versioned<PinKeys>>,
    pub(crate) ticket_keys: Option<Versioned<TicketKeys>>,
    pub(crate) assignments: BTreeMap<AppKey, Versioned<Assignment>>,
    /// Of every app: an activation may come before the assignment that makes it matter here.
    pub(crate) activations: BTreeMap<AppKey, Versioned<Activation>>,
    pub(crate) certificates: BTreeMap<Host, Versioned<CertificateBundle>>,
    pub(crate) zones: BTreeMap<Host, Versioned<Zone>>,
    /// Documents that were refused, by key, in words. Cleared by the next good one.
    pub(crate) refused: BTreeMap<String, String>,
}

impl Documents {
    /// The generation in use.
    pub(crate) fn generation(&self, name: &Name) -> Option<Generation> {
        match name {
            Name::Installation => self.installation.as_ref().map(|it| it.generation),
            Name::Topology => self.topology.as_ref().map(|it| it.generation),
            Name::PinKeys => self.pin_keys.as_ref().map(|it| it.generation),
            Name::TicketKeys => self.ticket_keys.as_ref().map(|it| it.generation),
            Name::Assignment(app) => self.assignments.get(app).map(|it| it.generation),
            Name::Activation(app) => self.activations.get(app).map(|it| it.generation),
            Name::Certificate(host) => self.certificates.get(host).map(|it| it.generation),
            Name::Zone(origin) => self.zones.get(origin).map(|it| it.generation),
        }
    }

    /// Every document in use.
    pub(crate) fn names(&self) -> Vec<Name> {
        let single = [
            self.installation.is_some().then_some(Name::Installation),
            self.topology.is_some().then_some(Name::Topology),
            self.pin_keys.is_some().then_some(Name::PinKeys),
            self.ticket_keys.is_some().then_some(Name::TicketKeys),
        ];
        single
            .into_iter()
            .flatten()
            .chain(self.assignments.keys().cloned().map(Name::Assignment))
            .chain(self.activations.keys().cloned().map(Name::Activation))
            .chain(self.certificates.keys().cloned().map(Name::Certificate))
            .chain(self.zones.keys().cloned().map(Name::Zone))
            .collect()
    }

    /// Takes a document if it is newer than the one in use, and says whether it did. A refusal is
    /// remembered, to be reported.
    pub(crate) fn accept(
        &mut self,
        site: &SiteId,
        name: &Name,
        generation: Generation,
        value: &[u8],
    ) -> bool {
        let key = name.key(site);
        match self.check_and_set(site, name, &key, generation, value) {
            Ok(taken) => {
                self.refused.remove(&key);
                taken
            }
            Err(refusal) => {
                tracing::warn!(%key, "{refusal}");
                self.refused.insert(key, refusal.to_string());
                false
            }
        }
    }

    fn check_and_set(
        &mut self,
        site: &SiteId,
        name: &Name,
        key: &str,
        generation: Generation,
        value: &[u8],
    ) -> Result<bool, Refusal> {
        if let Some(held) = self.generation(name) {
            if generation == held {
                return Ok(false);
            }
            if generation < held {
                return Err(Refusal::Older { key: key.to_owned(), offered: generation, held });
            }
        }
        let taken = Taken { site, key, generation, value };
        match name {
            Name::Installation => self.installation = Some(taken.read(|_| None)?),
            Name::Topology => self.topology = Some(taken.read(|_| None)?),
            Name::PinKeys => {
                let document = taken.read(|_| None)?;
                taken.check(PinAuthority::new(&document.value))?;
                self.pin_keys = Some(document);
            }
            Name::TicketKeys => {
                let document = taken.read(|_| None)?;
                taken.check(tickets::keys(&document.value))?;
                self.ticket_keys = Some(document);
            }
            Name::Assignment((app, environment)) => {
                let document = taken.read(|it: &Assignment| {
                    Some(keys::assignment(&it.site, &it.app, &it.environment))
                })?;
                self.assignments.insert((app.clone(), environment.clone()), document);
            }
            Name::Activation((app, environment)) => {
                let document = taken
                    .read(|it: &Activation| Some(keys::activation(&it.group, &it.environment)))?;
                self.activations.insert((app.clone(), environment.clone()), document);
            }
            Name::Certificate(host) => {
                let document = taken
                    .read(|it: &CertificateBundle| Some(keys::certificate(taken.site, &it.host)))?;
                taken.check(certificates::check(&document.value))?;
                self.certificates.insert(host.clone(), document);
            }
            Name::Zone(origin) => {
                let document = taken.read(|it: &Zone| Some(keys::zone(&it.origin)))?;
                self.zones.insert(origin.clone(), document);
            }
        }
        Ok(true)
    }

    /// Forgets a document that was deleted, or was found missing, as of `generation`; says whether
    /// there was one. A deletion older than the document is refused like an older document.
    pub(crate) fn forget(&mut self, site: &SiteId, name: &Name, generation: Generation) -> bool {
        let key = name.key(site);
        let Some(held) = self.generation(name) else {
            self.refused.remove(&key);
            return false;
        };
        if generation < held {
            let refusal = Refusal::Older { key: key.clone(), offered: generation, held };
            tracing::warn!(%key, "{refusal}");
            self.refused.insert(key, refusal.to_string());
            return false;
        }
        self.refused.remove(&key);
        match name {
            Name::Installation => self.installation = None,
            Name::Topology => self.topology = None,
            Name::PinKeys => self.pin_keys = None,
            Name::TicketKeys => self.ticket_keys = None,
            Name::Assignment(app) => drop(self.assignments.remove(app)),
            Name::Activation(app) => drop(self.activations.remove(app)),
            Name::Certificate(host) => drop(self.certificates.remove(host)),
            Name::Zone(origin) => drop(self.zones.remove(origin)),
        }
        true
    }

    /// Whether the document belongs in the ledger: activations do only where the app is assigned.
    pub(crate) fn matters(&self, name: &Name) -> bool {
        match name {
            Name::Activation(app) => self.assignments.contains_key(app),
            _ => true,
        }
    }
}

/// A document on its way in.
#[derive(Clone, Copy)]
struct Taken<'a> {
    site: &'a SiteId,
    key: &'a str,
    generation: Generation,
    value: &'a [u8],
}

impl Taken<'_> {
    /// Refuses what whoever uses the document would refuse.
    fn check<T, E: std::error::Error + 'static>(
        &self,
        checked: Result<T, E>,
    ) -> Result<(), Refusal> {
        match checked {
            Ok(_) => Ok(()),
            Err(error) => Err(Refusal::Unusable {
                key: self.key.to_owned(),
                generation: self.generation,
                reason: Chain(&error).to_string(),
            }),
        }
    }

    /// Parses the document and checks that it is the one that its key promises; `own_key` is the
    /// key that the content asks for, where it says.
    fn read<T: DeserializeOwned>(
        &self,
        own_key: impl Fn(&T) -> Option<String>,
    ) -> Result<Versioned<T>, Refusal> {
        let value: T = serde_json::from_slice(self.value).map_err(|source| {
            Refusal::Unreadable { key: self.key.to_owned(), generation: self.generation, source }
        })?;
        match own_key(&value) {
            Some(other) if other != self.key => {
                Err(Refusal::Misplaced { key: self.key.to_owned(), other })
            }
            _ => Ok(Versioned { generation: self.generation, value: Arc::new(value) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fra() -> SiteId {
        SiteId::new("fra").unwrap()
    }

    fn assignment(site: &str) -> Vec<u8> {
        serde_json::to_vec(&Assignment {
            app: AppName::new("shop").unwrap(),
            environment: EnvironmentName::production(),
            site: SiteId::new(site).unwrap(),
            entries: vec![],
        })
        .unwrap()
    }

    #[test]
    fn older_unreadable_and_misplaced_documents_are_refused() {
        let site = fra();
        let key = "assign/fra/shop/production";
        let name = Name::parse(key, &site).unwrap();
        assert_eq!(name.key(&site), key);
        let mut documents = Documents::default();
        assert!(documents.accept(&site, &name, Generation::new(1, 7), &assignment("fra")));
        assert!(!documents.accept(&site, &name, Generation::new(1, 7), &assignment("fra")));
        assert!(documents.refused.is_empty());
        for (generation, value) in [
            (Generation::new(1, 6), assignment("fra")),
            (Generation::new(0, 99), assignment("fra")),
            (Generation::new(1, 8), b"{".to_vec()),
            (Generation::new(1, 8), assignment("nyc")),
        ] {
            assert!(!documents.accept(&site, &name, generation, &value));
            assert!(documents.refused.contains_key(key));
            assert_eq!(documents.generation(&name), Some(Generation::new(1, 7)));
        }
        assert!(documents.accept(&site, &name, Generation::new(2, 1), &assignment("fra")));
        assert!(documents.refused.is_empty());
        assert!(!documents.forget(&site, &name, Generation::new(1, 9)));
        assert!(documents.forget(&site, &name, Generation::new(2, 1)));
        assert!(documents.names().is_empty());
    }

    #[test]
    fn keys_of_other_sites_have_no_name() {
        for key in
            ["assign/nyc/shop/production", "certificate/nyc/a.b", "app/shop", "zone/A.b", "x"]
        {
            assert_eq!(Name::parse(key, &fra()), None, "{key}");
        }
        assert!(Name::parse("zone/a.b", &fra()).is_some());
    }
}
