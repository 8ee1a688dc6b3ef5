//! Views of a small installation: `fra` and `nyc` have the shop, `sin` is lost.

use std::time::Duration;

use selvedge_api::{AppSiteState, PlanRequest, PlannedApp, SiteHealth, WantedApp};
use selvedge_fabric::{Document, Lease};
use selvedge_model::documents::{AppRecord, HistoryEntry, PushFailure, StageRecord};
use selvedge_model::{
    EnvironmentName, EpochState, Generation, Host, Installation, PushState, ServiceName, Stage,
    keys, manifest,
};
use serde::Serialize;

use super::*;
use crate::fixture::*;
use crate::world::World;

struct Fixture(World);

impl Fixture {
    fn put(&mut self, key: String, value: &impl Serialize) {
        let value = serde_json::to_vec(value).unwrap().into();
        self.0.put(&Document { key, generation: Generation::new(1, 1), value });
    }

    fn lease(&mut self, sites: &[&str]) {
        let lease = |site: &&str| Lease {
            name: keys::site_lease(&site_id(site)),
            holder: "x".to_owned(),
            epoch: 1,
            remaining: Duration::from_millis(4_000),
        };
        self.0.set_leases(&sites.iter().map(lease).collect::<Vec<_>>());
    }

    fn report(&mut self, site: &str, active: Option<u64>, epochs: &[(u64, EpochState)]) {
        let report = app_report(site, active, epochs);
        self.put(keys::app_report(&report.site, &report.app, &report.environment), &report);
    }

    fn state(&self, site: &str) -> AppSiteState {
        let app = apps(&self.0).remove(0);
        app.sites.iter().find(|row| row.site == site_id(site)).unwrap().state
    }

    fn push(&mut self, number: u64, state: PushState, stages: &[(Stage, u64, u64)]) {
        let mut push = push(number, state);
        let stage = |(stage, started_ms, duration_ms): &(Stage, u64, u64)| StageRecord {
            stage: *stage,
            started_ms: *started_ms,
            duration_ms: Some(*duration_ms),
            note: None,
        };
        push.stages = stages.iter().map(stage).collect();
        self.put(keys::push(&push.repository, number), &push);
    }
}

/// Release "one" was live at epoch 1, "two" is at epoch 2; `sin` has no lease.
fn fixture() -> Fixture {
    let mut fixture = Fixture(World::default());
    let zone = Host::new("edge.test").unwrap();
    fixture.put(
        keys::INSTALLATION.to_owned(),
        &Installation { zone, in_a_box: true, local_upstreams: false },
    );
    fixture.put(keys::TOPOLOGY.to_owned(), &topology(&["fra", "nyc", "sin"]));
    for name in ["one", "two"] {
        fixture.put(keys::release(&shop(), &release_id(name)), &release(name));
    }
    let past = |number: u64, name: &str| HistoryEntry {
        epoch: epoch(number),
        release: release_id(name),
        commit: format!("{number:040}"),
        push: number,
        at_ms: number * 1_000,
    };
    let record = AppRecord { history: vec![past(2, "two"), past(1, "one")], ..record() };
    fixture.put(keys::app(&shop()), &record);
    let production = EnvironmentName::production();
    fixture.put(keys::activation(&shop(), &production), &activation(2, "two"));
    for site in ["fra", "nyc", "sin"] {
        let key = keys::assignment(&site_id(site), &shop(), &production);
        fixture.put(key, &assignment(site, 2, "two"));
    }
    fixture.lease(&["fra", "nyc"]);
    fixture
}

#[test]
fn sites_in_one_word() {
    let mut fixture = fixture();
    fixture.report("fra", Some(2), &[(2, EpochState::Warm)]);
    for site in ["nyc", "sin"] {
        let mut report = site_report(site, &[]);
        report.problems.push("no disk".to_owned());
        fixture.put(keys::site_report(&site_id(site)), &report);
    }
    let rows = sites(&fixture.0);
    let words: Vec<_> = rows.iter().map(|row| (row.id.as_str(), row.health)).collect();
    assert_eq!(
        words,
        [("fra", SiteHealth::Healthy), ("nyc", SiteHealth::Degraded), ("sin", SiteHealth::Lost)]
    );
    assert_eq!(rows.iter().map(|row| row.serving).collect::<Vec<_>>(), [1, 0, 0]);
    // What a lost site said before is not repeated.
    assert_eq!(rows.iter().map(|row| row.pid).collect::<Vec<_>>(), [None, Some(7), None]);
}

#[test]
fn an_app_at_each_site() {
    let mut fixture = fixture();
    let degraded = EpochState::Degraded {
        service: ServiceName::new("web").unwrap(),
        reason: "it ended with exit code 1".to_owned(),
        last_lines: vec!["boom".to_owned()],
    };
    assert_eq!(fixture.state("fra"), AppSiteState::Unknown);
    assert_eq!(fixture.state("sin"), AppSiteState::Lost);
    let steps = [
        (Some(1), vec![(1, EpochState::Warm)], AppSiteState::Behind),
        (Some(1), vec![(1, EpochState::Warm), (2, EpochState::Starting)], AppSiteState::Warming),
        (Some(1), vec![(1, EpochState::Warm), (2, EpochState::Warm)], AppSiteState::Behind),
        (Some(2), vec![(1, EpochState::Draining), (2, EpochState::Warm)], AppSiteState::Live),
        // The next push can't be started here; what is live is not concerned.
        (Some(2), vec![(2, EpochState::Warm), (3, degraded.clone())], AppSiteState::Live),
        (Some(2), vec![(2, degraded)], AppSiteState::Degraded),
    ];
    for (active, epochs, expected) in steps {
        fixture.report("fra", active, &epochs);
        assert_eq!(fixture.state("fra"), expected, "{epochs:?}");
    }
    let row = apps(&fixture.0).remove(0).sites.remove(0);
    assert_eq!(row.reason.as_deref(), Some("web: it ended with exit code 1"));
    assert_eq!(row.last_lines, ["boom"]);
}

#[test]
fn an_app_whose_upstream_is_down_serves_and_says_so() {
    let mut fixture = fixture();
    let mut report = app_report("fra", Some(2), &[(2, EpochState::Warm)]);
    let words = "service old: http://10.0.0.5:80 can't be reached";
    report.warnings = vec![words.to_owned()];
    let key = keys::app_report(&site_id("fra"), &report.app, &report.environment);
    fixture.put(key, &report);
    let mut status = apps(&fixture.0).remove(0);
    assert_eq!(status.summary.serving, 1);
    let row = status.sites.remove(0);
    assert_eq!((row.state, row.reason.as_deref()), (AppSiteState::Degraded, Some(words)));
}

#[test]
fn an_app_in_a_line() {
    let mut fixture = fixture();
    fixture.report("fra", Some(2), &[(2, EpochState::Warm)]);
    let app = apps(&fixture.0).remove(0);
    let live = app.summary.live.unwrap();
    assert_eq!(live.release, release_id("two").short());
    assert_eq!((live.epoch, live.at_ms), (epoch(2), Some(2_000)));
    assert_eq!(live.subject, "Release two");
    assert_eq!(app.summary.urls, ["http://shop.localhost:8080", "https://shop.edge.test"]);
    assert_eq!((app.summary.assigned, app.summary.serving), (3, 1));
    assert_eq!((app.pushing, app.last_failure), (None, None));

    let failure = PushFailure {
        stage: Stage::Test,
        reason: "npm test ended with exit code 1".to_owned(),
        last_lines: vec!["1 failing".to_owned()],
    };
    fixture.push(3, PushState::Refused(failure), &[]);
    fixture.push(4, PushState::Preparing, &[]);
    let app = apps(&fixture.0).remove(0);
    assert_eq!(app.pushing, Some(4));
    let failure = app.last_failure.unwrap();
    assert_eq!((failure.push, failure.stage), (3, Stage::Test));
    // A later push that went live makes it history.
    fixture.push(4, PushState::Live, &[]);
    assert_eq!(apps(&fixture.0).remove(0).last_failure, None);
}

#[test]
fn releases_with_the_time_they_took() {
    let mut fixture = fixture();
    let stages = [
        (Stage::Receive, 1_000, 10),
        (Stage::Build, 1_010, 700),
        (Stage::Activate, 1_710, 40),
        (Stage::Verify, 1_750, 50),
    ];
    fixture.push(2, PushState::Live, &stages);
    let record = fixture.0.apps[&shop()].clone();
    let rows = releases(&fixture.0, &record);
    assert_eq!(rows.iter().map(|row| row.live).collect::<Vec<_>>(), [true, false]);
    let newest = &rows[0];
    assert_eq!(newest.total_ms, Some(800));
    assert_eq!(newest.to_active_ms, Some(750));
    assert_eq!(newest.slowest, Some(Stage::Build));
    // Its push is not kept any more.
    assert_eq!((rows[1].total_ms, rows[1].slowest), (None, None));
}

#[test]
fn why_it_is_where_it_is() {
    let mut fixture = fixture();
    fixture.report("fra", Some(2), &[(2, EpochState::Warm)]);
    let certified = site_report("fra", &["shop.edge.test"]);
    fixture.put(keys::site_report(&site_id("fra")), &certified);
    let record = fixture.0.apps[&shop()].clone();
    let why = why(&fixture.0, &record).unwrap();
    assert!(why.lines[0].starts_with("shop runs at"), "{:?}", why.lines);
    assert_eq!(why.placement["chosen"].as_array().unwrap().len(), 3);
    let [host] = why.hosts.as_slice() else { panic!("{:?}", why.hosts) };
    assert_eq!(host.host.as_str(), "shop.edge.test");
    assert_eq!(host.answered, [site_id("fra")]);
    assert!(!host.failed_open);
    assert!(host.withheld[&site_id("nyc")].contains("certificate"), "{:?}", host.withheld);
    assert!(host.withheld[&site_id("sin")].contains("lease"), "{:?}", host.withheld);
}

#[test]
fn a_document_of_another_version_is_as_good_as_absent() {
    let mut fixture = fixture();
    fixture.put(keys::app(&shop()), &serde_json::json!({ "app": 1 }));
    assert!(apps(&fixture.0).is_empty());
    fixture.put("something/else".to_owned(), &1);
}

/// An app of a commit, as `selvedge plan` sends it.
fn wanted(directory: &str, text: &str) -> WantedApp {
    let app = manifest::parse("selvedge.toml", text).unwrap();
    WantedApp { app, release: release_id(directory) }
}

fn planned(world: &World, apps: Vec<WantedApp>) -> Vec<PlannedApp> {
    plan(world, &PlanRequest { repository: repository(), apps }).apps
}

const WEB: &str = "[[service]]\nname = \"web\"\nkind = \"static\"\nroot = \".\"\n";

#[test]
fn a_plan_knows_what_only_the_installation_can_refuse() {
    let mut fixture = fixture();
    let local = "[app]\nname = \"local\"\n[[service]]\nname = \"api\"\nkind = \"upstream\"\n\
                 addresses = [\"http://127.0.0.1:9\"]\n";
    let circle = format!(
        "[app]\nname = \"round\"\n{WEB}[[redirect]]\nfrom = \"/a\"\nto = \"https://round.edge.test/a\"\n"
    );
    let taken = format!(
        "[app]\nname = \"thief\"\n{WEB}[[route]]\npath = \"/*\"\nservice = \"web\"\n\
         hosts = [\"round.edge.test\"]\n"
    );
    let commit = || vec![wanted("a", local), wanted("b", &circle), wanted("c", &taken)];
    let problems = |world: &World| -> Vec<String> {
        planned(world, commit()).iter().map(|app| app.problems.join("; ")).collect()
    };
    let found = problems(&fixture.0);
    assert_eq!(found[0], "", "a box allows it");
    assert!(found[1].contains("circle"), "{found:?}");
    assert_eq!(
        found[2],
        "round.edge.test is claimed twice in this commit, by round and by thief; take it out of one"
    );
    let zone = Host::new("edge.test").unwrap();
    let installation = Installation { zone, in_a_box: false, local_upstreams: false };
    fixture.put(keys::INSTALLATION.to_owned(), &installation);
    assert!(problems(&fixture.0)[0].contains("--allow-local-upstreams"));
}

#[test]
fn what_is_unchanged_is_not_placed_anew() {
    let mut fixture = fixture();
    let process = |name: &str, memory: u32| {
        format!(
            "[app]\nname = \"{name}\"\n[[service]]\nname = \"web\"\nkind = \"process\"\n\
             command = \"x\"\nmemory = \"{memory}MiB\"\n[placement]\nmax_sites = 1\n"
        )
    };
    // It is at three sites, and would need one.
    let shop = wanted("two", &process("shop", 900));
    let mut live = release("two");
    live.app = shop.app.clone();
    fixture.put(keys::release(&live.app.name, &live.id), &live);
    let other = wanted("other", &process("other", 900));
    let apps = planned(&fixture.0, vec![shop, other]);
    assert_eq!((apps[0].sites.len(), apps[0].problems.len()), (3, 0));
    assert_eq!((apps[1].sites.len(), apps[1].problems.len()), (0, 1), "{:?}", apps[1].problems);
}
