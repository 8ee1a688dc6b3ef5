//! Selvedge: the one binary. `dev`, `control` and `agent` run the product; the other verbs talk to
//! it. This crate composes the others and holds no logic of theirs.

mod cli;
mod context;
mod contract;
mod dev;
mod failure;
mod logging;
mod progress;
mod resolve;
mod serve;
mod signals;
mod terminal;
mod verbs;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Verb};
use crate::failure::{Failure, Outcome};
use crate::terminal::{Look, Terminal};

fn main() -> ExitCode {
    // Hidden verbs come first: a shim must not have a thread, and a hook has arguments of git's.
    match std::env::args().nth(1).as_deref() {
        Some(selvedge_runtime::SHIM_VERB) => selvedge_runtime::shim_main(),
        Some(selvedge_control::hook::HOOK_VERB) => {
            return ExitCode::from(selvedge_control::hook::hook_main());
        }
        _ => {}
    }
    let cli = Cli::parse();
    let terminal = Terminal::new(cli.json);
    match run(cli, terminal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(terminal, &failure);
            ExitCode::from(failure.code as u8)
        }
    }
}

fn run(cli: Cli, terminal: Terminal) -> Outcome {
    // The supervisor's children end with the thread that started them, so it must be the main
    // thread; it does little enough for one.
    let single = matches!(cli.verb, Verb::Dev(_) | Verb::Demo(_));
    let mut builder = if single {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = builder.enable_all().build()?;
    let outcome = runtime.block_on(verbs::run(cli, terminal));
    // Threads that block on files must not hold up the end.
    runtime.shutdown_background();
    outcome
}

fn report(terminal: Terminal, failure: &Failure) {
    terminal.note(format!("{} {:#}", terminal.paint(Look::Bad, "error:"), failure.error));
    if let Some(hint) = &failure.hint {
        terminal.note(format!("{}  {hint}", terminal.paint(Look::Strong, "hint:")));
    }
}
