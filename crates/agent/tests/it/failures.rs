//! What a site makes of broken documents, blobs and disks.

use selvedge_model::{EnvironmentName, EpochState, keys};

use crate::world::{World, epoch, fra, shop, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_ledger_is_set_aside_and_filled_again() {
    let world = World::new().await;
    let agent = world.agent().await;
    let one = world.page("one").await;
    world.assign(&[(1, one)]).await;
    world.warm(1).await;
    world.activate(1, one).await;
    world.verified(1).await;
    agent.stop().await;

    let key = keys::assignment(&fra(), &shop(), &EnvironmentName::production());
    let whole = std::fs::read(world.ledger(&key)).unwrap();
    std::fs::write(world.ledger(&key), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(world.ledger(&keys::release(&shop(), &one)), "junk").unwrap();
    let agent = world.agent().await;
    agent.answers(|it| it.status == 200).await;
    until("problems", || async {
        let report = world.site_report().await?;
        (report.problems.iter().filter(|it| it.contains("set aside")).count() == 2).then_some(())
    })
    .await;
    assert_eq!(std::fs::read(world.ledger(&key)).unwrap(), whole);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_store_is_not_followed() {
    // Another store that is not as far: a copy put back by hand. Made first, as a store takes its
    // incarnation from the time, and one of a later second would rightly be followed.
    let other = World::new().await;
    let mut world = World::new().await;
    // Revisions that the other store will not reach.
    for number in 0..100 {
        world.put("host/other.test", &number).await;
    }
    let agent = world.agent().await;
    let one = world.page("one").await;
    world.assign(&[(1, one)]).await;
    world.warm(1).await;
    world.activate(1, one).await;
    world.verified(1).await;
    agent.stop().await;
    world.disconnect().await;

    let agent = {
        let site = other.directory.path().join("site");
        std::fs::rename(world.directory.path().join("site"), site).unwrap();
        let artifacts = other.directory.path().join("artifacts");
        std::fs::rename(world.directory.path().join("artifacts"), artifacts).unwrap();
        other.agent().await
    };
    let report = until("a refusal", || async {
        let report = other.site_report().await?;
        report.problems.iter().any(|it| it.contains("is older than")).then_some(report)
    })
    .await;
    assert!(report.problems.iter().any(|it| it.starts_with("assign/fra/shop")), "{report:?}");
    assert_eq!(agent.get().await.body, "one");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_blob_fails_in_words_and_leaves_the_live_release() {
    let world = World::new().await;
    let agent = world.agent().await;
    let one = world.page("one").await;
    world.assign(&[(1, one)]).await;
    world.warm(1).await;
    world.activate(1, one).await;
    world.verified(1).await;

    let two = world.page("two").await;
    let artifact = world.artifact(&[("index.html", "two")]).await;
    let damaged =
        damage(&world.directory.path().join("fabric/blobs"), &artifact.digest.to_string());
    assert!(damaged, "the blob's file was found");
    world.assign(&[(1, one), (2, two)]).await;
    let state = world.state(2, |it| matches!(it, EpochState::Failed { .. })).await;
    let EpochState::Failed { service, reason, .. } = state else { panic!("{state:?}") };
    assert_eq!(service.unwrap().as_str(), "web");
    assert!(reason.contains("is damaged"), "{reason}");
    assert_eq!(agent.get().await.body, "one");

    world.assign(&[(1, one)]).await;
    world.reported(|it| it.epochs.keys().eq([&epoch(1)])).await;
    assert!(!world.unpacked(&artifact.digest).exists());
    agent.stop().await;
}

/// Changes a byte of the file below `directory` whose path holds `digest`.
fn damage(directory: &std::path::Path, digest: &str) -> bool {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if damage(&path, digest) {
                return true;
            }
        } else if path.to_string_lossy().replace('/', "").contains(digest) {
            let mut bytes = std::fs::read(&path).unwrap();
            let last = bytes.len() / 2;
            bytes[last] ^= 1;
            let mut permissions = std::fs::metadata(&path).unwrap().permissions();
            #[allow(clippy::permissions_set_readonly_false)] // A test's own file.
            permissions.set_readonly(false);
            std::fs::set_permissions(&path, permissions).unwrap();
            std::fs::write(&path, bytes).unwrap();
            return true;
        }
    }
    false
}
