//! HTTP/3 as aioquic speaks it, an implementation that shares no code with ours.

use std::path::{Path, PathBuf};

use axum::Router;
use axum::body::Body;
use axum::http::header::CACHE_CONTROL;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::process::Command;

use super::Alone;

const PACKAGE: &str = "aioquic==1.7.2";

/// An environment of Python's that has aioquic, as pip installs it.
async fn python(directory: &Path) -> PathBuf {
    let environment = directory.join("python");
    let python = environment.join("bin/python");
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&environment);
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]);
    for mut command in [make, install] {
        let output = command.output().await.expect("Python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    python
}

/// An app with a page to be cached and an echo.
async fn app() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new()
        .route("/page", get(async || ([(CACHE_CONTROL, "max-age=60")], "page")))
        .route("/echo", post(async |body: Body| body));
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn aioquic_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["shop.test".to_owned()]).unwrap();
    let chain = directory.path().join("shop.pem");
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(directory.path().join("shop.key"), made.signing_key.serialize_pem()).unwrap();
    let upstream = app().await;
    let file = format!(
        r#"
        shards = 2
        [[listener]]
        address = "127.0.0.1:0"
        tls = true
        http3 = true
        [[certificate]]
        hosts = ["shop.test"]
        chain = "shop.pem"
        key = "shop.key"
        [[upstream]]
        name = "app"
        addresses = ["{upstream}"]
        [[route]]
        upstream = "app"
        "#
    );
    let config = directory.path().join("proxy.toml");
    std::fs::write(&config, file).unwrap();
    let (proxy, python) = tokio::join!(Alone::configured(&config), python(directory.path()));

    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/http3/client.py");
    let output = Command::new(python)
        .arg(client)
        .arg(proxy.http3.unwrap().port().to_string())
        .arg(&chain)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["page"][0][":status"], "200", "{said}");
    assert_eq!(said["page"][1], "page", "{said}");
    assert!(said["page"][0]["alt-svc"].as_str().unwrap().starts_with("h3="), "{said}");
    assert!(said["again"].as_str().unwrap().contains("hit"), "{said}");
    assert_eq!(said["echoed"], serde_json::json!(["200", true]), "{said}");
    assert_eq!(said["many"], serde_json::json!(["200"]), "{said}");
    assert_eq!(said["refused"], "405", "{said}");
    assert_eq!(said["moved"], "200", "{said}");
}
