//! A push as it goes, told line by line.

use selvedge_api::{EventStream, PushEvent, SiteProgress};
use selvedge_model::{Push, PushState};

use crate::context::client_failure;
use crate::failure::{Code, Failure, Outcome};
use crate::terminal::{Look, Terminal, duration};

/// Follows a push to its end, telling people on the way.
pub(crate) async fn follow(mut events: EventStream, terminal: Terminal) -> Outcome<Push> {
    while let Some(event) = events.next().await {
        let event = event.map_err(client_failure)?;
        match event {
            PushEvent::Queued { ahead: 0 } => {}
            PushEvent::Queued { ahead } => {
                let pushes = if ahead == 1 { "push" } else { "pushes" };
                terminal.line(format!("waiting for {ahead} earlier {pushes}"))
            }
            PushEvent::StageStarted { .. } => {}
            PushEvent::StageFinished { stage, duration_ms, note } => {
                let note = terminal.paint(Look::Faint, note.unwrap_or_default());
                terminal.line(
                    format!("  {:<9} {:>8}  {note}", stage.name(), duration(duration_ms))
                        .trim_end(),
                );
            }
            PushEvent::Line { text, .. } => {
                terminal.line(format!("  {}", terminal.paint(Look::Faint, text)))
            }
            PushEvent::Site { site, progress: SiteProgress::Failed(reason), .. } => {
                terminal
                    .line(format!("  {} {reason}", terminal.paint(Look::Bad, format!("{site}:"))));
            }
            PushEvent::Site { .. } => {}
            PushEvent::Done { push } => return Ok(push),
        }
    }
    Err(Failure::new(
        Code::Failed,
        "control stopped telling about the push before its end",
        "see `selvedge releases` for what became of it",
    ))
}

/// Says how a push ended, and fails unless it is live.
pub(crate) fn conclude(push: &Push, terminal: Terminal) -> Outcome {
    let (failure, kept) = match &push.state {
        PushState::Live => {
            for app in push.apps.iter().filter(|app| app.epoch.is_some()) {
                let text = format!(
                    "{} {} is live at {}.",
                    app.app,
                    app.release.short(),
                    crate::terminal::count(app.sites.len(), "site")
                );
                terminal.line(terminal.paint(Look::Good, text));
            }
            return Ok(());
        }
        PushState::Refused(failure) => (failure, "what was live is live, untouched"),
        PushState::RolledBack(failure) => (
            failure,
            "the previous release is live again and main says so: `git pull selvedge main`",
        ),
        PushState::Queued | PushState::Preparing | PushState::Committing | PushState::Settling => {
            return Err(Failure::new(
                Code::Failed,
                "the push has not ended yet",
                "see `selvedge releases`",
            ));
        }
    };
    let mut text = format!("{} failed: {}", failure.stage, failure.reason);
    for line in &failure.last_lines {
        text.push_str("\n    ");
        text.push_str(line);
    }
    Err(Failure::new(Code::Refused, text, kept))
}
