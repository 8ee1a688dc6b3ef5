//! The fabric's tests: one battery for every backend, and what is particular to each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy knows test functions, but not the functions that they call"
)]

mod battery;
mod crash;
mod embedded;
mod model;
mod socket;
mod world;

use world::World;

/// Runs each test of the battery over each backend.
macro_rules! battery {
    ($($name:ident),* $(,)?) => {
        mod over_embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::battery::$name(&crate::World::embedded()).await;
            })*
        }

        mod over_the_socket {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::battery::$name(&crate::World::socket()).await;
            })*
        }
    };
}

battery![
    documents_are_replaced_by_compare_and_set,
    deletions_say_what_they_expect,
    limits_are_kept,
    a_list_is_sorted_and_of_one_revision,
    concurrent_increments_lose_nothing,
    a_watch_brings_the_documents_and_then_each_change,
    a_watch_resumes_with_exactly_what_it_missed,
    a_watch_behind_history_starts_anew,
    a_slow_watch_holds_up_nobody,
    messages_are_ordered_and_published_once,
    consumers_go_on_where_they_acknowledged,
    trimmed_messages_are_a_gap,
    leases_exclude_and_fence,
    watched_leases_tell_of_each_change,
    blobs_are_what_was_stored,
    damaged_blobs_are_refused,
];
