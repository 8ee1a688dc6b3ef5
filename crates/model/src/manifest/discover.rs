//! Which directories of a repository are apps.

use super::diagnostic::{Diagnostic, quote};

/// The file that makes a directory an app.
pub const FILE_NAME: &str = "selvedge.toml";
/// The most apps that a repository may have.
const MAX_APPS: usize = 64;
/// The most bytes that the path of an app's directory may have.
const MAX_DIRECTORY_BYTES: usize = 1024;

/// The directories that are apps, sorted, `/`-separated, empty for the repository's top. `paths`
/// are the repository's files, relative to its top, as git lists them.
///
/// # Errors
/// There is no app, one app lies in another, there are more than 64, or a path is one that no
/// release can carry. Never empty.
pub fn discover<'p>(
    paths: impl IntoIterator<Item = &'p str>,
) -> Result<Vec<String>, Vec<Diagnostic>> {
    let mut directories = Vec::new();
    let mut misspelt = None;
    for path in paths {
        let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
        if file == FILE_NAME {
            directories.push(directory);
        } else if file.eq_ignore_ascii_case(FILE_NAME) || file == "selvedge.tml" {
            misspelt = Some(path);
        }
    }
    directories.sort_unstable();
    directories.dedup();
    if directories.is_empty() {
        return Err(vec![no_app(misspelt)]);
    }
    if directories.len() > MAX_APPS {
        let message =
            format!("the repository has {} apps, and {MAX_APPS} is the most", directories.len());
        return Err(vec![diagnostic(FILE_NAME, message, "split it into several repositories")]);
    }
    let refused: Vec<_> =
        directories.iter().filter_map(|directory| problem(directory, &directories)).collect();
    if refused.is_empty() {
        Ok(directories.into_iter().map(str::to_owned).collect())
    } else {
        Err(refused)
    }
}

fn no_app(misspelt: Option<&str>) -> Diagnostic {
    match misspelt {
        Some(path) => {
            let message = format!("the file is called {}, and so is not found", quote(path));
            diagnostic(path, message, format!("rename it to {FILE_NAME}"))
        }
        None => diagnostic(
            FILE_NAME,
            "the repository has no selvedge.toml, so there is nothing to release",
            "add one in the directory of the app, and commit it:\n[app]\nname = \"my-app\"\n\n[[service]]\nname = \"web\"\nkind = \"static\"\nroot = \"public\"",
        ),
    }
}

fn problem(directory: &str, all: &[&str]) -> Option<Diagnostic> {
    let file = if directory.is_empty() {
        FILE_NAME.to_owned()
    } else {
        format!("{directory}/{FILE_NAME}")
    };
    if directory.len() > MAX_DIRECTORY_BYTES || directory.contains(|c: char| c.is_control()) {
        let message = "the app's directory has a control character in its path, or is too long";
        return Some(diagnostic(&file, message, "rename the directory"));
    }
    let encloses = |outer: &&&str| {
        directory != **outer
            && (outer.is_empty()
                || directory.strip_prefix(**outer).is_some_and(|rest| rest.starts_with('/')))
    };
    let outer = all.iter().find(encloses)?;
    let outer = if outer.is_empty() { "the repository's top".to_owned() } else { quote(outer) };
    let message = format!("this app lies in the app of {outer}");
    let mend = "give each app a directory of its own, side by side, or make this one a [[service]] of the other";
    Some(diagnostic(&file, message, mend))
}

fn diagnostic(file: &str, message: impl Into<String>, mend: impl Into<String>) -> Diagnostic {
    let file = file.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    Diagnostic { file, line: 1, column: 1, message: message.into(), mend: mend.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(paths: &[&str]) -> String {
        let diagnostics = discover(paths.iter().copied()).unwrap_err();
        diagnostics.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_directory_with_the_file_is_an_app() {
        assert_eq!(discover(["README.md", "selvedge.toml"]).unwrap(), [""]);
        let paths = ["b/selvedge.toml", "a/selvedge.toml", "a/x/y", "a-b/selvedge.toml"];
        assert_eq!(discover(paths).unwrap(), ["a", "a-b", "b"]);
    }

    #[test]
    fn apps_do_not_nest() {
        let nested = refused(&["selvedge.toml", "a/selvedge.toml"]);
        assert!(nested.starts_with("a/selvedge.toml:1:1: this app lies in the app of the repo"));
        let nested = refused(&["a/selvedge.toml", "a/b/c/selvedge.toml", "a-b/selvedge.toml"]);
        assert!(nested.starts_with("a/b/c/selvedge.toml:1:1: this app lies in the app of \"a\""));
        assert_eq!(nested.matches("this app").count(), 1);
    }

    #[test]
    fn nothing_found_says_what_to_do() {
        assert!(refused(&["index.html"]).contains("add one in the directory of the app"));
        assert!(refused(&["Selvedge.toml"]).contains("rename it to selvedge.toml"));
        let many: Vec<_> = (0..100).map(|i| format!("{i}/selvedge.toml")).collect();
        assert!(discover(many.iter().map(String::as_str)).unwrap_err()[0].message.contains("100"));
        assert!(refused(&["a\u{1b}[2J/selvedge.toml"]).contains("rename the directory"));
    }
}
