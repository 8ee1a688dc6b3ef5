//! `selvedge ops`: what was asked of many nodes at once, and what each has answered.

use selvedge_api::OperationRow;
use selvedge_model::operation::{NodeState, OperationId, OperationState};

use super::now_ms;
use crate::cli::Connection;
use crate::context::{client_failure, find_control};
use crate::failure::Outcome;
use crate::terminal::{Cell, Look, Terminal, ago, duration};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge ops
  selvedge ops 19a1b2c3d4e5f607 --json")]
pub(crate) struct Ops {
    /// One operation, node by node [default: list all that are kept].
    operation: Option<OperationId>,
}

/// Runs the verb.
pub(crate) async fn run(args: Ops, connection: &Connection, terminal: Terminal) -> Outcome {
    let client = find_control(connection)?.client;
    match args.operation {
        Some(id) => {
            let operation = client.operation(id).await.map_err(client_failure)?;
            terminal.object(&operation)?;
            show(&operation, terminal);
        }
        None => {
            let operations = client.operations().await.map_err(client_failure)?;
            terminal.object(&operations)?;
            if operations.is_empty() {
                terminal.line("No operation is kept: `selvedge logs` and `selvedge ps` make some.");
                return Ok(());
            }
            let rows: Vec<Vec<Cell>> = operations.iter().map(row).collect();
            terminal.table(&["OPERATION", "BEGAN", "WHAT", "STATE", "APPLIED"], &rows);
        }
    }
    Ok(())
}

fn row(operation: &OperationRow) -> Vec<Cell> {
    let nodes = &operation.outcome.nodes;
    let applied = nodes.iter().filter(|node| node.state == NodeState::Applied).count();
    vec![
        operation.operation.to_string().into(),
        ago(operation.created_ms, now_ms()).into(),
        operation.kind.to_string().into(),
        state(operation.outcome.state),
        format!("{applied} of {}", operation.targets).into(),
    ]
}

fn state(state: OperationState) -> Cell {
    let look = match state {
        OperationState::Running => Look::Plain,
        OperationState::Complete => Look::Good,
        OperationState::Partial => Look::Warn,
        OperationState::Expired => Look::Bad,
    };
    Cell::new(state.to_string(), look)
}

fn show(operation: &OperationRow, terminal: Terminal) {
    terminal.line(format!(
        "{} ({}), begun {}: {}",
        operation.operation,
        operation.kind,
        ago(operation.created_ms, now_ms()),
        operation.outcome.state
    ));
    let rows: Vec<Vec<Cell>> = operation
        .outcome
        .nodes
        .iter()
        .map(|node| {
            let look = match node.state {
                NodeState::Applied => Look::Good,
                NodeState::Received => Look::Plain,
                NodeState::Failed | NodeState::TimedOut | NodeState::Offline => Look::Bad,
            };
            vec![
                node.site.to_string().into(),
                node.node.to_string().into(),
                Cell::new(node.state.to_string(), look),
                node.ms.map_or_else(|| "-".to_owned(), duration).into(),
                node.reason.clone().unwrap_or_default().into(),
            ]
        })
        .collect();
    terminal.table(&["SITE", "NODE", "STATE", "AFTER", "REASON"], &rows);
}
