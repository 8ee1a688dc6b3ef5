//! `selvedge doctor`: what is wrong with this machine and the installation on it, and the mend.

use std::path::PathBuf;

use clap::Args;
use selvedge_api::ClientConfig;

use crate::cli::Connection;
use crate::doctor::{Finding, Level, Report, gather};
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::terminal::{Look, Terminal};
use crate::{context, dev};

/// The command line of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    selvedge doctor\n  \
    selvedge doctor --json\n  \
    selvedge doctor --http 9080 --https 9443 --dns 9053 --control 9070  # would a box there start?")]
pub(crate) struct Doctor {
    /// The directory of the box to look at [default: as for `dev`].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How many sites a box would have.
    #[arg(long, default_value_t = selvedge_model::geo::DEFAULT_SITES, value_name = "N")]
    sites: usize,
    /// Port of plain HTTP that a box would take.
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    http: u16,
    /// Port of HTTPS that a box would take.
    #[arg(long, default_value_t = 8443, value_name = "PORT")]
    https: u16,
    /// Port of DNS that a box would take.
    #[arg(long, default_value_t = 5300, value_name = "PORT")]
    dns: u16,
    /// Port of the control API that a box would take.
    #[arg(long, default_value_t = 7070, value_name = "PORT")]
    control: u16,
}

/// Runs the verb.
pub(crate) async fn run(doctor: Doctor, connection: &Connection, terminal: Terminal) -> Outcome {
    let data = match &doctor.data {
        Some(data) => data.clone(),
        None => context::default_data()?,
    };
    let data = std::path::absolute(&data).or_fail(
        Code::Usage,
        format!("{:?} can't be a box's directory", data.display().to_string()),
        "name a directory with --data DIR",
    )?;
    let runs = context::read_box(&data).is_some();
    let ports = [doctor.http, doctor.https, doctor.dns, doctor.control];
    let wanted = (!runs).then(|| dev::wanted_ports(doctor.sites, ports)).transpose()?;
    let machine = gather::machine(&data, wanted.as_deref()).await;
    let installation = gather::installation(&data, named_control(connection)?).await;
    let report = Report::of(&machine, &installation);
    terminal.object(&report)?;
    for (title, findings) in
        [("This machine", &report.machine), ("The installation", &report.installation)]
    {
        terminal.line(terminal.paint(Look::Strong, title));
        for finding in findings {
            show(finding, terminal);
        }
    }
    match report.count(Level::Fail) {
        0 if report.worst == Level::Warn => {
            terminal.line("Selvedge runs here; what is marked `warn` is lost until it is mended.");
            Ok(())
        }
        0 => {
            terminal.line("All is well.");
            Ok(())
        }
        count => Err(Failure::new(
            Code::Failed,
            format!("{count} of these keep Selvedge from running here"),
            "each `fail` above has its mend below it",
        )),
    }
}

/// The control that flags or variables name; that of a box is found by its directory.
fn named_control(connection: &Connection) -> Outcome<Option<ClientConfig>> {
    if connection.control_url.is_none() {
        return Ok(None);
    }
    let control = context::find_control(connection)?;
    let url = control.client.url().to_owned();
    Ok(Some(ClientConfig { url, token: control.token, ca: control.ca }))
}

fn show(finding: &Finding, terminal: Terminal) {
    let (word, look) = match finding.level {
        Level::Ok => ("ok", Look::Good),
        Level::Note => ("note", Look::Faint),
        Level::Warn => ("warn", Look::Warn),
        Level::Fail => ("fail", Look::Bad),
    };
    let word = terminal.paint(look, format!("{word:<4}"));
    terminal.line(format!("  {word}  {:<15}  {}", finding.check, finding.what));
    if let Some(mend) = &finding.mend {
        terminal.line(format!("        {:<15}  mend: {mend}", ""));
    }
}
