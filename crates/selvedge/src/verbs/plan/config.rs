//! What differs between two normal forms, key by key. It works on their JSON, so that a new key of
//! `selvedge.toml` is told without a change here.

use std::collections::BTreeMap;

use selvedge_model::App;
use serde::Serialize;
use serde_json::Value;

/// The longest value shown, in characters.
const MAX_SHOWN: usize = 60;

/// A key whose value differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    /// Such as `service web: command`.
    pub(super) key: String,
    /// `None` where the key is new.
    pub(super) before: Option<String>,
    /// `None` where the key is gone.
    pub(super) after: Option<String>,
}

impl Difference {
    /// As people read it.
    pub(super) fn words(&self) -> String {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => format!("{}: {before} -> {after}", self.key),
            (None, Some(after)) => format!("{}: {after} (new)", self.key),
            (Some(before), None) => format!("{}: {before} (gone)", self.key),
            (None, None) => self.key.clone(),
        }
    }
}

/// Every difference, by key.
pub(super) fn differences(before: &App, after: &App) -> Vec<Difference> {
    let (mut before, mut after) = (flat(before), flat(after));
    let keys: std::collections::BTreeSet<String> =
        before.keys().chain(after.keys()).cloned().collect();
    keys.into_iter()
        .map(|key| {
            let (before, after) = (before.remove(&key), after.remove(&key));
            Difference { key, before, after }
        })
        .filter(|it| it.before != it.after)
        .collect()
}

/// The values of an app by key.
fn flat(app: &App) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let Ok(Value::Object(form)) = serde_json::to_value(app) else { return values };
    for (key, value) in form {
        match (key.as_str(), value) {
            ("services", Value::Array(services)) => {
                for mut service in services {
                    let name = take_text(&mut service, "name");
                    add(&mut values, &format!("service {name}:"), " ", &service);
                }
            }
            ("routes", Value::Array(routes)) => {
                for (mut route, form) in routes.into_iter().zip(&app.routes) {
                    let hosts: Vec<&str> = form.hosts.iter().map(|host| host.as_str()).collect();
                    let name = format!("route {}{}:", hosts.join(","), form.path);
                    if let Value::Object(fields) = &mut route {
                        fields.remove("hosts");
                        fields.remove("path");
                    }
                    add(&mut values, &name, " ", &route);
                }
            }
            (key, value) => add(&mut values, key, ".", &value),
        }
    }
    values
}

fn take_text(value: &mut Value, key: &str) -> String {
    match value.as_object_mut().and_then(|fields| fields.remove(key)) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    }
}

fn add(values: &mut BTreeMap<String, String>, prefix: &str, separator: &str, value: &Value) {
    match value {
        Value::Null => {}
        Value::Array(all) if all.is_empty() => {}
        // A kind with its own keys: they stand beside the others, as people write them.
        Value::Object(fields) if prefix.ends_with(" kind") && fields.len() == 1 => {
            let parent = prefix.trim_end_matches(" kind");
            for (kind, own) in fields {
                values.insert(prefix.to_owned(), shown(&Value::String(kind.clone())));
                add(values, parent, " ", own);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                add(values, &format!("{prefix}{separator}{key}"), ".", value);
            }
        }
        value => drop(values.insert(prefix.to_owned(), shown(value))),
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Array(all) => all.iter().map(shown).collect::<Vec<_>>().join(", "),
        value => value.to_string(),
    };
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(text: &str) -> App {
        selvedge_model::manifest::parse("selvedge.toml", text).unwrap()
    }

    #[test]
    fn differences_are_told_by_key() {
        let before = app(
            "[app]\nname = \"shop\"\nbuild = \"npm ci\"\n[[service]]\nname = \"web\"\nkind = \"static\"\nroot = \"public\"\n",
        );
        let after = app(
            "[app]\nname = \"shop\"\ntest = \"npm test\"\n[[service]]\nname = \"web\"\nkind = \"process\"\ncommand = \"node a.js\"\n[[route]]\nhost = \"a.example\"\nservice = \"web\"\n[placement]\nmax_sites = 3\n",
        );
        let words: Vec<String> =
            differences(&before, &after).iter().map(Difference::words).collect();
        let has = |line: &str| assert!(words.iter().any(|it| it == line), "{line} in {words:#?}");
        has("build: \"npm ci\" (gone)");
        has("test: \"npm test\" (new)");
        has("service web: kind: \"static\" -> \"process\"");
        has("service web: root: \"public\" (gone)");
        has("service web: command: \"node a.js\" (new)");
        has("placement.max_sites: 3 (new)");
        has("route a.example/*: service: \"web\" (new)");
        assert_eq!(differences(&after, &after), []);
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(shown(&Value::String("x".repeat(200))).chars().count(), MAX_SHOWN + 1);
    }
}
