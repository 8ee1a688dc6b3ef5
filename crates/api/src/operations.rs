//! `GET /v1/operations` and `GET /v1/operations/{id}`.

use selvedge_model::operation::{Operation, OperationId, OperationKind, Outcome};
use serde::{Deserialize, Serialize};

/// An operation and what has come of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRow {
    /// Its id.
    pub operation: OperationId,
    /// What is done.
    pub kind: OperationKind,
    /// When it began.
    pub created_ms: u64,
    /// When it ends at the latest.
    pub deadline_ms: u64,
    /// How many nodes it is about.
    pub targets: usize,
    /// How it stands, and each node that has said something.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl OperationRow {
    /// An operation with what has come of it so far.
    pub fn new(operation: &Operation, outcome: Outcome) -> Self {
        Self {
            operation: operation.id,
            kind: operation.kind,
            created_ms: operation.created_ms,
            deadline_ms: operation.deadline_ms,
            targets: operation.targets.len(),
            outcome,
        }
    }
}
