//! Every way an operation can end, in one table.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::SiteId;
use selvedge_model::operation::{
    AnswerState, NodeState, Operation, OperationId, OperationKind, OperationState, Target,
    TunnelPurpose,
};
use selvedge_plan::operations::{Input, aggregate};

const CREATED: u64 = 1_000;
const LIMIT: u64 = 5_000;

fn site(id: &str) -> SiteId {
    SiteId::new(id).unwrap()
}

fn operation(sites: &[&str]) -> Operation {
    Operation {
        id: OperationId::new(CREATED, 1),
        kind: OperationKind::Tunnel(TunnelPurpose::Logs),
        created_ms: CREATED,
        deadline_ms: CREATED + LIMIT,
        targets: sites.iter().map(|id| Target::sole(site(id))).collect(),
        outcome: None,
    }
}

/// Answers as `SITE=WORD@MS`, since the beginning.
fn answers(text: &str) -> BTreeMap<Target, (AnswerState, u64)> {
    text.split_whitespace()
        .map(|part| {
            let (id, rest) = part.split_once('=').unwrap();
            let (word, at) = rest.split_once('@').unwrap();
            let state = match word {
                "received" => AnswerState::Received,
                "applied" => AnswerState::Applied,
                _ => AnswerState::Failed { reason: "disk".into() },
            };
            (Target::sole(site(id)), (state, at.parse().unwrap()))
        })
        .collect()
}

fn stands(operation: &Operation, said: &str, leased: &str, elapsed_ms: u64) -> String {
    let leased: BTreeSet<SiteId> = leased.split_whitespace().map(site).collect();
    let answers = answers(said);
    let input = Input { operation, answers: &answers, leased: &leased, elapsed_ms };
    let outcome = aggregate(&input);
    // Asking again with what came of it changes nothing.
    if outcome.state != OperationState::Running {
        let ended = Operation { outcome: Some(outcome.clone()), ..operation.clone() };
        let again = aggregate(&Input { operation: &ended, elapsed_ms: u64::MAX, ..input });
        assert_eq!(again, outcome);
    }
    let nodes = outcome.nodes.iter().map(|node| {
        assert_eq!(node.reason.is_some(), node.state == NodeState::Failed);
        let ms = node.ms.map_or(String::new(), |ms| format!("@{ms}"));
        format!(" {}={}{ms}", node.site, node.state)
    });
    format!("{}:{}", outcome.state, nodes.collect::<String>())
}

#[test]
fn what_comes_of_it() {
    let table = [
        // Nothing yet, then step by step.
        ("", "fra nyc", 1, "running:"),
        ("fra=received@10", "fra nyc", 20, "running: fra=received@10"),
        (
            "fra=applied@50 nyc=received@10",
            "fra nyc",
            100,
            "running: fra=applied@50 nyc=received@10",
        ),
        (
            "fra=applied@50 nyc=applied@150",
            "fra nyc",
            200,
            "complete: fra=applied@50 nyc=applied@150",
        ),
        // Nobody waits for who is not there; an answer counts all the same.
        ("fra=applied@50", "fra", 100, "partial: fra=applied@50 nyc=offline"),
        ("fra=applied@50 nyc=applied@60", "fra", 100, "complete: fra=applied@50 nyc=applied@60"),
        ("", "fra", 100, "running: nyc=offline"),
        ("", "", 100, "expired: fra=offline nyc=offline"),
        // It lost its lease in the middle.
        ("fra=applied@50 nyc=received@10", "fra", 100, "partial: fra=applied@50 nyc=offline"),
        // The deadline.
        ("fra=applied@50", "fra nyc", 4999, "running: fra=applied@50"),
        ("fra=applied@50", "fra nyc", LIMIT, "partial: fra=applied@50 nyc=timed_out"),
        ("nyc=received@10", "fra nyc", LIMIT, "expired: fra=timed_out nyc=timed_out"),
        // Too late is not at all.
        (
            "fra=applied@5000 nyc=applied@6000",
            "fra nyc",
            6000,
            "expired: fra=timed_out nyc=timed_out",
        ),
        // Failures are answers.
        ("fra=failed@10 nyc=failed@20", "fra nyc", 100, "partial: fra=failed@10 nyc=failed@20"),
        ("fra=failed@10 nyc=applied@20", "fra nyc", 100, "partial: fra=failed@10 nyc=applied@20"),
        ("fra=failed@10", "fra nyc", 100, "running: fra=failed@10"),
        // Who was not asked does not count.
        (
            "fra=applied@10 nyc=applied@20 sin=failed@30",
            "fra nyc",
            100,
            "complete: fra=applied@10 nyc=applied@20",
        ),
    ];
    let both = operation(&["fra", "nyc"]);
    for (said, leased, elapsed_ms, expected) in table {
        assert_eq!(
            stands(&both, said, leased, elapsed_ms),
            expected,
            "{said:?} {leased:?} {elapsed_ms}"
        );
    }
    assert_eq!(stands(&operation(&[]), "", "", 0), "complete:");
}
