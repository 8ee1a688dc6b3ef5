//! The author form: reads `selvedge.toml` as people write it and makes the normal form of it.
//!
//! Everything that is wrong is collected, so that one push shows all of it. A part that could not
//! be read leaves a gap that later checks step around rather than report a second time.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::diagnostic::{Diagnostic, Problems, quote};
use super::keys::{self, MAX_COMMAND_BYTES, MAX_VARIABLES};
use super::routes::Taken;
use super::section::{Section, Text};
use super::{App, Redirect, limits, placement, redirects, routes, services};
use crate::id::AppName;

/// The most bytes that `selvedge.toml` may have.
pub const MAX_FILE_BYTES: usize = 64 * 1024;

/// Reads the author form. `file_name` is what diagnostics call the file.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file; never empty.
pub fn parse(file_name: &str, text: &str) -> Result<App, Vec<Diagnostic>> {
    let mut problems = Problems::new(file_name, text);
    if text.len() > MAX_FILE_BYTES {
        let message =
            format!("the file has {} bytes, and {MAX_FILE_BYTES} is the most", text.len());
        problems.report(0, message, "move what is not configuration to files of its own");
        return Err(problems.into_sorted());
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        let mend = if error.message().contains("duplicate key") {
            "keep one of the two"
        } else {
            "correct the TOML here: text in quotes, lists in square brackets, one `key = value` a line"
        };
        problems.report(at, error.message(), mend);
    }
    if !errors.is_empty() {
        return Err(problems.into_sorted());
    }
    let app = read(&Section::document(document.get_ref()), &mut problems);
    app.filter(|_| problems.is_empty()).ok_or_else(|| problems.into_sorted())
}

/// Returns `None` only after reporting why.
fn read(document: &Section<'_>, problems: &mut Problems<'_>) -> Option<App> {
    refuse_unknown_tables(document, problems);
    let app = document.table("app", "[app]", problems);
    if document.place_of("app").is_none() {
        let mend = "begin the file with:\n[app]\nname = \"my-app\"";
        problems.report(0, "there is no [app] table", mend);
    }
    let service_tables = document.tables("service", keys::MAX_SERVICES, problems);
    let only_redirects = document.place_of("redirect").is_some();
    if document.place_of("service").is_none() && !only_redirects {
        let mend =
            "add one, such as:\n[[service]]\nname = \"web\"\nkind = \"static\"\nroot = \"public\"";
        problems.report(0, "the app has no service", mend);
    }
    let services = services::read(&service_tables, problems);
    let mut taken = Taken::default();
    let route_tables = document.tables("route", keys::MAX_ROUTES, problems);
    let routes = routes::read(&route_tables, &services, &mut taken, problems);
    let redirect_tables = document.tables("redirect", keys::MAX_ROUTES, problems);
    let redirects = redirects::read(&redirect_tables, &mut taken, problems);
    let first = route_tables.iter().chain(&redirect_tables).map(|section| section.at).min();
    taken.refuse_too_many_hosts(first.unwrap_or_default(), problems);
    let (places, redirects): (Vec<usize>, Vec<Redirect>) = redirects.into_iter().unzip();
    let placement = document
        .table("placement", "[placement]", problems)
        .map(|section| placement::read(&section, problems))
        .unwrap_or_default();
    let build_limits = document
        .table("build_limits", "[build_limits]", problems)
        .map(|section| limits::of_builds(&section, problems))
        .unwrap_or_default();
    let app = app?;
    app.refuse_unknown(&keys::APP.names(), &[], problems);
    let app = App {
        build: command(&app, "build", problems),
        test: command(&app, "test", problems),
        environment: environment(&app, problems),
        force_https: app.flag("force_https", problems).unwrap_or_default(),
        name: app_name(&app, problems)?,
        services: services.into_iter().filter_map(|draft| draft.service).collect(),
        routes,
        redirects,
        placement,
        build_limits,
    };
    redirects::refuse_loops(&app, &places, problems);
    Some(app)
}

fn refuse_unknown_tables(document: &Section<'_>, problems: &mut Problems<'_>) {
    let misplaced = ["name", "build", "test", "environment"];
    for key in misplaced {
        if let Some(at) = document.place_of(key) {
            let message = format!("`{key}` can't stand at the top of the file");
            let mend = match key {
                "environment" => {
                    "write [app.environment], or [service.environment] for one service".to_owned()
                }
                _ => format!("move `{key}` below the line [app]"),
            };
            problems.report(at, message, mend);
        }
    }
    let mut tables = keys::TABLES.map(|table| table.name);
    tables.sort_unstable();
    document.refuse_unknown(&tables, &misplaced, problems);
}

fn app_name(app: &Section<'_>, problems: &mut Problems<'_>) -> Option<AppName> {
    if app.place_of("name").is_none() {
        let mend = "add name = \"my-app\"; it is also the first part of the app's default host";
        problems.report(app.at, "[app] has no `name`", mend);
    }
    label(app.text("name", problems)?, "the app's name", AppName::new, problems)
}

/// Makes an identifier of `name`, or reports the rule it breaks and a name that keeps it.
pub(super) fn label<T>(
    name: Text<'_>,
    what: &str,
    make: impl Fn(String) -> Result<T, crate::id::IdError>,
    problems: &mut Problems<'_>,
) -> Option<T> {
    match make(name.text.to_owned()) {
        Ok(label) => Some(label),
        Err(error) => {
            let near: String = name
                .text
                .to_ascii_lowercase()
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                .skip_while(|c| !c.is_ascii_lowercase())
                .take(63)
                .collect();
            let near = near.trim_end_matches('-').to_owned();
            let message = format!("{} can't be {what}", quote(name.text));
            let mend = match make(near.clone()) {
                Ok(_) => format!("{}, such as {near:?}", error.rule),
                Err(_) => error.rule.to_owned(),
            };
            problems.report(name.at, message, mend);
            None
        }
    }
}

/// The shell command at `key`.
pub(super) fn command(
    section: &Section<'_>,
    key: &str,
    problems: &mut Problems<'_>,
) -> Option<String> {
    let command = section.text(key, problems)?;
    if command.text.trim().is_empty() {
        let message = format!("`{key}` is empty");
        problems.report(command.at, message, "write the command line that it is to run");
    } else if command.text.contains('\0') {
        let message = format!("`{key}` contains a NUL character, which no command can");
        problems.report(command.at, message, "remove it");
    } else if command.text.len() > MAX_COMMAND_BYTES {
        let message = format!("`{key}` is longer than {MAX_COMMAND_BYTES} bytes");
        problems.report(command.at, message, "move it to a script in the repository, and run that");
    }
    Some(command.text.to_owned())
}

/// The `environment` of an app or a service.
pub(super) fn environment(
    section: &Section<'_>,
    problems: &mut Problems<'_>,
) -> BTreeMap<String, String> {
    let map = section.map("environment", MAX_VARIABLES, problems);
    for (name, (at, value)) in &map {
        let mut bytes = name.bytes();
        let starts_well = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !starts_well || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let mend = "use letters, digits and underscores, not starting with a digit";
            problems.report(*at, format!("{} can't be a variable's name", quote(name)), mend);
        } else if let Some(why) = reserved(name) {
            problems.report(*at, format!("`{name}` is set by Selvedge"), why);
        }
        if value.text.contains('\0') {
            let message = format!("the value of {} contains a NUL character", quote(name));
            problems.report(value.at, message, "remove it; variables can't hold one");
        }
    }
    map.into_iter().map(|(name, (_, value))| (name.to_owned(), value.text.to_owned())).collect()
}

/// What to do instead of setting a variable that the platform sets.
fn reserved(name: &str) -> Option<&'static str> {
    match name {
        "PORT" => {
            Some("remove it, and listen on the port that $PORT holds when the service starts")
        }
        "PATH" => {
            Some("begin the command with PATH=\"/app/bin:$PATH\", or write the program's path")
        }
        _ if name.starts_with("SELVEDGE_") => {
            Some("choose a name that doesn't begin with SELVEDGE_")
        }
        _ => None,
    }
}
