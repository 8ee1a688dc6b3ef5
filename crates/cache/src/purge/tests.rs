use std::sync::Arc;

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::store::{self, Cost, Memory};

const APPS: [&str; 2] = ["one", "two"];
const HOSTS: [&str; 2] = ["a.example", "b.example"];
const PATHS: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/b", "/a/bc"];
const TAGS: [&str; 3] = ["x", "y", "xy"];
const TYPES: [&str; 2] = ["image/png", "text/html"];

#[derive(Debug)]
struct Object {
    app: usize,
    host: usize,
    path: usize,
    tags: Tags,
    headers: HeaderMap,
    stamp: Stamp,
}

impl Purgeable for Object {
    fn labels(&self) -> Labels<'_> {
        Labels {
            app: APPS[self.app].as_bytes(),
            // In both apps and hosts alike: only the scope keeps them apart.
            url: PATHS[self.path].as_bytes(),
            host: HOSTS[self.host].as_bytes(),
            path: PATHS[self.path].as_bytes(),
            tags: &self.tags,
            headers: &self.headers,
        }
    }

    fn stamp(&self) -> &Stamp {
        &self.stamp
    }
}

impl Cost for Object {
    fn bytes(&self) -> usize {
        1000
    }
}

/// What an object is made of: app, host, path, a bit for each tag, type.
type Seed = (usize, usize, usize, u8, usize);

fn object((app, host, path, tags, kind): Seed, stamp: Stamp) -> Object {
    let mut found = Tags::default();
    for (bit, tag) in TAGS.iter().enumerate() {
        if tags >> bit & 1 == 1 {
            found.add(tag.as_bytes()).unwrap();
        }
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(TYPES[kind]));
    Object { app, host, path, tags: found, headers, stamp }
}

#[derive(Debug, Clone)]
enum Op {
    /// A request to the origin is about to be sent.
    Ask(Seed),
    /// The oldest answer that is outstanding is stored.
    Store,
    Purge(usize, Scope, Kind),
    /// Objects are hit.
    Hit,
    /// The sweeper makes steps.
    Sweep(usize),
}

fn seed() -> impl Strategy<Value = Seed> {
    (0..APPS.len(), 0..HOSTS.len(), 0..PATHS.len(), 0..8u8, 0..TYPES.len())
}

fn scope() -> impl Strategy<Value = Scope> {
    let name = |names: &'static [&'static str]| {
        (0..names.len()).prop_map(|index| names[index].as_bytes().to_vec())
    };
    let prefix = (0..3usize, 0..PATHS.len(), any::<bool>()).prop_map(|(host, path, open)| {
        let host = HOSTS.get(host).copied().unwrap_or_default();
        format!("{host}{}{}", PATHS[path], if open { "*" } else { "" }).parse().unwrap()
    });
    let bans = [
        r#"path ~ "/a*" && header(content-type) ~ "image/*""#,
        r#"tag == "x" && tag != "y""#,
        r#"!(host == "a.example") || path ~ "*/c""#,
    ];
    prop_oneof![
        1 => Just(Scope::App),
        2 => name(&PATHS).prop_map(Scope::Url),
        2 => name(&TAGS).prop_map(Scope::Tag),
        3 => prefix.prop_map(Scope::Prefix),
        2 => (0..bans.len()).prop_map(move |index| Scope::Ban(Arc::new(bans[index].parse().unwrap()))),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![Just(Kind::Hard), Just(Kind::Soft)];
    prop_oneof![
        4 => seed().prop_map(Op::Ask),
        4 => Just(Op::Store),
        3 => (0..APPS.len(), scope(), kind).prop_map(|(app, scope, kind)| Op::Purge(app, scope, kind)),
        1 => Just(Op::Hit),
        2 => (1..20usize).prop_map(Op::Sweep),
    ]
}

/// The definition of a scope, one object at a time.
fn fits(app: usize, scope: &Scope, object: &Object) -> bool {
    let labels = object.labels();
    let inside = match scope {
        Scope::App => true,
        Scope::Url(url) => url == labels.url,
        Scope::Tag(tag) => labels.tags.iter().any(|known| known == tag),
        Scope::Prefix(prefix) => {
            let text = prefix.to_string();
            let (host, prefix) = text.split_at(text.find('/').unwrap());
            let path = PATHS[object.path];
            let below = match prefix.strip_suffix('*') {
                Some(start) => path.starts_with(start),
                None => {
                    let rest = path.strip_prefix(prefix);
                    rest.is_some_and(|rest| {
                        rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/')
                    })
                }
            };
            (host.is_empty() || host.as_bytes() == labels.host) && below
        }
        Scope::Ban(ban) => ban.matches(&labels),
    };
    app == object.app && inside
}

/// All purges there ever were, each with the time it was made at.
#[derive(Default)]
struct Model {
    purges: Vec<(usize, Scope, Kind)>,
}

impl Model {
    fn verdict(&self, object: &Object, asked: usize) -> Verdict {
        let since = self.purges.iter().skip(asked);
        let fitting = since.filter(|(app, scope, _)| fits(*app, scope, object));
        let verdicts = fitting.map(|(_, _, kind)| match kind {
            Kind::Hard => Verdict::Gone,
            Kind::Soft => Verdict::Stale,
        });
        verdicts.max().unwrap_or(Verdict::Good)
    }
}

/// Runs the operations, and gives each verdict with what the model says to `compare`.
fn run(ops: Vec<Op>, limits: Limits, compare: impl Fn(Verdict, Verdict)) {
    let purger = Purger::new(limits);
    let mut model = Model::default();
    let memory = Memory::new(store::Limits { capacity: 1 << 30, largest: 1 << 30 });
    let mut sweeper = Sweeper::new(purger.clone());
    let mut asked = std::collections::VecDeque::new();
    let mut stored: Vec<(Arc<Object>, usize)> = Vec::new();
    let check = |model: &Model, object: &Object, asked: usize| {
        compare(purger.verdict(object), model.verdict(object, asked));
    };
    for op in ops {
        match op {
            Op::Ask(seed) => asked.push_back((seed, purger.ticket(), model.purges.len())),
            Op::Store => {
                let Some((seed, ticket, at)) = asked.pop_front() else { continue };
                let object = Arc::new(object(seed, ticket.stamp()));
                assert!(memory.insert(&stored.len().to_le_bytes(), object.clone()).stored);
                stored.push((object, at));
                drop(ticket);
            }
            Op::Purge(app, scope, kind) => {
                purger.purge(APPS[app].as_bytes(), &scope, kind);
                model.purges.push((app, scope, kind));
            }
            Op::Hit => {
                for (object, at) in stored.iter().step_by(3) {
                    check(&model, object, *at);
                }
            }
            Op::Sweep(limit) => {
                for entry in sweeper.step(&memory, limit, None).removed {
                    check(&model, &entry.value, 0);
                    assert_eq!(purger.verdict(&entry.value), Verdict::Gone);
                }
            }
        }
    }
    for (object, at) in &stored {
        check(&model, object, *at);
    }
    // With nothing on its way, the sweeper ends, and nothing is left to be remembered.
    asked.clear();
    while !sweeper.step(&memory, 7, None).idle {}
    assert_eq!(purger.counters().marks, 0);
    let left: Vec<_> = stored
        .iter()
        .enumerate()
        .filter(|(key, _)| memory.get(&key.to_le_bytes()).is_some())
        .map(|(_, (object, at))| (object, at))
        .collect();
    for (object, at) in &left {
        assert_ne!(model.verdict(object, **at), Verdict::Gone, "a purged object is in store");
        check(&model, object, **at);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn verdicts_are_those_of_the_list_of_all_purges(ops in proptest::collection::vec(op(), 1..120)) {
        run(ops, Limits::default(), |verdict, expected| assert_eq!(verdict, expected));
    }

    #[test]
    fn full_lists_purge_more_and_never_less(ops in proptest::collection::vec(op(), 1..120)) {
        let limits = Limits { names: 2, bytes: 12, prefixes: 2, bans: 1 };
        run(ops, limits, |verdict, expected| assert!(verdict >= expected));
    }
}

#[test]
fn lists_are_bounded_by_purging_more() {
    let purger = Purger::new(Limits { names: 10, ..Limits::default() });
    let old = object((0, 0, 0, 0, 0), purger.ticket().stamp());
    let other = object((1, 0, 0, 0, 0), purger.ticket().stamp());
    for tag in 0..10 {
        purger.purge(b"one", &Scope::Tag(vec![tag]), Kind::Hard);
    }
    let new = object((0, 0, 0, 0, 0), purger.ticket().stamp());
    assert_eq!(purger.verdict(&old), Verdict::Good);
    assert_eq!(purger.counters(), Counters { purges: 10, marks: 10, widened: 0 });

    let unchecked = object((0, 0, 0, 0, 0), Stamp::new(Generation::FIRST));
    purger.purge(b"one", &Scope::Tag(vec![10]), Kind::Hard);
    assert_eq!(purger.counters(), Counters { purges: 11, marks: 7, widened: 1 });
    assert_eq!(purger.verdict(&unchecked), Verdict::Gone, "the older half is one purge of the app");
    assert_eq!(purger.verdict(&new), Verdict::Good);
    assert_eq!(purger.verdict(&other), Verdict::Good, "another app's objects are not concerned");
}

#[test]
fn what_was_asked_for_before_a_purge_and_stored_after_it_is_purged() {
    let purger = Purger::new(Limits::default());
    let memory = Memory::new(store::Limits { capacity: 1 << 20, largest: 1 << 20 });
    let mut sweeper = Sweeper::new(purger.clone());
    let ticket = purger.ticket();
    purger.purge(b"one", &Scope::App, Kind::Hard);
    // However often the sweeper passes meanwhile.
    for _ in 0..10 {
        let _ = sweeper.step(&memory, 100, None);
    }
    let late = Arc::new(object((0, 0, 0, 0, 0), ticket.stamp()));
    let _ = memory.insert(b"late", late.clone());
    drop(ticket);
    assert_eq!(purger.verdict(&late), Verdict::Gone);
    while !sweeper.step(&memory, 100, None).idle {}
    assert!(memory.get(b"late").is_none());
}

#[test]
fn marks_that_a_slower_tier_needs_are_kept() {
    let purger = Purger::new(Limits::default());
    let memory = Memory::<Arc<Object>>::new(store::Limits { capacity: 1 << 20, largest: 1 << 20 });
    let mut sweeper = Sweeper::new(purger.clone());
    let elsewhere = object((0, 0, 0, 0, 0), purger.ticket().stamp());
    purger.purge(b"one", &Scope::App, Kind::Soft);
    while !sweeper.step(&memory, 100, Some(elsewhere.stamp.generation())).idle {}
    assert_eq!(purger.counters().marks, 1);
    assert_eq!(purger.verdict(&elsewhere), Verdict::Stale);
    while !sweeper.step(&memory, 100, None).idle {}
    assert_eq!(purger.counters().marks, 0);
    assert_eq!(purger.verdict(&elsewhere), Verdict::Stale, "it remembers");
}

#[test]
fn what_is_on_its_way_to_a_slower_tier_is_checked_in_time() {
    let purger = Purger::new(Limits::default());
    let memory = Memory::new(store::Limits { capacity: 1 << 20, largest: 1 << 20 });
    let mut sweeper = Sweeper::new(purger.clone());
    let object = Arc::new(object((0, 0, 0, 0, 0), purger.ticket().stamp()));
    let _ = memory.insert(b"old", object);
    purger.purge(b"one", &Scope::App, Kind::Hard);
    // Something makes room for itself, and the sweeper passes before what went is stored.
    let ticket = purger.ticket();
    let went = memory.remove(b"old").unwrap();
    while !sweeper.step(&memory, 100, None).idle {}
    assert_eq!(purger.verdict(&went), Verdict::Gone);
    drop(ticket);
    while !sweeper.step(&memory, 100, None).idle {}
    assert_eq!(purger.counters().marks, 0);
}

#[test]
fn prefixes_are_read_or_refused() {
    for text in ["/", "/a/b", "a.example/", "a.example/x*", "[::1]/a", "/*"] {
        assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
    }
    assert_eq!("A.Example/A".parse::<Prefix>().unwrap().to_string(), "a.example/A");
    let refused = |text: &str| text.parse::<Prefix>().unwrap_err();
    assert_eq!(refused("a.example"), PrefixError::NoPath);
    assert_eq!(refused("http://a.example/"), PrefixError::Host("http:".to_owned()));
    assert_eq!(refused("a.example:80/"), PrefixError::Host("a.example:80".to_owned()));
    assert_eq!(refused("/a*b"), PrefixError::Star);
    assert_eq!(refused("/a?b"), PrefixError::Query);
    assert_eq!(refused(&"/".repeat(9000)), PrefixError::TooLong);
}

#[test]
fn threads_purge_and_check() {
    let purger = Purger::new(Limits::default());
    let checkers: Vec<_> = (0..3usize)
        .map(|thread| {
            let purger = purger.clone();
            std::thread::spawn(move || {
                for round in 0..4000u32 {
                    let app = thread % 2;
                    let object = object((app, 0, 0, 1, 0), purger.ticket().stamp());
                    assert_eq!(object.stamp.load().1, Verdict::Good);
                    let scope = if round % 2 == 0 {
                        Scope::Tag(b"x".to_vec())
                    } else {
                        Scope::Ban(Arc::new(r#"tag == "x""#.parse().unwrap()))
                    };
                    purger.purge(APPS[app].as_bytes(), &scope, Kind::Hard);
                    assert_eq!(purger.verdict(&object), Verdict::Gone, "a purge holds at once");
                }
            })
        })
        .collect();
    for checker in checkers {
        checker.join().unwrap();
    }
    assert_eq!(purger.counters().purges, 12_000);
}
