//! The access record: one JSON line a request, written by a task of its own so that a slow disk
//! never delays an answer.

/// A handle to the writer.
#[derive(Debug, Clone)]
pub struct AccessLog {}
