//! The proxy's cache against a model of RFC 9111, by requests that chance makes. The run itself is a
//! test of the proxy's (`crates/proxy/src/differential`); here it is made long.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

/// `cargo xtask differential`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Requests to make.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    requests: u64,
    /// The first sequence; a difference names its own, which comes first again if it is given here.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
}

/// Runs it. What differs is printed, each difference with the fewest exchanges that show it.
///
/// # Errors
/// When something differs, something panics, or memory is not bounded.
pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["test", "--quiet", "-p", "selvedge-proxy", "--lib", "differential", "--"])
        .args(["--nocapture", "--test-threads=1"])
        .env("SELVEDGE_DIFFERENTIAL_REQUESTS", options.requests.to_string())
        .env("SELVEDGE_DIFFERENTIAL_SEED", options.seed.to_string())
        .status()
        .context("can't run cargo test")?;
    anyhow::ensure!(status.success(), "the engine and the model do not agree; see above");
    Ok(())
}
