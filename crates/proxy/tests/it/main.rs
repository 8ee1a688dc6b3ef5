//! The proxy over real sockets.

mod clients;
mod files;
mod pins;
mod serving;
mod site;
mod workloads;
