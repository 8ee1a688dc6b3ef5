//! The JSON schema of `selvedge.toml`, made of [`super::keys`], for editors.
//!
//! It is draft-07, the newest that the TOML servers of editors read without exception. A schema
//! can't say all that the parser refuses (a route to a service that isn't there): what it accepts
//! may still be refused, and what it refuses always is.

use serde_json::{Map, Value, json};

use super::keys::{KINDS, Key, SERVICE, TABLES, Table, Takes, Without};

/// The JSON schema of `selvedge.toml`. The same at every call.
pub fn schema() -> Value {
    let tables: Map<String, Value> =
        TABLES.iter().map(|table| (table.name.to_owned(), table_schema(table))).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": super::FILE_NAME,
        "description": "An app of Selvedge: what runs, which requests go where, and at which sites.",
        "type": "object",
        "properties": tables,
        "required": ["app"],
        "anyOf": [{"required": ["service"]}, {"required": ["redirect"]}],
        "additionalProperties": false,
    })
}

fn table_schema(table: &Table) -> Value {
    let properties: Map<String, Value> =
        table.keys.iter().map(|key| (key.name.to_owned(), key_schema(key))).collect();
    let mut schema = json!({
        "description": table.about,
        "type": "object",
        "properties": properties,
        "required": required(table.keys.iter().filter(|key| key.kinds.is_empty())),
        "additionalProperties": false,
    });
    let mut rules: Vec<Value> =
        table.either.iter().map(|both| json!({"not": {"required": both}})).collect();
    if table.name == SERVICE.name {
        rules.extend(KINDS.iter().map(|(kind, _)| kind_rule(kind)));
    }
    if let (false, Value::Object(schema)) = (rules.is_empty(), &mut schema) {
        schema.insert("allOf".to_owned(), rules.into());
    }
    match table.most {
        None => schema,
        Some(most) => json!({
            "description": table.about,
            "type": "array",
            "items": schema,
            "minItems": 1,
            "maxItems": most,
        }),
    }
}

/// What a service of `kind` must and must not have.
fn kind_rule(kind: &str) -> Value {
    let of_kind = |key: &&Key| key.kinds.contains(&kind);
    let of_others = SERVICE.keys.iter().filter(|key| !key.kinds.is_empty() && !of_kind(key));
    let refused: Map<String, Value> =
        of_others.map(|key| (key.name.to_owned(), Value::Bool(false))).collect();
    json!({
        "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
        "then": {
            "properties": refused,
            "required": required(SERVICE.keys.iter().filter(of_kind)),
        },
    })
}

fn required<'k>(keys: impl Iterator<Item = &'k Key>) -> Vec<&'k str> {
    keys.filter(|key| matches!(key.without, Without::Refused)).map(|key| key.name).collect()
}

fn key_schema(key: &Key) -> Value {
    let mut schema = match key.takes {
        Takes::Text { pattern, most } => text(pattern, most),
        Takes::Word(words) => json!({"type": "string", "enum": words}),
        Takes::Texts { pattern, most } => json!({
            "type": "array",
            "items": {"type": "string", "pattern": whole(pattern)},
            "minItems": 1,
            "maxItems": most,
            "uniqueItems": true,
        }),
        Takes::Map { pattern, most } => json!({
            "type": "object",
            "propertyNames": {"pattern": whole(pattern)},
            "additionalProperties": {"type": "string"},
            "maxProperties": most,
        }),
        Takes::Flag => json!({"type": "boolean"}),
        Takes::OneOf(numbers) => json!({"type": "integer", "enum": numbers}),
        Takes::Number(range) => {
            json!({"type": "integer", "minimum": range.least, "maximum": range.most})
        }
        Takes::Processors(range) => json!({
            "type": "number",
            "minimum": f64::from(range.least) / 1000.0,
            "maximum": f64::from(range.most) / 1000.0,
        }),
        Takes::Size(_) => text("[0-9]+ *(MiB|GiB)", 32),
        Takes::Duration(_) => text("[0-9]+ *(s|m)", 32),
    };
    if let Value::Object(schema) = &mut schema {
        schema.insert("description".to_owned(), key.description().into());
        schema.extend(
            key.default_value()
                .and_then(|value| json_of(&value))
                .map(|value| ("default".to_owned(), value)),
        );
        schema.extend(json_of(key.example).map(|value| ("examples".to_owned(), json!([value]))));
    }
    schema
}

fn text(pattern: &str, most: usize) -> Value {
    json!({"type": "string", "pattern": whole(pattern), "maxLength": most})
}

fn whole(pattern: &str) -> String {
    format!("^({pattern})$")
}

/// A TOML value as JSON.
fn json_of(toml: &str) -> Option<Value> {
    let mut document: Map<String, Value> = toml::from_str(&format!("value = {toml}")).ok()?;
    document.remove("value")
}
