//! Programs run for real, in sandboxes of this machine.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "clippy knows test functions, but not the functions that they call"
)]

mod limits;
mod machines;
mod orphans;
mod support;
mod tasks;
mod workloads;
