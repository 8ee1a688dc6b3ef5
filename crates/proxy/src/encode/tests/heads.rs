//! What heads become, byte for byte.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::encode::{Config, Negotiation};

/// Headers from `name: value` lines.
fn headers(lines: &[&str]) -> HeaderMap {
    let pair = |line: &&str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.parse::<HeaderName>().unwrap(), value.trim().parse::<HeaderValue>().unwrap())
    };
    lines.iter().map(pair).collect()
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let line = |(name, value): (&HeaderName, &HeaderValue)| {
        format!("{name}: {}", value.as_bytes().escape_ascii()).replace("\\\"", "\"")
    };
    let mut lines: Vec<String> = headers.iter().map(line).collect();
    lines.sort();
    lines
}

fn answer(method: Method, asked: &[&str], status: u16, response: &[&str]) -> Vec<String> {
    let negotiation = Negotiation::begin(&method, &mut headers(asked));
    let mut response = headers(response);
    let status = StatusCode::from_u16(status).unwrap();
    negotiation.plan(&Config::default(), status, &response).apply(&mut response, None);
    lines(&response)
}

#[test]
fn a_response_that_is_encoded_says_so_throughout() {
    let response = [
        "accept-ranges: bytes",
        "cache-control: max-age=60",
        "content-digest: sha-256=:abc=:",
        "content-length: 5000",
        "content-md5: abc",
        "content-type: text/html",
        "digest: sha-256=abc",
        "etag: \"x\"",
        "last-modified: Tue, 24 Nov 2026 10:00:00 GMT",
        "repr-digest: sha-256=:abc=:",
        "vary: origin",
    ];
    for (accepted, coding) in [("gzip", "gzip"), ("gzip, br", "br"), ("zstd, br", "zstd")] {
        let asked = format!("accept-encoding: {accepted}");
        for method in [Method::GET, Method::HEAD] {
            let expected = [
                "cache-control: max-age=60".to_owned(),
                format!("content-encoding: {coding}"),
                "content-type: text/html".to_owned(),
                format!("etag: W/\"x~{coding}\""),
                "last-modified: Tue, 24 Nov 2026 10:00:00 GMT".to_owned(),
                "vary: origin, accept-encoding".to_owned(),
            ];
            assert_eq!(answer(method, &[&asked], 200, &response), expected, "{accepted}");
        }
    }
}

#[test]
fn what_is_left_as_it_is() {
    const GZIP: &[&str] = &["accept-encoding: gzip"];
    // For another client it would be encoded: `vary` says so. Otherwise nothing changes.
    for (asked, status, response, varies) in [
        (&[][..], 200, &["content-type: text/html"][..], true),
        (&["accept-encoding: deflate"], 200, &["content-type: text/html"], true),
        (&["accept-encoding: identity;q=0"], 200, &["content-type: text/html"], true),
        (GZIP, 200, &["content-type: text/html", "content-encoding: gzip"], true),
        (GZIP, 200, &["content-type: text/html", "content-length: 1023"], false),
        (GZIP, 200, &["content-type: image/png"], false),
        (GZIP, 200, &["content-type: text/event-stream"], false),
        (GZIP, 200, &[], false),
        (GZIP, 200, &["content-type: text/html", "cache-control: public, No-Transform"], false),
        (GZIP, 200, &["content-type: text/html", "content-range: bytes 0-9/5000"], false),
        (GZIP, 200, &["content-type: text/html", "content-encoding: aws-chunked"], false),
        (GZIP, 200, &["content-type: text/html", "content-encoding: gzip, br"], false),
        (GZIP, 204, &["content-type: text/html"], false),
        (GZIP, 205, &["content-type: text/html"], false),
        (GZIP, 206, &["content-type: text/html", "content-length: 5000"], false),
        (GZIP, 304, &["content-type: text/html", "etag: \"x\""], false),
        (
            &["accept-encoding: gzip", "cache-control: no-transform"],
            200,
            &["content-type: text/html"],
            false,
        ),
    ] {
        let mut expected: Vec<_> = response.iter().map(|&line| line.to_owned()).collect();
        expected.extend(varies.then(|| "vary: accept-encoding".to_owned()));
        expected.sort();
        assert_eq!(
            answer(Method::GET, asked, status, response),
            expected,
            "{asked:?} {response:?}"
        );
    }
}

#[test]
fn vary_is_merged() {
    for (vary, expected) in [
        (&[][..], &["vary: accept-encoding"][..]),
        (&["vary: Accept-Encoding"], &["vary: Accept-Encoding"]),
        (&["vary: cookie, ACCEPT-ENCODING"], &["vary: cookie, ACCEPT-ENCODING"]),
        (&["vary: *"], &["vary: *"]),
        (&["vary: cookie"], &["vary: cookie, accept-encoding"]),
        (&["vary:"], &["vary: accept-encoding"]),
        (
            &["vary: cookie", "vary: origin"],
            &["vary: accept-encoding", "vary: cookie", "vary: origin"],
        ),
        (&["vary: cookie", "vary: accept-encoding"], &["vary: accept-encoding", "vary: cookie"]),
    ] {
        let response: Vec<&str> = [&["content-type: text/css"], vary].concat();
        let got = answer(Method::GET, &[], 200, &response);
        assert_eq!(got[1..], *expected, "{vary:?}");
    }
}

#[test]
fn tags() {
    const HTML: &str = "content-type: text/html";
    // The tag of the origin, the method, and the tag that the client sees.
    for (tag, method, expected) in [
        ("\"x\"", Method::GET, "W/\"x~gzip\""),
        ("\"\"", Method::GET, "W/\"~gzip\""),
        ("\"a-gzip\"", Method::GET, "W/\"a-gzip~gzip\""),
        ("\"a~gzip\"", Method::GET, "W/\"a~gzip~gzip\""),
        ("W/\"x\"", Method::GET, "W/\"x\""),
        ("unquoted", Method::GET, "unquoted"),
        // The tag of a response to another method is that of what is now at the target.
        ("\"x\"", Method::PUT, "\"x\""),
        ("\"x\"", Method::POST, "\"x\""),
    ] {
        let line = format!("etag: {tag}");
        let got = answer(method, &["accept-encoding: gzip"], 200, &[HTML, &line]);
        assert!(got.contains(&"content-encoding: gzip".to_owned()), "{got:?}");
        assert!(got.contains(&format!("etag: {expected}")), "{tag}: {got:?}");
    }
}

#[test]
fn conditions_reach_the_origin_in_its_own_terms() {
    // What the client sends, and what the origin sees beside `accept-encoding`.
    for (sent, seen) in [
        (
            &["accept-encoding: br", "if-none-match: W/\"x~br\""][..],
            &["if-none-match: \"x\"", "if-none-match: W/\"x~br\""][..],
        ),
        (
            &["accept-encoding: br", "if-none-match: \"a\\\", W/\"b,~br\" , \"c\""],
            &["if-none-match: \"a\\\", W/\"b,~br\" , \"c\"", "if-none-match: \"b,\""],
        ),
        // A coding that the client no longer takes is of no use to it.
        (&["accept-encoding: br", "if-none-match: W/\"x~gzip\""], &["if-none-match: W/\"x~gzip\""]),
        (
            &["accept-encoding: *;q=0", "if-none-match: W/\"x~identity\""],
            &["if-none-match: W/\"x~identity\""],
        ),
        (
            &["if-none-match: W/\"x~identity\""],
            &["if-none-match: \"x\"", "if-none-match: W/\"x~identity\""],
        ),
        (&["accept-encoding: br", "if-none-match: *"], &["if-none-match: *"]),
        (&["accept-encoding: br", "if-none-match: ~br"], &["if-none-match: ~br"]),
        // Who changes what they saw means the origin's, however it came to them.
        (&["if-match: W/\"x~zstd\""], &["if-match: \"x\"", "if-match: W/\"x~zstd\""]),
        // No range on condition of a tag of our making: the origin does not know it.
        (
            &["accept-encoding: br", "range: bytes=5-", "if-range: W/\"x~br\""],
            &["if-range: W/\"x~br\"", "range: bytes=5-"],
        ),
        (
            &["accept-encoding: br", "range: bytes=5-", "if-range: \"x\""],
            &["if-range: \"x\"", "range: bytes=5-"],
        ),
        (
            &["accept-encoding: br", "range: bytes=5-", "if-range: Tue, 24 Nov 2026 10:00:00 GMT"],
            &[],
        ),
        (
            &["range: bytes=5-", "if-range: Tue, 24 Nov 2026 10:00:00 GMT"],
            &["if-range: Tue, 24 Nov 2026 10:00:00 GMT", "range: bytes=5-"],
        ),
    ] {
        let mut headers = headers(sent);
        let negotiation = Negotiation::begin(&Method::GET, &mut headers);
        negotiation.ask(&mut headers, true);
        let seen: Vec<_> = seen.iter().map(|line| line.replace("\\", "\\\\")).collect();
        assert_eq!(lines(&headers), seen, "{sent:?}");
    }
}

#[test]
fn a_304_names_what_the_client_has() {
    // What the client holds and takes, the origin's tag in its 304, and what the client is told.
    for (held, accepted, origin, expected) in [
        ("W/\"x~br\"", "br", "\"x\"", Some("W/\"x~br\"")),
        ("W/\"x~br\", W/\"y~br\"", "br", "\"y\"", Some("W/\"y~br\"")),
        ("W/\"x~gzip\", W/\"x~br\"", "gzip, br", "\"x\"", Some("W/\"x~br\"")),
        ("W/\"x~identity\"", "", "\"x\"", Some("W/\"x~identity\"")),
        ("\"x\", W/\"x~gzip\"", "br, gzip", "\"x\"", None),
        ("\"x\", W/\"x~br\"", "br", "\"x\"", Some("W/\"x~br\"")),
        ("\"x\"", "br", "\"x\"", None),
        ("W/\"x~br\"", "br", "\"y\"", None),
        ("W/\"x~br\"", "br", "W/\"x~br\"", None),
        ("", "br", "\"x\"", None),
    ] {
        let asked = [format!("accept-encoding: {accepted}"), format!("if-none-match: {held}")];
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        let etag = format!("etag: {origin}");
        let mut told = vec![format!("etag: {}", expected.unwrap_or(origin))];
        told.extend(expected.map(|_| "vary: accept-encoding".to_owned()));
        assert_eq!(answer(Method::GET, &asked, 304, &[&etag]), told, "{held} {origin}");
    }
}

#[test]
fn a_client_gets_what_it_can_read() {
    let stored =
        ["content-encoding: gzip", "content-length: 900", "content-type: text/html", "etag: \"x\""];
    let plain = ["content-type: text/html", "etag: W/\"x~identity\"", "vary: accept-encoding"];
    for asked in [&[][..], &["accept-encoding: identity"], &["accept-encoding: br"]] {
        assert_eq!(answer(Method::GET, asked, 200, &stored), plain, "{asked:?}");
    }
    for asked in ["accept-encoding: gzip", "accept-encoding: identity;q=0"] {
        let kept = answer(Method::GET, &[asked], 200, &stored);
        assert_eq!(kept[..4], stored, "{asked}");
        assert_eq!(kept[4], "vary: accept-encoding");
    }
}

#[test]
fn a_stored_variant_has_its_length() {
    let negotiation =
        Negotiation::begin(&Method::GET, &mut headers(&["accept-encoding: br, gzip"]));
    let mut response = headers(&["content-type: text/css", "content-length: 5000", "etag: \"x\""]);
    let plan = negotiation.plan(&Config::default(), StatusCode::OK, &response);
    assert_eq!(plan.encodes().map(super::super::Coding::name), Some("br"));
    plan.apply(&mut response, Some(700));
    assert_eq!(response["content-length"], "700");
    assert_eq!(response["etag"], "W/\"x~br\"");
}

#[test]
fn upstreams_are_asked_in_one_spelling() {
    for (sent, seen) in [
        (Some("GZIP;q=0.2 , Br"), Some("br, gzip")),
        (Some("gzip,deflate,br,zstd"), Some("zstd, br, gzip")),
        (Some("deflate"), None),
        (None, None),
    ] {
        let mut asked = HeaderMap::new();
        asked.extend(sent.map(|sent| (http::header::ACCEPT_ENCODING, sent.parse().unwrap())));
        let negotiation = Negotiation::begin(&Method::GET, &mut asked);
        let mut plain = asked.clone();
        negotiation.ask(&mut asked, false);
        assert_eq!(asked.get("accept-encoding").map(|value| value.to_str().unwrap()), seen);
        negotiation.ask(&mut plain, true);
        assert!(plain.is_empty());
    }
}

#[test]
fn text_shrinks_and_pictures_do_not() {
    let mut config = Config::default();
    for (content_type, expected) in [
        ("text/html", true),
        ("Text/HTML ; charset=utf-8", true),
        ("application/json", true),
        ("application/vnd.api+json;v=1", true),
        ("image/svg+xml", true),
        ("application/wasm", true),
        ("text/event-stream", false),
        ("image/png", false),
        ("application/octet-stream", false),
        ("application/zip", false),
        ("application/grpc", false),
        ("video/mp4", false),
        ("textile/html", false),
        ("", false),
        (";text/html", false),
    ] {
        assert_eq!(config.compresses(content_type.as_bytes()), expected, "{content_type}");
    }
    assert!(!config.compresses(b"text/\xff\xfe\xff".as_slice()));
    config.types.push("text/event-stream".to_owned());
    assert!(config.compresses(b"text/event-stream"));
}
