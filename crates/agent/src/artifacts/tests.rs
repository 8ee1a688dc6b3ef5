use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use selvedge_fabric::Fabric as _;
use selvedge_fabric::artifact::pack;
use selvedge_fabric::embedded::Embedded;

use super::*;

async fn world() -> (tempfile::TempDir, SharedFabric, Digest) {
    let directory = tempfile::tempdir().unwrap();
    let fabric = Embedded::open(&directory.path().join("fabric")).unwrap();
    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("index.html"), "hello").unwrap();
    for name in ["right", "wrong"] {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("page.html"), name.get(..1).unwrap()).unwrap();
    }
    let archive = directory.path().join("archive");
    pack(&root, &archive, Limits::default()).unwrap();
    let digest = fabric.put_blob(&archive).await.unwrap();
    (directory, Arc::new(fabric), digest)
}

fn open(directory: &tempfile::TempDir, site: &str) -> Store {
    Store::open(&directory.path().join("artifacts"), &SiteId::new(site).unwrap()).unwrap()
}

#[tokio::test]
async fn agents_share_one_copy_for_as_long_as_one_of_them_names_it() {
    let (directory, fabric, digest) = world().await;
    let stores: Vec<Store> = ["fra", "nyc"].map(|site| open(&directory, site)).into();
    let mut asking = tokio::task::JoinSet::new();
    for store in &stores {
        store.refer(&BTreeSet::from([digest])).unwrap();
        for _ in 0..4 {
            let (store, fabric) = (store.clone(), Arc::clone(&fabric));
            asking.spawn(async move { store.ensure(&fabric, digest).await });
        }
    }
    let places = asking.join_all().await.into_iter().map(Result::unwrap).collect::<BTreeSet<_>>();
    assert_eq!(places.len(), 1);
    let place = places.first().unwrap();
    assert_eq!(fs::read_to_string(place.join("index.html")).unwrap(), "hello");
    let lock: String = digest.to_string().chars().take(LOCK_PREFIX).collect();
    for (private, allowed) in
        [("refs/fra", 0o600), (&format!("locks/{lock}"), 0o600), ("tmp", 0o700)]
    {
        let mode = fs::metadata(directory.path().join("artifacts").join(private)).unwrap().mode();
        assert_eq!(mode & 0o777, allowed, "{private}");
    }

    stores[0].refer(&BTreeSet::new()).unwrap();
    assert_eq!(stores[0].collect().unwrap(), 0);
    assert!(place.exists());
    stores[1].refer(&BTreeSet::new()).unwrap();
    assert_eq!(stores[0].collect().unwrap(), 1);
    assert!(!place.exists());
    assert!(stores[0].find(&digest).is_none());
}

#[tokio::test]
async fn what_a_dead_process_left_and_what_the_power_may_have_taken_is_made_anew() {
    let (directory, fabric, digest) = world().await;
    let store = open(&directory, "fra");
    fs::create_dir_all(store.partial(&digest).join("files/half")).unwrap();
    fs::write(store.archive(&digest), "half").unwrap();
    let files = store.ensure(&fabric, digest).await.unwrap();
    assert!(!files.join("half").exists());

    // As if the machine had lost its power before the files were on disk.
    fs::write(store.place(&digest).join("unsynced"), "an earlier boot").unwrap();
    fs::write(files.join("index.html"), "").unwrap();
    assert!(store.find(&digest).is_none());
    let files = store.ensure(&fabric, digest).await.unwrap();
    assert_eq!(fs::read_to_string(files.join("index.html")).unwrap(), "hello");
}

#[tokio::test]
async fn what_was_stated_will_do_where_nothing_can_be_written() {
    let (directory, _, digest) = world().await;
    let store = open(&directory, "fra");
    let other = Digest::of(b"another");
    store.refer(&[digest, other].into()).unwrap();
    // A full disk, as far as this store can tell.
    fs::remove_dir_all(store.root.join("tmp")).unwrap();
    store.refer(&[digest, other].into()).unwrap();
    store.refer(&[digest].into()).unwrap();
    store.refer(&[digest, Digest::of(b"a third")].into()).unwrap_err();
}

#[tokio::test]
async fn what_has_changed_is_mended_in_its_place() {
    let (directory, fabric, digest) = world().await;
    let store = open(&directory, "fra");
    let files = store.ensure(&fabric, digest).await.unwrap();
    let page = files.join("index.html");
    let whole = fs::metadata(files.join("right/page.html")).unwrap().ino();
    let damages: [&dyn Fn(); 5] = [
        &|| fs::write(&page, "").unwrap(),
        // The same length.
        &|| fs::write(&page, "jello").unwrap(),
        &|| fs::remove_file(&page).unwrap(),
        &|| {
            fs::remove_file(&page).unwrap();
            fs::create_dir(&page).unwrap();
            fs::write(page.join("more"), "more").unwrap();
        },
        &|| {
            fs::remove_dir_all(files.join("wrong")).unwrap();
            std::os::unix::fs::symlink("/", files.join("wrong")).unwrap();
        },
    ];
    for (number, damage) in damages.iter().enumerate() {
        damage();
        assert_eq!(store.find_sound(&digest), None, "{number}");
        assert_eq!(store.ensure(&fabric, digest).await.unwrap(), files);
        assert_eq!(fs::read_to_string(&page).unwrap(), "hello", "{number}");
        assert_eq!(fs::read_to_string(files.join("wrong/page.html")).unwrap(), "w", "{number}");
        assert_eq!(fs::metadata(files.join("right/page.html")).unwrap().ino(), whole);
        assert!(store.find_sound(&digest).is_some() && !store.partial(&digest).exists());
    }
}
