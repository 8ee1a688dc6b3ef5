//! For the tests: git's hook and the sandbox's shim as an executable.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(selvedge_runtime::SHIM_VERB) => selvedge_runtime::shim_main(),
        Some(selvedge_control::hook::HOOK_VERB) => selvedge_control::hook::hook_main().into(),
        _ => ExitCode::FAILURE,
    }
}
