//! Planners: pure functions from what is wanted and what is observed to documents.
//!
//! A planner takes its whole world as `Input`, time included, and returns a plan and a typed report
//! of why; planning again on the result changes nothing. Nothing here reads a clock, touches the
//! fabric or keeps state: control's drivers gather the input, write the documents and call again
//! when something changes. [`check`] judges plans by rules of its own, and reports become sentences
//! in [`explain`].

pub mod certs;
pub mod check;
pub mod dns;
pub mod explain;
pub mod operations;
pub mod placement;
pub mod rollout;
pub mod tickets;
