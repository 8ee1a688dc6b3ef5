//! `selvedge schema`: the JSON schema of selvedge.toml, for editors.

use std::path::{Path, PathBuf};

use clap::Args;
use selvedge_model::manifest;
use serde::Serialize;

use super::show;
use crate::failure::{Code, OrFail as _, Outcome};
use crate::terminal::Terminal;

/// Where the schema stands, from the directory of selvedge.toml.
pub(crate) const SCHEMA_FILE: &str = ".selvedge/schema.json";
/// The first line of a selvedge.toml, which tells editors with Taplo's server where the schema is.
pub(crate) const DIRECTIVE: &str = "#:schema ./.selvedge/schema.json";

/// The command line of `schema`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    selvedge schema > schema.json\n  \
    selvedge schema --write        # then begin selvedge.toml with: #:schema ./.selvedge/schema.json")]
pub(crate) struct Schema {
    /// Write it to .selvedge/schema.json in DIR, the directory of a selvedge.toml, where git ignores it.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".")]
    write: Option<PathBuf>,
}

/// What the verb prints for programs when it wrote.
#[derive(Serialize)]
struct Written<'a> {
    written: &'a Path,
    directive: &'a str,
}

/// Runs the verb.
pub(crate) fn run(schema: &Schema, terminal: Terminal) -> Outcome {
    let Some(directory) = &schema.write else {
        // The schema is JSON as it is, so `--json` changes nothing.
        let text = text().or_fail(Code::Failed, "the schema can't be made", "report this")?;
        terminal.bytes(text.as_bytes());
        return Ok(());
    };
    let path = write(directory)?;
    terminal.object(&Written { written: &path, directive: DIRECTIVE })?;
    terminal.line(format!("wrote {}", show(&path)));
    terminal.line(format!("begin selvedge.toml with the line: {DIRECTIVE}"));
    Ok(())
}

/// Writes the schema below `directory`, in a directory of its own that git ignores: a release is
/// not to change with the version of who wrote it.
pub(crate) fn write(directory: &Path) -> Outcome<PathBuf> {
    let path = directory.join(SCHEMA_FILE);
    let mend = "the directory must exist, and you must be allowed to write to it";
    let here = directory.join(".selvedge");
    let wrote = match std::fs::create_dir(&here) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => std::fs::write(here.join(".gitignore"), "*\n")
            .and_then(|()| std::fs::write(&path, text()?)),
    };
    wrote.or_fail(Code::Usage, format!("can't write {}", show(&path)), mend)?;
    Ok(path)
}

fn text() -> serde_json::Result<String> {
    serde_json::to_string_pretty(&manifest::schema()).map(|text| text + "\n")
}
