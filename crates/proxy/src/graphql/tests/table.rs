//! By table.

use http::{HeaderMap, StatusCode};

use super::*;
use crate::graphql::{Answer, is_candidate, may_store};

#[test]
fn one_question_in_many_spellings_has_one_key() {
    let same = [
        body("query Q($a: [Int!] = [1, 2]) { f(a: $a, o: {x: 1, y: \"z\"}) @skip(if: false) }", ""),
        body("query Q($a:[Int!]=[1 2]){f(o:{y:\"z\" x:1},a:$a)@skip(if:false)}", ""),
        body(
            "# Who\n query\tQ($a:[Int!]=[1,,2,]),{\r\n f(,o:{y:\"z\",x:1}# {\n a:$a)@skip(if:false)}",
            ",\"variables\":{}",
        ),
        body(
            "query Q($a: [Int!] = [1, 2]) { f(a: $a, o: {x: 1, y: \"z\"}) @skip(if: false) }",
            ", \"operationName\" : null, \"variables\":null, \"extensions\": {} ",
        ),
    ];
    let keys: Vec<Key> = same.iter().map(|body| key(&post(body).unwrap())).collect();
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
    let normal = post(&same[0]).unwrap().document().to_owned();
    assert_eq!(
        normal,
        "query Q ( $ a : [ Int ! ] = [ 1 2 ] ) { f ( a : $ a o : { x : 1 y : \"z\" } ) \
         @ skip ( if : false ) }"
    );
    assert_eq!(post(&body(&normal, "")).unwrap().document(), normal);
}

#[test]
fn different_questions_have_different_keys() {
    let bodies = [
        body("{a b}", ""),
        body("{b a}", ""),
        body("{ab}", ""),
        body("{a:b}", ""),
        body("{b:a}", ""),
        body("{a{b}}", ""),
        body("{a(b:1)}", ""),
        body("{a(b:1.0)}", ""),
        body("{a(b:\"1\")}", ""),
        body("{a(b:\"1 \")}", ""),
        body("{a(b:\"\"\"1\"\"\")}", ""),
        body("{a(b:\"# 1\")}", ""),
        body("{a(b:[1,2])}", ""),
        body("{a(b:[2,1])}", ""),
        body("{a(b:[[1],2])}", ""),
        body("{a(b:x)}", ""),
        body("{a(b:$x)}", ""),
        body("{a @x b}", ""),
        body("{a b @x}", ""),
        body("{a @x @y}", ""),
        body("{a @y @x}", ""),
        body("{...a}fragment a on A{b}", ""),
        body("{...on A{b}}", ""),
        body("query a{a b}", ""),
        body("query a{a b}", ",\"operationName\":\"a\""),
        body("query a{a} query b{b}", ",\"operationName\":\"a\""),
        body("query a{a} query b{b}", ",\"operationName\":\"b\""),
        body("{a b}", ",\"variables\":{\"x\":1}"),
        body("{a b}", ",\"variables\":{\"x\":1.0}"),
        body("{a b}", ",\"variables\":{\"x\":\"1\"}"),
        body("{a b}", ",\"variables\":{\"x\":null}"),
        body("{a b}", ",\"variables\":{\"x\":[1,2]}"),
        body("{a b}", ",\"variables\":{\"x\":[2,1]}"),
        body("{a b}", ",\"variables\":{\"x\":123456789012345678901}"),
        body("{a b}", ",\"variables\":{\"x\":123456789012345678902}"),
        body("{a b}", ",\"variables\":{\"x\":{\"y\":{}}}"),
        body("{a b}", ",\"extensions\":{\"x\":1}"),
    ];
    let keys: Vec<Key> = bodies.iter().map(|body| key(&post(body).expect(body))).collect();
    for (at, one) in keys.iter().enumerate() {
        for (other_at, other) in keys.iter().enumerate().skip(at + 1) {
            assert_ne!(one, other, "{} and {}", bodies[at], bodies[other_at]);
        }
    }
}

#[test]
fn variables_are_the_same_in_any_order() {
    let with =
        |variables: &str| key(&post(&body("{a}", &format!(",\"variables\":{variables}"))).unwrap());
    assert_eq!(
        with("{\"a\":{\"x\":[1,{\"p\":1,\"q\":2}],\"y\":\"\\u00e9\\/\"},\"b\":2}"),
        with("{ \"b\" : 2 , \"\\u0061\" : {\"y\":\"é/\",\"x\":[1, {\"q\":2,\"p\":1}]} }"),
    );
}

#[test]
fn what_is_not_for_a_cache() {
    use NotCacheable::*;
    let deep = format!("{{{}a{}}}", "a{".repeat(200), "}".repeat(200));
    let nested = format!(",\"variables\":{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100));
    for (body, expected) in [
        (body("mutation{a}", ""), Mutation),
        (body("mutation", ""), Document),
        (body("query a{a} mutation b{b}", ",\"operationName\":\"a\""), Mutation),
        (body("subscription{a}", ""), Subscription),
        (body("{a", ""), Document),
        (body("{a}}", ""), Document),
        (body("{}", ""), Document),
        (body("", ""), Document),
        (body("fragment a on A{b}", ""), Document),
        (body("type A{b:C}", ""), Document),
        (body("{a} type A{b:C}", ""), Document),
        (body("{a ...@defer{b}}", ""), Incremental),
        (body("{a @stream(initialCount:1)}", ""), Incremental),
        (body("query a{a} query b{b}", ""), OperationName),
        (body("query a{a} query a{b}", ",\"operationName\":\"a\""), OperationName),
        (body("query a{a}", ",\"operationName\":\"b\""), OperationName),
        (body("query a{a}", ",\"operationName\":\"\""), OperationName),
        (body("{a}", ",\"operationName\":\"a\""), OperationName),
        (body("{a}", ",\"operationName\":1"), Json),
        (body("{a}", ",\"variables\":[]"), Json),
        (body("{a}", ",\"variables\":\"{}\""), Json),
        (body("{a}", ",\"variables\":{\"a\":1,\"\\u0061\":2}"), Json),
        (body("{a}", ",\"variables\":{\"a\":\"\\ud800\"}"), Json),
        (body("{a}", &nested), Json),
        // A server may take the last one, or one in other letters.
        (body("{a}", ",\"query\":\"mutation{a}\""), Json),
        (body("{a}", ",\"qu\\u0065ry\":\"mutation{a}\""), Json),
        (body("{a}", ",\"Query\":\"mutation{a}\""), Json),
        (body("{a}", ",\"id\":\"1\""), Json),
        (body("{a}", ",\"extensions\":{\"persistedQuery\":{\"version\":1}}"), NoQuery),
        (body(&deep, ""), TooComplex),
        (body(&"{a}#\n".repeat(10_000), ""), TooComplex),
        ("{\"extensions\":{}}".to_owned(), NoQuery),
        ("{\"query\":null}".to_owned(), NoQuery),
        ("[{\"query\":\"{a}\"}]".to_owned(), Batch),
        (" [".to_owned(), Batch),
        ("{\"query\":\"{a}\"".to_owned(), Json),
        ("{\"query\":\"{a}\"} {}".to_owned(), Json),
        ("\"{a}\"".to_owned(), Json),
        (String::new(), Json),
        (" ".repeat(70_000), TooLong),
    ] {
        let shown: String = body.chars().take(200).collect();
        assert_eq!(post(&body), Err(expected), "{shown}");
    }
}

#[test]
fn what_a_request_must_look_like() {
    let config = Config::default();
    let of = |method: &str, uri: &str, headers: &[(&str, &str)], body: &str| {
        let head = head(method, uri, headers);
        let candidate = is_candidate(&config, &head);
        (candidate, read(&config, &head, body.as_bytes()).map(|one| one.document().to_owned()))
    };
    let good = body("{a}", "");
    let plain = || Ok("{ a }".to_owned());
    let json = |value: &'static str| [("content-type", value)];
    for good_type in ["application/json", "Application/JSON; Charset=UTF-8", "application/json;"] {
        assert_eq!(of("POST", "/", &json(good_type), &good), (true, plain()), "{good_type}");
    }
    for bad in ["text/plain", "application/json; charset=utf-16", "application/jsonx", ""] {
        assert_eq!(of("POST", "/", &json(bad), &good), (false, Err(NotCacheable::Format)), "{bad}");
    }
    let coded = [JSON, ("content-encoding", "gzip")];
    assert_eq!(of("POST", "/", &coded, &good), (false, Err(NotCacheable::Format)));
    assert_eq!(of("POST", "/", &[JSON, JSON], &good), (false, Err(NotCacheable::Format)));
    assert!(!of("POST", "/", &[JSON, ("content-length", "65537")], &good).0);
    assert_eq!(of("PUT", "/", &[JSON], &good), (false, Err(NotCacheable::Format)));
    assert_eq!(of("POST", "/", &json("application/graphql"), "{a}"), (true, plain()));

    for (uri, expected) in [
        ("/?query={a}", plain()),
        ("/?query=%7Ba%7d", plain()),
        ("/?query=%7B+a%20%7d&x=1&variables=%7B%7D", plain()),
        ("/?query=mutation%7Ba%7D", Err(NotCacheable::Mutation)),
        ("/?query={a}&query={b}", Err(NotCacheable::Ambiguous)),
        ("/?query={a}&QUERY={b}", Err(NotCacheable::Ambiguous)),
        ("/?query={a}&query[]={b}", Err(NotCacheable::Ambiguous)),
        ("/?query={a}&x;query={b}", Err(NotCacheable::Ambiguous)),
        ("/?query=%ff", Err(NotCacheable::Ambiguous)),
        ("/?query={a}&variables=1", Err(NotCacheable::Json)),
        ("/?x=1", Err(NotCacheable::NoQuery)),
        ("/", Err(NotCacheable::NoQuery)),
    ] {
        let uri = uri.replace('{', "%7B").replace('}', "%7D");
        assert_eq!(of("GET", &uri, &[], ""), (false, expected), "{uri}");
    }
    assert_eq!(of("GET", "/?query=%7Ba%7D", &[], "x").1, Err(NotCacheable::Format));
    // Some servers prefer the URL to the body.
    for uri in ["/?query=mutation%7Ba%7D", "/?variables=%7B%7D", "/?operationname=a"] {
        assert_eq!(of("POST", uri, &[JSON], &good).1, Err(NotCacheable::Ambiguous), "{uri}");
    }
}

#[test]
fn what_is_asked_elsewhere_is_another_question() {
    let keyed = |method, uri, body: &str| {
        key(&read(&Config::default(), &head(method, uri, &[JSON]), body.as_bytes()).unwrap())
    };
    let keys = [
        keyed("POST", "/", &body("{a}", "")),
        keyed("POST", "/?tenant=1", &body("{a}", "")),
        keyed("POST", "/?tenant=2", &body("{a}", "")),
        keyed("GET", "/?query=%7Ba%7D", ""),
        keyed("GET", "/?tenant=1&query=%7Ba%7D", ""),
    ];
    for (at, one) in keys.iter().enumerate() {
        assert!(!keys[at + 1..].contains(one), "{at}");
    }
    assert_eq!(keys[4], keyed("GET", "/?query=%7B%20a,+%7D&tenant=1", ""));
}

#[test]
fn identity_is_what_is_declared() {
    let declared = Config {
        identity: vec![
            Identity::Header("x-tenant".parse().unwrap()),
            Identity::Cookie("session".to_owned()),
        ],
        ..Config::default()
    };
    let lax = Config { ignore_other_cookies: true, ..declared.clone() };
    let body = body("{a}", "");
    let of = |config: &Config, headers: &[(&str, &str)]| {
        let headers = [&[JSON], headers].concat();
        read(config, &head("POST", "/", &headers), body.as_bytes()).map(|one| key(&one))
    };
    for config in [&declared, &lax] {
        let keys = [
            of(config, &[]),
            of(config, &[("x-tenant", "a")]),
            of(config, &[("x-tenant", "")]),
            of(config, &[("x-tenant", "a"), ("x-tenant", "b")]),
            of(config, &[("x-tenant", "ab")]),
            of(config, &[("cookie", "session=a")]),
            of(config, &[("cookie", "session=b")]),
            of(config, &[("cookie", "session=a; session=b")]),
            of(config, &[("cookie", "session=")]),
        ]
        .map(Result::unwrap);
        for (at, one) in keys.iter().enumerate() {
            assert!(!keys[at + 1..].contains(one), "{at}");
        }
        assert_eq!(of(config, &[("authorization", "x")]), Err(NotCacheable::Undeclared));
        assert_eq!(of(config, &[("accept-language", "x")]).unwrap(), keys[0]);
    }
    let other = [("cookie", "a=1;session=a; b")];
    assert_eq!(of(&declared, &other), Err(NotCacheable::Undeclared));
    assert_eq!(of(&lax, &other), of(&lax, &[("cookie", "session=a")]));
    let nothing = Config::default();
    assert_eq!(of(&nothing, &[("cookie", "session=a")]), Err(NotCacheable::Undeclared));
}

#[test]
fn answers_with_errors_are_not_stored() {
    for (text, expected) in [
        ("{\"data\":{\"a\":1}}", true),
        (" {\n\"data\" : {\"errors\":[\"}\"]} , \"extensions\":{\"x\":[{}]} }\n", true),
        ("{\"data\":null}", true),
        ("{\"data\":{\"a\":\"\\\\\\\",\\\"errors\\\":1\"}}", true),
        ("{\"data\":{},\"errors\":[{\"message\":\"x\"}]}", false),
        ("{\"errors\":[],\"data\":{}}", false),
        ("{\"data\":{},\"\\u0065rrors\":[1]}", false),
        ("{\"data\":{},\"hasNext\":true}", false),
        ("{}", false),
        ("{\"x\":\"data\"}", false),
        ("{\"x\":{\"data\":1}}", false),
        ("{\"data\":{\"a\":1}", false),
        ("{\"data\":{}}{", false),
        ("[{\"data\":{}}]", false),
        ("null", false),
        ("", false),
    ] {
        for size in [1, 2, 3, 1000] {
            let mut answer = Answer::default();
            text.as_bytes().chunks(size).for_each(|piece| answer.read(piece));
            assert_eq!(answer.is_good(), expected, "{text}");
        }
    }
    for (status, content_type, expected) in [
        (200, "application/json", true),
        (200, "Application/GraphQL-Response+JSON; charset=utf-8", true),
        (200, "multipart/mixed; boundary=x", false),
        (200, "text/event-stream", false),
        (201, "application/json", false),
        (400, "application/graphql-response+json", false),
    ] {
        let headers =
            HeaderMap::from_iter([(http::header::CONTENT_TYPE, content_type.parse().unwrap())]);
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(may_store(status, &headers), expected, "{status} {content_type}");
    }
}
