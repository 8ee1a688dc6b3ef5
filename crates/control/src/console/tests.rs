use std::collections::BTreeMap;

use axum::body::Body;
use http::header::{CONTENT_SECURITY_POLICY, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use selvedge_api::LogEvent;
use selvedge_model::documents::{PushApp, PushFailure};
use selvedge_model::{Epoch, PushState, ServiceName, Stage};

use super::*;
use crate::fixture::{self, release, release_id, repository, shop};

/// Text that would do something if a page took it for its own.
const HOSTILE: &str = "</pre><script>alert(1)</script>\"' onload=x&amp; \u{202e}";

struct Fixture {
    console: Console,
    world: watch::Sender<World>,
    _directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let world = watch::Sender::new(hostile_world());
        let console = Console::new(Config {
            world: world.subscribe(),
            control: ControlStatus {
                version: "1".to_owned(),
                pid: 1,
                started_ms: 0,
                incarnation: 1,
                zone: "edge.test".parse().unwrap(),
                problems: vec![HOSTILE.to_owned()],
                limitations: Vec::new(),
            },
            problems: Arc::new(Vec::new),
            logs: Arc::new(|_| Box::pin(futures_util::stream::iter(lines()))),
            signing: Signing {
                token: Token("t".to_owned()),
                sessions: directory.path().join("console.json"),
                reach: Reach { names: Vec::new(), port: 7070, secure: false },
            },
        });
        Self { console, world, _directory: directory }
    }

    async fn send(&self, request: http::request::Builder, body: String) -> Response<Body> {
        let request = request.header(HOST, "127.0.0.1:7070").body(Body::from(body)).unwrap();
        TowerToHyperService::new(self.console.clone().router()).call(request).await.unwrap()
    }

    async fn get(&self, path: &str, cookie: &str) -> Response<Body> {
        self.send(Request::get(path).header(COOKIE, cookie), String::new()).await
    }

    async fn post(&self, path: &str, cookie: &str, body: String) -> Response<Body> {
        let request = Request::post(path).header(COOKIE, cookie);
        self.send(request.header(ORIGIN, "http://127.0.0.1:7070"), body).await
    }

    /// Signs in and returns the cookie.
    async fn sign_in(&self) -> String {
        let (path, _) = self.console.link().unwrap();
        let code = path.split_once('?').unwrap().1.to_owned();
        let response = self.post("/console/sign-in", "", code).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// A request and a line of output, both hostile.
fn lines() -> Vec<LogEvent> {
    let path = HOSTILE.replace('"', "\\\"");
    let line = |more: &str| {
        let text = format!(
            "{{\"event\":\"record\",\"time\":\"2026-01-02T03:04:05Z\",\"sequence\":1,\"app\":\"shop\",\
             \"site\":\"fra\",\"text\":\"{path}\",\"request_id\":\"{path}\",{more}}}"
        );
        serde_json::from_str(&text).unwrap()
    };
    let request = format!(
        "\"source\":\"access\",\"access\":{{\"started\":\"2026-01-02T03:04:05Z\",\"method\":\"{path}\",\
         \"scheme\":\"http\",\"host\":\"{path}\",\"path\":\"{path}\",\"protocol\":\"x\",\"status\":200,\
         \"bytes_sent\":1,\"bytes_received\":1,\"duration_ms\":1.0,\"client\":\"x\",\"trace_id\":\"x\"}}"
    );
    vec![line("\"source\":\"output\""), line(&request)]
}

/// A world in which everything that others can write is hostile.
fn hostile_world() -> World {
    let mut world = World { topology: fixture::topology(&["fra", "nyc"]), ..World::default() };
    for site in world.topology.sites.values_mut() {
        site.city = HOSTILE.to_owned();
    }
    let mut release = release("two");
    release.subject = HOSTILE.to_owned();
    let mut record = fixture::record();
    record.directory = HOSTILE.to_owned();
    let failure = PushFailure {
        stage: Stage::Build,
        reason: HOSTILE.to_owned(),
        last_lines: vec![HOSTILE.to_owned(), format!("\r\nevent: {HOSTILE}")],
    };
    let mut push = fixture::push(1, PushState::Refused(failure.clone()));
    push.apps = vec![PushApp {
        app: shop(),
        release: release_id("two"),
        directory: None,
        epoch: Some(Epoch::new(1, 2)),
        sites: world.topology.sites.keys().cloned().collect(),
        warm: Default::default(),
    }];
    let service = Some(ServiceName::new("web").unwrap());
    let failed = selvedge_model::EpochState::Failed {
        service,
        reason: HOSTILE.to_owned(),
        last_lines: vec![HOSTILE.to_owned()],
    };
    let report = fixture::app_report("fra", Some(2), &[(2, failed)]);
    let mut site_report = fixture::site_report("fra", &[]);
    site_report.problems = vec![HOSTILE.to_owned()];
    let environment = selvedge_model::EnvironmentName::production();
    world.leases.insert(fixture::site_id("fra"), std::time::Duration::from_secs(4));
    world.site_reports.insert(fixture::site_id("fra"), site_report);
    world.app_reports.insert((fixture::site_id("fra"), shop(), environment.clone()), report);
    world.activations.insert((shop(), environment), fixture::activation(2, "two"));
    world.releases.insert(shop(), BTreeMap::from([(release_id("two"), release)]));
    world.apps.insert(shop(), record);
    world.pushes.insert(repository(), BTreeMap::from([(1, push)]));
    world
}

#[tokio::test]
async fn what_comes_from_outside_is_text() {
    let fixture = Fixture::new();
    let cookie = fixture.sign_in().await;
    let views = [
        "",
        "/pushes",
        "/pushes/shops/1",
        "/apps/shop",
        "/sites/fra",
        "/logs?text=%3Cscript%3E&status=%3Cscript%3E",
    ];
    for view in views {
        let response = fixture.get(&format!("/console{view}"), &cookie).await;
        assert_eq!(response.status(), StatusCode::OK, "{view}");
        let page = text(response).await;
        assert!(!page.contains("<script>") && !page.contains("\" onload"), "{view}: {page}");
        assert!(page.contains("&lt;script&gt;"), "{view} shows nothing that is hostile");
        // What the policy forbids would be broken for everybody.
        assert!(!page.contains("style=") && !page.contains("<style"), "{view}");
    }
    let response = fixture.get("/console/sign-in?code=%22%3E%3Cscript%3E", "").await;
    assert!(!text(response).await.contains("<script>"));
}

#[tokio::test]
async fn only_a_fresh_code_signs_in_and_only_by_its_button() {
    let fixture = Fixture::new();
    let (link, _) = fixture.console.link().unwrap();
    // Opening the link, however often, uses nothing up.
    for _ in 0..3 {
        let response = fixture.get(&link, "").await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.headers().get(SET_COOKIE).is_none());
    }
    let code = link.split_once('?').unwrap().1;
    let foreign = Request::post("/console/sign-in").header(ORIGIN, "http://127.0.0.1:8080");
    let response = fixture.send(foreign, code.to_owned()).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let response = fixture.post("/console/sign-in", "", code.to_owned()).await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let cookie = response.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
    let again = fixture.post("/console/sign-in", "", code.to_owned()).await;
    assert_eq!(again.status(), StatusCode::FORBIDDEN);
    assert!(text(again).await.contains("used already"));

    let cookie = cookie.split(';').next().unwrap();
    assert!(text(fixture.get("/console", cookie).await).await.contains("Sign out"));
    let response = fixture.post("/console/sign-out", cookie, String::new()).await;
    assert!(response.headers()[SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
    assert!(text(fixture.get("/console", cookie).await).await.contains("selvedge console"));
}

#[tokio::test]
async fn signed_out_there_is_nothing_to_see() {
    let fixture = Fixture::new();
    let home = fixture.get("/console", "").await;
    assert_eq!(home.status(), StatusCode::OK);
    let policy = home.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(!text(home).await.contains("shop"));
    for path in ["/console/apps/shop", "/console/pushes", "/console/nothing", "/console/"] {
        let response = fixture.get(path, "selvedge-console-7070=guess").await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER, "{path}");
        assert_eq!(response.headers()[LOCATION], "/console");
    }
    let stream = text(fixture.get("/console/live/", "").await).await;
    assert_eq!(stream, "event: signed-out\ndata: \n\n");
    let cookie = fixture.sign_in().await;
    assert_eq!(fixture.get("/console/nothing", &cookie).await.status(), StatusCode::NOT_FOUND);
    let request = Request::builder().method(Method::GET).uri("/console").header(HOST, "evil.test");
    let router = TowerToHyperService::new(fixture.console.clone().router());
    let response = router.call(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST);
}

/// What a stream says until `enough` of it has come.
async fn read(body: &mut Body, enough: impl Fn(&str) -> bool) -> String {
    let mut said = String::new();
    while !enough(&said) {
        let Some(frame) = body.frame().await else { break };
        said.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap());
    }
    said
}

#[tokio::test(start_paused = true)]
async fn a_stream_sends_what_has_changed_and_ends_with_its_reasons() {
    let fixture = Fixture::new();
    let cookie = fixture.sign_in().await;
    let mut body = fixture.get("/console/live/", &cookie).await.into_body();
    let first = read(&mut body, |said| said.contains("id=\"sites\"")).await;
    assert!(first.starts_with("event: version\n"), "{first}");
    fixture.world.send_modify(|world| {
        world.leases.clear();
    });
    let said = read(&mut body, |said| said.contains("id=\"sites\"")).await;
    assert!(said.contains("id=\"map\"") && said.contains("2 lost"), "{said}");
    assert!(!said.contains("id=\"recent\""), "what is as it was is sent again: {said}");

    // The page of something that goes away, a session that ends, and a control that does.
    let mut app = fixture.get("/console/live/apps/shop", &cookie).await.into_body();
    read(&mut app, |said| said.contains("id=\"why\"")).await;
    fixture.world.send_modify(|world| world.apps.clear());
    assert!(read(&mut app, |_| false).await.ends_with("event: gone\ndata: \n\n"));
    fixture.post("/console/sign-out", &cookie, String::new()).await;
    assert!(read(&mut body, |_| false).await.ends_with("event: signed-out\ndata: \n\n"));
    let cookie = fixture.sign_in().await;
    let mut last = fixture.get("/console/live/pushes", &cookie).await.into_body();
    let Fixture { console, world, _directory } = fixture;
    drop(world);
    read(&mut last, |_| false).await;
    drop(console);
}

#[tokio::test(start_paused = true)]
async fn streams_are_few_and_readers_that_do_not_read_are_given_up() {
    let fixture = Fixture::new();
    let cookie = fixture.sign_in().await;
    let mut held = Vec::new();
    for _ in 0..live::MAX_STREAMS {
        held.push(fixture.get("/console/live/", &cookie).await);
    }
    let refused = fixture.get("/console/live/", &cookie).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    // They read nothing, and there is more to say than fits what is buffered.
    let streams = fixture.console.streams();
    tokio::time::timeout(std::time::Duration::from_secs(120), async {
        while streams.available_permits() < live::MAX_STREAMS {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    })
    .await
    .unwrap();
}
