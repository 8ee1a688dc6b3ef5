//! Tracing set-up and the access record.
//!
//! What a process says about itself goes through `tracing`, set up once by the binary with
//! [`logging`]; what it says about each request is an [`access::AccessRecord`]. No metrics yet.

pub mod access;
pub mod journal;
pub mod logging;

pub use logging::Chain;
