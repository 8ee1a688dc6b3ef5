//! Tests of the API's types and client through their public interface.

// `cfg(test)` is always true here; it tells clippy that helper functions are tests as well.
#[cfg(test)]
mod client;
