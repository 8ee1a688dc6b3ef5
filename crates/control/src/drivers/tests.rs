//! The drivers against a real store.

use std::sync::Arc;
use std::time::Duration;

use selvedge_fabric::embedded::Embedded;
use selvedge_fabric::{Change, Expect, SharedFabric, Typed};
use selvedge_model::documents::TicketKeys;
use selvedge_model::{
    Assignment, CertificateBundle, EnvironmentName, EpochState, Host, Installation, PushState,
    Zone, keys,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::authority::Authority;
use crate::fixture::*;
use crate::now_ms;
use crate::world::Mirror;

const HOSTS: [&str; 2] = ["shop.edge.test", "shop.localhost"];
/// Long enough for any machine; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(30);

struct Store {
    fabric: SharedFabric,
    _end: DropGuard,
    _scratch: tempfile::TempDir,
}

impl Store {
    /// A store with `sites`, all leased, and both drivers.
    async fn start(sites: &[&str]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let fabric: SharedFabric =
            Arc::new(Embedded::open(&scratch.path().join("fabric")).unwrap());
        let token = CancellationToken::new();
        let store = Self { fabric, _end: token.clone().drop_guard(), _scratch: scratch };
        let zone = Host::new("edge.test").unwrap();
        store
            .put(keys::INSTALLATION, &Installation { zone, in_a_box: true, local_upstreams: false })
            .await;
        store.put(keys::TOPOLOGY, &topology(sites)).await;
        store.put(&keys::release(&shop(), &release_id("two")), &release("two")).await;
        for site in sites {
            store.lease(site).await;
        }
        let fabric = &store.fabric;
        let authority = store._scratch.path().join("authority");
        let authority = Arc::new(Authority::load_or_create(&authority, now_ms()).unwrap());
        let mirror = Mirror::start(fabric, &crate::control::DRIVEN).await.unwrap();
        let problems = Problems::default();
        let certificates = Certificates::new(fabric.clone(), authority);
        tokio::spawn(drive(certificates, mirror.subscribe(), problems.clone(), token.clone()));
        let names = Names::new(fabric.clone());
        tokio::spawn(drive(names, mirror.subscribe(), problems.clone(), token.clone()));
        let tickets = Tickets::new(fabric.clone());
        tokio::spawn(drive(tickets, mirror.subscribe(), problems, token.clone()));
        tokio::spawn(mirror.run(token));
        store
    }

    async fn lease(&self, site: &str) {
        let name = keys::site_lease(&site_id(site));
        self.fabric.lease(&name, site, Duration::from_secs(600)).await.unwrap().unwrap();
    }

    async fn put(&self, key: &str, value: &impl Serialize) {
        Typed(&*self.fabric).put(key, value, Expect::Any).await.unwrap();
    }

    async fn assign(&self, assignment: &Assignment) {
        let production = EnvironmentName::production();
        let key = keys::assignment(&assignment.site, &assignment.app, &production);
        self.put(&key, assignment).await;
    }

    /// Waits until the document at `key` satisfies `enough`.
    async fn wait<T: DeserializeOwned>(&self, key: &str, enough: impl Fn(&T) -> bool) -> T {
        let wait = async {
            let mut watch = self.fabric.watch(key, None).await.unwrap();
            loop {
                if let Change::Put(document) = watch.next().await.unwrap()
                    && let Ok(value) = document.parse()
                    && enough(&value)
                {
                    return value;
                }
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("the document was not written")
    }

    async fn certificate(&self, site: &str, host: &str) -> CertificateBundle {
        let key = keys::certificate(&site_id(site), &Host::new(host).unwrap());
        self.wait(&key, |_| true).await
    }

    /// `site` has the shop's certificates and serves epoch `number`.
    async fn serve(&self, site: &str, number: u64) {
        self.put(&keys::site_report(&site_id(site)), &site_report(site, &HOSTS)).await;
        let report = app_report(site, Some(number), &[(number, EpochState::Warm)]);
        let key = keys::app_report(&report.site, &report.app, &report.environment);
        self.put(&key, &report).await;
    }

    async fn zone(&self, enough: impl Fn(&Zone) -> bool) -> Zone {
        self.wait(&keys::zone(&Host::new("edge.test").unwrap()), enough).await
    }
}

fn answers(zone: &Zone, sites: &[&str]) -> bool {
    let host = Host::new("shop.edge.test").unwrap();
    zone.hosts.get(&host).is_some_and(|named| named.iter().eq(&sites_of(sites)))
}

fn sites_of(sites: &[&str]) -> Vec<selvedge_model::SiteId> {
    sites.iter().map(|site| site_id(site)).collect()
}

#[tokio::test]
async fn sites_get_one_certificate_for_a_host_as_soon_as_they_are_assigned() {
    let store = Store::start(&["fra", "nyc"]).await;
    store.assign(&assignment("fra", 1, "two")).await;
    let first = store.certificate("fra", "shop.edge.test").await;
    assert_eq!(first.chain_pem.matches("BEGIN CERTIFICATE").count(), 2);
    store.certificate("fra", "shop.localhost").await;
    store.assign(&assignment("nyc", 1, "two")).await;
    assert_eq!(store.certificate("nyc", "shop.edge.test").await, first);
    // Nothing is issued twice.
    assert_eq!(store.certificate("fra", "shop.edge.test").await, first);
}

#[tokio::test]
async fn dns_names_a_site_only_while_it_can_serve() {
    let store = Store::start(&["fra", "nyc"]).await;
    let production = EnvironmentName::production();
    let empty = store.zone(|_| true).await;
    assert!(empty.hosts.is_empty() && !empty.nameservers.is_empty());
    for site in ["fra", "nyc"] {
        store.assign(&assignment(site, 1, "two")).await;
    }
    store.put(&keys::activation(&shop(), &production), &activation(1, "two")).await;
    store.serve("fra", 1).await;
    let one = store.zone(|zone| answers(zone, &["fra"])).await;
    assert!(one.serial > empty.serial);
    store.serve("nyc", 1).await;
    store.zone(|zone| answers(zone, &["fra", "nyc"])).await;
    // A site whose lease ends leaves the answers, and comes back with it.
    store.fabric.release_lease(&keys::site_lease(&site_id("fra")), "fra").await.unwrap();
    let lost = store.zone(|zone| answers(zone, &["nyc"])).await;
    assert!(lost.serial > one.serial);
    store.lease("fra").await;
    store.zone(|zone| answers(zone, &["fra", "nyc"])).await;
}

#[tokio::test]
async fn a_host_outside_the_zone_has_a_zone_of_its_own() {
    let store = Store::start(&["fra"]).await;
    let mut release = release("two");
    let outside = Host::new("shop.example.com").unwrap();
    release.app.routes[0].hosts.insert(outside.clone());
    store.put(&keys::release(&shop(), &release_id("two")), &release).await;
    store.assign(&assignment("fra", 1, "two")).await;
    store.certificate("fra", "shop.example.com").await;
    let key = keys::activation(&shop(), &EnvironmentName::production());
    store.put(&key, &activation(1, "two")).await;
    let zone: Zone = store.wait(&keys::zone(&outside), |_| true).await;
    assert_eq!(zone.origin, outside);
    store.fabric.delete(&key, Expect::Any).await.unwrap();
    let gone = async {
        let mut watch = store.fabric.watch(&keys::zone(&outside), None).await.unwrap();
        while !matches!(watch.next().await.unwrap(), Change::Delete { .. }) {
            if store.fabric.get(&keys::zone(&outside)).await.unwrap().is_none() {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
}

impl Store {
    /// Returns when the driver is to look again although nothing has changed.
    async fn places_run(&self, places: &mut Places) -> Option<Duration> {
        let mirror = Mirror::start(&self.fabric, &crate::control::DRIVEN).await.unwrap();
        places.reconcile(&mut mirror.subscribe()).await.unwrap()
    }

    async fn assigned(&self, site: &str) -> Option<Assignment> {
        let key = keys::assignment(&site_id(site), &shop(), &EnvironmentName::production());
        Typed(&*self.fabric).get(&key).await.unwrap().map(|(_, assignment)| assignment)
    }
}

#[tokio::test]
async fn sites_that_join_get_what_is_live_once_no_push_is_under_way() {
    let store = Store::start(&["fra", "sin"]).await;
    let mut places = Places::new(store.fabric.clone());
    store.put(&keys::app(&shop()), &record()).await;
    let production = EnvironmentName::production();
    store.put(&keys::activation(&shop(), &production), &activation(2, "two")).await;
    for site in ["fra", "sin"] {
        store.assign(&assignment(site, 2, "two")).await;
    }
    store.places_run(&mut places).await;
    // `nyc` comes, `sin` goes.
    store.put(keys::TOPOLOGY, &topology(&["fra", "nyc"])).await;
    let key = keys::push(&repository(), 1);
    store.put(&key, &push(1, PushState::Preparing)).await;
    // A push that is refused early changes nothing that would wake the driver.
    assert!(store.places_run(&mut places).await.is_some());
    assert_eq!(store.assigned("nyc").await, None);
    assert!(store.assigned("sin").await.is_some());
    store.put(&key, &push(1, PushState::Live)).await;
    assert_eq!(store.places_run(&mut places).await, None);
    assert_eq!(store.assigned("nyc").await, Some(assignment("nyc", 2, "two")));
    assert_eq!(store.assigned("fra").await, Some(assignment("fra", 2, "two")));
    assert_eq!(store.assigned("sin").await, None);
}

#[tokio::test]
async fn ticket_keys_are_made_and_go_on_from_those_that_sites_have() {
    let store = Store::start(&["fra"]).await;
    let made = store.wait::<TicketKeys>(keys::TICKET_KEYS, |_| true).await;
    assert_eq!(made.keys.len(), 2);
    assert_ne!(made.keys[0], made.keys[1]);
    // Control was away for a day.
    let old = TicketKeys { since_ms: made.since_ms - 24 * 60 * 60 * 1000, ..made.clone() };
    store.put(keys::TICKET_KEYS, &old).await;
    let mirror = Mirror::start(&store.fabric, &crate::control::DRIVEN).await.unwrap();
    let wait = Tickets::new(store.fabric.clone()).reconcile(&mut mirror.subscribe()).await.unwrap();
    assert!(wait.unwrap() > Duration::from_secs(60 * 60));
    let next = store.wait::<TicketKeys>(keys::TICKET_KEYS, |_| true).await;
    assert_eq!((&next.keys[0], &next.keys[2]), (&made.keys[1], &made.keys[0]));
    assert!(!made.keys.contains(&next.keys[1]) && next.since_ms >= made.since_ms);
}
