//! A project's files as detection sees them: their names, and the text of the few that are read.
//! Listing and reading is the caller's; nothing here touches a file.

use std::collections::BTreeSet;

/// Longer files say nothing about how a project runs that their beginnings don't.
pub(crate) const MAX_READ_BYTES: usize = 1 << 20;
/// Of a project's sources no more than these are searched.
const MAX_SEARCHED_FILES: usize = 500;

type Reader<'a> = Box<dyn Fn(&str) -> Option<Vec<u8>> + 'a>;

/// A directory's files, by their paths relative to it.
pub(crate) struct Tree<'a> {
    files: BTreeSet<String>,
    read: Reader<'a>,
}

impl<'a> Tree<'a> {
    /// A tree of `files`, `/`-separated. `read` gives the first bytes of one of them, at most
    /// [`MAX_READ_BYTES`], or `None` when it can't be read.
    pub(crate) fn new(
        files: impl IntoIterator<Item = String>,
        read: impl Fn(&str) -> Option<Vec<u8>> + 'a,
    ) -> Self {
        Self { files: files.into_iter().collect(), read: Box::new(read) }
    }

    /// The tree of one of its directories.
    pub(crate) fn below<'b>(&'b self, directory: &str) -> Tree<'b> {
        let start = format!("{directory}/");
        let files = self.files.iter().filter_map(|path| path.strip_prefix(&start));
        let files: Vec<String> = files.map(str::to_owned).collect();
        Tree::new(files, move |path| (self.read)(&format!("{start}{path}")))
    }

    /// Whether there is a file of this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.files.contains(path)
    }

    /// The first of `paths` that there is.
    pub(crate) fn first<'p>(&self, paths: &[&'p str]) -> Option<&'p str> {
        paths.iter().copied().find(|path| self.has(path))
    }

    /// Whether anything lies below `directory`.
    pub(crate) fn has_directory(&self, directory: &str) -> bool {
        let start = format!("{directory}/");
        self.files.range(start.clone()..).next().is_some_and(|path| path.starts_with(&start))
    }

    /// All paths, sorted.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// The files right in the directory itself.
    pub(crate) fn top(&self) -> impl Iterator<Item = &str> {
        self.files().filter(|path| !path.contains('/'))
    }

    /// The directories of the first level, without hidden ones.
    pub(crate) fn directories(&self) -> BTreeSet<&str> {
        let first = |path: &'_ str| path.split_once('/').map(|(first, _)| first.len());
        self.files()
            .filter_map(|path| first(path).and_then(|end| path.get(..end)))
            .filter(|name| !name.starts_with('.'))
            .collect()
    }

    /// The bytes of a file, as far as they are read.
    pub(crate) fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        self.has(path).then(|| (self.read)(path)).flatten()
    }

    /// The text of a file, as far as it is read.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let bytes = self.bytes(path)?;
        let text = String::from_utf8_lossy(&bytes);
        Some(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
    }

    /// The project's own sources that end in one of `extensions`, nearest to the top first, so
    /// that a bounded search sees what matters.
    pub(crate) fn sources(&self, extensions: &[&str]) -> Vec<&str> {
        let mut found: Vec<&str> = self
            .files()
            .filter(|path| extensions.iter().any(|extension| path.ends_with(extension)))
            .filter(|path| !path.split('/').any(is_foreign))
            .collect();
        found.sort_by_key(|path| (path.matches('/').count(), *path));
        found.truncate(MAX_SEARCHED_FILES);
        found
    }
}

/// Directories that hold what others wrote, what a build made, or tests.
fn is_foreign(part: &str) -> bool {
    matches!(
        part,
        "node_modules"
            | "vendor"
            | "venv"
            | "env"
            | "site-packages"
            | "__pycache__"
            | "dist"
            | "build"
            | "test"
            | "tests"
            | "__tests__"
            | "migrations"
            | "third_party"
    ) || (part.starts_with('.') && part.len() > 1)
}

#[cfg(test)]
impl Tree<'static> {
    /// A tree of files with their texts.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let all: std::collections::BTreeMap<String, String> =
            files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        let names: Vec<String> = all.keys().cloned().collect();
        Self::new(names, move |path| all.get(path).map(|text| text.clone().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_have_parts() {
        let tree = Tree::of(&[
            ("a/b/c.py", "deep"),
            ("a/z.py", "\u{feff}near"),
            ("ab", ""),
            ("node_modules/x/y.py", ""),
            (".git/config", ""),
        ]);
        assert!(tree.has_directory("a") && !tree.has_directory("b") && !tree.has_directory("ab"));
        assert_eq!(tree.directories().into_iter().collect::<Vec<_>>(), ["a", "node_modules"]);
        assert_eq!(tree.sources(&[".py"]), ["a/z.py", "a/b/c.py"]);
        assert_eq!(tree.top().collect::<Vec<_>>(), ["ab"]);
        let below = tree.below("a");
        assert_eq!(below.text("z.py").as_deref(), Some("near"));
        assert_eq!(below.below("b").text("c.py").as_deref(), Some("deep"));
        assert_eq!(below.text("nothing"), None);
    }
}
