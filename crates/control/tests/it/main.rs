//! Control as its users meet it.

// `cfg(test)` is always true here; it tells clippy that helper functions are tests as well.
#[cfg(test)]
mod push;
