//! The command line against a real box, and where there is none.

use std::net::UdpSocket;
use std::process::Stdio;

use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use selvedge_api::DevSite;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;

use crate::harness::clients::trust;
use crate::harness::repository::Repository;
use crate::harness::{Planet, can_isolate, eventually};

async fn run(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_on_the_command_line() {
    if !can_isolate() {
        return;
    }
    let planet = Planet::start(8, &[]).await;
    let repository = Repository::from_example("static-site").await;
    let verb = |arguments: &[&str]| {
        let mut command = planet.command(&repository.path);
        command.args(arguments);
        command
    };
    let (code, _, words) = run(verb(&["deploy"])).await;
    assert_eq!(code, Some(0), "{words}");
    for stage in ["validate", "build", "warm", "verify"] {
        assert!(words.contains(stage), "the pusher was not told of {stage}:\n{words}");
    }
    let release = planet.live_release("static-site").await.unwrap();
    let (code, text, _) = run(verb(&["status"])).await;
    assert_eq!(code, Some(0));
    assert!(
        text.contains("static-site") && text.contains(&release) && text.contains("8 of 8"),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "colour in a pipe");
    let (_, text, _) = run(verb(&["releases"])).await;
    assert!(text.contains(&format!("{release} live")), "{text}");
    let (_, text, _) = run(verb(&["why"])).await;
    assert!(text.contains("fra") && text.contains("static-site.edge.test"), "{text}");
    let (_, text, _) = run(verb(&["sites", "--json"])).await;
    let sites: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(sites.as_array().unwrap().len(), 8);
    for (city, site) in
        [("Tokyo", "tyo"), ("Paris", "fra"), ("Auckland", "syd"), ("Chicago", "nyc")]
    {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://static-site.edge.test/release.txt");
            let (code, text, words) = run(verb(&["curl", &url, "--from", city, "--json"])).await;
            assert_eq!(code, Some(0), "{words}");
            let fetched: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(fetched["site"], site, "{city}");
            assert_eq!(fetched["status"], 200);
            assert!(fetched["body"].as_str().unwrap().contains(&release));
        }
    }
    a_session_goes_on_elsewhere_and_http3_is_there(&planet).await;
    let (code, _, words) = run(verb(&["rollback"])).await;
    assert_ne!(code, Some(0), "a rollback to nothing succeeded");
    assert!(words.contains("hint:") || words.contains("error:"), "{words}");
    planet.stop().await;
}

async fn a_session_goes_on_elsewhere_and_http3_is_there(planet: &Planet) {
    let config = trust(&planet.info.ca, &[b"http/1.1"]);
    let ask = async |site: &DevSite| {
        let name = ServerName::try_from("static-site.edge.test").unwrap();
        let stream = TcpStream::connect((site.address, site.https)).await.unwrap();
        let connector = TlsConnector::from(config.clone());
        let mut stream = connector.connect(name, stream).await.unwrap();
        let head = "GET / HTTP/1.1\r\nhost: static-site.edge.test\r\nconnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        (kind, String::from_utf8_lossy(&answer).into_owned())
    };
    let [one, .., other] = &planet.info.sites[..] else { panic!("too few sites") };
    assert_ne!(ask(one).await.0, HandshakeKind::Resumed);
    assert_eq!(ask(other).await.0, HandshakeKind::Resumed);
    eventually("HTTP/3 is announced", async || {
        ask(one).await.1.contains(&format!("alt-svc: h3=\":{}\"", one.https)).then_some(())
    })
    .await;
    assert!(UdpSocket::bind((one.address, one.https)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_box_is_found_by_nobody_else_and_starts_once() {
    let planet = Planet::start(2, &["--no-http3"]).await;
    UdpSocket::bind((planet.info.sites[0].address, planet.info.sites[0].https)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(planet.data.join("dev.json")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let binary = env!("CARGO_BIN_EXE_selvedge");
    let mut second = Command::new(binary);
    second.args(["dev", "--data"]).arg(&planet.data);
    let (code, _, words) = run(second).await;
    assert_eq!(code, Some(5), "{words}");
    assert!(words.contains(&planet.supervisor_pid().to_string()), "{words}");
    let elsewhere = tempfile::tempdir().unwrap();
    let http = planet.info.sites[0].http.to_string();
    let mut third = Command::new(binary);
    third
        .args(["dev", "--data"])
        .arg(elsewhere.path().join("box"))
        .args(["--http", &http, "--sites", "1"]);
    let (code, _, words) = run(third).await;
    assert_eq!(code, Some(5), "{words}");
    assert!(words.contains("process ") && words.contains("--http"), "{words}");
    planet.stop().await;
}

#[tokio::test]
async fn without_a_control_the_words_say_what_to_do() {
    let nowhere = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(["status"]).current_dir(nowhere.path()).env("SELVEDGE_DATA", nowhere.path());
    command.env_remove("SELVEDGE_CONTROL");
    let (code, text, words) = run(command).await;
    assert_eq!((code, text.as_str()), (Some(4), ""));
    assert!(words.contains("selvedge dev"), "{words}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(["check"]).current_dir(nowhere.path());
    let (code, _, words) = run(command).await;
    assert_eq!(code, Some(2), "{words}");
}
