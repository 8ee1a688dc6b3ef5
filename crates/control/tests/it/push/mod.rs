//! Pushes by a real git, through the git endpoint and the pipeline, to sites that are played: they
//! do with documents what an agent does, and run nothing.

mod groups;
mod recovery;
mod refusals;
mod releases;
mod sites;
mod world;
