//! What sites store of apps, through the whole of a box: how it is taken back, put together, keyed,
//! and there after a restart.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::IntoResponse as _;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use selvedge_api::{DevInfo, DevSite};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::repository::Repository;
use crate::harness::{Planet, eventually, signal};

const HOST: &str = "shop.edge.test";

type Asked = Arc<Mutex<HashMap<String, usize>>>;

/// Answers with the path and how often that was asked for; everything may be stored.
async fn origin() -> SocketAddr {
    async fn answer(State(asked): State<Asked>, request: Request) -> axum::response::Response {
        let path = request.uri().path().to_owned();
        let count = {
            let mut asked = asked.lock().unwrap();
            let count = asked.entry(path.clone()).or_default();
            *count += 1;
            *count
        };
        if path.starts_with("/pages/") {
            let fields =
                [("cache-control", "max-age=600"), ("surrogate-control", "content=\"ESI/1.0\"")];
            let page = format!("{path} {count} with <esi:include src=\"/piece\"/>");
            return (fields, page).into_response();
        }
        if path == "/graphql" {
            let fields = [("cache-control", "max-age=600"), ("content-type", "application/json")];
            return (fields, format!("{{\"data\": {{\"count\": {count}}}}}")).into_response();
        }
        let tag = path.split('/').nth(1).unwrap_or_default().to_owned();
        let fields = [("cache-control", "max-age=600".to_owned()), ("surrogate-key", tag)];
        (fields, format!("{path} {count}")).into_response()
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().fallback(answer).with_state(Asked::default());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

/// What a site answers.
async fn ask(site: &DevSite, request: http::request::Builder, body: &str) -> String {
    let stream = TcpStream::connect((site.address, site.http)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let body = Full::new(bytes::Bytes::copy_from_slice(body.as_bytes()));
    let request = request.header("host", HOST).body(body).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

async fn get(site: &DevSite, path: &str) -> String {
    ask(site, http::Request::get(path), "").await
}

async fn purge(
    planet: &Planet,
    repository: &Repository,
    arguments: &[&str],
) -> (i32, Value, Value) {
    let mut command = planet.command(&repository.path);
    let output = command.args(["purge", "--json"]).args(arguments).output().await.unwrap();
    let json = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
    (output.status.code().unwrap(), json(&output.stdout), json(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_site_stores_of_an_app() {
    let planet = Planet::start(3, &[]).await;
    let origin = origin().await;
    let [here, other, away] = &planet.info.sites[..] else { panic!("three sites") };
    let manifest = format!(
        "[app]\nname = \"shop\"\n\n[placement]\nexclude = [\"{}\"]\n\n\
         [[service]]\nname = \"web\"\nkind = \"upstream\"\naddresses = [\"http://{origin}\"]\n\
         [[route]]\n\
         [[route]]\npath = \"/pages/*\"\nesi = true\n\
         [[route]]\npath = \"/graphql\"\ngraphql = true\ngraphql_cookies = [\"session\"]\n",
        away.id
    );
    let repository = Repository::with_files("shop", &[("selvedge.toml", &manifest)]).await;
    repository.push_live(&planet).await;
    is_put_together_and_keyed(here).await;

    // Each way of naming it, at both sites that store it.
    let url = format!("http://{HOST}:{}/url/page", here.http);
    let url = url.as_str();
    for (path, what) in [
        ("/tag/page", ["--tag", "tag"]),
        ("/prefix/page", ["--prefix", "shop.edge.test/prefix"]),
        ("/ban/page", ["--ban", "path ~ \"/ban/*\" && header(surrogate-key) == \"ban\""]),
        ("/all/page", ["--all", "--app=shop"]),
    ] {
        assert_eq!(get(here, path).await, format!("{path} 1"));
        assert_eq!(get(here, path).await, format!("{path} 1"), "it is stored");
        assert_eq!(get(other, path).await, format!("{path} 2"));
        get(here, "/stays/page").await;
        let (code, said, _) = purge(&planet, &repository, &what).await;
        assert_eq!(code, 0, "{what:?}: {said}");
        let fates: Vec<_> = said["sites"].as_array().unwrap().iter().collect();
        let purged = |site: &DevSite| {
            fates.iter().any(|it| it["at"] == site.id.as_str() && it["result"] == "purged")
        };
        assert!(purged(here) && purged(other) && !purged(away), "{said}");
        assert_eq!(get(here, path).await, format!("{path} 3"));
        assert_eq!(get(other, path).await, format!("{path} 4"));
        let stays = if path == "/all/page" { "/stays/page 2" } else { "/stays/page 1" };
        assert_eq!(get(here, "/stays/page").await, stays);
    }

    // At one site, by URL: with the port, as clients say it.
    let asked = async |site| get(site, "/url/page").await;
    assert_eq!(
        (asked(here).await, asked(other).await),
        ("/url/page 1".into(), "/url/page 2".into())
    );
    let (code, _, _) =
        purge(&planet, &repository, &["--url", url, "--site", here.id.as_str()]).await;
    assert_eq!(code, 0);
    assert_eq!(asked(here).await, "/url/page 1", "clients here name no port");
    let url = format!("http://{HOST}/url/page");
    let (code, _, _) =
        purge(&planet, &repository, &["--url", &url, "--site", here.id.as_str()]).await;
    assert_eq!(code, 0);
    assert_eq!(
        (asked(here).await, asked(other).await),
        ("/url/page 3".into(), "/url/page 2".into())
    );

    // By its socket, which nobody else may open.
    let socket = here.admin_socket.to_str().unwrap();
    let mode = std::fs::metadata(socket).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    let (code, said, _) = purge(&planet, &repository, &["--all", "--socket", socket]).await;
    assert_eq!((code, &said["sites"][0]["result"]), (0, &Value::from("purged")), "{said}");
    assert_eq!(asked(here).await, "/url/page 4");

    // What is no use is said.
    for (arguments, code, words) in [
        (&["--ban", "path ~~ x"][..], 2, "`ban` can't be read"),
        (&["--tag", "tag", "--app", "nobody"], 2, "nothing of nobody is stored"),
        (&["--tag", "tag", "--site", "moon"], 2, "no site moon"),
        (&["--all", "--socket", "/nowhere/admin.sock"], 1, "not purged at /nowhere/admin.sock"),
    ] {
        let (ended, _, said) = purge(&planet, &repository, arguments).await;
        let said = said["error"].as_str().unwrap_or_default().to_owned();
        assert!(ended == code && said.contains(words), "{arguments:?}: {ended} {said}");
    }
    is_there_after_a_crash(&planet, &repository).await;
    planet.stop().await;
}

/// Pages of pieces, and queries that are posted.
async fn is_put_together_and_keyed(site: &DevSite) {
    for _ in 0..2 {
        assert_eq!(get(site, "/pages/one").await, "/pages/one 1 with /piece 1");
    }
    let query = async |cookie: &str, query: &str| {
        let request = http::Request::post("/graphql").header("content-type", "application/json");
        let request = request.header("cookie", cookie);
        let answer = ask(site, request, &format!("{{\"query\": \"{query}\"}}")).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        // What a release's own probe may have asked for counts too.
        answer["data"]["count"].as_u64().unwrap()
    };
    let mine = query("session=me", "{ price(of: 1, in: 2) }").await;
    assert_eq!(query("session=me", "{price( in:2 of:1 )}").await, mine, "the same question");
    let yours = query("session=you", "{ price(of: 1, in: 2) }").await;
    assert_eq!(yours, mine + 1, "another's answer");
    assert_eq!(query("session=me", "mutation { buy }").await, yours + 1);
    assert_eq!(query("session=me", "mutation { buy }").await, yours + 2);
}

/// On disk, beside memory; and what was purged is not.
async fn is_there_after_a_crash(planet: &Planet, repository: &Repository) {
    let id = &planet.info.sites[0].id;
    let site = |info: &DevInfo| info.sites.iter().find(|it| it.id == *id).unwrap().clone();
    let here = site(&planet.info);
    assert_eq!(get(&here, "/kept/page").await, "/kept/page 1");
    assert_eq!(get(&here, "/purged/page").await, "/purged/page 1");
    let counters = async || {
        let stream = tokio::net::UnixStream::connect(&here.admin_socket).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let request = http::Request::get("/cache").header("host", "site");
        let request = request.body(Full::<bytes::Bytes>::default()).unwrap();
        let body = sender.send_request(request).await.ok()?.into_body().collect().await.ok()?;
        serde_json::from_slice::<Value>(&body.to_bytes()).ok()
    };
    let written = |said: &Value| said["disk"]["written"].as_u64().unwrap();
    let before = written(&eventually("counters", counters).await);
    assert_eq!(get(&here, "/last/page").await, "/last/page 1");
    eventually("it is written", async || (written(&counters().await?) > before).then_some(()))
        .await;
    let arguments = ["--tag", "purged", "--site", here.id.as_str()];
    assert_eq!(purge(planet, repository, &arguments).await.0, 0);

    signal(here.pid, Signal::SIGKILL);
    let again = eventually("the agent is back", async || {
        let again = site(&planet.current_info()?);
        (again.pid != here.pid).then_some(again)
    })
    .await;
    eventually("its disk was read", async || {
        counters().await.filter(|said| said["disk"]["ready"] == true)
    })
    .await;
    assert_eq!(get(&again, "/kept/page").await, "/kept/page 1");
    assert_eq!(get(&again, "/purged/page").await, "/purged/page 2");
}
