//! Site generators and bundlers: which directory they fill.

use super::super::Tree;
use super::package::Package;

/// A generator whose result is files.
pub(super) struct Generator {
    /// With an article.
    pub(super) what: &'static str,
    /// The dependency that tells.
    pub(super) package: &'static str,
    /// The scripts that may build it, the likeliest first.
    scripts: &'static [&'static str],
    /// Without a script, this does.
    command: &'static str,
    /// What it fills unless it is told otherwise.
    root: &'static str,
    /// Its configuration, and the key there that names another directory.
    config: &'static [&'static str],
    key: &'static str,
}

const BUILD: &[&str] = &["build"];

/// Those that come with another of them are before it.
const GENERATORS: [Generator; 14] = [
    Generator {
        what: "an Astro site",
        package: "astro",
        scripts: BUILD,
        command: "astro build",
        root: "dist",
        config: &["astro.config.mjs", "astro.config.ts", "astro.config.js"],
        key: "outDir",
    },
    Generator {
        what: "an Eleventy site",
        package: "@11ty/eleventy",
        scripts: BUILD,
        command: "eleventy",
        root: "_site",
        config: &[
            "eleventy.config.js",
            ".eleventy.js",
            "eleventy.config.mjs",
            "eleventy.config.cjs",
        ],
        key: "output",
    },
    Generator {
        what: "a Docusaurus site",
        package: "@docusaurus/core",
        scripts: BUILD,
        command: "docusaurus build",
        root: "build",
        config: &[],
        key: "",
    },
    Generator {
        what: "a VitePress site",
        package: "vitepress",
        scripts: &["docs:build", "build"],
        command: "vitepress build",
        root: ".vitepress/dist",
        config: &[],
        key: "",
    },
    Generator {
        what: "a VuePress site",
        package: "vuepress",
        scripts: &["docs:build", "build"],
        command: "vuepress build",
        root: ".vuepress/dist",
        config: &[],
        key: "",
    },
    Generator {
        what: "a Create React App site",
        package: "react-scripts",
        scripts: BUILD,
        command: "react-scripts build",
        root: "build",
        config: &[],
        key: "",
    },
    Generator {
        what: "an Angular site",
        package: "@angular/core",
        scripts: BUILD,
        command: "ng build",
        root: "dist",
        config: &[],
        key: "",
    },
    Generator {
        what: "a Vue CLI site",
        package: "@vue/cli-service",
        scripts: BUILD,
        command: "vue-cli-service build",
        root: "dist",
        config: &["vue.config.js"],
        key: "outputDir",
    },
    Generator {
        what: "a Gatsby site",
        package: "gatsby",
        scripts: BUILD,
        command: "gatsby build",
        root: "public",
        config: &[],
        key: "",
    },
    Generator {
        what: "a Hexo site",
        package: "hexo",
        scripts: BUILD,
        command: "hexo generate",
        root: "public",
        config: &[],
        key: "",
    },
    Generator {
        what: "a Rsbuild site",
        package: "@rsbuild/core",
        scripts: BUILD,
        command: "rsbuild build",
        root: "dist",
        config: &[],
        key: "",
    },
    Generator {
        what: "a Parcel site",
        package: "parcel",
        scripts: BUILD,
        command: "parcel build",
        root: "dist",
        config: &[],
        key: "",
    },
    Generator {
        what: "a Vite site",
        package: "vite",
        scripts: BUILD,
        command: "vite build",
        root: "dist",
        config: &["vite.config.ts", "vite.config.js", "vite.config.mjs", "vite.config.mts"],
        key: "outDir",
    },
    Generator {
        what: "a webpack site",
        package: "webpack",
        scripts: BUILD,
        command: "webpack --mode production",
        root: "dist",
        config: &[],
        key: "",
    },
];

/// The generator that a project uses.
pub(super) fn generator(package: &Package) -> Option<&'static Generator> {
    GENERATORS.iter().find(|generator| package.has(generator.package))
}

impl Generator {
    /// Whether what it makes is all there is: with the others of a project's kind it may only
    /// bundle what a server then serves.
    pub(super) fn is_bundler(&self) -> bool {
        matches!(self.package, "vite" | "webpack" | "parcel" | "@rsbuild/core")
    }

    /// The script that builds the site.
    pub(super) fn script(&self, package: &Package) -> Option<&'static str> {
        self.scripts.iter().copied().find(|script| package.script(script).is_some())
    }

    /// Builds the site where there is no script.
    pub(super) fn command(&self) -> String {
        format!("node_modules/.bin/{}", self.command)
    }

    /// The directory that is filled, and what told.
    pub(super) fn root(&self, tree: &Tree<'_>, package: &Package) -> (String, String) {
        if self.package == "@angular/core"
            && let Some(found) = angular(tree)
        {
            return found;
        }
        for config in self.config {
            let text = tree.text(config).map(|text| without_comments(&text)).unwrap_or_default();
            if let Some(root) = text_after(&text, self.key) {
                return (root, format!("{config} names it."));
            }
        }
        // VitePress keeps its files with the pages it is told to build.
        let hidden = self.root.split('/').next().unwrap_or_default();
        if hidden.starts_with('.') {
            let inside = format!("/{hidden}/");
            let above =
                tree.files().find_map(|path| path.split_once(&inside).map(|(above, _)| above));
            if let Some(above) = above {
                return (format!("{above}/{}", self.root), "The directory that it fills.".into());
            }
        }
        let script = self.script(package).and_then(|script| package.script(script));
        if let Some(root) = script.and_then(flag) {
            return (root, "The build script names it.".into());
        }
        (self.root.to_owned(), format!("The directory that {} fills.", self.package))
    }
}

/// `--outDir site` and its like in a build script.
fn flag(script: &str) -> Option<String> {
    let mut words = script.split_whitespace();
    while let Some(word) = words.next() {
        for name in ["--outDir", "--out-dir", "--outdir", "--dist-dir", "--output"] {
            let value = match word.strip_prefix(name) {
                Some("") => words.next(),
                Some(rest) => rest.strip_prefix('='),
                None => continue,
            };
            return value.and_then(directory);
        }
    }
    None
}

/// `key: 'value'` in a configuration that is a program: only when it is a plain text.
pub(super) fn text_after(text: &str, key: &str) -> Option<String> {
    if key.is_empty() {
        return None;
    }
    for (at, _) in text.match_indices(key) {
        let before = text.get(..at)?.chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = text.get(at + key.len()..)?;
        let Some(rest) = rest.trim_start_matches(['"', '\'']).trim_start().strip_prefix(':') else {
            continue;
        };
        let rest = rest.trim_start();
        let mark = rest.chars().next().filter(|c| matches!(c, '"' | '\'' | '`'));
        let Some(mark) = mark else { continue };
        if let Some(value) = rest.get(1..).and_then(|rest| rest.split(mark).next())
            && let Some(directory) = directory(value)
        {
            return Some(directory);
        }
    }
    None
}

/// A directory within the app, as `root` takes it.
fn directory(text: &str) -> Option<String> {
    let text = text.trim_start_matches("./").trim_end_matches('/');
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    let inside =
        !text.starts_with('/') && !text.split('/').any(|part| part == ".." || part == ".git");
    (plain && inside && !text.is_empty()).then(|| text.to_owned())
}

/// Without `//` and `/* */`, as far as that can be told without reading the language.
pub(super) fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("/*") {
        out.push_str(rest.get(..at).unwrap_or_default());
        rest = rest
            .get(at..)
            .and_then(|rest| rest.find("*/").and_then(|end| rest.get(end + 2..)))
            .unwrap_or_default();
    }
    out.push_str(rest);
    let lines = out.lines().map(|line| {
        let comment = line
            .match_indices("//")
            .find(|(at, _)| !line.get(..*at).is_some_and(|before| before.ends_with(':')));
        comment.and_then(|(at, _)| line.get(..at)).unwrap_or(line)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The output of the first project of an Angular workspace.
fn angular(tree: &Tree<'_>) -> Option<(String, String)> {
    let json: serde_json::Value = serde_json::from_str(&tree.text("angular.json")?).ok()?;
    let (name, project) = json.get("projects")?.as_object()?.iter().next()?;
    let build = project.get("architect").or_else(|| project.get("targets"))?.get("build")?;
    let builder = build.get("builder").and_then(serde_json::Value::as_str).unwrap_or_default();
    let output = build.get("options").and_then(|options| options.get("outputPath"));
    let base = output.and_then(|output| output.as_str().or_else(|| output.get("base")?.as_str()));
    let base = base.map_or_else(|| format!("dist/{name}"), str::to_owned);
    // Since version 17 what browsers get is apart from what a server would run.
    let root = if builder.ends_with(":browser") { base } else { format!("{base}/browser") };
    Some((directory(&root)?, "angular.json says so.".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_read_out_of_programs() {
        let config = "export default { // outDir: 'no'\n build: { outDir: './site/' } }";
        assert_eq!(text_after(&without_comments(config), "outDir").as_deref(), Some("site"));
        for config in ["outDir: path", "myOutDir: 'x'", "outDir: '../up'", "outDir: `${x}`"] {
            assert_eq!(text_after(config, "outDir"), None, "{config}");
        }
        assert_eq!(without_comments("a: 'https://x' /* b\n */, c // d"), "a: 'https://x' , c ");
        assert_eq!(flag("vite build --outDir=public/app").as_deref(), Some("public/app"));
        assert_eq!(flag("parcel build --dist-dir ../out"), None);
    }
}
