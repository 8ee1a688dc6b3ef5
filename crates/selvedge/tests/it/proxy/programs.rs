//! Clients and servers by others, all at one proxy: HTTP/3 by aioquic, gRPC by grpcio, WebSockets by
//! `websockets`, with and without HTTP/2, and Chromium, which speaks all of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{Alone, app, browser, start};

/// What they need, as pip locks it.
const REQUIREMENTS: &str = "requirements.txt";

/// Where they all are.
pub(super) struct Scene {
    directory: tempfile::TempDir,
    /// The SHA-256 of the public key of the certificate for `shop.test`.
    pub(super) key_digest: String,
    python: PathBuf,
}

fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

impl Scene {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let names = vec!["shop.test".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(directory.path().join("shop.pem"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        std::fs::write(directory.path().join("shop.key"), key).unwrap();
        let key_digest = browser::key_digest(&made.signing_key);
        let python = python(directory.path()).await;
        Self { directory, key_digest, python }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// A server in Python, and what it says first.
    async fn server(&self, program: &str, arguments: &[&str]) -> (Child, String) {
        let mut command = Command::new(&self.python);
        command.arg(beside(program)).args(arguments);
        start(command).await
    }

    /// What a client in Python says at its end.
    async fn client(&self, program: &str, addresses: &[SocketAddr]) -> Value {
        let mut command = Command::new(&self.python);
        command.arg(beside(program)).args(addresses.iter().map(ToString::to_string));
        command.arg(self.path("shop.pem")).kill_on_drop(true);
        let output = command.output().await.unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {words}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    async fn proxy(&self, app: &str, grpc: &Value, socket: &str) -> Alone {
        let [plain, tls] = ["plain", "tls"].map(|name| grpc[name].as_u64().unwrap());
        // Its port is no longer used by anybody.
        let gone = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        // Listeners are known by their addresses.
        let file = format!(
            r#"
            shards = 2
            listener = [
              {{ address = "127.0.0.2:0" }},
              {{ address = "127.0.0.1:0", tls = true, http3 = true }},
            ]
            certificate = [
              {{ hosts = ["shop.test"], chain = "shop.pem", key = "shop.key", default = true }},
            ]
            upstream = [
              {{ name = "app", addresses = ["{app}"] }},
              {{ name = "socket", addresses = ["http://127.0.0.1:{socket}"] }},
              {{ name = "plain", addresses = ["h2c://127.0.0.1:{plain}"] }},
              {{ name = "tls", addresses = ["https://127.0.0.1:{tls}"], tls = {{ roots = "shop.pem" }} }},
              {{ name = "gone", addresses = ["h2c://{gone}"] }},
            ]
            route = [
              {{ upstream = "app" }},
              {{ upstream = "socket", path = "/socket" }},
              {{ upstream = "plain", path = "/plain.Echo/*" }},
              {{ upstream = "tls", path = "/tls.Echo/*" }},
              {{ upstream = "gone", path = "/gone.Echo/*" }},
            ]
            "#
        );
        let path = self.directory.path().join("proxy.toml");
        std::fs::write(&path, file).unwrap();
        Alone::configured(&path).await
    }
}

/// An environment of Python's with what they need, as pip installs it.
async fn python(directory: &Path) -> PathBuf {
    let environment = directory.join("python");
    let python = environment.join("bin/python");
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&environment);
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    install.arg("--requirement").arg(beside(REQUIREMENTS));
    for mut command in [make, install] {
        let output = command.output().await.expect("Python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_of_others_are_served() {
    let scene = Scene::new().await;
    let (chain, key) = (scene.path("shop.pem"), scene.path("shop.key"));
    let grpc = [chain.as_str(), key.as_str()];
    let (app, grpc, socket) = tokio::join!(
        app::start(),
        scene.server("grpc_server.py", &grpc),
        scene.server("websocket_server.py", &[]),
    );
    let ports = serde_json::from_str(&grpc.1).unwrap();
    let proxy = scene.proxy(&app.address, &ports, &socket.1).await;
    let (http, https) = (proxy.http.unwrap(), proxy.https.unwrap());
    let both = [http, https];
    let http3 = [proxy.http3.unwrap()];
    let (http3, grpc, websocket, ()) = tokio::join!(
        scene.client("http3.py", &http3),
        scene.client("grpc_client.py", &both),
        scene.client("websocket_client.py", &both),
        browser::visits(&scene, https, &app),
    );
    spoke_http3(&http3);
    spoke_grpc(&grpc);
    spoke_websocket(&websocket);
}

fn spoke_http3(said: &Value) {
    assert_eq!(said["page"][0][":status"], "200", "{said}");
    assert_eq!(said["page"][1], "page", "{said}");
    assert!(said["page"][0]["alt-svc"].as_str().unwrap().starts_with("h3="), "{said}");
    assert!(said["again"].as_str().unwrap().contains("hit"), "{said}");
    assert_eq!(said["echoed"], json!(["200", true]), "{said}");
    assert_eq!(said["many"], json!(["200"]), "{said}");
    assert_eq!(said["refused"], "405", "{said}");
    assert_eq!(said["moved"], "200", "{said}");
}

fn spoke_grpc(said: &Value) {
    let every = json!({
        "unary": ["hello in time", "it", true, "OK"],
        "large": true,
        "compressed": true,
        "down": [200, 1_000_000, "199"],
        "up": "3000000",
        "both": ["ba", "dc", "fe", 0],
        "fail": ["NOT_FOUND", "there is no ü", "none"],
        "fail late": ["one", "DATA_LOSS", "lost"],
        "none": "UNIMPLEMENTED",
        "deadline": ["begun", "DEADLINE_EXCEEDED"],
        "cancel": "begun",
        "ended at the server": 2,
    });
    for way in ["http plain", "http tls", "https plain", "https tls"] {
        assert_eq!(said[way], every, "{way}");
    }
    assert_eq!([&said["http gone"], &said["https gone"]], ["UNAVAILABLE"; 2]);
}

fn spoke_websocket(said: &Value) {
    for way in ["http", "https"] {
        let every = json!({
            "subprotocol": "echo",
            "deflate": ["permessage-deflate"],
            "text": "hellø",
            "large": true,
            "fragments": "in several frames",
            "empty": "",
            "ping": "pong",
            "closed by the server": [4321, "enough"],
            "closed by the client": 4000,
            "seen by the server": true,
        });
        assert_eq!(said[way], every, "{way}");
    }
    let every = json!({
        "extended connect": 1,
        "status": "200",
        "subprotocol": "echo",
        "accept": null,
        "text": "hellø",
        "large": true,
        "pong": ["pong", "from the client"],
        "ping": "pong",
        "message after": null,
        "closed": [4321, "enough"],
        "again": "200",
    });
    assert_eq!(said["http2"], every);
}
