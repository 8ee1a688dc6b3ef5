//! `selvedge ps`: every process that sites keep running, as it is now.

use selvedge_api::{WorkloadRow, WorkloadState};

use super::now_ms;
use crate::cli::{AppChoice, Connection};
use crate::context::{client_failure, find_control};
use crate::failure::Outcome;
use crate::terminal::{Cell, Look, Terminal, ago, duration};

/// How many of the last lines are shown below a workload that is not well.
const LAST_LINES: usize = 8;

/// Runs the verb.
pub(crate) async fn run(choice: AppChoice, connection: &Connection, terminal: Terminal) -> Outcome {
    let client = find_control(connection)?.client;
    let all = client.workloads(choice.app.as_ref()).await.map_err(client_failure)?;
    terminal.object(&all)?;
    for (site, reason) in &all.silent {
        terminal.warn(format!("{site} does not answer: {reason}"));
    }
    if all.workloads.is_empty() {
        terminal.line("No processes run: static files need none.");
        return Ok(());
    }
    let rows: Vec<Vec<Cell>> = all.workloads.iter().map(row).collect();
    let headings =
        ["APP", "SERVICE", "SITE", "RELEASE", "STATE", "PID", "SINCE", "RESTARTS", "MEMORY", "CPU"];
    terminal.table(&headings, &rows);
    for workload in &all.workloads {
        explain(workload, terminal);
    }
    Ok(())
}

fn row(workload: &WorkloadRow) -> Vec<Cell> {
    let state = match workload.state {
        WorkloadState::Ready => Cell::new("ready", Look::Good),
        WorkloadState::Starting => Cell::new("starting", Look::Warn),
        WorkloadState::Restarting => Cell::new("restarting", Look::Bad),
        WorkloadState::CrashLoop => Cell::new("crash loop", Look::Bad),
    };
    let restarts = if workload.restarts > 0 { Look::Warn } else { Look::Plain };
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let memory = workload
        .memory_bytes
        .map(|bytes| format!("{} of {} MiB", bytes >> 20, workload.memory_limit_mib));
    vec![
        Cell::new(workload.app.to_string(), Look::Strong),
        workload.service.to_string().into(),
        workload.site.to_string().into(),
        workload.release.clone().into(),
        state,
        or_none(workload.pid.map(|pid| pid.to_string())).into(),
        or_none(workload.since_ms.map(|since| ago(since, now_ms()))).into(),
        Cell::new(workload.restarts.to_string(), restarts),
        or_none(memory).into(),
        or_none(workload.cpu_ms.map(duration)).into(),
    ]
}

/// Why it is not well, or was not, with the lines that show it.
fn explain(workload: &WorkloadRow, terminal: Terminal) {
    let Some(reason) = &workload.reason else { return };
    let WorkloadRow { app, service, site, .. } = workload;
    let name = format!("{app}/{service} at {site}");
    let text = if workload.state == WorkloadState::Ready {
        format!("{name} is well again; before, it {reason}")
    } else {
        format!("{name} {reason}")
    };
    terminal.line("");
    terminal.line(terminal.paint(Look::Warn, text));
    let skipped = workload.last_lines.len().saturating_sub(LAST_LINES);
    for line in workload.last_lines.iter().skip(skipped) {
        terminal.line(format!("    {}", terminal.paint(Look::Faint, line)));
    }
    terminal.line(terminal.paint(
        Look::Faint,
        format!("  more: selvedge logs {app} --service {service} --site {site} --source output"),
    ));
}
