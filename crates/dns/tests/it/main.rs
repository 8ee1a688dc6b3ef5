//! Tests of the server from outside.

#[cfg(test)]
mod server;
