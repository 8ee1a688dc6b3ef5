//! Chromium, before the proxy: what a page sees of it.

use std::net::SocketAddr;

use base64::Engine as _;
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

use super::app::{self, App};
use super::programs::Scene;
use crate::harness::browser::Browser;
use crate::harness::eventually;

/// What Chromium calls a key that it is to trust.
pub(super) fn key_digest(key: &KeyPair) -> String {
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.subject_public_key_info());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// The page's resources: their paths, and what they came by.
const RESOURCES: &str = "Object.fromEntries(performance.getEntriesByType('resource')
    .map(it => [new URL(it.name).pathname + new URL(it.name).search, it.nextHopProtocol]))";

/// A page with what belongs to it, and what its scripts ask for.
pub(super) async fn visits(scene: &Scene, https: SocketAddr, app: &App) {
    let trust = format!("--ignore-certificate-errors-spki-list={}", scene.key_digest);
    let resolve = "--host-resolver-rules=MAP shop.test 127.0.0.1";
    // HTTP/3 with a certificate that is not of the public's takes this, for any port of the host; at this
    // one there is nothing.
    let unknown = "--origin-to-force-quic-on=shop.test:1";
    let Some(browser) = Browser::start_with(&[&trust, resolve, unknown]).await else { return };
    let port = https.port();
    browser.open(&format!("https://shop.test:{port}/")).await;
    eventually("the page's script ran", async || {
        browser.evaluate("globalThis.ran === true").await.as_bool()?.then_some(())
    })
    .await;
    let first = browser.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol");
    assert_eq!(first.await, "h2");
    let spacing = browser.evaluate("getComputedStyle(document.querySelector('h1')).letterSpacing");
    assert_eq!(spacing.await, "3px");
    let widths = "[...document.images].map(it => it.complete && it.naturalWidth)";
    assert_eq!(browser.evaluate(widths).await, json!([10, 10, 10]));
    let resources = browser.evaluate(RESOURCES).await;
    for path in ["/style.css", "/script.js", "/picture.svg?1", "/picture.svg?3"] {
        assert!(matches!(resources[path].as_str(), Some("h2" | "h3")), "{path}: {resources}");
    }
    compressed(&browser).await;
    ranges(&browser, app).await;
    uploads(&browser).await;
    websocket(&browser).await;
    http3(&browser).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    assert_eq!(app.asked("/style.css"), 1);
    browser.close().await;
}

async fn compressed(browser: &Browser) {
    let style = browser
        .run(
            "const answer = await fetch('/style.css');
            return [answer.headers.get('cache-status'), answer.headers.get('content-encoding'),
                answer.headers.get('vary'), (await answer.text()).length]",
        )
        .await;
    assert!(style[0].as_str().unwrap().starts_with("selvedge; hit"), "{style}");
    assert!(matches!(style[1].as_str(), Some("gzip" | "br" | "zstd")), "{style}");
    assert!(style[2].as_str().unwrap().to_lowercase().contains("accept-encoding"), "{style}");
    assert_eq!(style[3], 27 * 1000, "{style}");
    let sizes = "performance.getEntriesByType('resource').filter(it => it.name.endsWith('.css'))
        .map(it => it.encodedBodySize < it.decodedBodySize / 10)";
    assert_eq!(browser.evaluate(sizes).await, json!([true, true]));
}

/// Sound that is listened to from its end, and a piece of it for a script.
async fn ranges(browser: &Browser, app: &App) {
    let heard = browser
        .run(
            "const sound = new Audio('/sound.wav');
            const event = name => new Promise((good, bad) => {
                sound.addEventListener(name, good, {once: true});
                sound.addEventListener('error', () => bad(sound.error.message), {once: true});
            });
            await event('loadedmetadata');
            const seeked = event('seeked');
            sound.currentTime = sound.duration - 1;
            await seeked;
            return [sound.duration, sound.currentTime, sound.seekable.end(0)]",
        )
        .await;
    let duration = app::SOUND_S;
    assert_eq!(heard, json!([duration, duration - 1, duration]));
    let piece = browser
        .run(
            "const answer = await fetch('/sound.wav', {headers: {range: 'bytes=36-43'}});
            const bytes = [...new Uint8Array(await answer.arrayBuffer())];
            return [answer.status, answer.headers.get('content-range'), bytes,
                answer.headers.get('cache-status')]",
        )
        .await;
    let size = duration * 8000;
    assert_eq!(piece[0], 206);
    assert_eq!(piece[1], format!("bytes 36-43/{}", size + 44));
    let expected = [&b"data"[..], &u32::try_from(size).unwrap().to_le_bytes()].concat();
    assert_eq!(piece[2], json!(expected));
    assert!(piece[3].as_str().unwrap().starts_with("selvedge; hit"), "{piece}");
    // All of it came with the first request.
    assert_eq!(app.asked("/sound.wav"), 1);
}

async fn uploads(browser: &Browser) {
    let echoed = browser
        .run(
            "const sent = new Uint8Array(3_000_000).map((_, at) => at % 251);
            const answer = await fetch('/echo', {method: 'POST', body: sent});
            const got = new Uint8Array(await answer.arrayBuffer());
            return [answer.status, got.length, got.every((byte, at) => byte === sent[at])]",
        )
        .await;
    assert_eq!(echoed, json!([200, 3_000_000, true]));
}

async fn websocket(browser: &Browser) {
    let said = browser
        .run(
            "const socket = new WebSocket(`wss://${location.host}/socket`, ['echo']);
            socket.binaryType = 'arraybuffer';
            const event = name => new Promise((good, bad) => {
                socket.addEventListener(name, good, {once: true});
                socket.addEventListener('error', () => bad('it broke'), {once: true});
            });
            await event('open');
            const said = [socket.protocol];
            for (const message of ['hellø', new Uint8Array(1_000_000).fill(7)]) {
                const answer = event('message');
                socket.send(message);
                const {data} = await answer;
                said.push(typeof data === 'string' ? data : new Uint8Array(data).length);
            }
            const closed = event('close');
            socket.send('close 4321 enough');
            const {code, reason, wasClean} = await closed;
            return [...said, code, reason, wasClean]",
        )
        .await;
    assert_eq!(said, json!(["echo", "hellø", 1_000_000, 4321, "enough", true]));
}

/// The browser was told of HTTP/3, and goes over to it.
async fn http3(browser: &Browser) {
    let ask = "const answer = await fetch('/page');
        const all = performance.getEntriesByType('resource').filter(it => it.name.endsWith('/page'));
        return [all.at(-1).nextHopProtocol, answer.headers.get('cache-status'), await answer.text()]";
    let said = eventually("the browser speaks HTTP/3", async || {
        let said = browser.run(ask).await;
        (said[0] == "h3").then_some(said)
    })
    .await;
    assert!(said[1].as_str().unwrap().starts_with("selvedge; hit"), "{said}");
    assert_eq!(said[2], Value::from("page"));
}
