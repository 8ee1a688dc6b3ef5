//! A model of GraphQL that prints questions in many spellings and answers them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A value as it stands in a document.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Plain(&'static str),
    Variable(&'static str),
    List(Vec<Value>),
    Object(BTreeMap<&'static str, Value>),
}

#[derive(Debug, Clone, PartialEq)]
enum Selection {
    Field(Option<&'static str>, &'static str, BTreeMap<&'static str, Value>, Vec<Selection>),
    Spread(usize),
}

/// A query and two fragments. The first may use the second, and neither itself.
#[derive(Debug, Clone, PartialEq)]
struct Question {
    query: Vec<Selection>,
    fragments: [Vec<Selection>; 2],
    variables: BTreeMap<&'static str, Value>,
}

const NAMES: [&str; 4] = ["a", "b", "on", "query"];
const PLAIN: [&str; 10] =
    ["1", "1.0", "-1", "\"\"", "\"1\"", "\"a b\"", "\"#,\"", "true", "null", "A"];

fn name() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&NAMES[..])
}

fn value(plain: usize, variables: bool) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        3 => proptest::sample::select(&PLAIN[..plain]).prop_map(Value::Plain),
        1 => name().prop_map(move |name| match variables {
            true => Value::Variable(name),
            false => Value::Plain("0"),
        }),
    ];
    leaf.prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
            proptest::collection::btree_map(name(), inner, 0..3).prop_map(Value::Object),
        ]
    })
}

fn selections(fragments: usize) -> impl Strategy<Value = Vec<Selection>> {
    let arguments = || proptest::collection::btree_map(name(), value(PLAIN.len(), true), 0..3);
    let alias = || proptest::option::weighted(0.2, name());
    let leaf = (alias(), name(), arguments())
        .prop_map(|(alias, name, arguments)| Selection::Field(alias, name, arguments, vec![]));
    let leaf = prop_oneof![
        4 => leaf,
        1 => (0..2_usize).prop_map(move |at| match at < fragments {
            true => Selection::Spread(2 - fragments + at),
            false => Selection::Field(None, "a", BTreeMap::new(), vec![]),
        }),
    ];
    let selection = leaf.prop_recursive(3, 8, 3, move |inner| {
        (alias(), name(), arguments(), proptest::collection::vec(inner, 1..3)).prop_map(
            |(alias, name, arguments, below)| Selection::Field(alias, name, arguments, below),
        )
    });
    proptest::collection::vec(selection, 1..4)
}

fn question() -> impl Strategy<Value = Question> {
    // JSON has no enums.
    let variables = proptest::collection::btree_map(name(), value(PLAIN.len() - 1, false), 0..3);
    (selections(2), selections(1), selections(0), variables).prop_map(
        |(query, first, second, variables)| Question {
            query,
            fragments: [first, second],
            variables,
        },
    )
}

/// How a question is spelled: numbers that choose what is ignored, and turn what has no order.
struct Style<'a> {
    choices: std::iter::Cycle<std::slice::Iter<'a, u8>>,
    out: String,
}

impl<'a> Style<'a> {
    fn new(choices: &'a [u8]) -> Self {
        Self { choices: choices.iter().cycle(), out: String::new() }
    }

    fn choose(&mut self) -> usize {
        usize::from(*self.choices.next().unwrap())
    }

    fn token(&mut self, text: &str) {
        const IGNORED: [&str; 7] = [" ", "\n", ",", "\t ", " # }\"\n", "\r\n", " ,, "];
        self.out.push_str(text);
        let ignored = IGNORED[self.choose() % IGNORED.len()];
        self.out.push_str(ignored);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Plain(text) => self.token(text),
            Value::Variable(name) => {
                self.token("$");
                self.token(name);
            }
            Value::List(items) => {
                self.token("[");
                items.iter().for_each(|item| self.value(item));
                self.token("]");
            }
            Value::Object(fields) => {
                self.token("{");
                self.pairs(fields);
                self.token("}");
            }
        }
    }

    fn pairs(&mut self, pairs: &BTreeMap<&'static str, Value>) {
        let mut pairs: Vec<_> = pairs.iter().collect();
        if !pairs.is_empty() {
            let turn = self.choose() % pairs.len();
            pairs.rotate_left(turn);
        }
        for (name, value) in pairs {
            self.token(name);
            self.token(":");
            self.value(value);
        }
    }

    fn selections(&mut self, selections: &[Selection]) {
        self.token("{");
        for selection in selections {
            match selection {
                Selection::Spread(at) => {
                    // The parser takes no comma between the two, which nobody writes.
                    self.token(["...F0", "... F1"][*at]);
                }
                Selection::Field(alias, name, arguments, below) => {
                    if let Some(alias) = alias {
                        // Here neither.
                        self.token(&format!("{alias} :"));
                    }
                    self.token(name);
                    if !arguments.is_empty() {
                        self.token("(");
                        self.pairs(arguments);
                        self.token(")");
                    }
                    if !below.is_empty() {
                        self.selections(below);
                    }
                }
            }
        }
        self.token("}");
    }

    fn json(&mut self, value: &Value) -> String {
        let space = [" ", "", "\n"][self.choose() % 3];
        match value {
            Value::Plain(text) => format!("{space}{text}"),
            Value::Variable(_) => unreachable!("a variable in a variable"),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(|item| self.json(item)).collect();
                format!("[{}{space}]", items.join(","))
            }
            Value::Object(fields) => self.object(fields),
        }
    }

    fn object(&mut self, fields: &BTreeMap<&'static str, Value>) -> String {
        let mut fields: Vec<String> = fields
            .iter()
            .map(|(name, value)| {
                // A letter in either way.
                let name = if self.choose().is_multiple_of(2) {
                    name.replace('a', "\\u0061")
                } else {
                    name.to_string()
                };
                format!("\"{name}\":{}", self.json(value))
            })
            .collect();
        if !fields.is_empty() {
            let turn = self.choose() % fields.len();
            fields.rotate_left(turn);
        }
        format!("{{{}}}", fields.join(","))
    }
}

impl Question {
    fn body(&self, choices: &[u8]) -> String {
        let mut style = Style::new(choices);
        style.token("query");
        style.selections(&self.query);
        for (name, fragment) in ["F0", "F1"].iter().zip(&self.fragments) {
            for token in ["fragment", name, "on", "A"] {
                style.token(token);
            }
            style.selections(fragment);
        }
        let document = std::mem::take(&mut style.out);
        let variables = style.object(&self.variables);
        body(&document, &format!(",\"variables\":{variables}"))
    }

    /// What a server would answer whose fields tell their name and arguments.
    fn answer(&self) -> String {
        let mut out = String::new();
        self.select(&self.query, &mut out);
        out
    }

    fn select(&self, selections: &[Selection], out: &mut String) {
        for selection in selections {
            match selection {
                Selection::Spread(at) => self.select(&self.fragments[*at], out),
                Selection::Field(alias, name, arguments, below) => {
                    let arguments: BTreeMap<_, _> =
                        arguments.iter().map(|(name, value)| (name, self.input(value))).collect();
                    write!(out, "{}:{name}{arguments:?}{{", alias.unwrap_or(name)).unwrap();
                    self.select(below, out);
                    out.push_str("},");
                }
            }
        }
    }

    fn input(&self, value: &Value) -> Value {
        match value {
            Value::Plain(_) => value.clone(),
            Value::Variable(name) => {
                self.variables.get(name).cloned().unwrap_or(Value::Plain("undefined"))
            }
            Value::List(items) => Value::List(items.iter().map(|item| self.input(item)).collect()),
            Value::Object(fields) => Value::Object(
                fields.iter().map(|(name, value)| (*name, self.input(value))).collect(),
            ),
        }
    }
}

/// Changes one thing somewhere.
fn change(question: &Question, at: &[Index], other: &Question) -> Question {
    let mut changed = question.clone();
    let (place, which) = (at[0].index(5), &at[1]);
    match place {
        0 => changed.variables = other.variables.clone(),
        1 => {
            let at = which.index(changed.query.len());
            changed.query.swap(0, at);
        }
        2 => changed.fragments[0] = other.fragments[0].clone(),
        3 => changed.fragments.swap(0, 0),
        _ => {
            let at = which.index(changed.query.len());
            if let Selection::Field(alias, _, arguments, _) = &mut changed.query[at] {
                *alias = Some("b");
                arguments.insert("on", Value::Plain("1"));
            }
        }
    }
    changed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_question_has_one_key_in_any_spelling(
        question in question(),
        one in proptest::collection::vec(any::<u8>(), 1..40),
        other in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let one = post(&question.body(&one)).unwrap();
        let other = post(&question.body(&other)).unwrap();
        prop_assert_eq!(key(&one), key(&other));
        let again = post(&body(one.document(), "")).unwrap();
        prop_assert_eq!(again.document(), one.document());
    }

    #[test]
    fn two_questions_with_one_key_have_one_answer(
        question in question(),
        other in question(),
        at in any::<[Index; 2]>(),
        related in any::<bool>(),
        choices in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let other = if related { change(&question, &at, &other) } else { other };
        let keys = [&question, &other].map(|one| key(&post(&one.body(&choices)).unwrap()));
        if keys[0] == keys[1] {
            prop_assert_eq!(question.answer(), other.answer());
        }
        prop_assert_eq!(keys[0] == keys[1], question == other);
    }

    /// A damaged question is refused, or is one that can be asked: its normal form is as good.
    #[test]
    fn anything_can_be_read(
        question in question(),
        at in any::<Index>(),
        put in proptest::collection::vec(
            proptest::sample::select(&b"{}()[]:$@!.,#\"\\ \na1-Ee|&=\xc3\xa9\0"[..]), 0..4,
        ),
        choices in proptest::collection::vec(any::<u8>(), 1..20),
    ) {
        let mut damaged = question.body(&choices).into_bytes();
        let at = at.index(damaged.len());
        damaged.splice(at..at + 1, put);
        let head = head("POST", "/", &[JSON]);
        let config = Config::default();
        if let Ok(operation) = read(&config, &head, &damaged) {
            let again = body(operation.document(), "");
            let again = read(&config, &head, again.as_bytes()).unwrap();
            prop_assert_eq!(again.document(), operation.document());
        }
    }
}
