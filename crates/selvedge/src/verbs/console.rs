//! `selvedge console`: a link that signs a browser in, opened where there is one.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

use crate::cli::Connection;
use crate::context::{client_failure, find_control};
use crate::failure::Outcome;
use crate::terminal::{Look, Terminal, duration};

/// The page that takes the browser to the link.
const PAGE: &str = "selvedge-console.html";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  selvedge console
  selvedge console --no-open  # only print the link, for a browser elsewhere")]
pub(crate) struct Args {
    /// Print the link and open nothing.
    #[arg(long)]
    no_open: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Printed {
    url: String,
    expires_in_ms: u64,
}

/// Runs the verb.
pub(crate) async fn run(args: Args, connection: &Connection, terminal: Terminal) -> Outcome {
    let control = find_control(connection)?;
    let link = control.client.console_link().await.map_err(client_failure)?;
    let url = format!("{}{}", control.client.url(), link.path);
    terminal.object(&Printed { url: url.clone(), expires_in_ms: link.life_ms })?;
    terminal.line(&url);
    let until = duration(link.life_ms);
    terminal.note(terminal.paint(Look::Faint, format!("It signs one browser in, within {until}.")));
    if !args.no_open && !terminal.json && has_browser() && !open(&url) {
        terminal.note("No browser could be started; open the link by hand.");
    }
    Ok(())
}

/// Whether a person sits before a desktop: a script or a distant shell wants the link alone.
fn has_browser() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal()
        && (cfg!(target_os = "macos") || set("DISPLAY") || set("WAYLAND_DISPLAY"))
}

/// Opens the link. Every user of the machine may read a program's arguments, so the browser is
/// given a private file which takes it there.
fn open(url: &str) -> bool {
    let Ok(page) = write_page(url) else { return false };
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    Command::new(opener)
        .arg(page)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn write_page(url: &str) -> std::io::Result<PathBuf> {
    let directory = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&directory)?;
    // Mode 0600, and in place of an earlier one.
    let mut file = tempfile::NamedTempFile::new_in(&directory)?;
    file.write_all(page(url).as_bytes())?;
    let path = directory.join(PAGE);
    file.persist(&path)?;
    Ok(path)
}

fn page(url: &str) -> String {
    let escaped = url
        .chars()
        .map(|c| match c {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '"' => "&quot;".to_owned(),
            c => c.to_string(),
        })
        .collect::<String>();
    format!(
        "<!doctype html><meta charset=\"utf-8\"><title>Selvedge</title>\
         <meta http-equiv=\"refresh\" content=\"0; url={escaped}\"><a href=\"{escaped}\">Go on</a>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_can_end_nothing_in_the_page() {
        let page = page("http://x/\"><script>");
        assert!(page.contains("url=http://x/&quot;>&lt;script>\""), "{page}");
    }
}
