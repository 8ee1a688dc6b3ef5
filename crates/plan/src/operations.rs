//! What comes of an operation, from what its nodes have answered.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_model::SiteId;
use selvedge_model::operation::{
    AnswerState, NodeOutcome, NodeState, Operation, OperationState, Outcome, Target,
};

/// What is known of an operation.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// The operation.
    pub operation: &'a Operation,
    /// What each node last said, and how many milliseconds after its beginning control heard it.
    pub answers: &'a BTreeMap<Target, (AnswerState, u64)>,
    /// Sites whose lease runs.
    pub leased: &'a BTreeSet<SiteId>,
    /// Milliseconds since the operation began, by a clock that nobody sets.
    pub elapsed_ms: u64,
}

impl Input<'_> {
    /// How long it may take, in milliseconds.
    fn limit_ms(&self) -> u64 {
        self.operation.deadline_ms.saturating_sub(self.operation.created_ms)
    }
}

/// How the operation stands. One that has ended stays as it ended, whatever is answered later.
///
/// It runs until every node has done it or failed, or is offline: nobody waits for a site that has
/// no lease. At its deadline it ends in any case.
pub fn aggregate(input: &Input<'_>) -> Outcome {
    if let Some(outcome) = &input.operation.outcome {
        return outcome.clone();
    }
    let past = input.elapsed_ms >= input.limit_ms();
    let targets = &input.operation.targets;
    let nodes: Vec<Option<NodeOutcome>> =
        targets.iter().map(|target| node(input, target, past)).collect();
    let awaited =
        nodes.iter().any(|node| node.as_ref().is_none_or(|node| node.state == NodeState::Received));
    let nodes: Vec<NodeOutcome> = nodes.into_iter().flatten().collect();
    let count = |state| nodes.iter().filter(|node| node.state == state).count();
    let (applied, failed) = (count(NodeState::Applied), count(NodeState::Failed));
    let state = if applied == targets.len() {
        OperationState::Complete
    } else if awaited && !past {
        OperationState::Running
    } else if applied + failed > 0 {
        OperationState::Partial
    } else {
        OperationState::Expired
    };
    Outcome { state, nodes }
}

/// What a node has done; `None` when it has said nothing and may still.
fn node(input: &Input<'_>, target: &Target, past: bool) -> Option<NodeOutcome> {
    let made = |state, ms, reason| NodeOutcome {
        site: target.site.clone(),
        node: target.node.clone(),
        state,
        ms,
        reason,
    };
    let in_time = input.answers.get(target).filter(|(_, after)| *after < input.limit_ms());
    let after = in_time.map(|(_, after)| *after);
    match in_time.map(|(state, _)| state) {
        Some(AnswerState::Applied) => return Some(made(NodeState::Applied, after, None)),
        Some(AnswerState::Failed { reason }) => {
            return Some(made(NodeState::Failed, after, Some(reason.clone())));
        }
        Some(AnswerState::Received) | None => {}
    }
    if !input.leased.contains(&target.site) {
        return Some(made(NodeState::Offline, None, None));
    }
    match (past, after) {
        (true, _) => Some(made(NodeState::TimedOut, None, None)),
        (false, Some(ms)) => Some(made(NodeState::Received, Some(ms), None)),
        (false, None) => None,
    }
}
