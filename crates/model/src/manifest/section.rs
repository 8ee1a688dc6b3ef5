//! Reads tables of a parsed TOML document, whose values know where they stand, and reports what has
//! the wrong type or an unknown name. What the values mean is for the callers to judge.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::diagnostic::{Problems, closest, one_of, quote};

/// A text value with its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
}

/// A table with its place.
#[derive(Clone)]
pub(super) struct Section<'a> {
    /// As people write it, such as `[app]`.
    pub(super) title: String,
    pub(super) at: usize,
    table: &'a DeTable<'a>,
}

/// Names that people bring from elsewhere, and ours.
const SYNONYMS: [(&str, &str); 23] = [
    ("address", "addresses"),
    ("destination", "to"),
    ("https_only", "force_https"),
    ("redirects", "redirect"),
    ("source", "from"),
    ("spa", "fallback"),
    ("cmd", "command"),
    ("countries", "jurisdictions"),
    ("dir", "root"),
    ("directory", "root"),
    ("domain", "host"),
    ("domains", "hosts"),
    ("headers", "response_headers"),
    ("hostname", "host"),
    ("publish", "root"),
    ("run", "command"),
    ("start", "command"),
    ("services", "service"),
    ("routes", "route"),
    ("type", "kind"),
    ("url", "path"),
    ("vars", "environment"),
    ("variables", "environment"),
];

impl<'a> Section<'a> {
    /// The document itself.
    pub(super) fn document(table: &'a DeTable<'a>) -> Self {
        Self { title: "the file".to_owned(), at: 0, table }
    }

    /// The table at `key`, or `None` without a report when there is no such key.
    pub(super) fn table(
        &self,
        key: &str,
        title: &str,
        problems: &mut Problems<'_>,
    ) -> Option<Self> {
        let (at, value) = self.get(key)?;
        match value {
            DeValue::Table(table) => Some(Self { title: title.to_owned(), at, table }),
            DeValue::Array(_) => {
                let message = format!("`{key}` is a list, and there is only one {title}");
                problems.report(at, message, format!("write {title} with single brackets"));
                None
            }
            other => {
                let message = format!("`{key}` is {}, and it is a table", type_name(other));
                problems.report(at, message, format!("write a table that begins with {title}"));
                None
            }
        }
    }

    /// The tables of the list at `key`, at most `limit`; none when there is no such key.
    pub(super) fn tables(
        &self,
        key: &str,
        limit: usize,
        problems: &mut Problems<'_>,
    ) -> Vec<Section<'a>> {
        let title = format!("[[{key}]]");
        let Some((at, value)) = self.get(key) else {
            return Vec::new();
        };
        let DeValue::Array(list) = value else {
            let message = format!("`{key}` is {}, and it is a list of tables", type_name(value));
            problems.report(at, message, format!("write each with double brackets: {title}"));
            return Vec::new();
        };
        if let Some(extra) = list.get(limit) {
            let message =
                format!("there are {} {title} tables, and {limit} is the most", list.len());
            problems.report(
                extra.span().start,
                message,
                "remove some, or split the app into several",
            );
        }
        let mut tables = Vec::new();
        for item in list.iter().take(limit) {
            let at = item.span().start;
            match item.get_ref() {
                DeValue::Table(table) => tables.push(Self { title: title.clone(), at, table }),
                other => {
                    let message = format!("`{key}` has {} in its list", type_name(other));
                    problems.report(at, message, format!("write each as a table: {title}"));
                }
            }
        }
        tables
    }

    /// Reports every key that is not one of `known`, suggesting the likeliest. Keys that the
    /// caller has reported in words of its own are `reported`.
    pub(super) fn refuse_unknown(
        &self,
        known: &[&str],
        reported: &[&str],
        problems: &mut Problems<'_>,
    ) {
        for key in self.table.keys() {
            let name = &**key.get_ref();
            if known.contains(&name) || reported.contains(&name) {
                continue;
            }
            let synonym =
                SYNONYMS.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours);
            let likely = synonym
                .filter(|ours| known.contains(ours))
                .or_else(|| closest(name, known.iter().copied()));
            let mend = match likely {
                Some(likely) => format!("did you mean `{likely}`?"),
                None => format!("remove it; {} has {}", self.title, one_of(known)),
            };
            let message = format!("{} has no key {}", self.title, quote(name));
            problems.report(key.span().start, message, mend);
        }
    }

    /// Where `key` itself stands (not its value), if it is there.
    pub(super) fn place_of(&self, key: &str) -> Option<usize> {
        self.table.get_key_value(key).map(|(key, _)| key.span().start)
    }

    /// The text at `key`.
    pub(super) fn text(&self, key: &str, problems: &mut Problems<'_>) -> Option<Text<'a>> {
        self.text_such_as(key, "…", problems)
    }

    /// The text at `key`, which looks like `example`.
    pub(super) fn text_such_as(
        &self,
        key: &str,
        example: &str,
        problems: &mut Problems<'_>,
    ) -> Option<Text<'a>> {
        let (at, value) = self.get(key)?;
        match value {
            DeValue::String(text) => Some(Text { text, at }),
            other => {
                let message = format!("`{key}` is {}, and it takes a text", type_name(other));
                problems.report(at, message, format!("put it in quotes: {key} = \"{example}\""));
                None
            }
        }
    }

    /// The whole number at `key`.
    pub(super) fn number(&self, key: &str, problems: &mut Problems<'_>) -> Option<(u32, usize)> {
        self.number_such_as(key, "2", problems)
    }

    /// The whole number at `key`, which looks like `example`.
    pub(super) fn number_such_as(
        &self,
        key: &str,
        example: &str,
        problems: &mut Problems<'_>,
    ) -> Option<(u32, usize)> {
        let (at, value) = self.get(key)?;
        let number = value
            .as_integer()
            .and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
        if number.is_none() {
            let what = match value {
                DeValue::Integer(number) => number.as_str().chars().take(40).collect(),
                other => type_name(other).to_owned(),
            };
            let message = format!("`{key}` is {what}, and it takes a whole number from 0 up");
            problems.report(
                at,
                message,
                format!("write a number without quotes: {key} = {example}"),
            );
        }
        number.map(|number| (number, at))
    }

    /// The boolean at `key`.
    pub(super) fn flag(&self, key: &str, problems: &mut Problems<'_>) -> Option<bool> {
        let (at, value) = self.get(key)?;
        let flag = value.as_bool();
        if flag.is_none() {
            let message = format!("`{key}` is {}, and it is true or false", type_name(value));
            problems.report(at, message, format!("write it without quotes: {key} = true"));
        }
        flag
    }

    /// The decimal number at `key`, in thousandths; what is finer is left out.
    pub(super) fn thousandths(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
    ) -> Option<(u32, usize)> {
        let (at, value) = self.get(key)?;
        let thousandths = match value {
            DeValue::Integer(number) if number.radix() == 10 => thousandths(number.as_str()),
            DeValue::Float(number) => thousandths(number.as_str()),
            _ => None,
        };
        if thousandths.is_none() {
            let what = match value {
                DeValue::Integer(number) => number.as_str().chars().take(40).collect(),
                DeValue::Float(number) => number.as_str().chars().take(40).collect(),
                other => type_name(other).to_owned(),
            };
            let message = format!("`{key}` is {what}, and it takes a decimal number from 0 up");
            problems.report(at, message, format!("write a number without quotes: {key} = 0.5"));
        }
        thousandths.map(|thousandths| (thousandths, at))
    }

    /// The texts of the list at `key`, at most `limit`, and none twice. An empty list is refused,
    /// as it can be read as "all" and as "none".
    pub(super) fn texts(
        &self,
        key: &str,
        limit: usize,
        problems: &mut Problems<'_>,
    ) -> Vec<Text<'a>> {
        let Some((at, value)) = self.get(key) else {
            return Vec::new();
        };
        let DeValue::Array(list) = value else {
            let message = format!("`{key}` is {}, and it takes a list of texts", type_name(value));
            problems.report(at, message, format!("write it in square brackets: {key} = [\"…\"]"));
            return Vec::new();
        };
        if list.is_empty() {
            let message = format!("`{key}` is empty, which could mean all or none");
            problems.report(at, message, format!("put something in it, or leave `{key}` out"));
        }
        if list.len() > limit {
            let message = format!("`{key}` has {} entries, and {limit} is the most", list.len());
            problems.report(at, message, "remove some");
        }
        let mut texts: Vec<Text<'a>> = Vec::new();
        for item in list.iter().take(limit) {
            let at = item.span().start;
            match item.get_ref() {
                DeValue::String(text) if texts.iter().any(|known| known.text == text) => {
                    problems.report(at, format!("`{key}` has {} twice", quote(text)), "remove one");
                }
                DeValue::String(text) => texts.push(Text { text, at }),
                other => {
                    let message = format!("`{key}` has {} in a list of texts", type_name(other));
                    problems.report(at, message, "put it in quotes");
                }
            }
        }
        texts
    }

    /// The table of texts at `key`, at most `limit`, each with the place of its own key.
    pub(super) fn map(
        &self,
        key: &str,
        limit: usize,
        problems: &mut Problems<'_>,
    ) -> BTreeMap<&'a str, (usize, Text<'a>)> {
        let mut map = BTreeMap::new();
        let Some((at, value)) = self.get(key) else {
            return map;
        };
        let DeValue::Table(table) = value else {
            let message = format!("`{key}` is {}, and it is a table of texts", type_name(value));
            problems.report(at, message, format!("write {key} = {{ NAME = \"value\" }}"));
            return map;
        };
        if table.len() > limit {
            let message = format!("`{key}` has {} entries, and {limit} is the most", table.len());
            problems.report(at, message, "remove some");
        }
        for (name, value) in table.iter().take(limit) {
            let at = value.span().start;
            match value.get_ref() {
                DeValue::String(text) => {
                    map.insert(name.get_ref().as_ref(), (name.span().start, Text { text, at }));
                }
                other => {
                    let name = quote(name.get_ref());
                    let message = format!("{name} is {}, and it takes a text", type_name(other));
                    problems.report(at, message, "put the value in quotes");
                }
            }
        }
        map
    }

    fn get(&self, key: &str) -> Option<(usize, &'a DeValue<'a>)> {
        self.table.get(key).map(|value| (value.span().start, value.get_ref()))
    }
}

/// A plain decimal number, without sign or exponent.
fn thousandths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return None;
    }
    let part: String = part.chars().chain("000".chars()).take(3).collect();
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(part.parse().ok()?)
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
