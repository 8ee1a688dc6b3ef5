//! Where pieces may come from, and what they are told.

use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode, Uri};

use crate::esi::headers::for_piece;
use crate::esi::url::resolve;
use crate::esi::{Origin, Refused, Sharing, ask, is_template};

fn headers(lines: &[&str]) -> HeaderMap {
    let pair = |line: &&str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.parse::<HeaderName>().unwrap(), value.trim().parse::<HeaderValue>().unwrap())
    };
    lines.iter().map(pair).collect()
}

#[test]
fn urls_are_resolved_and_kept_at_home() {
    use Refused::{Host, Malformed, Scheme};
    let origin = Origin { authority: "Shop.test:8443".to_owned(), scheme: "https" };
    let hosts = ["cdn.test".to_owned(), "other.test:8080".to_owned()];
    let base: Uri = "/shop/cart/?id=1".parse().unwrap();
    for (src, expected) in [
        ("/a", Ok(("/a", true))),
        (" /a?x=1&y#z ", Ok(("/a?x=1&y", true))),
        ("a", Ok(("/shop/cart/a", true))),
        ("./a/./b", Ok(("/shop/cart/a/b", true))),
        ("../a", Ok(("/shop/a", true))),
        ("../../../../a", Ok(("/a", true))),
        ("..", Ok(("/shop/", true))),
        ("?page=2", Ok(("/shop/cart/?page=2", true))),
        ("a?b=http://evil.test/", Ok(("/shop/cart/a?b=http://evil.test/", true))),
        ("/a:b", Ok(("/a:b", true))),
        ("https://shop.test:8443/a", Ok(("/a", true))),
        ("HTTPS://SHOP.test:8443", Ok(("/", true))),
        ("//shop.test:8443/a", Ok(("/a", true))),
        ("https://shop.test:8443?a", Ok(("/?a", true))),
        ("http://cdn.test/a?b", Ok(("http://cdn.test/a?b", false))),
        ("https://CDN.test:443/a/../b", Ok(("https://cdn.test:443/b", false))),
        ("http://other.test:8080/", Ok(("http://other.test:8080/", false))),
        ("https://shop.test/a", Err(Host)),
        ("https://shop.test:8443.evil.test/a", Err(Host)),
        ("https://shop.test:8443@evil.test/a", Err(Host)),
        ("https://user@shop.test:8443/a", Err(Host)),
        ("http://cdn.test:8080/a", Err(Host)),
        ("//evil.test/a", Err(Host)),
        ("///evil.test/a", Err(Host)),
        ("http://127.0.0.1/", Err(Host)),
        ("file:///etc/passwd", Err(Scheme)),
        ("javascript:alert(1)", Err(Scheme)),
        ("http:/a", Err(Scheme)),
        ("", Err(Malformed)),
        ("#a", Err(Malformed)),
        ("/a b", Err(Malformed)),
        ("/a\r\nx:y", Err(Malformed)),
        ("/é", Err(Malformed)),
        ("\\\\evil.test/a", Err(Malformed)),
        ("/a/%2e%2e/b", Err(Malformed)),
        ("/%00", Err(Malformed)),
        ("/%zz", Err(Malformed)),
    ] {
        let got = resolve(&origin, &hosts, &base, src);
        let got = got.as_ref().map(|place| (place.uri.to_string(), place.is_own));
        let expected = expected.map(|(uri, is_own)| (uri.to_owned(), is_own));
        assert_eq!(got.map_err(|error| *error), expected, "{src}");
    }
    let long = format!("/{}", "a".repeat(2048));
    assert_eq!(resolve(&origin, &hosts, &base, &long), Err(Malformed));
    let bare = Origin { authority: "shop.test".to_owned(), scheme: "http" };
    assert!(resolve(&bare, &[], &base, "http://shop.test:80/a").unwrap().is_own);
    assert_eq!(resolve(&bare, &[], &base, "https://shop.test:80/a"), Err(Host));
}

#[test]
fn pieces_are_told_who_asks_only_at_home() {
    let client = headers(&[
        "accept: text/html",
        "accept-encoding: br",
        "accept-language: de",
        "authorization: Basic eDp5",
        "connection: keep-alive",
        "content-length: 3",
        "content-type: text/plain",
        "cookie: session=1",
        "host: shop.test",
        "if-match: \"x\"",
        "if-modified-since: Tue, 24 Nov 2026 10:00:00 GMT",
        "if-none-match: \"x\"",
        "if-range: \"x\"",
        "range: bytes=0-1",
        "surrogate-capability: evil=\"ESI/1.0\"",
        "transfer-encoding: chunked",
        "upgrade: websocket",
    ]);
    let names = |headers: &HeaderMap| {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    let own = for_piece(&client, true);
    assert_eq!(
        names(&own),
        "accept accept-language authorization cookie host surrogate-capability"
    );
    assert_eq!(own["surrogate-capability"], "selvedge=\"Surrogate/1.0 ESI/1.0\"");
    assert_eq!(names(&for_piece(&client, false)), "accept accept-language surrogate-capability");

    let mut asked = client;
    ask(&mut asked);
    assert!(!asked.contains_key("range") && !asked.contains_key("accept-encoding"));
    assert!(asked.contains_key("content-length"));
    assert_eq!(asked.get_all("surrogate-capability").iter().count(), 2);
}

#[test]
fn a_template_says_that_it_is_one() {
    for (control, status, expected) in [
        ("content=\"ESI/1.0\"", 200, true),
        ("max-age=60, Content=\"ESI/1.0\"", 200, true),
        ("content = \"ESI-INL/1.0 ESI/1.0\"", 200, true),
        ("content=ESI/1.0", 404, true),
        ("content=\"ESI/1.0\"", 206, false),
        ("content=\"ESI/1.01\"", 200, false),
        ("content=\"\"", 200, false),
        ("ESI/1.0", 200, false),
        ("no-store", 200, false),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let line = format!("surrogate-control: {control}");
        assert_eq!(is_template(status, &headers(&[&line])), expected, "{control}");
    }
    assert!(!is_template(StatusCode::OK, &HeaderMap::new()));
}

#[test]
fn a_page_may_be_shared_as_far_as_its_pieces() {
    const PRIVATE: &str = "private, no-store";
    for (pieces, expected) in [
        (&[&["cache-control: max-age=60"][..]][..], "max-age=60"),
        (&[&["cache-control: max-age=60", "age: 20"]], "max-age=40"),
        (&[&["cache-control: public, max-age=60"]], "public, max-age=60, s-maxage=60"),
        (&[&["cache-control: max-age=5, s-maxage=60"]], "public, max-age=5, s-maxage=60"),
        (&[&["cache-control: s-maxage=60"]], "public, max-age=0, s-maxage=60"),
        // The shortest lifetime counts, and what one allows to all the others may not.
        (&[&["cache-control: public, max-age=60"], &["cache-control: max-age=10"]], "max-age=10"),
        (
            &[
                &["cache-control: public, max-age=60"],
                &["cache-control: s-maxage=5, must-revalidate"],
            ],
            "public, max-age=0, s-maxage=5, must-revalidate",
        ),
        (
            &[&["cache-control: max-age=60, proxy-revalidate"], &["cache-control: max-age=70"]],
            "max-age=60, proxy-revalidate",
        ),
        (&[&["cache-control: max-age=60"], &["cache-control: private, max-age=60"]], PRIVATE),
        (&[&["cache-control: max-age=60"], &["cache-control: no-store"]], PRIVATE),
        (&[&["cache-control: max-age=60"], &["cache-control: no-cache=\"x\""]], PRIVATE),
        (&[&["cache-control: max-age=60"], &[]], PRIVATE),
        (
            &[&["cache-control: max-age=60"], &["cache-control: max-age=60", "set-cookie: a=b"]],
            PRIVATE,
        ),
        (&[&["cache-control: max-age=60", "vary: *"]], PRIVATE),
        (&[&["cache-control: max-age=60", "age: 61"]], PRIVATE),
        (&[&["cache-control: max-age=60", "age: x"]], PRIVATE),
        (&[&["cache-control: max-age=x"]], "max-age=0"),
        (&[&["cache-control: max-age=9, max-age=5"]], "max-age=5"),
    ] {
        let sharing = pieces.iter().map(|lines| Sharing::of(&headers(lines)));
        let sharing = sharing.reduce(|one, other| one.and(&other)).unwrap();
        let mut page = HeaderMap::new();
        sharing.put(&mut page);
        assert_eq!(page[CACHE_CONTROL], expected, "{pieces:?}");
    }
    let one = Sharing::of(&headers(&["cache-control: max-age=1", "vary: Origin, Cookie"]));
    let other =
        Sharing::of(&headers(&["cache-control: max-age=1", "vary: cookie", "vary: accept"]));
    let mut page = headers(&["vary: origin"]);
    one.and(&other).put(&mut page);
    assert_eq!(page["vary"], "origin, cookie, accept");
}
