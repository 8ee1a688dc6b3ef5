//! Cases by chance, the same for a seed each time.

use super::case::{Ask, Case, Fields, HOSTS, Kind, Reply, Step};

/// The time at which cases begin: milliseconds since 1970, within a second.
pub(super) const BEGIN_MS: u64 = 1_800_000_000_250;

/// SplitMix64 (Steele, Lea and Flood 2014).
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// So many in a hundred times.
    fn is(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn text(&mut self, choices: &[&str]) -> String {
        self.of(choices).to_owned()
    }
}

const NUMBERS: [&str; 18] = [
    "0",
    "1",
    "2",
    "5",
    "10",
    "60",
    "60",
    "600",
    "600",
    "3600",
    "3600",
    "86400",
    "2147483648",
    "99999999999999999999",
    "-1",
    "1.5",
    "\"60\"",
    "x",
];
const GARBAGE: [&[u8]; 12] = [
    b"",
    b",",
    b",,x",
    b"\"",
    b"\"a\\",
    b"=",
    b"=5",
    b"\xff\xfe",
    b"a=\"b, no-store\"",
    b"x; y",
    b"\x80no-store",
    b"no-store=\"",
];
const METHODS: [&str; 12] = [
    "HEAD", "HEAD", "POST", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "FOO", "POST", "QUERY",
    "M-SEARCH",
];
const TARGETS: [&str; 7] = ["/x", "/x", "/x", "/x", "/x?q=1", "/d/y", "/"];
const TAGS: [&str; 6] = ["\"1\"", "\"2\"", "W/\"1\"", "\"1,2\"", "\"a\\\"", "1"];

/// The case of a seed.
pub(super) fn case(seed: u64) -> Case {
    let chance = &mut Chance::new(seed);
    let mut now_ms = BEGIN_MS;
    let length = 2 + chance.below(24);
    let steps = (0..length).map(|number| {
        let wait_ms = pause(chance);
        now_ms += wait_ms;
        Step { wait_ms, ask: ask(chance, now_ms), reply: reply(chance, number, now_ms) }
    });
    Case { steps: steps.collect() }
}

fn pause(chance: &mut Chance) -> u64 {
    match chance.below(11) {
        0..=3 => 0,
        10 => 30 + chance.below(1000),
        4 => chance.below(1000),
        5 => 1000 * (1 + chance.below(3)),
        6 => 1000 * chance.below(12),
        7 => chance.below(70_000),
        8 => 60_000 - 1 + chance.below(3),
        _ => chance.below(200_000_000),
    }
}

fn put(fields: &mut Fields, name: &str, value: impl Into<Vec<u8>>) {
    fields.push((name.to_owned(), value.into()));
}

/// A date about now, in one of three forms or none.
fn date(chance: &mut Chance, now_ms: u64) -> Vec<u8> {
    let now = now_ms / 1000;
    let at = match chance.below(8) {
        0..=2 => now,
        3 => now - 1 - chance.below(5),
        4 => now + 1 + chance.below(5),
        5 => now - chance.below(2000),
        6 => now + chance.below(2000),
        _ => now - chance.below(50_000_000),
    };
    // The few times come again, so that conditions meet.
    let at = if chance.is(30) { BEGIN_MS / 1000 } else { at };
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at);
    let text = httpdate::fmt_http_date(time);
    match chance.below(24) {
        0 => b"0".to_vec(),
        1 => b"soon".to_vec(),
        2 => text.replace("GMT", "PST").into(),
        3 => text.replace(", ", "").into(),
        4 => other_forms(at, true).into(),
        5 => other_forms(at, false).into(),
        6 => b"Thu, 01 Jan 1970 00:00:00 GMT".to_vec(),
        _ => text.into(),
    }
}

/// The forms of RFC 850 and of `asctime` (RFC 9110, section 5.6.7).
fn other_forms(at: u64, of_850: bool) -> String {
    let text = httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(at));
    let parts: Vec<&str> = text.split([',', ' ']).filter(|part| !part.is_empty()).collect();
    let [week, day, month, year, time, _] = parts[..] else { return text };
    if of_850 {
        let days = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
        let week = days.iter().find(|name| name.starts_with(week)).unwrap_or(&week);
        return format!("{week}, {day}-{month}-{} {time} GMT", &year[2..]);
    }
    format!("{week} {month} {:>2} {time} {year}", day.trim_start_matches('0'))
}

fn ask(chance: &mut Chance, now_ms: u64) -> Ask {
    let host = if chance.is(95) { HOSTS[0] } else { HOSTS[1] };
    let mut ask = Ask {
        method: if chance.is(86) { "GET".to_owned() } else { chance.text(&METHODS) },
        host: if chance.is(5) { host.to_uppercase() } else { host.to_owned() },
        target: chance.text(&TARGETS),
        fields: Vec::new(),
        body: Vec::new(),
        broken: chance.is(4).then(|| broken(chance)),
    };
    let plain = chance.is(45);
    if !plain {
        directives_of_requests(chance, &mut ask.fields);
        conditions(chance, now_ms, &mut ask.fields);
        selecting(chance, &mut ask.fields);
    }
    let takes_body = ["POST", "PUT", "PATCH", "QUERY"].contains(&ask.method.as_str());
    if chance.is(if takes_body { 70 } else { 2 }) {
        ask.body = b"hello".to_vec();
    }
    ask
}

fn directives_of_requests(chance: &mut Chance, fields: &mut Fields) {
    if chance.is(8) {
        put(fields, "pragma", chance.text(&["no-cache", "No-Cache", "x, no-cache", "x"]));
    }
    if chance.is(70) {
        return;
    }
    let mut lines = Vec::new();
    for _ in 0..=chance.below(3) {
        let directive = chance.text(&[
            "max-age",
            "max-age",
            "min-fresh",
            "max-stale",
            "max-stale",
            "no-cache",
            "no-store",
            "only-if-cached",
            "stale-if-error",
            "x",
            "No-Cache",
            "MAX-AGE",
        ]);
        let valued = !directive.starts_with("no") && directive != "only-if-cached";
        lines.push(match chance.is(if valued { 90 } else { 3 }) {
            true => format!("{directive}={}", chance.of(&NUMBERS)),
            false => directive,
        });
    }
    lists(chance, fields, "cache-control", lines);
}

/// One line or several.
fn lists(chance: &mut Chance, fields: &mut Fields, name: &str, members: Vec<String>) {
    if chance.is(4) {
        put(fields, name, chance.of(&GARBAGE));
    }
    match chance.is(80) {
        true => {
            let between = chance.of(&[", ", ",", " , ", ",,"]);
            put(fields, name, members.join(between));
        }
        false => members.into_iter().for_each(|member| put(fields, name, member)),
    }
}

fn conditions(chance: &mut Chance, now_ms: u64, fields: &mut Fields) {
    if chance.is(18) {
        let tags = (0..=chance.below(2)).map(|_| chance.text(&TAGS)).collect();
        match chance.is(10) {
            true => put(fields, "if-none-match", "*"),
            false => lists(chance, fields, "if-none-match", tags),
        }
    }
    if chance.is(14) {
        put(fields, "if-modified-since", date(chance, now_ms));
    }
    if chance.is(16) {
        for _ in 0..=u64::from(chance.is(5)) {
            put(fields, "range", chance.text(&[
                "bytes=0-4", "bytes=0-0", "bytes=2-", "bytes=-3", "bytes=0-1,4-5", "bytes=5-1",
                "bytes=0-3,2-5", "bytes=100-", "bytes=100-, 0-1", "lines=0-1", "bytes=x", "bytes=",
                "Bytes=1-2", "bytes = 0-1", "bytes=0-99999999999999999999", "bytes=-0", "bytes=4-0",
                "bytes=0-0,1-1,2-2,3-3,4-4,5-5,6-6,7-7,8-8,9-9,10-10,11-11,12-12,13-13,14-14,15-15,16-16",
            ]));
        }
        if chance.is(30) {
            match chance.is(60) {
                true => put(fields, "if-range", chance.text(&TAGS)),
                false => put(fields, "if-range", date(chance, now_ms)),
            }
        }
    }
    if chance.is(3) {
        put(fields, "if-match", chance.text(&TAGS));
    }
    if chance.is(2) {
        put(fields, "if-unmodified-since", date(chance, now_ms));
    }
}

/// What responses may depend on.
fn selecting(chance: &mut Chance, fields: &mut Fields) {
    if chance.is(25) {
        for _ in 0..=u64::from(chance.is(15)) {
            let value = ["1", "2", "1, 2", "1,2", "1 , 2", "2, 1", ",1", "", "\"1, 2\""];
            put(fields, "x-n", chance.text(&value));
        }
    }
    if chance.is(20) {
        let value = ["en", "de", "en, de", "en,de", "EN", "de;q=0.5, en", "de; q=0.5,en"];
        put(fields, "accept-language", chance.text(&value));
    }
    if chance.is(10) {
        put(fields, "authorization", chance.text(&["Basic eA==", "Basic eQ=="]));
    }
    if chance.is(8) {
        put(fields, "cookie", chance.text(&["a=1", "a=2", "a=1; b=2", "a=1;b=2"]));
    }
}

/// Requests that are none, or that two programs could read differently (RFC 9112).
fn broken(chance: &mut Chance) -> Vec<u8> {
    let head = |rest: &str| format!("GET /x HTTP/1.1\r\n{rest}\r\n\r\n").into_bytes();
    match chance.below(20) {
        0 => head("x-n: 1"),
        1 => head("host: a.test\r\nhost: a.test"),
        2 => head("host: a b"),
        3 => b"GET /../x HTTP/1.1\r\nhost: a.test\r\n\r\n".to_vec(),
        4 => b"GET /%zz HTTP/1.1\r\nhost: a.test\r\n\r\n".to_vec(),
        5 => b"TRACE /x HTTP/1.1\r\nhost: a.test\r\n\r\n".to_vec(),
        6 => b"CONNECT a.test:80 HTTP/1.1\r\nhost: a.test\r\n\r\n".to_vec(),
        7 => head("host: a.test\r\ncontent-length: 1, 1"),
        8 => head("host: a.test\r\ncontent-length: +1"),
        9 => head("host: a.test\r\ntransfer-encoding: gzip, chunked"),
        10 => head("host: a.test\r\nbad name: 1"),
        11 => head("host: a.test\r\nx-n: 1\r\n folded"),
        12 => head("host: a.test\r\nx-n: a\x00b"),
        13 => head("host: a.test\r\ncache-control"),
        14 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
        15 => b"GET  /x HTTP/1.1\r\nhost: a.test\r\n\r\n".to_vec(),
        16 => b"GET /x HTTP/3.7\r\nhost: a.test\r\n\r\n".to_vec(),
        17 => b"GET http://b.test/x HTTP/1.1\r\nhost: a.test\r\n\r\n".to_vec(),
        18 => head(&format!("host: a.test\r\nx-n: {}", "9".repeat(40_000))),
        _ => b"GET /x\\y HTTP/1.1\r\nhost: a.test\r\n\r\n".to_vec(),
    }
}

fn reply(chance: &mut Chance, number: u64, now_ms: u64) -> Reply {
    let kind = match chance.below(100) {
        0..=2 => Kind::Cut,
        3..=5 => Kind::HangUp,
        6 => Kind::Garbage,
        7..=9 => Kind::Unreachable,
        _ => Kind::Whole,
    };
    let status = match chance.below(10) {
        0..=6 => "200",
        7 => "500",
        _ => chance.of(&[
            "201", "203", "204", "206", "299", "300", "301", "302", "304", "307", "308", "400",
            "404", "410", "414", "418", "451", "500", "501", "502", "503", "504", "599",
        ]),
    };
    let status: u16 = status.parse().unwrap();
    let bodiless = [204, 304].contains(&status);
    let padding = "-".repeat(chance.below(20) as usize);
    let body = format!("body {number}{padding}").into_bytes();
    let mut fields = described(chance, now_ms);
    if status == 206 {
        put(&mut fields, "content-range", "bytes 0-1/10");
    }
    let confirm = chance.is(60).then(|| described(chance, now_ms));
    Reply {
        kind,
        delay_ms: if chance.is(20) { chance.below(5000) } else { 0 },
        status,
        fields,
        body: if bodiless { Vec::new() } else { body },
        chunked: kind == Kind::Whole && !bodiless && chance.is(20),
        confirm,
    }
}

/// What a response says of itself.
fn described(chance: &mut Chance, now_ms: u64) -> Fields {
    let mut fields = Fields::new();
    let named = chance.below(1000).to_string();
    put(&mut fields, "x-named", named);
    if chance.is(40) {
        let seconds = chance.of(&["5", "60", "600", "3600"]);
        put(&mut fields, "cache-control", format!("max-age={seconds}"));
    } else if chance.is(80) {
        directives_of_responses(chance, &mut fields, "cache-control");
    }
    if chance.is(7) {
        directives_of_responses(chance, &mut fields, "cdn-cache-control");
    }
    if chance.is(18) {
        put(&mut fields, "expires", date(chance, now_ms));
    }
    if chance.is(60) {
        put(&mut fields, "date", date(chance, now_ms));
    }
    if chance.is(12) {
        let ages =
            ["0", "5", "60", "59", "x", "-1", "1, 70", "70;x", "7.5", "99999999999", "", "5 6"];
        put(&mut fields, "age", chance.text(&ages));
    }
    if chance.is(45) {
        put(&mut fields, "etag", chance.text(&TAGS));
    }
    if chance.is(35) {
        put(&mut fields, "last-modified", date(chance, now_ms));
    }
    if chance.is(30) {
        let vary = [
            "x-n",
            "x-n",
            "X-N, accept-language",
            "accept-language",
            "cookie",
            "authorization",
            "*",
            "x-n, *",
            "",
            "x n",
            "accept-language,,X-N",
        ];
        put(&mut fields, "vary", chance.text(&vary));
    }
    beside(chance, &mut fields);
    fields
}

/// What a response has that its use does not depend on, or seldom.
fn beside(chance: &mut Chance, fields: &mut Fields) {
    if chance.is(6) {
        put(fields, "set-cookie", "s=1");
    }
    if chance.is(20) {
        put(fields, "content-type", chance.text(&["text/plain", "image/x"]));
    }
    if chance.is(8) {
        let name = chance.of(&["location", "content-location"]);
        put(
            fields,
            name,
            chance.text(&[
                "/x",
                "x?q=1",
                "http://a.test/x",
                "http://A.TEST:80/x",
                "https://a.test/x",
                "//b.test/x",
                "http://b.test:8080/x",
                "./x",
                "../x",
                "?q=1",
                "#f",
                "/d/./../x",
                "http://a.test",
                "%%%",
            ]),
        );
    }
    for (name, percent) in [("cache-groups", 15), ("cache-group-invalidation", 6)] {
        if chance.is(percent) {
            let groups =
                ["\"a\"", "\"b\";x=1", "\"a\", \"b\"", "\"a\", b", "\"a", "", "\"a\",", "1"];
            put(fields, name, chance.text(&groups));
        }
    }
    if chance.is(3) {
        put(fields, "connection", "x-hop");
        put(fields, "x-hop", "1");
    }
}

fn directives_of_responses(chance: &mut Chance, fields: &mut Fields, name: &str) {
    let mut members = Vec::new();
    for _ in 0..=chance.below(3) {
        let directive = chance.text(&[
            "max-age",
            "max-age",
            "max-age",
            "max-age",
            "s-maxage",
            "public",
            "private",
            "no-store",
            "no-cache",
            "must-revalidate",
            "proxy-revalidate",
            "must-understand",
            "immutable",
            "stale-while-revalidate",
            "stale-while-revalidate",
            "stale-if-error",
            "x",
            "Max-Age",
        ]);
        let lists = ["private", "no-cache"].contains(&directive.as_str());
        let valued = directive.contains("age") || directive.starts_with("stale");
        members.push(if valued && chance.is(97) {
            format!("{directive}={}", chance.of(&NUMBERS))
        } else if lists && chance.is(30) {
            let names = [
                "\"x-named\"",
                "\"etag, x-named\"",
                "x-named",
                "\"\"",
                "\"a b\"",
                "\"Set-Cookie\"",
            ];
            format!("{directive}={}", chance.of(&names))
        } else {
            directive
        });
    }
    lists(chance, fields, name, members);
}
