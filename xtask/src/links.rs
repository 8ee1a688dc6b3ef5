//! Links between Markdown documents of the repository.

use std::collections::BTreeMap;

/// The links of Markdown `text` that don't lead to a file or heading of the repository. `path` is
/// where the text stands; `documents` are all files, Markdown ones with their text.
pub(crate) fn broken(
    path: &str,
    text: &str,
    documents: &BTreeMap<String, Option<String>>,
) -> Vec<String> {
    let mut broken = Vec::new();
    for target in targets(text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let file = if file.is_empty() { Some(path.to_owned()) } else { resolve(path, file) };
        let reason = match &file {
            None => "leads out of the repository",
            Some(file) => match documents.get(file.as_str()) {
                None if is_directory(file, documents) => continue,
                None => "leads to no file of the repository",
                Some(Some(text)) if !anchor.is_empty() && !has_heading(text, anchor) => {
                    "leads to no heading"
                }
                Some(_) => continue,
            },
        };
        broken.push(format!("{path}: the link {target:?} {reason}"));
    }
    broken
}

/// The targets of inline links, `[text](target)`, outside of code.
fn targets(text: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced || line.starts_with("    ") {
            continue;
        }
        // Every second piece between backticks is code.
        for prose in line.split('`').step_by(2) {
            for rest in prose.split("](").skip(1) {
                targets.extend(rest.split_once(')').map(|(target, _)| target));
            }
        }
    }
    targets
}

/// `link` as seen from `path`, relative to the repository's top.
fn resolve(path: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = if link.starts_with('/') {
        Vec::new()
    } else {
        path.rsplit_once('/')
            .map(|(directory, _)| directory.split('/').collect())
            .unwrap_or_default()
    };
    for part in link.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop()?;
        } else {
            parts.push(part);
        }
    }
    Some(parts.join("/"))
}

fn is_directory(path: &str, documents: &BTreeMap<String, Option<String>>) -> bool {
    let prefix = format!("{path}/");
    path.is_empty() || documents.keys().any(|document| document.starts_with(&prefix))
}

/// Whether Markdown `text` has a heading that GitHub gives this anchor.
fn has_heading(text: &str, anchor: &str) -> bool {
    text.lines().filter(|line| line.starts_with('#')).any(|line| {
        let slug: String = line
            .trim_start_matches('#')
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        slug == anchor
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_somewhere() {
        let text = "# A page: two\n[a](b.md) [c](../README.md#a-page-two) [d](#a-page-two) `[x](y)`\n\
                    [e](https://example.com) [f](.)\n```\n[g](h)\n```\n";
        let documents = BTreeMap::from([
            ("docs/a.md".to_owned(), Some(text.to_owned())),
            ("docs/b.md".to_owned(), Some(String::new())),
            ("README.md".to_owned(), Some("## A page: two".to_owned())),
        ]);
        assert_eq!(broken("docs/a.md", text, &documents), [""; 0]);
        let wrong = "[a](c.md) [b](../../x) [c](b.md#gone)";
        assert_eq!(broken("docs/a.md", wrong, &documents).len(), 3);
    }
}
