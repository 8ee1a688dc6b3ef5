//! Pages put together of pieces that come as they like.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::{Instant, sleep};

use crate::body::BodyError;
use crate::encode::{Budget, Coding, Effort, compress};
use crate::esi::{Assembled, Config, Failure, Fetch, Fragment, Origin, Page, assemble};

type Body = UnsyncBoxBody<Bytes, BodyError>;

/// What is answered for a path.
#[derive(Clone, Default)]
struct Piece {
    status: u16,
    headers: Vec<(&'static str, String)>,
    /// Pieces of the body, and how long each takes. The first is before the head.
    body: Vec<(Duration, Bytes)>,
    /// It breaks off at its end.
    breaks: bool,
}

impl Piece {
    fn text(text: &str) -> Self {
        let body = vec![(Duration::ZERO, Bytes::copy_from_slice(text.as_bytes()))];
        Self { status: 200, body, ..Self::default() }
    }

    fn template(text: &str) -> Self {
        Self::text(text).header("surrogate-control", "content=\"ESI/1.0\"")
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    fn after(mut self, seconds: u64) -> Self {
        self.body[0].0 = Duration::from_secs(seconds);
        self
    }

    fn then(mut self, seconds: u64, text: &str) -> Self {
        self.body.push((Duration::from_secs(seconds), Bytes::copy_from_slice(text.as_bytes())));
        self
    }

    fn breaking(mut self) -> Self {
        self.breaks = true;
        self
    }

    fn response(&self) -> Response<Body> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(*name, value);
        }
        let late =
            self.body.clone().into_iter().enumerate().map(|(at, (after, bytes))| async move {
                if at > 0 {
                    sleep(after).await;
                }
                Ok::<_, BodyError>(Frame::data(bytes))
            });
        let broken = || Err::<Frame<Bytes>, BodyError>("broken".into());
        let end = self.breaks.then(|| std::future::ready(broken()));
        let body = stream::iter(late).then(|piece| piece).chain(stream::iter(end).then(|it| it));
        response.body(BodyExt::boxed_unsync(StreamBody::new(body))).unwrap()
    }
}

/// An app that answers for some paths.
#[derive(Clone, Default)]
struct App {
    pieces: Arc<HashMap<&'static str, Piece>>,
    asked: Arc<Mutex<Vec<Fragment>>>,
    at_work: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

/// Counts one request while it is there.
struct AtWork(Arc<AtomicUsize>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Fetch for App {
    type Body = Body;

    async fn fetch(&self, fragment: Fragment) -> Result<Response<Body>, BodyError> {
        let at_work = self.at_work.fetch_add(1, Ordering::Relaxed) + 1;
        let _at_work = AtWork(Arc::clone(&self.at_work));
        self.most.fetch_max(at_work, Ordering::Relaxed);
        self.asked.lock().unwrap().push(fragment.clone());
        let Some(piece) = self.pieces.get(fragment.uri.to_string().as_str()) else {
            return Err("no such host".into());
        };
        sleep(piece.body[0].0).await;
        Ok(piece.response())
    }
}

fn app(pieces: impl IntoIterator<Item = (&'static str, Piece)>) -> App {
    App { pieces: Arc::new(pieces.into_iter().collect()), ..App::default() }
}

async fn begin(app: &App, config: Config, template: Piece) -> Result<Response<Assembled>, Failure> {
    let client = [("cookie", "session=1"), ("accept", "text/html")];
    let client = client.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let page = Page {
        fetch: app.clone(),
        config: Arc::new(config),
        budget: Budget::new(64 << 20),
        origin: Origin { authority: "shop.test".to_owned(), scheme: "http" },
        uri: "/page".parse().unwrap(),
        client: HeaderMap::from_iter(client),
    };
    assemble(page, template.response()).await
}

/// The page, up to where it breaks off, if it does.
async fn read(mut page: Assembled) -> (String, bool) {
    let mut text = Vec::new();
    while let Some(frame) = page.frame().await {
        match frame {
            Ok(frame) => text.extend_from_slice(&frame.into_data().unwrap()),
            Err(_) => return (String::from_utf8(text).unwrap(), false),
        }
    }
    assert!(page.is_end_stream());
    (String::from_utf8(text).unwrap(), true)
}

async fn page(app: &App, template: &str) -> Result<(String, bool), Failure> {
    let response = begin(app, Config::default(), Piece::template(template)).await?;
    Ok(read(response.into_body()).await)
}

/// A page that is there whole.
async fn good(app: &App, template: &str) -> String {
    let (text, whole) = page(app, template).await.unwrap();
    assert!(whole, "{text}");
    text
}

#[tokio::test(start_paused = true)]
async fn pieces_come_together_in_their_order() {
    let app = app([
        ("/slow", Piece::text("slow").after(3).then(1, "er")),
        ("/quick", Piece::text("quick")),
        ("/late", Piece::text("late").after(3)),
        ("/empty", Piece::text("").status(204)),
    ]);
    let started = Instant::now();
    let template = "1<esi:include src='/slow'/>2<esi:include src='/quick'/>3\
                    <esi:include src='/late'/><esi:include src='/empty'/>4";
    assert_eq!(good(&app, template).await, "1slower2quick3late4");
    // Side by side, and what comes first is not held up by what comes later.
    assert_eq!(started.elapsed().as_secs(), 4);
    let asked = app.asked.lock().unwrap();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|one| one.is_own && one.headers["cookie"] == "session=1"));
}

#[tokio::test(start_paused = true)]
async fn no_more_pieces_at_a_time_than_allowed() {
    let app = app([("/a", Piece::text("a").after(1))]);
    let config = Config { ahead: 3, ..Config::default() };
    let template = "<esi:include src='/a'/>".repeat(20);
    let response = begin(&app, config, Piece::template(&template)).await.unwrap();
    assert_eq!(read(response.into_body()).await, ("a".repeat(20), true));
    assert_eq!(app.most.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn text_streams_before_pieces_are_there() {
    let app = app([("/never", Piece::text("x").after(1000))]);
    let template = Piece::template("first ").then(1, "second <esi:include src='/never'/>");
    let mut body = begin(&app, Config::default(), template).await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "first ");
    let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(second, "second ");
    assert_eq!(app.at_work.load(Ordering::Relaxed), 1);
    // Who leaves gives up what was fetched for them.
    drop(body);
    while app.at_work.load(Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn something_takes_the_place_of_what_fails() {
    let app = app([
        ("/a", Piece::text("a")),
        ("/b", Piece::text("b")),
        ("/error", Piece::text("oops").status(500)),
        ("/moved", Piece::text("moved").status(302)),
        ("/part", Piece::text("part").status(206)),
        ("/breaks", Piece::text("begin").then(1, "ning").breaking()),
        ("/late", Piece::text("late").after(60)),
        ("/drips", Piece::text("d").then(6, "r").then(6, "ips")),
        ("/odd", Piece::text("odd").header("content-encoding", "deflate")),
        ("/not-gzip", Piece::text("odd").header("content-encoding", "gzip")),
        ("/bad", Piece::template("1<esi:include src='/error'/>2")),
        ("/wrong", Piece::template("1<esi:x>2")),
        ("/large", Piece::text(&"x".repeat(300_000))),
    ]);
    for failing in [
        "/error",
        "/moved",
        "/part",
        "/breaks",
        "/late",
        "/drips",
        "/odd",
        "/not-gzip",
        "/bad",
        "/wrong",
        "/large",
        "/nothing-there",
        "//evil.test/",
        "/a b",
    ] {
        let with = |rest: &str| format!("[<esi:include src='{failing}' {rest}/>]");
        assert_eq!(good(&app, &with("onerror='continue'")).await, "[]", "{failing}");
        assert_eq!(good(&app, &with("alt='/b'")).await, "[b]", "{failing}");
        let both = with("alt='/error' onerror='continue'");
        assert_eq!(good(&app, &both).await, "[]", "{failing}");
        let tried = format!(
            "[<esi:try><esi:attempt>1<esi:include src='/a'/><esi:include src='{failing}'/>2\
             </esi:attempt><esi:except>3<esi:include src='/b'/></esi:except></esi:try>]"
        );
        assert_eq!(good(&app, &tried).await, "[3b]", "{failing}");
    }
    let fine = "<esi:include src='/a' alt='/b'/><esi:try><esi:attempt>x<esi:include src='/b'/>\
                </esi:attempt><esi:except>y</esi:except></esi:try>";
    assert_eq!(good(&app, fine).await, "axb");
    let within = "<esi:try><esi:attempt>1<esi:try><esi:attempt><esi:include src='/error'/>\
                  </esi:attempt><esi:except>2</esi:except></esi:try></esi:attempt>\
                  <esi:except>3</esi:except></esi:try>";
    assert_eq!(good(&app, within).await, "12");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_fails_breaks_off_or_does_not_begin() {
    let app = app([
        ("/a", Piece::text("a")),
        ("/error", Piece::text("oops").status(503)),
        ("/late", Piece::text("late").after(60)),
        ("/breaks", Piece::text("begin").breaking()),
    ]);
    for (template, expected) in [
        ("1<esi:include src='/error'/>2", Some("1")),
        ("1<esi:include src='/late'/>2", Some("1")),
        ("1<esi:include src='/breaks'/>2", Some("1begin")),
        ("1<esi:remove>2", Some("1")),
        ("1<esi:include src='/a' />2<esi:choose>", None),
        ("1<esi:include src='/error' alt='/error'/>2", Some("1")),
        ("<esi:include src='/error'/>2", None),
        ("<esi:choose>", None),
    ] {
        match (page(&app, template).await, expected) {
            (Ok(got), Some(expected)) => {
                assert_eq!(got, (expected.to_owned(), false), "{template}")
            }
            (Err(_), None) => {}
            (got, _) => panic!("{template}: {got:?}"),
        }
    }
    let failure = page(&app, "<esi:include src='/error'/>").await.unwrap_err();
    assert_eq!(failure.to_string(), "/error was answered with 503 Service Unavailable");
    let breaking = Piece::template("1<esi:include src='/a'/>").breaking();
    let response = begin(&app, Config::default(), breaking).await.unwrap();
    assert_eq!(read(response.into_body()).await, ("1a".to_owned(), false));
}

#[tokio::test(start_paused = true)]
async fn only_what_says_so_is_searched_for_markup() {
    let markup = "<esi:include src='/secret'/><!--esi x-->";
    let app = app([
        ("/secret", Piece::text("secret")),
        ("/comment", Piece::text(markup)),
        ("/nested/a", Piece::template("(<esi:include src='b'/>)")),
        ("/nested/b", Piece::template("<esi:include src='../comment'/>")),
        ("http://cdn.test/x", Piece::template(markup)),
    ]);
    assert_eq!(good(&app, "[<esi:include src='/comment'/>]").await, format!("[{markup}]"));
    assert_eq!(good(&app, "[<esi:include src='/nested/a'/>]").await, format!("[({markup})]"));
    // Another host can't have anything of ours included.
    app.asked.lock().unwrap().clear();
    let config = Config { hosts: vec!["cdn.test".to_owned()], ..Config::default() };
    let template = Piece::template("[<esi:include src='http://cdn.test/x'/>]");
    let response = begin(&app, config, template).await.unwrap();
    assert_eq!(read(response.into_body()).await.0, format!("[{markup}]"));
    let asked = app.asked.lock().unwrap();
    assert!(asked.len() == 1 && !asked[0].is_own && !asked[0].headers.contains_key("cookie"));
}

#[tokio::test(start_paused = true)]
async fn pages_have_limits() {
    let app = app([
        ("/self", Piece::template("x<esi:include src='/self'/>")),
        ("/fan", Piece::template(&"<esi:include src='/fan' onerror='continue'/>".repeat(10))),
        ("/a", Piece::text(&"a".repeat(1000))),
        ("/slow", Piece::text("s").after(9)),
    ]);
    let of = |config, template: &str| {
        let (app, template) = (app.clone(), Piece::template(&format!("1{template}")));
        async move {
            match begin(&app, config, template).await {
                Ok(page) => read(page.into_body()).await,
                Err(_) => (String::new(), false),
            }
        }
    };
    let (text, whole) = of(Config::default(), "<esi:include src='/self'/>").await;
    assert_eq!((text.as_str(), whole), ("1xxx", false));
    // A loop that forgives every failure ends all the same.
    app.asked.lock().unwrap().clear();
    assert!(
        !of(Config { max_depth: 50, ..Config::default() }, "<esi:include src='/fan'/>").await.1
    );
    assert_eq!(app.asked.lock().unwrap().len(), 100);
    let small = Config { max_bytes: 2500, ..Config::default() };
    let three = "<esi:include src='/a' onerror='continue'/>".repeat(3);
    let (text, whole) = of(small.clone(), &three).await;
    assert!(text.len() <= 2001 && !whole);
    assert!(of(small, "<esi:include src='/a'/><esi:include src='/a'/>").await.1);
    // Pieces that are each quick enough, and too slow together.
    let one_by_one = Config { ahead: 1, ..Config::default() };
    let started = Instant::now();
    assert!(!of(one_by_one, &"<esi:include src='/slow'/>".repeat(5)).await.1);
    assert_eq!(started.elapsed().as_secs(), 30);
    let text = "t".repeat(2501);
    assert!(!of(Config { max_bytes: 2500, ..Config::default() }, &text).await.1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_is_not_at_fault() {
    let app = app([("/a", Piece::text("a").after(1))]);
    let template = "<esi:include src='/a' onerror='continue'/>".repeat(20);
    let mut body =
        begin(&app, Config::default(), Piece::template(&template)).await.unwrap().into_body();
    let mut text = String::new();
    while let Some(frame) = body.frame().await {
        text.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap());
        sleep(Duration::from_secs(20)).await;
    }
    assert_eq!(text, "a".repeat(20));
}

#[tokio::test(start_paused = true)]
async fn pieces_that_come_encoded_are_decoded() {
    let encoded = |coding: Coding, piece: Piece| {
        let bytes = compress(coding, Effort::Stream, &piece.body[0].1).unwrap();
        let body = vec![(Duration::ZERO, bytes)];
        Piece { body, ..piece }.header("content-encoding", coding.name())
    };
    let app = app([
        ("/gzip", encoded(Coding::Gzip, Piece::template("g<esi:include src='/br'/>"))),
        ("/br", encoded(Coding::Brotli, Piece::text("b"))),
    ]);
    let template = encoded(Coding::Zstd, Piece::template("z<esi:include src='/gzip'/>"));
    let response = begin(&app, Config::default(), template).await.unwrap();
    assert!(!response.headers().contains_key("content-encoding"));
    assert_eq!(read(response.into_body()).await, ("zgb".to_owned(), true));
}

#[tokio::test(start_paused = true)]
async fn what_the_head_says() {
    let shared = |text: &str| Piece::text(text).header("cache-control", "max-age=60");
    let app = app([
        ("/shared", shared("s")),
        ("/mine", Piece::text("m").header("cache-control", "private")),
        ("/cookie", shared("c").header("set-cookie", "a=b")),
        ("/error", Piece::text("e").status(500)),
    ]);
    let template = |text: &str| {
        Piece::template(text)
            .header("cache-control", "max-age=30")
            .header("etag", "\"template\"")
            .header("last-modified", "Tue, 24 Nov 2026 10:00:00 GMT")
            .header("expires", "Tue, 24 Nov 2026 10:00:00 GMT")
            .header("accept-ranges", "bytes")
            .header("age", "10")
            .header("content-type", "text/html")
    };
    let lines = |response: &Response<Assembled>| {
        let mut lines: Vec<String> = response
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines.join("; ")
    };
    let streamed = begin(&app, Config::default(), template("<esi:include src='/shared'/>")).await;
    let streamed = streamed.unwrap();
    assert_eq!(lines(&streamed), "cache-control: private, no-store; content-type: text/html");

    let hold = || Config { hold_back: 1000, ..Config::default() };
    let text = "1<esi:include src='/shared'/>2";
    let held = begin(&app, hold(), template(text)).await.unwrap();
    assert_eq!(
        lines(&held),
        "cache-control: max-age=20; content-length: 3; content-type: text/html; \
         etag: \"2086076d238d7d371536dc3f42435d4e\""
    );
    assert_eq!(held.body().size_hint().exact(), Some(3));
    assert_eq!(read(held.into_body()).await, ("1s2".to_owned(), true));
    for text in [
        "<esi:include src='/shared'/><esi:include src='/mine'/>",
        "<esi:include src='/cookie'/>",
        "<esi:include src='/error' onerror='continue'/>",
        "<esi:include src='/error' alt='/shared'/>",
    ] {
        let held = begin(&app, hold(), template(text)).await.unwrap();
        assert_eq!(held.headers()["cache-control"], "private, no-store", "{text}");
        assert!(!held.headers().contains_key("set-cookie"));
    }
    // Longer than what is held back: it streams.
    let long = format!("{}<esi:include src='/shared'/>", "x".repeat(1001));
    let long = begin(&app, hold(), template(&long)).await.unwrap();
    assert_eq!(lines(&long), "cache-control: private, no-store; content-type: text/html");
    assert_eq!(read(long.into_body()).await.0.len(), 1002);
    let missing = begin(&app, Config::default(), template("gone").status(404)).await.unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
}
