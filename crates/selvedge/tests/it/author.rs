//! What the author form says beside files and programs: upstreams, redirects, rewrites, a fallback,
//! and WebSockets, through the whole of a box.

use std::net::{Ipv4Addr, SocketAddr};

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::ServerName;
use selvedge_api::{AppSiteState, DevSite};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::clients::trust;
use crate::harness::repository::Repository;
use crate::harness::{PATIENCE, Planet, can_isolate, eventually};

/// A server on loopback that answers each request with its own name, the path and the host. Goes
/// when dropped.
struct Server {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let head = read_head(&mut stream).await;
                    let path = head.split(' ').nth(1).unwrap_or_default();
                    let host = head.lines().find_map(|line| line.strip_prefix("host: "));
                    let body = format!("{name} {path} {}", host.unwrap_or_default());
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { address, _task: AbortOnDropHandle::new(task) }
    }
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// The whole answer of a site to one request.
async fn get(site: &DevSite, host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect((site.address, site.http)).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: text/html\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.expect("no answer").unwrap();
    answer
}

fn mixed(addresses: &str) -> String {
    format!(
        r#"
[app]
name = "mixed"

[[service]]
name = "web"
kind = "static"
root = "public"
fallback = "index.html"

[[service]]
name = "old"
kind = "upstream"
addresses = [{addresses}]
host = "old.internal"

[[route]]
hosts = ["mixed.test"]
service = "web"

[[route]]
hosts = ["mixed.test"]
path = "/old/*"
service = "old"
rewrite = "/v1/*"

[[redirect]]
host = "www.mixed.test"
to = "https://mixed.test/*"
status = 308

[[redirect]]
host = "mixed.test"
from = "/blog/*"
to = "/news/*"
"#
    )
}

/// An app for which nothing is built, shipped or run.
fn bare(address: &str) -> String {
    format!(
        "[app]\nname = \"bare\"\n\n[[service]]\nname = \"old\"\nkind = \"upstream\"\n\
         addresses = [{address}]\n\n[[redirect]]\nfrom = \"/away\"\nto = \"https://away.test/\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_author_form_beside_files_and_programs() {
    if !can_isolate() {
        return;
    }
    let planet = Planet::start(2, &[]).await;
    let room = Repository::from_example("websocket").await;
    room.push_live(&planet).await;
    let first = planet.live_release("websocket").await.unwrap();
    let mut early = sockets_at_every_site(&planet, &first).await;

    // A push while they are open: they go on with their release, and new ones get the new.
    room.write("public/extra.txt", "more");
    room.commit("Change the page").await;
    room.push_live(&planet).await;
    let second = planet.live_release("websocket").await.unwrap();
    assert_ne!(first, second);
    for socket in &mut early {
        echo(socket, &first).await;
    }
    for mut socket in sockets_at_every_site(&planet, &second).await {
        echo(&mut socket, &second).await;
        socket.close(None).await.unwrap();
    }

    // While those have their last seconds, everything else.
    answers_and_fails_over(&planet).await;
    needs_no_artifact(&planet).await;
    refuses_in_words(&planet).await;

    for mut socket in early {
        let goodbye = async {
            loop {
                match socket.next().await {
                    Some(Ok(Message::Close(frame))) => break frame.map(|frame| frame.code),
                    Some(Ok(_)) => {}
                    other => panic!("ended without a goodbye: {other:?}"),
                }
            }
        };
        let code = tokio::time::timeout(PATIENCE, goodbye).await.expect("it goes on for ever");
        assert_eq!(code, Some(CloseCode::Away));
    }
    planet.stop().await;
}

async fn answers_and_fails_over(planet: &Planet) {
    let (one, two) = (Server::start("one").await, Server::start("two").await);
    let addresses =
        format!("\"http://{}\", \"http://localhost:{}\"", one.address, two.address.port());
    let files = [
        ("selvedge.toml", mixed(&addresses)),
        ("public/index.html", "the page".to_owned()),
        ("public/app.js", "code".to_owned()),
    ];
    let files: Vec<(&str, &str)> =
        files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let repository = Repository::with_files("mixed", &files).await;
    repository.push_live(planet).await;
    for site in &planet.info.sites {
        for (host, path, parts) in [
            ("mixed.test", "/", &["200 OK", "the page"][..]),
            ("mixed.test", "/users/7", &["200 OK", "the page"]),
            ("mixed.test", "/app.js", &["200 OK", "code"]),
            ("mixed.test", "/blog/a%20b?x=1", &["307 ", "location: /news/a%20b?x=1"]),
            ("www.mixed.test", "/a?b", &["308 ", "location: https://mixed.test/a?b"]),
        ] {
            let answer = get(site, host, path).await;
            assert!(parts.iter().all(|part| answer.contains(part)), "{host}{path}: {answer}");
        }
        let mut names: Vec<String> = Vec::new();
        for _ in 0..4 {
            let answer = get(site, "mixed.test", "/old/x?y=1").await;
            assert!(answer.contains(" /v1/x?y=1 old.internal"), "{answer}");
            names.extend(
                ["one", "two"]
                    .map(String::from)
                    .into_iter()
                    .filter(|it| answer.contains(&format!("\r\n\r\n{it} "))),
            );
        }
        names.sort();
        assert_eq!(names, ["one", "one", "two", "two"], "each in turn");
    }
    drop(one);
    for site in &planet.info.sites {
        for _ in 0..4 {
            let answer = get(site, "mixed.test", "/old/x").await;
            assert!(answer.contains("\r\n\r\ntwo /v1/x"), "{answer}");
        }
    }
    drop(two);
    let answer = get(&planet.info.sites[0], "mixed.test", "/old/x").await;
    assert!(answer.contains(" 502 "), "{answer}");
    eventually("the status says that the upstream is down", async || {
        let status = planet.status().await;
        let app = status.apps.into_iter().find(|it| it.summary.app.as_str() == "mixed")?;
        let told = app.sites.iter().all(|site| {
            site.state == AppSiteState::Degraded
                && site.reason.as_ref().is_some_and(|it| it.contains("can't be reached"))
        });
        (told && app.summary.serving == 2).then_some(())
    })
    .await;
}

async fn needs_no_artifact(planet: &Planet) {
    let server = Server::start("gone").await;
    let address = format!("\"http://{}\"", server.address);
    drop(server);
    // The upstream is down, and the release goes live all the same: it is not to blame.
    let repository = Repository::with_files("bare", &[("selvedge.toml", &bare(&address))]).await;
    let pushed = repository.push(planet).await;
    assert!(pushed.ok, "{}", pushed.words);
    for words in ["warning: bare, service old", "can't be reached", "is live at 2 sites"] {
        assert!(pushed.words.contains(words), "{words:?}: {}", pushed.words);
    }
    let site = &planet.info.sites[0];
    let host = format!("bare.{}", planet.info.zone);
    assert!(get(site, &host, "/away").await.contains("location: https://away.test/"));
    assert!(get(site, &host, "/").await.contains(" 502 "));
    let text = bare(&address).replace("name = \"bare\"", "name = \"bare\"\nforce_https = true");
    repository.write("selvedge.toml", &text);
    repository.commit("Force HTTPS").await;
    repository.push_live(planet).await;
    let answer = get(site, &host, "/x?y").await;
    let location = format!("location: https://{host}:{}/x?y", site.https);
    assert!(answer.contains(" 308 ") && answer.contains(&location), "{answer}");
}

async fn refuses_in_words(planet: &Planet) {
    let good = bare("\"http://10.0.0.5\"");
    let cases = [
        (
            good.replace("https://away.test/", "/away"),
            &["selvedge.toml:9:1", "leads in a circle: /away -> /away"][..],
        ),
        (
            good.replace("https://away.test/", "http://refused.edge.test/away"),
            &["leads in a circle: /away -> /away"],
        ),
        (good.replace("http://10.0.0.5", "https://10.0.0.5"), &["asks for TLS"]),
        (mixed("\"http://10.0.0.5\""), &["no file index.html in public", "check `fallback`"]),
    ];
    let repository = Repository::new("refused").await;
    repository.write("public/other.html", "other");
    for (text, words) in cases {
        let text =
            text.replace("mixed", "refused").replace("name = \"bare\"", "name = \"refused\"");
        repository.write("selvedge.toml", &text);
        repository.commit("Try").await;
        let pushed = repository.push(planet).await;
        assert!(!pushed.ok, "{text} was accepted");
        for word in words {
            assert!(pushed.words.contains(word), "{word:?} was not said:\n{}", pushed.words);
        }
    }
}

/// Whatever carries a WebSocket.
trait Carrier: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Carrier for T {}

type Socket = WebSocketStream<Box<dyn Carrier>>;

/// Two at each site, by HTTP and HTTPS; each has been welcomed by `release`.
async fn sockets_at_every_site(planet: &Planet, release: &str) -> Vec<Socket> {
    let host = format!("websocket.{}", planet.info.zone);
    let tls = tokio_rustls::TlsConnector::from(trust(&planet.info.ca, &[b"http/1.1"]));
    let mut sockets = Vec::new();
    for site in &planet.info.sites {
        let plain = TcpStream::connect((site.address, site.http)).await.unwrap();
        let secure = TcpStream::connect((site.address, site.https)).await.unwrap();
        let name = ServerName::try_from(host.clone()).unwrap();
        let secure = tls.connect(name, secure).await.unwrap();
        let carriers: [(&str, Box<dyn Carrier>); 2] =
            [("ws", Box::new(plain)), ("wss", Box::new(secure))];
        for (scheme, carrier) in carriers {
            let url = format!("{scheme}://{host}/chat");
            let (mut socket, response) =
                tokio_tungstenite::client_async(url, carrier).await.unwrap();
            assert_eq!(response.headers()["selvedge-release"], release);
            assert_eq!(response.headers()["selvedge-site"], site.id.as_str());
            let welcome = next(&mut socket).await;
            assert!(welcome.contains(&format!("\"welcome\":\"{release}\"")), "{welcome}");
            sockets.push(socket);
        }
    }
    sockets
}

/// Says something, and hears it from `release`, whatever else is said meanwhile.
async fn echo(socket: &mut Socket, release: &str) {
    let said = format!("x{}", "y".repeat(10_000));
    socket.send(Message::text(said.clone())).await.unwrap();
    loop {
        let heard = next(socket).await;
        if heard.contains(&said) {
            assert!(heard.contains(&format!("\"release\":\"{release}\"")), "{heard}");
            return;
        }
    }
}

async fn next(socket: &mut Socket) -> String {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("silence");
        match message.expect("it ended").expect("it broke") {
            Message::Text(text) => return text.to_string(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("not said by the room: {other:?}"),
        }
    }
}
