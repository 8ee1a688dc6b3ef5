//! The API: who may use it, what it says, and what control refuses to start with.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use selvedge_api::{Client, ClientConfig, ClientError, ProblemKind, SiteHealth, Token};
use selvedge_control::{Config, Control, ControlError, DataError};
use selvedge_model::geo::City;
use selvedge_model::{AppName, Host, RepositoryName, Site, SiteId, Topology};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn config(data: &Path) -> Config {
    let city = City::find("fra").unwrap();
    let site = Site {
        id: SiteId::new("fra").unwrap(),
        city: city.name.to_owned(),
        country: city.country.to_owned(),
        region: city.region,
        point: city.point,
        provider: "acme".parse().unwrap(),
        addresses: vec!["127.0.1.1".parse().unwrap()],
        http_port: 8080,
        https_port: 8443,
        memory_mib: 1024,
        draining: false,
    };
    Config {
        data: data.to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        zone: Host::new("edge.test").unwrap(),
        topology: Topology { sites: [(site.id.clone(), site)].into() },
        in_a_box: true,
        allow_local_upstreams: false,
        executable: "/proc/self/exe".into(),
        unsafe_builds: true,
        tenants: Some(data.with_file_name("tenants")),
    }
}

/// A control process in a directory of its own.
struct Running {
    address: std::net::SocketAddr,
    token: String,
    authority: std::path::PathBuf,
    end: CancellationToken,
    task: JoinHandle<Result<(), ControlError>>,
}

impl Running {
    async fn start(data: &Path) -> Self {
        let control = Control::start(config(data)).await.unwrap();
        let end = CancellationToken::new();
        Self {
            address: control.address(),
            token: control.token().to_owned(),
            authority: control.authority_path(),
            end: end.clone(),
            task: tokio::spawn(control.run(end)),
        }
    }

    fn client(&self, token: &str) -> Client {
        let url = format!("http://{}", self.address);
        Client::new(&ClientConfig { url, token: Token(token.to_owned()), ca: None }).unwrap()
    }

    /// Sends a request as it is and returns the whole answer.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = request.replace("TOKEN", &self.token);
        let head = format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn stop(self) {
        self.end.cancel();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn only_the_token_opens_it() {
    let scratch = tempfile::tempdir().unwrap();
    let control = Running::start(&scratch.path().join("data")).await;
    let file = scratch.path().join("data/token");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), control.token);

    assert_eq!(control.client(&control.token).version().await.unwrap().name, "selvedge");
    let error = control.client("wrong").version().await.unwrap_err();
    let ClientError::Problem(problem) = error else { panic!("{error:?}") };
    assert!(problem.is(ProblemKind::Unauthorized));

    let answer = control.raw("GET /v1/version HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(answer.contains("content-type: application/problem+json"), "{answer}");
    assert!(answer.contains("www-authenticate: Bearer "), "{answer}");
    // Paths are no secret worth an answer either.
    let answer = control.raw("GET /v1/nothing HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let answer = control.raw("GET /git/shop.git/info/refs HTTP/1.1").await;
    assert!(answer.contains("www-authenticate: Basic "), "{answer}");
    let answer = control.raw("GET /healthz HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{answer}");
    control.stop().await;
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let scratch = tempfile::tempdir().unwrap();
    let control = Running::start(scratch.path()).await;
    let requests = [
        ("GET /v1/nothing", "404 Not Found", "not-found"),
        ("GET /", "404 Not Found", "not-found"),
        ("DELETE /v1/status", "405 Method Not Allowed", "method-not-allowed"),
        ("GET /v1/apps/shop/why", "404 Not Found", "not-found"),
        ("GET /v1/apps/NO%20APP/releases", "404 Not Found", "not-found"),
        ("GET /v1/pushes/shop/x", "404 Not Found", "not-found"),
        ("GET /v1/pushes/shop/1/events", "404 Not Found", "not-found"),
    ];
    for (request, status, kind) in requests {
        let answer =
            control.raw(&format!("{request} HTTP/1.1\r\nAuthorization: Bearer TOKEN")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {answer}");
        assert!(answer.contains("content-type: application/problem+json\r\n"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let problem: selvedge_api::Problem = serde_json::from_str(body).unwrap();
        assert_eq!(problem.kind, format!("urn:selvedge:problem:{kind}"), "{request}");
        assert!(request.ends_with(problem.instance.as_deref().unwrap()), "{request}: {problem:?}");
    }
    control.stop().await;
}

#[tokio::test]
async fn an_empty_installation_is_shown_as_such() {
    let scratch = tempfile::tempdir().unwrap();
    let control = Running::start(scratch.path()).await;
    let client = control.client(&control.token);
    let status = client.status().await.unwrap();
    assert_eq!(status.control.pid, std::process::id());
    assert_eq!(status.control.zone.as_str(), "edge.test");
    assert!(status.apps.is_empty() && client.apps().await.unwrap().is_empty());
    let [site] = status.sites.as_slice() else { panic!("{:?}", status.sites) };
    assert_eq!((site.id.as_str(), site.health), ("fra", SiteHealth::Lost));
    let missing = client.releases(&AppName::new("shop").unwrap()).await.unwrap_err();
    assert_eq!(missing.hint().as_deref(), Some("no app has been pushed yet"));
    assert!(client.pushes(&RepositoryName::new("shop").unwrap()).await.is_err());
    control.stop().await;
}

#[tokio::test]
async fn a_second_control_is_refused_and_a_later_one_goes_on() {
    let scratch = tempfile::tempdir().unwrap();
    let first = Running::start(scratch.path()).await;
    let error = Control::start(config(scratch.path())).await.err().unwrap();
    assert!(matches!(error, ControlError::Data(DataError::Locked { .. })), "{error:?}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    let (token, authority) = (first.token.clone(), std::fs::read(&first.authority).unwrap());
    first.stop().await;
    let second = Running::start(scratch.path()).await;
    assert_eq!(second.token, token);
    assert_eq!(std::fs::read(&second.authority).unwrap(), authority);
    second.stop().await;
}

#[tokio::test]
async fn beyond_loopback_it_speaks_tls_of_its_authority() {
    let scratch = tempfile::tempdir().unwrap();
    let mut config = config(scratch.path());
    config.listen = ([0, 0, 0, 0], 0).into();
    let control = Control::start(config).await.unwrap();
    assert!(control.url().starts_with("https://"), "{}", control.url());
    let token = Token(control.token().to_owned());
    let ca = Some(control.authority_path());
    let port = control.address().port();
    let end = CancellationToken::new();
    let task = tokio::spawn(control.run(end.clone()));
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("https://{host}:{port}");
        let client = Client::new(&ClientConfig { url, token: token.clone(), ca: ca.clone() });
        assert_eq!(client.unwrap().version().await.unwrap().name, "selvedge");
    }
    end.cancel();
    task.await.unwrap().unwrap();
}
