//! Checks of the workspace itself, which compilers and linters don't make, and benchmarks.
//!
//! `cargo xtask tidy` reads the sources, `layering` the graph of our crates, `dependencies` the
//! crates of others. Each prints what is wrong, where, and what to do, and exits with 1.
//! `cargo xtask differential` runs the cache beside a model of it.
//! `cargo xtask fuzz` fuzzes our parsers.
//! `cargo xtask bench push` and `bench proxy` measure the binary from outside. Nothing of ours depends on this
//! crate, and it depends on nothing of ours.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool prints")]

mod bench;
mod dependencies;
mod differential;
mod fuzz;
mod layering;
mod links;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about, bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    /// The workspace to check; by default the one that this was built in.
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Verb {
    /// Budgets, documentation and leftovers in the sources.
    Tidy,
    /// Which of our crates may depend on which.
    Layering,
    /// Licences and banned crates, by deny.toml.
    Dependencies,
    /// The cache against a model of RFC 9111, by a million requests of all kinds.
    Differential(differential::Options),
    /// Fuzzes our parsers, each for a number of inputs.
    Fuzz(fuzz::Options),
    /// Measures the product from outside.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// From `git push` to live at every site of a box.
    Push(bench::Push),
    /// `selvedge proxy` beside other proxies: CPU time, memory, requests upstream.
    Proxy(bench::Proxy),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            problems.iter().for_each(|problem| println!("{problem}"));
            eprintln!("problems: {}", problems.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<Vec<String>> {
    let root = arguments.root.map_or_else(workspace_root, Ok)?;
    match arguments.verb {
        Verb::Tidy => tidy::check(&root),
        Verb::Layering => layering::check(&root),
        Verb::Dependencies => dependencies::check(&root),
        Verb::Differential(options) => differential::run(&root, &options).map(|()| Vec::new()),
        Verb::Fuzz(options) => fuzz::run(&root, &options),
        Verb::Bench(Bench::Push(options)) => bench::push(&root, &options).map(|()| Vec::new()),
        Verb::Bench(Bench::Proxy(options)) => bench::proxy(&root, &options).map(|()| Vec::new()),
    }
}

fn workspace_root() -> anyhow::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask lies in the workspace")?.to_owned())
}
