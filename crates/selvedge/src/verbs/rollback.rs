//! `selvedge rollback`: an earlier release becomes live again, as a commit.

use selvedge_api::RollbackRequest;

use crate::cli::{Connection, Rollback};
use crate::context::{choose_app, client_failure, find_control};
use crate::failure::Outcome;
use crate::progress;
use crate::terminal::Terminal;

/// Runs the verb.
pub(crate) async fn run(
    rollback: Rollback,
    connection: &Connection,
    terminal: Terminal,
) -> Outcome {
    let app = choose_app(rollback.app)?;
    let request = RollbackRequest { release: rollback.release };
    let events =
        find_control(connection)?.client.rollback(&app, &request).await.map_err(client_failure)?;
    let push = progress::follow(events, terminal).await?;
    terminal.object(&push)?;
    progress::conclude(&push, terminal)?;
    terminal.line(format!(
        "main is now {}; `selvedge remote` once, and `git pull selvedge main` brings it here.",
        short(&push.new_commit)
    ));
    Ok(())
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}
