//! Two boxes on one machine, other ports, and a machine without IPv6.

use super::*;

/// Ports that nobody has.
const FREE: [&str; 8] = ["--http", "0", "--https", "0", "--dns", "0", "--control", "0"];

#[tokio::test(flavor = "multi_thread")]
async fn two_boxes_share_a_machine_and_no_verb_takes_the_wrong_one() {
    if !can_isolate() {
        return;
    }
    let table = machine_table();
    let first = Planet::start(1, &[]).await;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("a second box");
    let mut second = selvedge(&["dev", "--json", "--sites", "1", "--data"]);
    let (child, second) = launch(second.arg(&data).args(FREE)).await;
    assert!(second.sites[0].http != 0 && second.control != first.info.control);

    let nowhere = tempfile::tempdir().unwrap();
    let sites = |arguments: &[&str]| {
        let mut command = selvedge(&["sites", "--json"]);
        command.args(arguments).current_dir(nowhere.path());
        command
    };
    let asked = run(&mut sites(&[])).await;
    assert_eq!(asked.code, Some(2), "one of several was taken: {}", asked.text);
    for data in [&first.data, &data] {
        assert!(asked.words.contains(data.to_str().unwrap()), "{}", asked.words);
    }
    let asked = run(&mut sites(&["--data", "/nowhere"])).await;
    assert_eq!(asked.code, Some(4), "{}", asked.text);
    assert!(asked.words.contains("no box runs on /nowhere"), "{}", asked.words);
    let asked = run(sites(&[]).env("SELVEDGE_DATA", &data)).await;
    assert_eq!(asked.code, Some(0), "{}", asked.words);

    // The same app at both, as two users.
    let repository = Repository::with_files("process", &PROCESS).await;
    let mut users = Vec::new();
    for (data, site) in [(&first.data, &first.info.sites[0]), (&data, &second.sites[0])] {
        let deployed =
            run(selvedge(&["deploy", "--data"]).arg(data).current_dir(&repository.path)).await;
        assert_eq!(deployed.code, Some(0), "{}", deployed.words);
        let page = page_at(site, "process").await.expect("it is live");
        let (_, user) = page.split_once("user ").unwrap();
        users.push(user.split_once('.').unwrap().0.parse::<u32>().unwrap());
    }
    assert_ne!(users[0], users[1], "apps of two boxes share a user");
    assert!(users.iter().all(|user| *user >= 765_536), "{users:?}");
    assert_eq!(machine_table(), table);

    if tokio::net::TcpListener::bind("[::1]:0").await.is_ok() {
        let relay =
            std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, second.sites[0].http));
        assert!(get(relay, "process.localhost").await.unwrap().contains("user "));
    } else {
        eprintln!("SKIPPED: this machine has no IPv6");
    }
    end(child, &second).await;
    first.stop().await;
}

#[tokio::test]
async fn ports_are_checked_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let mut same = selvedge(&["dev", "--http", "9080", "--dns", "9080", "--data"]);
    let refused = run(same.arg(directory.path())).await;
    assert_eq!(refused.code, Some(2), "{}", refused.text);
    assert!(refused.words.contains("--http and --dns are both 9080"), "{}", refused.words);
    assert_eq!(everything_in(directory.path()), BTreeSet::new());
}

#[tokio::test]
async fn a_machine_without_ipv6_has_a_whole_box() {
    if !can_isolate() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = "ip link set lo up && \
                  if [ -e /proc/sys/net/ipv6 ]; then \
                  echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; fi && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_selvedge")]);
    command.args(["dev", "--json", "--sites", "1", "--data"]).arg(directory.path());
    let (child, info) = launch(&mut command).await;
    assert_eq!(info.sites[0].http, 8080);
    end(child, &info).await;
}
