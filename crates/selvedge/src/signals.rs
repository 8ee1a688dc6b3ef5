//! Signals: the first asks for an orderly end, the second insists.

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::Verb;
use crate::failure::{Code, Failure, OrFail as _, Outcome};

/// Waits for the first SIGINT.
pub(crate) async fn interrupted() {
    match signal(SignalKind::interrupt()) {
        Ok(mut interrupt) => drop(interrupt.recv().await),
        // The system's own way of ending it stays.
        Err(_) => std::future::pending().await,
    }
}

/// What goes on when Ctrl-C ends a verb; `None` for those that end in their own order.
pub(crate) fn words_after_interrupt(verb: &Verb) -> Option<&'static str> {
    match verb {
        Verb::Dev(_) | Verb::Demo(_) | Verb::Control(_) | Verb::Agent(_) | Verb::Proxy(_) => None,
        // Ctrl-C is how one stops to follow, and nothing to talk about: the system's way will do.
        Verb::Logs(_) => None,
        Verb::Deploy(_) | Verb::Rollback(_) | Verb::Apps(_) => {
            Some("a push that control has taken in goes on; `selvedge status` tells how it ends")
        }
        _ => Some("nothing goes on without you"),
    }
}

/// Cancels `token` at the first SIGINT or SIGTERM. The second ends the
/// process with SIGKILL.
pub(crate) fn cancel_on_signal(token: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        let mut wait = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        wait().await;
        token.cancel();
        wait().await;
        let _ = nix::sys::signal::kill(Pid::this(), Signal::SIGKILL);
    })
}

/// Makes this process end when its parent does, however the parent ends. Must run on the main
/// thread; the parent must have started us from its own main thread, as the kernel watches that.
pub(crate) fn die_with_parent(parent: u32) -> Outcome {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).or_fail(
        Code::Failed,
        "can't ask to end with the supervisor",
        "start it without --with-parent",
    )?;
    // The parent may have ended before the line above.
    if u32::try_from(nix::unistd::getppid().as_raw()) == Ok(parent) {
        Ok(())
    } else {
        Err(Failure::new(Code::Failed, "the supervisor has ended", "start `selvedge dev` again"))
    }
}
