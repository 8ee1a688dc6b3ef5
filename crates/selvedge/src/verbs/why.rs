//! `selvedge why APP`: the planners' reasons.

use crate::cli::{AppChoice, Connection};
use crate::context::{choose_app, client_failure, find_control};
use crate::failure::Outcome;
use crate::terminal::{Look, Terminal};

/// Runs the verb.
pub(crate) async fn run(choice: AppChoice, connection: &Connection, terminal: Terminal) -> Outcome {
    let app = choose_app(choice.app)?;
    let why = find_control(connection)?.client.why(&app).await.map_err(client_failure)?;
    terminal.object(&why)?;
    match &why.live {
        Some(live) => terminal.line(format!(
            "{} {} (epoch {}): {}",
            terminal.paint(Look::Strong, app.as_str()),
            live.release,
            live.epoch.number,
            live.subject
        )),
        None => terminal.line(format!("{app} is not live yet.")),
    }
    for line in &why.lines {
        terminal.line(format!("  {line}"));
    }
    for host in &why.hosts {
        let sites: Vec<&str> = host.answered.iter().map(selvedge_model::SiteId::as_str).collect();
        let named = if sites.is_empty() { "no site".to_owned() } else { sites.join(", ") };
        terminal.line(format!("DNS names for {}: {named}", host.host));
        for (site, reason) in &host.withheld {
            terminal.line(format!("  not {site}: {reason}"));
        }
    }
    Ok(())
}
