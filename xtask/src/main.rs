//! Selvedge.
fn main() {}
