//! The table of keys, the guide, the JSON schema and the parser say the same.

use std::path::Path;

use boon::{Compiler, SchemaIndex, Schemas};
use selvedge_model::manifest::{self, KINDS, Key, TABLES, Without};
use serde_json::Value;

use crate::golden::{golden, split};

fn guide_path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/selvedge-toml.md")
}

/// The rows of the guide for `keys`.
fn rows<'k>(keys: impl Iterator<Item = &'k Key>) -> String {
    let mut rows = "| key | value | default |\n|---|---|---|\n".to_owned();
    for key in keys {
        let default = match key.without {
            Without::Refused => "required".to_owned(),
            Without::Words(words) => words.to_owned(),
            Without::Value(_) | Without::Number(_) => format!("`{}`", key.default_value().unwrap()),
        };
        rows.push_str(&format!("| `{}` | {} | {default} |\n", key.name, key.description()));
    }
    rows
}

/// Every block of rows that the guide must have, by the comment above it.
fn blocks() -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    for table in TABLES {
        let common = table.keys.iter().filter(|key| key.kinds.is_empty());
        blocks.push((format!("<!-- keys: {} -->\n", table.title), rows(common)));
    }
    let service = TABLES.iter().find(|table| table.name == "service").unwrap();
    for (kind, _) in KINDS {
        let of_kind = service.keys.iter().filter(|key| key.kinds.contains(&kind));
        blocks.push((format!("<!-- keys: {} {kind} -->\n", service.title), rows(of_kind)));
    }
    blocks
}

/// `BLESS=1` writes the rows into the guide.
#[test]
fn the_guide_has_every_key_as_the_model_describes_it() {
    let mut guide = std::fs::read_to_string(guide_path()).unwrap();
    let bless = std::env::var_os("BLESS").is_some();
    for (marker, rows) in blocks() {
        let from = guide.find(&marker).unwrap_or_else(|| panic!("the guide has no {marker}"));
        let from = from + marker.len();
        let block = guide[from..].split_once("\n\n").map_or("", |(block, _)| block).len() + 1;
        if bless {
            guide.replace_range(from..from + block, &rows);
        }
        assert_eq!(guide[from..].split_once("\n\n").unwrap().0.to_owned() + "\n", rows);
    }
    if bless {
        std::fs::write(guide_path(), guide).unwrap();
    }
}

#[test]
fn the_examples_of_the_guide_are_accepted() {
    let guide = std::fs::read_to_string(guide_path()).unwrap();
    let examples: Vec<_> = guide.split("```toml\n").skip(1).collect();
    assert!(examples.len() >= 2);
    for example in examples {
        let example = example.split("```").next().unwrap_or_default();
        let found = manifest::parse("selvedge.toml", example);
        assert!(found.is_ok(), "{example}{found:?}");
    }
}

struct Validator {
    schemas: Schemas,
    schema: SchemaIndex,
}

impl Validator {
    fn new() -> Self {
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.add_resource("selvedge.json", manifest::schema()).unwrap();
        let schema = compiler.compile("selvedge.json", &mut schemas).unwrap();
        Self { schemas, schema }
    }

    fn refuses(&self, toml: &str) -> Option<String> {
        let value: Value = toml::from_str(toml).unwrap();
        self.schemas.validate(&value, self.schema).err().map(|error| error.to_string())
    }
}

#[test]
fn what_the_parser_accepts_the_schema_accepts() {
    let validator = Validator::new();
    for (path, text) in golden("accepted") {
        let refused = validator.refuses(split(&text).0);
        assert!(refused.is_none(), "{}: {}", path.display(), refused.unwrap_or_default());
    }
}

/// The files that are wrong in a way that no schema can say: relations between tables, and rules
/// of single values that no regular expression holds.
const BEYOND_A_SCHEMA: &[&str] = &[
    "placement-include-and-exclude",
    "placement-include-over-max",
    "placement-min-over-max",
    "redirect-in-place-of-a-route",
    "redirect-loop-over-hosts",
    "redirect-loops",
    "redirect-that-grows",
    "redirect-to-itself",
    "root-git",
    "root-outside",
    "route-to-unknown-service",
    "route-twice",
    "route-twice-at-one-host",
    "route-without-service",
    "service-unreachable",
    "services-without-routes",
    "two-services-of-one-name",
];

#[test]
fn what_the_schema_refuses_the_parser_refuses() {
    let validator = Validator::new();
    let mut beyond = Vec::new();
    for (path, text) in golden("refused") {
        let input = split(&text).0;
        if toml::from_str::<Value>(input).is_ok() && validator.refuses(input).is_none() {
            beyond.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    beyond.sort_unstable();
    assert_eq!(beyond, BEYOND_A_SCHEMA);
}

/// Each key's example and default are values that the parser takes for that key.
#[test]
fn examples_and_defaults_are_values_of_their_keys() {
    for table in TABLES {
        for key in table.keys {
            for value in [Some(key.example.to_owned()), key.default_value()].into_iter().flatten() {
                // Some keys are about another.
                let other = key.name.starts_with("graphql_").then_some("graphql = true\n");
                let text = format!(
                    "[{0}]\n{1} = {value}\n{2}",
                    table.title.trim_matches(['[', ']']),
                    key.name,
                    other.unwrap_or_default(),
                );
                let text = if table.most.is_some() {
                    text.replacen('[', "[[", 1).replacen(']', "]]", 1)
                } else {
                    text
                };
                let problems = manifest::parse("f", &text).err().unwrap_or_default();
                let wrong = problems
                    .iter()
                    .find(|d| d.line == 2 && !d.message.contains("there is no service"));
                assert!(wrong.is_none(), "{text}{wrong:?}");
            }
        }
    }
}
