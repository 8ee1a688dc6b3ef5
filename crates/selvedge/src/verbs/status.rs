//! `selvedge status`: is it well, and if not, why; then what is live and where.

mod verdict;

use selvedge_api::{AppStatus, SiteHealth, Status};
use selvedge_model::AppName;
use serde::Serialize;

use super::now_ms;
use crate::cli::{AppChoice, Connection};
use crate::context::{client_failure, find_control};
use crate::failure::{Code, Failure, Outcome};
use crate::terminal::{Cell, Look, Terminal, ago};
use verdict::{Finding, findings, headline, limitations};

/// Runs the verb: all apps, or the one that is named.
pub(crate) async fn run(choice: AppChoice, connection: &Connection, terminal: Terminal) -> Outcome {
    let mut status = find_control(connection)?.client.status().await.map_err(client_failure)?;
    if let Some(app) = &choice.app {
        let named = |status: &AppStatus| status.summary.app == *app;
        if !status.apps.iter().any(named) {
            return Err(unknown(app, &status));
        }
        status.apps.retain(named);
    }
    let wrong = findings(&status);
    terminal.object(&Printed { well: wrong.is_empty(), wrong, status: &status })?;
    show(&status, terminal);
    Ok(())
}

fn unknown(app: &AppName, status: &Status) -> Failure {
    let known = status.apps.iter().map(|status| status.summary.app.as_str());
    let hint = match selvedge_model::closest(app.as_str(), known) {
        Some(likely) => format!("did you mean {likely}? `selvedge status` lists all"),
        None => "`selvedge status` without a name lists all".to_owned(),
    };
    Failure::new(Code::Usage, format!("there is no app {app}"), hint)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Printed<'s> {
    /// Whether nothing is wrong.
    well: bool,
    /// What is wrong, and what to do.
    wrong: Vec<Finding>,
    #[serde(flatten)]
    status: &'s Status,
}

/// Prints a status for people.
pub(crate) fn show(status: &Status, terminal: Terminal) {
    let wrong = findings(status);
    let look = if wrong.is_empty() { Look::Good } else { Look::Bad };
    terminal.line(terminal.paint(look, headline(&wrong)));
    for finding in &wrong {
        terminal.line(format!("  {}", terminal.paint(Look::Warn, &finding.what)));
        for line in &finding.last_lines {
            terminal.line(format!("      | {}", terminal.paint(Look::Faint, line)));
        }
        terminal.line(terminal.paint(Look::Faint, format!("    {}", finding.mend)));
    }
    terminal.line("");
    let healthy = status.sites.iter().filter(|site| site.health == SiteHealth::Healthy).count();
    terminal.line(format!(
        "control {} (zone {}), {healthy} of {} sites healthy",
        status.control.version,
        status.control.zone,
        status.sites.len()
    ));
    if status.apps.is_empty() {
        terminal.line("No app has been pushed yet: in an app's repository, run `selvedge deploy`.");
        return lack(status, terminal);
    }
    terminal.line("");
    let rows: Vec<Vec<Cell>> = status.apps.iter().map(row).collect();
    terminal.table(&["APP", "RELEASE", "EPOCH", "LIVE", "SITES", "STATE", "URL"], &rows);
    for app in &status.apps {
        explain(app, terminal);
    }
    lack(status, terminal);
}

/// What the machines lack: said last, as nothing is wrong with it.
fn lack(status: &Status, terminal: Terminal) {
    for limitation in limitations(status) {
        terminal.line("");
        terminal.line(terminal.paint(Look::Faint, format!("note: {limitation}")));
    }
}

fn row(app: &AppStatus) -> Vec<Cell> {
    let summary = &app.summary;
    let live = summary.live.as_ref();
    let whole = summary.assigned > 0 && summary.serving == summary.assigned;
    let state = match (live, app.pushing, whole) {
        (_, Some(number), _) => Cell::new(format!("push {number} under way"), Look::Warn),
        (None, None, _) => Cell::new("not live", Look::Warn),
        (Some(_), None, true) => Cell::new("live", Look::Good),
        (Some(_), None, false) => Cell::new("not everywhere", Look::Bad),
    };
    vec![
        Cell::new(summary.app.to_string(), Look::Strong),
        live.map_or("-".into(), |live| live.release.clone()).into(),
        live.map_or("-".into(), |live| live.epoch.number.to_string()).into(),
        live.and_then(|live| live.at_ms).map_or("-".into(), |at| ago(at, now_ms())).into(),
        format!("{} of {}", summary.serving, summary.assigned).into(),
        state,
        summary.urls.first().cloned().unwrap_or_default().into(),
    ]
}

/// The last push of an app, if it did not go live: what was live before is live.
fn explain(app: &AppStatus, terminal: Terminal) {
    if let Some(failure) = &app.last_failure {
        terminal.line("");
        let at = ago(failure.at_ms, now_ms());
        let text = format!("{}: push {} ({at}) did not go live", app.summary.app, failure.push);
        terminal.line(format!(
            "{}: {}: {}",
            terminal.paint(Look::Warn, text),
            failure.stage,
            failure.reason
        ));
        for line in &failure.last_lines {
            terminal.line(format!("    {}", terminal.paint(Look::Faint, line)));
        }
    }
}
