//! For the tests: the shim as an executable.

fn main() -> std::process::ExitCode {
    if std::env::args().nth(1).as_deref() == Some(selvedge_runtime::SHIM_VERB) {
        selvedge_runtime::shim_main()
    }
    std::process::ExitCode::from(64)
}
