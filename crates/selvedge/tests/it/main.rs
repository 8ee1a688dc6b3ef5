//! End to end: the real binary, real git, real apps, on a planet in a box.

mod harness;

mod command_line;
mod kills;
mod refusals;
mod spine;
