//! A small installation for tests: the sites `fra`, `nyc` and `sin`, and an app `shop`.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::documents::{AppRecord, EpochReport, Probe, PushCause};
use selvedge_model::geo::City;
use selvedge_model::manifest::{PathPattern, Placement, Route, Service, ServiceKind};
use selvedge_model::{
    Activation, App, AppName, AppReport, Assignment, AssignmentEntry, Digest, EnvironmentName,
    Epoch, EpochState, Host, Push, PushState, Release, ReleaseId, RepositoryName, ServiceName,
    Site, SiteId, SiteReport, Topology,
};

pub(crate) fn site_id(id: &str) -> SiteId {
    SiteId::new(id).unwrap()
}

pub(crate) fn shop() -> AppName {
    AppName::new("shop").unwrap()
}

pub(crate) fn repository() -> RepositoryName {
    RepositoryName::new("shops").unwrap()
}

pub(crate) fn epoch(number: u64) -> Epoch {
    Epoch::new(1, number)
}

pub(crate) fn release_id(name: &str) -> ReleaseId {
    ReleaseId(Digest::of(name.as_bytes()))
}

pub(crate) fn release(name: &str) -> Release {
    let web = ServiceName::new("web").unwrap();
    Release {
        id: release_id(name),
        app: App {
            name: shop(),
            build: None,
            test: None,
            environment: BTreeMap::new(),
            force_https: false,
            services: vec![Service {
                name: web.clone(),
                kind: ServiceKind::Static { root: ".".to_owned(), fallback: None },
                build: None,
                environment: BTreeMap::new(),
            }],
            routes: vec![Route {
                hosts: BTreeSet::new(),
                path: PathPattern::Prefix(String::new()),
                service: web,
                rewrite: None,
                response_headers: BTreeMap::new(),
                esi: false,
                graphql: None,
            }],
            redirects: Vec::new(),
            placement: Placement::default(),
            build_limits: selvedge_model::manifest::BuildLimits::default(),
        },
        repository: repository(),
        directory: String::new(),
        commit: "c".repeat(40),
        tree: "t".repeat(40),
        subject: format!("Release {name}"),
        created_ms: 0,
        artifacts: BTreeMap::new(),
    }
}

pub(crate) fn topology(sites: &[&str]) -> Topology {
    let site = |id: &&str| {
        let city = City::find(id).unwrap();
        let site = Site {
            id: site_id(id),
            city: city.name.to_owned(),
            country: city.country.to_owned(),
            region: city.region,
            point: city.point,
            provider: "acme".parse().unwrap(),
            addresses: vec!["127.0.1.1".parse().unwrap()],
            http_port: 8080,
            https_port: 443,
            memory_mib: 1024,
            draining: false,
        };
        (site.id.clone(), site)
    };
    Topology { sites: sites.iter().map(site).collect() }
}

/// `site` is to have release `name` warm at epoch `number`.
pub(crate) fn assignment(site: &str, number: u64, name: &str) -> Assignment {
    let entry = AssignmentEntry {
        epoch: epoch(number),
        release: release_id(name),
        services: BTreeSet::from([ServiceName::new("web").unwrap()]),
    };
    Assignment {
        app: shop(),
        environment: EnvironmentName::production(),
        site: site_id(site),
        entries: vec![entry],
    }
}

/// `site` has certificates for `hosts`.
pub(crate) fn site_report(site: &str, hosts: &[&str]) -> SiteReport {
    let certificate = |host: &&str| (Host::new(host).unwrap(), Digest::of(b"leaf"));
    SiteReport {
        site: site_id(site),
        pid: 7,
        started_ms: 0,
        version: "1".to_owned(),
        certificates: hosts.iter().map(certificate).collect(),
        zones: BTreeMap::new(),
        admin: "http://127.0.1.1:1".to_owned(),
        problems: Vec::new(),
        limitations: Vec::new(),
    }
}

/// `site` answers with `active` and has `epochs` of release "two".
pub(crate) fn app_report(
    site: &str,
    active: Option<u64>,
    epochs: &[(u64, EpochState)],
) -> AppReport {
    let release = release_id("two");
    AppReport {
        app: shop(),
        environment: EnvironmentName::production(),
        site: site_id(site),
        assignment: None,
        activation: None,
        epochs: epochs
            .iter()
            .map(|(number, state)| (epoch(*number), EpochReport { release, state: state.clone() }))
            .collect(),
        active: active.map(epoch),
        probe: active.map(|number| Probe {
            epoch: epoch(number),
            status: 200,
            detail: "GET /".to_owned(),
            at_ms: 0,
        }),
        warnings: Vec::new(),
    }
}

/// Everybody sees release `name` at epoch `number`.
pub(crate) fn activation(number: u64, name: &str) -> Activation {
    let releases = BTreeMap::from([(shop(), release_id(name))]);
    Activation::everyone(shop(), EnvironmentName::production(), epoch(number), releases)
}

/// A push to the shop's repository.
pub(crate) fn push(number: u64, state: PushState) -> Push {
    Push {
        number,
        repository: repository(),
        cause: PushCause::Push,
        old_commit: None,
        new_commit: format!("{number:040}"),
        received_ms: 1_000,
        state,
        stages: Vec::new(),
        apps: Vec::new(),
    }
}

/// The shop's record, before anything of it was live.
pub(crate) fn record() -> AppRecord {
    AppRecord {
        app: shop(),
        repository: repository(),
        directory: String::new(),
        last_epoch: epoch(2),
        history: Vec::new(),
    }
}
