//! Selvedge: the one binary. `dev`, `control` and `agent` run the product; the other verbs talk to
//! it. This crate composes the others and holds no logic of theirs.

mod allocator;
mod boxes;
mod cli;
mod context;
mod contract;
mod dev;
mod doctor;
mod failure;
mod help;
mod init;
mod logging;
mod manual;
mod progress;
mod resolve;
mod serve;
mod signals;
mod terminal;
mod usage;
mod verbs;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::FromArgMatches as _;
use clap::error::ErrorKind;

use crate::cli::{Cli, Verb};
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::terminal::Terminal;

/// A request is some small allocations that live for as long as it does, many of them freed by another
/// thread than made them: glibc's takes a lock there.
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    // Hidden verbs come first: a shim must not have a thread, and a hook has arguments of git's.
    match std::env::args_os().nth(1).as_deref().and_then(OsStr::to_str) {
        Some(selvedge_runtime::SHIM_VERB) => selvedge_runtime::shim_main(),
        Some(selvedge_control::hook::HOOK_VERB) => {
            return ExitCode::from(selvedge_control::hook::hook_main());
        }
        _ => {}
    }
    clap_complete::CompleteEnv::with_factory(help::command).complete();
    let matches = help::command().try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    let terminal = Terminal::new(cli.json);
    let outcome = run(cli, terminal);
    end(outcome.and_then(|()| terminal.written()), terminal)
}

/// Help and the version go where they were asked for; everything else is a failure.
fn not_understood(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // A reader who has seen enough and closed the pipe is no failure.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Code::Usage as u8))
        }
        _ => {
            let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
            let line: Vec<String> = words.collect();
            let json = line.iter().any(|word| word == "--json");
            end(Err(usage::failure(error, &line)), Terminal::new(json))
        }
    }
}

fn end(outcome: Outcome, terminal: Terminal) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.failure(&failure);
            ExitCode::from(failure.code as u8)
        }
    }
}

fn run(cli: Cli, terminal: Terminal) -> Outcome {
    // The supervisor's children end with the thread that started them, so it must be the main
    // thread; it does little enough for one. A proxy has threads of its own.
    let single = matches!(cli.verb, Verb::Dev(_) | Verb::Demo(_) | Verb::Proxy(_));
    let mut builder = if single {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = builder.enable_all().build().or_fail(
        Code::Failed,
        "this machine gives no threads or files",
        "raise the limits (`ulimit -n`, `ulimit -u`), or end other programs",
    )?;
    let interrupted = signals::words_after_interrupt(&cli.verb);
    let outcome = runtime.block_on(async {
        let mut work = std::pin::pin!(verbs::run(cli, terminal));
        match interrupted {
            // It ends in its own order.
            None => work.await,
            Some(goes_on) => tokio::select! {
                outcome = &mut work => outcome,
                () = signals::interrupted() => {
                    Err(Failure::new(Code::Interrupted, "interrupted", goes_on))
                }
            },
        }
    });
    // Threads that block on files must not hold up the end.
    runtime.shutdown_background();
    outcome
}
