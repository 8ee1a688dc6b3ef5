//! Judges plans without making any: what must hold of a plan, whoever made it.
//!
//! Each planner's rules are stated a second time here, from the invariants and not from the
//! planner's code, which this module never calls. Tests run it over every plan they make; control
//! may run it before it writes. No findings means that the plan is sound.

pub mod certs;
pub mod dns;
pub mod placement;
pub mod rollout;
