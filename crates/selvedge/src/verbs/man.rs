//! `selvedge man DIR`: the manual's pages.

use std::path::PathBuf;

use clap::Args;

use crate::failure::{Code, OrFail as _, Outcome};
use crate::terminal::Terminal;
use crate::{help, manual};

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Where the pages go; the directory is made if need be.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

/// Runs the verb.
pub(crate) fn run(options: &Man, terminal: Terminal) -> Outcome {
    let directory = &options.directory;
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| manual::write_man_pages(help::command(), directory))
        .or_fail(
            Code::Failed,
            format!("can't write the pages to {}", directory.display()),
            "name a directory that you may write to, with room on its disk",
        )?;
    terminal.object(&serde_json::json!({ "directory": directory, "pages": written }))?;
    terminal.line(format!("{written} pages are in {}.", directory.display()));
    Ok(())
}
