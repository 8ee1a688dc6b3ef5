//! The nouns of Selvedge and the documents that carry them.
//!
//! This crate is pure: it parses, validates, compares and serialises, and never touches a socket,
//! a file, a clock or randomness. What a program writes about itself in `selvedge.toml` (the
//! *author form*) becomes an [`App`] (the *normal form*) in [`manifest`]; everything that control
//! and sites tell each other is a type in [`documents`], stored under a key from [`keys`].
//!
//! Every other crate may call it; it calls none of ours.

pub mod address;
pub mod documents;
pub mod fields;
pub mod geo;
pub mod hosts;
pub mod id;
pub mod keys;
pub mod manifest;
pub mod operation;
pub mod pin;
pub mod topology;
pub mod version;
pub mod zone;

pub use documents::{
    Activation, ActivationEntry, AppReport, Artifact, Assignment, AssignmentEntry,
    CertificateBundle, EpochState, Installation, Push, PushState, Release, Ring, SiteReport, Stage,
};
pub use id::{
    AppName, Digest, EnvironmentName, Host, ReleaseId, RepositoryName, ServiceName, SiteId,
};
pub use manifest::{App, Placement, Redirect, Route, Service, ServiceKind, closest};
pub use topology::{Site, Topology};
pub use version::{Epoch, Generation};
pub use zone::Zone;
