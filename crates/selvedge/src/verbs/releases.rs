//! `selvedge releases`: what was live, and where the time of each push went.

use selvedge_api::ReleaseRow;
use selvedge_model::Stage;

use super::now_ms;
use crate::cli::{AppChoice, Connection};
use crate::context::{choose_app, client_failure, find_control};
use crate::failure::Outcome;
use crate::terminal::{Cell, Look, Terminal, ago, duration};

/// From reception to activation a push should take no longer than this.
const BUDGET_MS: u64 = 5 * 60 * 1_000;

/// Runs the verb.
pub(crate) async fn run(choice: AppChoice, connection: &Connection, terminal: Terminal) -> Outcome {
    let app = choose_app(choice.app)?;
    let releases = find_control(connection)?.client.releases(&app).await.map_err(client_failure)?;
    terminal.object(&releases)?;
    if releases.is_empty() {
        terminal.line(format!("{app} has no release yet."));
        return Ok(());
    }
    let mut headings = vec!["RELEASE", "EPOCH", "WHEN", "CAUSE"];
    headings.extend(Stage::ALL.map(Stage::name));
    headings.extend(["TOTAL", "SUBJECT"]);
    let rows: Vec<Vec<Cell>> = releases.iter().map(row).collect();
    terminal.table(&headings, &rows);
    for release in &releases {
        if let (Some(ms), Some(slowest)) =
            (release.to_active_ms.filter(|ms| *ms > BUDGET_MS), release.slowest)
        {
            terminal.line(format!(
                "{} took {} to become live, over the budget of 5 minutes; {slowest} took longest.",
                release.release,
                duration(ms)
            ));
        }
    }
    Ok(())
}

fn row(release: &ReleaseRow) -> Vec<Cell> {
    let look = if release.live { Look::Good } else { Look::Plain };
    let name =
        if release.live { format!("{} live", release.release) } else { release.release.clone() };
    let stage = |stage: Stage| {
        let timing = release.stages.iter().find(|timing| timing.stage == stage);
        let text =
            timing.and_then(|timing| timing.duration_ms).map_or_else(|| "-".to_owned(), duration);
        let look = if release.slowest == Some(stage) { Look::Strong } else { Look::Plain };
        Cell::new(text, look)
    };
    let mut cells: Vec<Cell> = vec![
        Cell::new(name, look),
        release.epoch.number.to_string().into(),
        ago(release.at_ms, now_ms()).into(),
        release.cause.clone().into(),
    ];
    cells.extend(Stage::ALL.map(stage));
    cells.push(release.total_ms.map_or_else(|| "-".to_owned(), duration).into());
    cells.push(Cell::new(release.subject.clone(), Look::Faint));
    cells
}
