//! Heads by table, bodies by real decoders.

mod bodies;
mod heads;
