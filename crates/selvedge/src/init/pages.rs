//! Files to be served as they are: plain HTML, and SQLite files, which Datasette makes pages of.

use super::{Detection, Proposal, Service, Tree, python};

/// Where built or hand-written pages lie.
const ROOTS: [&str; 9] =
    ["public", "dist", "build", "out", "_site", "site", "www", "htdocs", "docs"];

/// Recognises pages that need no build.
pub(super) fn detect(tree: &Tree<'_>) -> Detection {
    let root = if tree.has("index.html") {
        "."
    } else {
        let of_package = |root: &str| root == "docs" && python::is_package(tree);
        let mut roots = ROOTS.iter().filter(|root| !of_package(root));
        let root = roots.find(|root| tree.has(&format!("{root}/index.html")));
        match root {
            Some(root) => root,
            None => return python::databases(tree),
        }
    };
    Detection::App(Box::new(plain(root)))
}

/// A site of plain files.
pub(super) fn plain(root: &str) -> Proposal {
    let (index, why) = match root {
        "." => (
            "index.html".to_owned(),
            "The pages lie beside this file. Names that start with a dot are not served."
                .to_owned(),
        ),
        root => (format!("{root}/index.html"), format!("The directory with {root}/index.html.")),
    };
    let service = Service::files(root, why);
    let mut proposal = Proposal::new("a static site of plain files", service);
    proposal.saw.push(index);
    proposal.assumed.push("the files are served as they are, without a build".into());
    if root == "." {
        proposal.look_at.push(
            "every committed file here is public, selvedge.toml too; to publish fewer, move the pages to a directory `public` and set root = \"public\"".into(),
        );
    }
    proposal
}
