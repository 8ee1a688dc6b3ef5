//! The proxy alone by its file: curl and h2load as clients, a file that changes, a successor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use tokio::process::{Child, Command};

use super::start;
use crate::harness::{eventually, signal};

/// Answers with the path and how many requests there have been; prints its port.
const ORIGIN: &str = r"
let count = 0
const server = require('http').createServer((request, response) => {
  count += 1
  response.setHeader('cache-control', 'max-age=60')
  response.end(`${request.url} ${count}`)
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
";

/// A directory with a certificate, and what is needed to ask by it.
struct Place {
    directory: tempfile::TempDir,
    http: u16,
    https: u16,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let names = vec!["shop.test".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(directory.path().join("chain.pem"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        std::fs::write(directory.path().join("key.pem"), key).unwrap();
        let free = || std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (one, other) = (free(), free());
        let port = |listener: &std::net::TcpListener| listener.local_addr().unwrap().port();
        let (http, https) = (port(&one), port(&other));
        Self { directory, http, https }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the file, with these lines at its end.
    fn configure(&self, origin: &str, more: &str) {
        let (http, https) = (self.http, self.https);
        let text = format!(
            r#"
            shards = 2
            [[listener]]
            address = "127.0.0.1:{http}"
            [[listener]]
            address = "127.0.0.1:{https}"
            tls = true
            [[certificate]]
            hosts = ["shop.test"]
            chain = "chain.pem"
            key = "key.pem"
            default = true
            [[upstream]]
            name = "origin"
            addresses = ["http://127.0.0.1:{origin}"]
            {more}
            "#
        );
        std::fs::write(self.path("proxy.toml"), text).unwrap();
    }

    async fn proxy(&self) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command.args(["proxy", "--json", "--config"]).arg(self.path("proxy.toml"));
        command.arg("--admin").arg(self.path("admin.sock"));
        command.arg("--takeover").arg(self.path("takeover.sock"));
        let (child, said) = start(command).await;
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["https"], format!("127.0.0.1:{}", self.https));
        child
    }

    /// What curl prints, when it succeeds.
    async fn curl(&self, arguments: &[&str]) -> Option<String> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "20", "--cacert"]);
        curl.arg(self.path("chain.pem")).args(["--resolve"]);
        curl.arg(format!("shop.test:{}:127.0.0.1", self.https)).args(arguments);
        let output = curl.output().await.expect("curl runs");
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
}

const ROUTE: &str = "[[route]]\nupstream = \"origin\"";

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_served_by_the_file_and_its_changes() {
    let place = Place::new();
    let mut node = Command::new("node");
    node.args(["-e", ORIGIN]);
    let (_origin, origin) = start(node).await;
    place.configure(&origin, ROUTE);
    let mut proxy = place.proxy().await;

    let https = format!("https://shop.test:{}", place.https);
    for protocol in ["--http1.1", "--http2"] {
        let write = "%{http_version}";
        let arguments = [protocol, "--write-out", write, &format!("{https}/a")];
        let answer = place.curl(&arguments).await.unwrap();
        let version = if protocol == "--http2" { "2" } else { "1.1" };
        assert_eq!(answer, format!("/a 1{version}"));
    }
    let head = place.curl(&["--head", &format!("{https}/a")]).await.unwrap();
    assert!(head.contains("cache-status: selvedge; hit; ttl="), "{head}");
    // Another host is another page: it is asked for once.
    h2load(&format!("https://127.0.0.1:{}/a", place.https)).await;

    let admin = place.path("admin.sock");
    let purge = ["--unix-socket", admin.to_str().unwrap(), "http://proxy/purge", "--data"];
    let words = place.curl(&[&purge[..], &[r#"{"all": true}"#]].concat()).await.unwrap();
    assert!(words.contains("purged"), "{words}");
    assert_eq!(place.curl(&[&format!("{https}/a")]).await.unwrap(), "/a 3");

    // A file that is wrong changes nothing; the next one does.
    place.configure(&origin, "[[route]]\nupstream = \"nobody\"");
    signal(proxy.id().unwrap(), Signal::SIGHUP);
    place.configure(&origin, "[[route]]\nupstream = \"origin\"\npath = \"/only\"");
    signal(proxy.id().unwrap(), Signal::SIGHUP);
    eventually("the new file counts", async || {
        let status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
        let code = place.curl(&[&status[..], &[&format!("{https}/a")]].concat()).await?;
        (code == "404").then_some(())
    })
    .await;

    place.configure(&origin, ROUTE);
    let place = Arc::new(place);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (place, stop) = (Arc::clone(&place), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut asked, mut failed) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    let url = format!("http://127.0.0.1:{}/only", place.http);
                    asked += 1;
                    failed += usize::from(place.curl(&[&url]).await.is_none());
                }
                (asked, failed)
            })
        })
        .collect();
    let mut next = place.proxy().await;
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), proxy.wait()).await;
    assert!(ended.expect("the first one ends").unwrap().success());
    assert_eq!(place.curl(&[&format!("{https}/b")]).await.unwrap().split(' ').next(), Some("/b"));
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let (asked, failed) = client.await.unwrap();
        assert!(asked > 0 && failed == 0, "{failed} of {asked} failed");
    }
    signal(next.id().unwrap(), Signal::SIGTERM);
    assert!(next.wait().await.unwrap().success());
    assert!(!Path::new(&admin).exists(), "the admin socket goes with its proxy");
}

/// Many streams over a few connections.
async fn h2load(url: &str) {
    let mut h2load = Command::new("h2load");
    h2load.args(["--requests=2000", "--clients=10", "--max-concurrent-streams=10", url]);
    let output = h2load.output().await.expect("h2load runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    assert!(said.contains("status codes: 2000 2xx"), "{said}");
}
