//! An HTTP cache (RFC 9111): what may be stored, for how long it is fresh, what answers a request,
//! and where it is kept.
//!
//! Decisions are plain functions whose time is an argument. The store is shared by all shards of a
//! proxy and looked up without waiting.
//!
//! Deliberately absent: connections and request collapsing. The proxy does that; it is the only caller.
//! Nothing waits but what reads and writes the disk.

pub mod description;
pub mod disk;
mod fields;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod key;
pub mod list;
pub mod object;
pub mod policy;
pub mod purge;
pub mod status;
pub mod store;

pub use fields::range::Span;
