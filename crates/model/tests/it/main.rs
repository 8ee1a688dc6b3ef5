//! Tests of the model through its public interface.

// `cfg(test)` is always true here; it tells clippy that helper functions are tests as well.
#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod reference;
