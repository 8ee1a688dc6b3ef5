//! The engine against a model of RFC 9111, by exchanges that chance makes, in time that is made up.
//!
//! Every exchange is answered by both: what reaches the origin and what the client gets has to be
//! the same. What differs on purpose is in the model, and its reason in docs/decisions/0020. A
//! difference is printed with the fewest exchanges that show it, and comes again by its seed.
//!
//! `cargo xtask differential` runs a million requests; the test below runs some each time.

mod case;
mod engine;
mod generate;
mod model;

use std::time::Duration;

use selvedge_cache::policy::Policy;

use case::{Case, Seen};
use engine::{Engine, Happened};
use model::Model;

/// Differences that a run looks for at most.
const MOST_SHOWN: usize = 5;
/// What a cache may hold in which all of a case has room, in bytes.
const MEMORY: u64 = 8 << 20;
/// What one may hold in which few have.
const LITTLE_MEMORY: u64 = 64 << 10;

/// Something that engine and model do not agree about.
struct Difference {
    /// The exchange, from 0.
    at: usize,
    expected: Seen,
    seen: Seen,
}

/// What a run has seen.
#[derive(Debug, Default)]
struct Run {
    requests: u64,
    cases: u64,
    hits: u64,
}

/// Changes what the engine did before it is compared; a run has to notice.
type Plant = fn(&mut Happened);

/// What is wrong with an engine: nothing, by default.
#[derive(Default)]
struct Wrong {
    policy: Policy,
    plant: Option<Plant>,
}

/// Runs a case, and says where the two part.
async fn differs(case: &Case, wrong: &Wrong, run: &mut Run) -> Option<Difference> {
    let (mut engine, mut model) = (Engine::new(wrong.policy.clone(), MEMORY), Model::default());
    run.cases += 1;
    for (at, step) in case.steps.iter().enumerate() {
        let mut happened = engine.step(step).await;
        run.requests += 1;
        if let Some(plant) = wrong.plant {
            plant(&mut happened);
        }
        let expected = model.step(&step.ask, &step.reply, happened.began_ms, &happened.times);
        let Happened { sent, answer, .. } = happened;
        let hit = |seen: &case::Answer| seen.cache.as_deref() == Some("hit");
        run.hits += u64::from(answer.as_ref().is_some_and(hit));
        let refused = |seen: &case::Answer| (400..500).contains(&seen.status);
        let answer = answer.filter(|seen| expected.answer.is_some() || !refused(seen));
        let mut seen = Seen { sent, answer };
        undated(&mut seen, &expected);
        if seen != expected {
            return Some(Difference { at, expected, seen });
        }
    }
    None
}

/// Takes out the date of an answer that need not have one: the time of day puts it there.
fn undated(seen: &mut Seen, expected: &Seen) {
    let is_date = |(name, _): &(String, String)| name == "date";
    if let (Some(seen), Some(expected)) = (&mut seen.answer, &expected.answer)
        && !expected.fields.iter().any(is_date)
    {
        seen.fields.retain(|field| !is_date(field));
    }
}

/// The smallest case found that still shows a difference.
async fn minimised(case: Case, wrong: &Wrong) -> Case {
    let mut best = case;
    loop {
        let mut smaller = None;
        for candidate in simpler(&best) {
            if differs(&candidate, wrong, &mut Run::default()).await.is_some() {
                smaller = Some(candidate);
                break;
            }
        }
        match smaller {
            Some(case) => best = case,
            None => return best,
        }
    }
}

/// Cases with a little less in them each.
fn simpler(case: &Case) -> Vec<Case> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Case)| {
        let mut changed = case.clone();
        change(&mut changed);
        all.push(changed);
    };
    for at in (0..case.steps.len()).rev() {
        with(&|case| drop(case.steps.remove(at)));
    }
    for (at, step) in case.steps.iter().enumerate() {
        for field in 0..step.ask.fields.len() {
            with(&|case| drop(case.steps[at].ask.fields.remove(field)));
        }
        for field in 0..step.reply.fields.len() {
            with(&|case| drop(case.steps[at].reply.fields.remove(field)));
        }
        if let Some(confirm) = &step.reply.confirm {
            with(&|case| case.steps[at].reply.confirm = None);
            for field in 0..confirm.len() {
                with(&|case| {
                    if let Some(confirm) = &mut case.steps[at].reply.confirm {
                        confirm.remove(field);
                    }
                });
            }
        }
        if step.wait_ms > 0 {
            with(&|case| case.steps[at].wait_ms = 0);
        }
        if step.reply.delay_ms > 0 {
            with(&|case| case.steps[at].reply.delay_ms = 0);
        }
        if step.reply.chunked {
            with(&|case| case.steps[at].reply.chunked = false);
        }
    }
    all
}

/// Runs so many requests, and says what differs, with the seeds; no more than a few.
async fn agree(first_seed: u64, requests: u64, wrong: &Wrong) -> (Run, Vec<String>) {
    let (mut run, mut differences) = (Run::default(), Vec::new());
    let mut seed = first_seed;
    while run.requests < requests && differences.len() < MOST_SHOWN {
        let case = generate::case(seed);
        if differs(&case, wrong, &mut run).await.is_some() {
            let case = minimised(case, wrong).await;
            if let Some(found) = differs(&case, wrong, &mut Run::default()).await {
                let Difference { at, expected, seen } = found;
                differences.push(format!(
                    "seed {seed}, at exchange {at}:\n{case}  expected:{expected}\n  seen:{seen}\n"
                ));
            }
        }
        seed += 1;
    }
    (run, differences)
}

/// A run that can't fail shows nothing: each of these is one wrong decision, and has to be found.
#[tokio::test(start_paused = true)]
async fn wrong_decisions_are_found() {
    let plants: [(&str, Plant); 5] = [
        ("a hit is a second older than it says", |happened| {
            change(happened, |answer| {
                let age = answer.fields.iter_mut().find(|(name, _)| name == "age");
                if let Some((_, age)) = age.filter(|(_, age)| age != "0") {
                    age.push('1');
                }
            });
        }),
        ("a hit has another's body", |happened| {
            change(happened, |answer| {
                if answer.cache.as_deref() == Some("hit") {
                    answer.body = answer.body.as_ref().map(|body| format!("{body}x"));
                }
            });
        }),
        ("what is private is said to be stored", |happened| {
            change(happened, |answer| {
                let private = |(name, value): &(String, String)| {
                    name == "cache-control" && value.contains("private")
                };
                if answer.fields.iter().any(private) {
                    answer.cache = answer.cache.as_ref().map(|cache| format!("{cache}; stored"));
                }
            });
        }),
        ("the origin is not asked with what is stored", |happened| {
            for sent in &mut happened.sent {
                sent.fields.retain(|(name, _)| name != "if-none-match");
            }
        }),
        ("a condition is not honoured", |happened| {
            change(happened, |answer| {
                if answer.status == 304 {
                    answer.status = 200;
                }
            });
        }),
    ];
    let right = Policy::default();
    let policies = [
        ("too much is guessed", Policy { heuristic_percent: 50, ..right.clone() }),
        ("guesses are short", Policy { heuristic_max: Duration::from_secs(2), ..right.clone() }),
        ("nothing stale is served", Policy { stale_if_unreachable: Duration::ZERO, ..right }),
    ];
    let plants =
        plants.map(|(what, plant)| (what, Wrong { plant: Some(plant), ..Wrong::default() }));
    let policies = policies.map(|(what, policy)| (what, Wrong { policy, ..Wrong::default() }));
    for (what, wrong) in plants.iter().chain(&policies) {
        let (_, differences) = agree(1, 5000, wrong).await;
        assert!(!differences.is_empty(), "not found: {what}");
    }
}

fn change(happened: &mut Happened, with: impl FnOnce(&mut case::Answer)) {
    if let Some(answer) = &mut happened.answer {
        with(answer);
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The most memory that this process has had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// As many as the environment says, or some.
#[tokio::test(start_paused = true)]
async fn the_engine_agrees_with_a_model_of_the_rfc() {
    let seed = number("SELVEDGE_DIFFERENTIAL_SEED").unwrap_or(1);
    let requests = number("SELVEDGE_DIFFERENTIAL_REQUESTS").unwrap_or(15_000);
    let started = std::time::Instant::now();
    let (run, differences) = agree(seed, requests, &Wrong::default()).await;
    println!(
        "{} requests in {} sequences, {} answered from the cache, {} differences, {} MiB, {} s",
        run.requests,
        run.cases,
        run.hits,
        differences.len(),
        peak_kib() >> 10,
        started.elapsed().as_secs(),
    );
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(requests < 1000 || run.hits * 10 > run.requests, "too few hits to tell: {run:?}");
}

/// One engine for all that comes, with too little room for it.
#[tokio::test(start_paused = true)]
async fn what_is_stored_stays_within_its_bounds() {
    let requests = number("SELVEDGE_DIFFERENTIAL_REQUESTS").unwrap_or(15_000) / 10;
    let mut engine = Engine::new(Policy::default(), LITTLE_MEMORY);
    let (mut seed, mut done, mut most) = (0, 0, 0);
    let mut before = 0;
    while done < requests {
        for mut step in generate::case(seed).steps {
            step.ask.target = format!("/{}{}", seed % 500, step.ask.target);
            engine.step(&step).await;
            most = most.max(engine.stored_bytes());
            done += 1;
        }
        if done < requests / 4 {
            before = peak_kib();
        }
        seed += 1;
    }
    assert!(most as u64 <= LITTLE_MEMORY, "{most} bytes are stored");
    assert!(requests < 1000 || engine.evictions() > 100, "it had room for all");
    let grown = peak_kib() - before;
    assert!(grown < 64 << 10, "the process has grown by {grown} KiB");
}
