//! The console in a real browser: signing in, what is live, the keyboard, and everything without
//! JavaScript.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::browser::{Browser, ENTER, TAB};
use crate::harness::repository::Repository;
use crate::harness::{Planet, can_isolate, eventually, signal};

/// A commit message that would do something if a page took it for its own.
const HOSTILE: &str = "<script>alert(1)</script><b>\"&amp;";

/// Two seconds of work, so that a build is seen while it runs.
const SLOW_APP: [(&str, &str); 2] = [
    (
        "selvedge.toml",
        r#"
[app]
name = "shop"
build = "for i in 1 2 3 4 5 6 7 8 9 10; do echo step $i; sleep 0.2; done"

[[service]]
name = "web"
kind = "static"
root = "public"
"#,
    ),
    ("public/index.html", "<p>shop</p>"),
];

/// A link that signs in, as the command line prints it.
async fn link(planet: &Planet) -> String {
    let output = planet.command(&planet.data).args(["console", "--json"]).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    printed["url"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_at_work() {
    if !can_isolate() {
        return;
    }
    let Some(browser) = Browser::start().await else { return };
    let planet = Planet::start(8, &["--restart-after", "never"]).await;
    signing_in(&planet, &browser).await;
    let repository = Repository::with_files("shop", &SLOW_APP).await;
    a_push_is_seen_while_it_runs(&planet, &browser, &repository).await;
    requests_are_seen_as_they_come(&planet, &browser).await;
    what_failed_is_said(&planet, &browser, &repository).await;
    a_site_is_lost(&planet, &browser).await;
    the_keyboard_is_enough(&planet, &browser).await;
    every_window_and_light(&planet, &browser).await;
    assert_eq!(browser.complaints().await, [""; 0]);
    without_javascript(&planet, &browser).await;
    browser.close().await;
    planet.stop().await;
}

async fn signing_in(planet: &Planet, browser: &Browser) {
    // Whoever opens control's address means the console, which says how to sign in.
    browser.open(&planet.info.control).await;
    browser.is_at("/console").await;
    assert!(browser.shows("main", "Sign in").await.contains("selvedge console"));
    browser.picture("signed-out").await;
    let link = link(planet).await;
    browser.open(&link).await;
    browser.picture("link").await;
    browser.click("button").await;
    browser.shows("h1", "Overview").await;
    browser.shows("#connection", "Live").await;
    assert_eq!(browser.evaluate("document.cookie").await, "", "a script can read the session");
    // The link is of no use to anybody else.
    browser.open(&link).await;
    browser.click("main button").await;
    browser.shows("main", "does not work any more").await;
    let refused = "Failed to load resource: the server responded with a status of 403";
    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(|it| it.contains(refused)), "{complaints:?}");
    browser.open(&planet.info.console).await;
    browser.shows("h1", "Overview").await;
}

async fn a_push_is_seen_while_it_runs(planet: &Planet, browser: &Browser, repository: &Repository) {
    browser.shows("#summary", "No app has been pushed yet").await;
    let push = async { repository.push_live(planet).await };
    let watch = async {
        browser.shows("#now .stages tr.busy", "build").await;
        browser.picture("push-under-way").await;
    };
    tokio::join!(push, watch);
    browser.shows("#recent .badge.good", "live").await;
    browser.shows("#apps tr#app-shop", "8/8").await;
    browser.shows("#summary", "The app is live everywhere").await;
    // Its own page: a bar a stage, and its time.
    browser.click("#recent a[href='/console/pushes/shop/1']").await;
    browser.shows("#stages", "verify").await;
    let bars = browser.evaluate("document.querySelectorAll('#stages .good rect.fill').length");
    assert_eq!(bars.await, 9);
    // What the build printed came while it ran, and is there afterwards.
    browser.shows("#log", "step 10").await;
    browser.picture("push").await;
}

async fn requests_are_seen_as_they_come(planet: &Planet, browser: &Browser) {
    browser.open(&format!("{}/logs", planet.info.console)).await;
    browser.shows("#connection", "Live").await;
    let fra = &planet.info.sites[0];
    request(fra, "/seen-live?%3Cscript%3E").await;
    let row = browser.shows("#lines tr", "/seen-live?%3Cscript%3E").await;
    assert!(row.contains("404") && row.contains("fra") && row.contains("shop"), "{row}");
    request(fra, "/").await;
    browser.shows("#lines tr:first-child", "200").await;
    browser.picture("log").await;
    let only = "?source=access&app=shop&status=404&text=seen-live";
    browser.open(&format!("{}/logs{only}", planet.info.console)).await;
    browser.shows("#lines", "seen-live").await;
    let rows = browser.evaluate("document.querySelectorAll('#lines tr').length");
    assert_eq!(rows.await, 1);
    browser.open(&format!("{}/logs?status=odd", planet.info.console)).await;
    browser.shows("[role=alert]", "no status").await;
}

/// Asks the shop at a site for `path`.
async fn request(site: &selvedge_api::DevSite, path: &str) {
    let mut stream = TcpStream::connect((site.address, site.http)).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: shop.edge.test\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
}

async fn what_failed_is_said(planet: &Planet, browser: &Browser, repository: &Repository) {
    let manifest =
        SLOW_APP[0].1.replace("for i in", "echo 'no <b>such</b> part'; exit 3; for i in");
    repository.write("selvedge.toml", &manifest);
    repository.commit(HOSTILE).await;
    assert!(!repository.push(planet).await.ok);
    browser.open(&format!("{}/apps/shop", planet.info.console)).await;
    browser.shows("#failure .lines", "no <b>such</b> part").await;
    browser.shows("#why", "shop runs at 8 sites").await;
    repository.write("selvedge.toml", SLOW_APP[0].1);
    repository.write("public/index.html", "<p>another</p>");
    repository.commit(HOSTILE).await;
    repository.push_live(planet).await;
    browser.shows("#releases tbody tr .subject", HOSTILE).await;
    browser.shows("#summary", HOSTILE).await;
    browser.picture("app").await;
}

async fn a_site_is_lost(planet: &Planet, browser: &Browser) {
    browser.open(&planet.info.console).await;
    browser.shows("#summary", "All 8 sites are healthy").await;
    let site = planet.info.sites.iter().find(|site| site.id.as_str() == "nyc").unwrap();
    signal(site.pid, Signal::SIGKILL);
    browser.shows("#summary [aria-live]", "7 of 8 sites are healthy").await;
    browser.shows("#sites tr:has(a[href$='/nyc'])", "lost").await;
    browser.shows("#map figcaption", "1 lost").await;
    let marks = browser.evaluate("document.querySelectorAll('#map a.lost[href$=\"/nyc\"]').length");
    assert_eq!(marks.await, 1);
    browser.shows("#apps tr#app-shop", "7/8").await;
    browser.picture("site-lost").await;
}

async fn the_keyboard_is_enough(planet: &Planet, browser: &Browser) {
    browser.open(&planet.info.console).await;
    browser.press(TAB).await;
    let focused = "document.activeElement.textContent";
    assert_eq!(browser.evaluate(focused).await, "Skip to content");
    browser.press(ENTER).await;
    assert_eq!(browser.evaluate("document.activeElement.id").await, "main");
    for _ in 0..40 {
        browser.press(TAB).await;
        if browser.evaluate(focused).await == "shop" {
            break;
        }
    }
    let outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle").await;
    assert_eq!(outline, "solid", "the focus can't be seen");
    // What changes meanwhile does not take the focus away.
    browser.shows("#connection", "Live").await;
    browser.press(ENTER).await;
    browser.is_at("/console/apps/shop").await;
}

async fn every_window_and_light(planet: &Planet, browser: &Browser) {
    let pages = ["", "/pushes", "/pushes/shop/1", "/apps/shop", "/sites/fra", "/logs"];
    for (width, name) in [(320, "narrow"), (1600, "wide")] {
        browser.resize(width).await;
        for page in pages {
            browser.open(&format!("{}{page}", planet.info.console)).await;
            browser.shows("#connection", "Live").await;
            let root = "document.documentElement";
            let fits = format!("{root}.scrollWidth <= {root}.clientWidth && innerWidth == {width}");
            let fits = browser.evaluate(&fits).await;
            assert_eq!(fits, true, "console{page} has to be scrolled sideways at {width} px");
        }
        browser.open(&planet.info.console).await;
        browser.picture(name).await;
    }
    browser.resize(1280).await;
    let ground = "getComputedStyle(document.body).backgroundColor";
    browser.prefer("light").await;
    let light = browser.evaluate(ground).await;
    browser.prefer("dark").await;
    assert_ne!(browser.evaluate(ground).await, light);
    browser.picture("dark").await;
    browser.prefer("light").await;
    browser.picture("light").await;
}

/// A browser that runs no script sees everything, as it is at that moment.
async fn without_javascript(planet: &Planet, browser: &Browser) {
    browser.chromium("Emulation.setScriptExecutionDisabled", json!({"value": true})).await;
    browser.click("header button").await;
    browser.is_at("/console").await;
    browser.shows("main", "selvedge console").await;
    browser.open(&link(planet).await).await;
    browser.click("main button").await;
    browser.shows("#apps tr#app-shop", "7/8").await;
    browser.shows("noscript", "Without JavaScript").await;
    browser.click("#apps a[href='/console/apps/shop']").await;
    browser.shows("#why", "shop runs at 8 sites").await;
    browser.open(&format!("{}/logs?text=seen-live", planet.info.console)).await;
    browser.shows("#lines tr", "/seen-live").await;
    eventually("nothing says that it is live", async || {
        browser.text("#connection").await.is_none_or(|text| text.is_empty()).then_some(())
    })
    .await;
}
