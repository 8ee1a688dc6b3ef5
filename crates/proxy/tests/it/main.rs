//! The proxy over real sockets.

mod clients;
mod serving;
mod site;
