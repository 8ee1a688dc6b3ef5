//! Runs one target under AFL: what the fuzzer thinks of goes into it. Without an argument it lists the
//! targets with the directories of their seeds. `cargo xtask fuzz` builds and calls it.

use std::process::ExitCode;

/// A crate's directory and its targets.
const CRATES: [(&str, &[(&str, fn(&[u8]))]); 2] = [
    ("crates/cache/fuzz", &selvedge_cache::fuzz::TARGETS),
    ("crates/proxy/fuzz", &selvedge_proxy::fuzz::TARGETS),
];

fn main() -> ExitCode {
    let Some(wanted) = std::env::args().nth(1) else {
        for (directory, targets) in CRATES {
            for (name, _) in targets {
                println!("{directory}/{name}");
            }
        }
        return ExitCode::SUCCESS;
    };
    let mut targets = CRATES.iter().flat_map(|(_, targets)| targets.iter());
    let Some((_, run)) = targets.find(|(name, _)| *name == wanted) else {
        eprintln!("there is no target {wanted}; without an argument this lists them");
        return ExitCode::FAILURE;
    };
    afl::fuzz!(|input: &[u8]| run(input));
    ExitCode::SUCCESS
}
