//! What sites store of apps, through the whole of a box: how it is taken back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::IntoResponse as _;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use selvedge_api::DevSite;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::Planet;
use crate::harness::repository::Repository;

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

/// What a site answers to GET.
async fn get(site: &DevSite, path: &str) -> String {
    let stream = TcpStream::connect((site.address, site.http)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get(path).header("host", HOST);
    let request = request.body(Full::<bytes::Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
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
async fn what_a_site_has_stored_is_taken_back() {
    let planet = Planet::start(3, &[]).await;
    let origin = origin().await;
    let [here, other, away] = &planet.info.sites[..] else { panic!("three sites") };
    let manifest = format!(
        "[app]\nname = \"shop\"\n\n[placement]\nexclude = [\"{}\"]\n\n\
         [[service]]\nname = \"web\"\nkind = \"upstream\"\naddresses = [\"http://{origin}\"]\n",
        away.id
    );
    let repository = Repository::with_files("shop", &[("selvedge.toml", &manifest)]).await;
    repository.push_live(&planet).await;

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
    planet.stop().await;
}
