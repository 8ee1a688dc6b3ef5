//! A site's life: releases come, go, and are there again after a restart.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use selvedge_model::{CertificateBundle, Digest, EpochState, Host, Zone, keys};

use crate::world::{World, epoch, fra, get, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_come_and_go() {
    let world = World::new().await;
    let agent = world.agent().await;
    until("a lease", || async {
        let leases = world.fabric.leases("site/").await.unwrap();
        leases.into_iter().find(|it| it.name == keys::site_lease(&fra()))
    })
    .await;

    let one = world.page("one").await;
    world.assign(&[(1, one)]).await;
    world.warm(1).await;
    assert_eq!(world.report().await.unwrap().active, None, "nothing is live yet");
    world.activate(1, one).await;
    let report = world.verified(1).await;
    assert!(report.assignment.is_some() && report.activation.is_some());
    let answer = agent.get().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "one"));
    assert_eq!(answer.header("selvedge-release"), one.short());
    assert_eq!(answer.header("selvedge-epoch"), "1.1");
    assert_eq!(answer.header("selvedge-site"), "fra");
    assert!(!answer.header("selvedge-pin").is_empty());
    assert_eq!(get(agent.http, "shop.localhost", "/", None).await.status, 200);

    let two = world.page("two").await;
    world.assign(&[(1, one), (2, two)]).await;
    world.warm(2).await;
    assert_eq!(agent.get().await.body, "one", "warm is not live");
    world.activate(2, two).await;
    world.verified(2).await;
    let answer = agent.get().await;
    assert_eq!((answer.body.as_str(), answer.header("selvedge-epoch")), ("two", "1.2"));
    let old = world.artifact(&[("index.html", "one")]).await;
    assert!(world.unpacked(&old.digest).exists());
    world.assign(&[(2, two)]).await;
    world.reported(|it| it.epochs.keys().eq([&epoch(2)])).await;
    until("the old artifact's end", || async {
        (!world.unpacked(&old.digest).exists()).then_some(())
    })
    .await;
    assert!(!world.ledger(&keys::release(&crate::world::shop(), &one)).exists());

    let state = get(agent.admin, "x", "/v1/state", None).await;
    assert!(state.body.contains(r#""active": "1.2""#), "{}", state.body);
    assert!(!state.body.contains(&"07".repeat(32)), "keys don't belong there");
    assert_eq!(get(agent.admin, "x", "/healthz", None).await.body, "ok\n");

    agent.stop().await;
    assert!(world.fabric.leases("site/").await.unwrap().is_empty(), "given back");
    let log = world.log("access.shop");
    assert!(log.contains(r#""release":""#), "{log}");
    // The requests of this test, and none of the site's own, which were answered.
    assert_eq!(log.lines().count(), 4, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_zones_are_taken_and_reported() {
    let mut world = World::new().await;
    let agent = world.agent().await;
    let host = Host::new("shop.edge.test").unwrap();
    let made = rcgen::generate_simple_self_signed(vec![host.to_string()]).unwrap();
    let bundle = CertificateBundle {
        host: host.clone(),
        chain_pem: made.cert.pem(),
        key_pem: made.signing_key.serialize_pem(),
        fingerprint: Digest::of(made.cert.der()),
        not_before_ms: 0,
        not_after_ms: u64::MAX,
    };
    let key = keys::certificate(&fra(), &host);
    world.put(&key, &bundle).await;
    let origin = Host::new("edge.test").unwrap();
    world.put(&keys::zone(&origin), &zone(&origin)).await;
    until("a report", || async {
        let report = world.site_report().await?;
        let certificate = report.certificates.get(&host) == Some(&bundle.fingerprint);
        (certificate && report.zones.contains_key(&origin)).then_some(())
    })
    .await;
    let mode = std::fs::metadata(world.ledger(&key)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let broken = CertificateBundle { key_pem: "junk".into(), ..bundle.clone() };
    world.put(&key, &broken).await;
    let report = until("a problem", || async {
        let report = world.site_report().await?;
        report.problems.iter().any(|it| it.contains("its key is no PEM")).then_some(report)
    })
    .await;
    assert_eq!(report.certificates[&host], bundle.fingerprint, "the last good one stays");
    agent.stop().await;
    world.disconnect().await;
    let agent = world.agent().await;
    let look = || async {
        let state = get(agent.admin, "x", "/v1/state", None).await;
        state.body.contains(&bundle.fingerprint.to_string()).then_some(())
    };
    until("the last good one after a restart", look).await;
    agent.stop().await;
}

fn zone(origin: &Host) -> Zone {
    Zone {
        origin: origin.clone(),
        serial: 1,
        nameservers: BTreeMap::new(),
        ttl_s: 20,
        negative_ttl_s: 20,
        answers: 2,
        sites: BTreeMap::new(),
        hosts: BTreeMap::new(),
        locations: BTreeMap::new(),
        rankings: vec![vec![]],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_starts_and_serves_alone() {
    let mut world = World::new().await;
    let agent = world.agent().await;
    let one = world.page("one").await;
    world.assign(&[(1, one)]).await;
    world.warm(1).await;
    world.activate(1, one).await;
    world.verified(1).await;
    agent.stop().await;

    world.disconnect().await;
    let agent = world.agent().await;
    let answer = agent.get().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "one"), "the first request at once");
    assert_eq!(answer.header("selvedge-epoch"), "1.1");

    // What happened meanwhile is taken up when control is back.
    let two = world.page("two").await;
    world.assign(&[(1, one), (2, two)]).await;
    world.activate(2, two).await;
    world.connect();
    agent.answers(|it| it.body == "two").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_good_release_stays_until_the_next_is_there_but_is_not_gone_back_to() {
    let world = World::new().await;
    let agent = world.agent().await;
    let one = world.page("one").await;
    world.assign(&[(1, one)]).await;
    world.warm(1).await;
    world.activate(1, one).await;
    world.verified(1).await;

    // Control did not wait for this site: the next release can't be had yet, and the old one is
    // assigned no more.
    let lost = world.artifact(&[("index.html", "two")]).await;
    let two = world.page("two").await;
    world.fabric.delete_blob(&lost.digest).await.unwrap();
    world.assign(&[(2, two)]).await;
    world.activate(2, two).await;
    let state = world.state(2, |it| matches!(it, EpochState::Failed { .. })).await;
    let EpochState::Failed { reason, .. } = state else { panic!("{state:?}") };
    assert!(reason.contains("is not stored"), "{reason}");
    assert_eq!(agent.get().await.body, "one");
    assert_eq!(world.report().await.unwrap().active, Some(epoch(1)));

    // It is tried again by itself.
    assert_eq!(world.artifact(&[("index.html", "two")]).await, lost);
    world.verified(2).await;
    assert_eq!(agent.get().await.body, "two");

    // Users have seen the second: the first is not what they get when it is the only one there.
    world.assign(&[(1, one), (2, two)]).await;
    world.warm(1).await;
    agent.stop().await;
    std::fs::remove_dir_all(world.unpacked(&lost.digest)).unwrap();
    world.fabric.delete_blob(&lost.digest).await.unwrap();
    let agent = world.agent().await;
    world.warm(1).await;
    world.state(2, |it| matches!(it, EpochState::Failed { .. })).await;
    let answer = agent.get().await;
    assert_eq!(answer.status, 503, "{answer:?}");
    agent.stop().await;
}
