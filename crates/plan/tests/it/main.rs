//! Tests of the planners through their public interface: what each decides, that `check` catches
//! what is broken, and both over many random worlds.

// `cfg(test)` is always true here; it tells clippy that helper functions are tests as well.
#[cfg(test)]
mod certs;
#[cfg(test)]
mod dns;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod placement;
#[cfg(test)]
mod random;
#[cfg(test)]
mod rollout;
#[cfg(test)]
mod world;
#[cfg(test)]
mod worlds;
