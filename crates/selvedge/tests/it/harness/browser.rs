//! Headless Chromium, driven through WebDriver (W3C) as chromedriver speaks it: plain HTTP and JSON.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{PATIENCE, descendants, eventually};

/// Where screenshots are kept, when this variable names a directory.
const SCREENSHOTS: &str = "SELVEDGE_SCREENSHOTS";
/// Keys that WebDriver has no character for.
pub(crate) const TAB: char = '\u{e004}';
pub(crate) const ENTER: char = '\u{e007}';

/// A browser with a profile of its own.
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    // Last, so that the browser ends before its profile goes.
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one, 1280 pixels wide. `None`, loudly, where there is no Chromium.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(&["--disable-quic"]).await
    }

    /// The same with these arguments.
    pub(crate) async fn start_with(further: &[&str]) -> Option<Self> {
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut driver = match driver {
            Ok(driver) => driver,
            Err(error) => {
                super::skip(&format!("this test wants chromium-driver ({error})"));
                return None;
            }
        };
        let port = port_of(&mut driver).await;
        let profile = tempfile::Builder::new().prefix("selvedge-browser-").tempdir().unwrap();
        let mut browser = Self {
            driver,
            address: ([127, 0, 0, 1], port).into(),
            session: String::new(),
            _profile: profile,
        };
        let mut arguments: Vec<String> = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--window-size=1280,900",
        ]
        .map(String::from)
        .to_vec();
        arguments.extend(further.iter().map(|argument| (*argument).to_owned()));
        arguments.push(format!("--user-data-dir={}", browser._profile.path().display()));
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = browser.ask("POST", "/session", wanted).await.unwrap();
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        Some(browser)
    }

    /// Opens a URL and waits until the page is there.
    pub(crate) async fn open(&self, url: &str) {
        self.call("POST", "/url", json!({ "url": url })).await.unwrap();
    }

    /// The path of the page that is open.
    pub(crate) async fn path(&self) -> String {
        let url = self.call("GET", "/url", Value::Null).await.unwrap();
        url.as_str().unwrap().parse::<http::Uri>().unwrap().path().to_owned()
    }

    /// Waits until the page that is open is at `path`.
    pub(crate) async fn is_at(&self, path: &str) {
        eventually(&format!("the browser is at {path}"), async || {
            (self.path().await == path).then_some(())
        })
        .await;
    }

    /// Waits until `selector` finds something whose text holds `text`, and returns its text.
    pub(crate) async fn shows(&self, selector: &str, text: &str) -> String {
        let what = format!("{selector} shows {text:?}");
        eventually(&what, async || {
            let found = self.text(selector).await?;
            found.contains(text).then_some(found)
        })
        .await
    }

    /// The text of what `selector` finds first, as people see it.
    pub(crate) async fn text(&self, selector: &str) -> Option<String> {
        let element = self.element(selector).await?;
        let text = self.call("GET", &format!("/element/{element}/text"), Value::Null).await.ok()?;
        text.as_str().map(str::to_owned)
    }

    /// Clicks what `selector` finds first.
    pub(crate) async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        let element = element.unwrap_or_else(|| panic!("there is no {selector}"));
        self.call("POST", &format!("/element/{element}/click"), json!({})).await.unwrap();
    }

    async fn element(&self, selector: &str) -> Option<String> {
        let wanted = json!({"using": "css selector", "value": selector});
        let element = self.call("POST", "/element", wanted).await.ok()?;
        element.as_object()?.values().next()?.as_str().map(str::to_owned)
    }

    /// Presses a key where the focus is.
    pub(crate) async fn press(&self, key: char) {
        let key = key.to_string();
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": [
            {"type": "keyDown", "value": key}, {"type": "keyUp", "value": key},
        ]}]});
        self.call("POST", "/actions", actions).await.unwrap();
    }

    /// What an expression of JavaScript is on the page.
    pub(crate) async fn evaluate(&self, expression: &str) -> Value {
        let script = json!({"script": format!("return {expression}"), "args": []});
        self.call("POST", "/execute/sync", script).await.unwrap()
    }

    /// What a function of JavaScript with this body returns on the page, once it does; a text that
    /// begins with `thrown` if it throws.
    pub(crate) async fn run(&self, body: &str) -> Value {
        let script = format!(
            "const done = arguments[0];
            (async () => {{ {body} }})().then(done, error => done(`thrown: ${{error}}`))"
        );
        let script = json!({"script": script, "args": []});
        self.call("POST", "/execute/async", script).await.unwrap()
    }

    /// A command of Chromium's own protocol.
    pub(crate) async fn chromium(&self, command: &str, parameters: Value) -> Value {
        let command = json!({"cmd": command, "params": parameters});
        self.call("POST", "/goog/cdp/execute", command).await.unwrap()
    }

    /// Makes the window so many pixels wide.
    pub(crate) async fn resize(&self, width: u32) {
        let metrics =
            json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.chromium("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Asks for `light` or `dark` pages.
    pub(crate) async fn prefer(&self, scheme: &str) {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.chromium("Emulation.setEmulatedMedia", media).await;
    }

    /// What the browser's console has to complain of since this was last asked.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.call("POST", "/se/log", json!({"type": "browser"})).await.unwrap();
        let complaint = |entry: &Value| {
            let serious = matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING"));
            serious.then(|| entry["message"].as_str().unwrap_or_default().to_owned())
        };
        log.as_array().unwrap().iter().filter_map(complaint).collect()
    }

    /// Keeps a picture of the whole page, if pictures are wanted.
    pub(crate) async fn picture(&self, name: &str) {
        let Some(directory) = std::env::var_os(SCREENSHOTS).map(PathBuf::from) else { return };
        std::fs::create_dir_all(&directory).unwrap();
        let size = self.chromium("Page.getLayoutMetrics", json!({})).await;
        let size = &size["cssContentSize"];
        let clip = json!({
            "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1,
        });
        let wanted = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let picture = self.chromium("Page.captureScreenshot", wanted).await;
        let picture = base64::engine::general_purpose::STANDARD
            .decode(picture["data"].as_str().unwrap())
            .unwrap();
        std::fs::write(directory.join(format!("{name}.png")), picture).unwrap();
    }

    /// Ends the browser.
    pub(crate) async fn close(mut self) {
        self.call("DELETE", "", Value::Null).await.unwrap();
        self.driver.start_kill().unwrap();
        self.driver.wait().await.unwrap();
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Result<Value, Value> {
        self.ask(method, &format!("/session/{}{path}", self.session), body).await
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Result<Value, Value> {
        let exchange = async {
            let stream = TcpStream::connect(self.address).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            let connection = tokio::spawn(connection);
            let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
            let request = http::Request::builder()
                .method(method)
                .uri(path)
                .header(http::header::HOST, self.address.to_string())
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from(body)))
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            let ok = response.status().is_success();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            connection.abort();
            let mut answer: Value = serde_json::from_slice(&body).unwrap();
            let value = answer["value"].take();
            if ok { Ok(value) } else { Err(value) }
        };
        tokio::time::timeout(PATIENCE, exchange).await.expect("chromedriver does not answer")
    }
}

/// A failed test must not leave a browser behind.
impl Drop for Browser {
    fn drop(&mut self) {
        let Some(pid) = self.driver.id() else { return };
        for process in std::iter::once(pid).chain(descendants(pid)) {
            let process = nix::unistd::Pid::from_raw(i32::try_from(process).unwrap());
            // It may have ended by itself.
            let _ = nix::sys::signal::kill(process, Signal::SIGKILL);
        }
    }
}

/// The port that chromedriver says it listens on.
async fn port_of(driver: &mut Child) -> u16 {
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    let port = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                return port.trim_end_matches('.').parse().unwrap();
            }
        }
        panic!("chromedriver ended without saying its port");
    };
    let port = tokio::time::timeout(PATIENCE, port).await.expect("chromedriver does not start");
    // It ends when it can't write.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    port
}
