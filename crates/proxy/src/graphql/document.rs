//! A query document in one spelling.

use apollo_parser::{Parser, SyntaxElement, SyntaxKind, SyntaxNode};

use super::NotCacheable;

/// How deep selections and values may be nested.
const MAX_DEPTH: usize = 100;
/// How many tokens a document may have, white space included.
const MAX_TOKENS: usize = 20_000;

/// A document of queries, one of which is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document {
    /// Its tokens, with one space between each two, so that it is a document again; arguments and
    /// fields of input objects in the order of their names.
    pub(super) text: String,
}

/// Reads a document that has only queries and fragments, and the operation that `name` picks.
pub(super) fn read(text: &str, name: Option<&str>) -> Result<Document, NotCacheable> {
    let tree = Parser::new(text).recursion_limit(MAX_DEPTH).token_limit(MAX_TOKENS).parse();
    if tree.errors().any(apollo_parser::Error::is_limit) {
        return Err(NotCacheable::TooComplex);
    }
    if tree.errors().len() > 0 {
        return Err(NotCacheable::Document);
    }
    let root = tree.document();
    let root = apollo_parser::cst::CstNode::syntax(&root);
    check(root, name)?;
    let mut normal = String::with_capacity(text.len());
    write(root, &mut normal);
    Ok(Document { text: normal })
}

fn check(root: &SyntaxNode, name: Option<&str>) -> Result<(), NotCacheable> {
    let mut names = Vec::new();
    for definition in root.children() {
        match definition.kind() {
            SyntaxKind::FRAGMENT_DEFINITION => continue,
            SyntaxKind::OPERATION_DEFINITION => {}
            _ => return Err(NotCacheable::Document),
        }
        match child(&definition, SyntaxKind::OPERATION_TYPE).as_deref() {
            None | Some("query") => {}
            Some("mutation") => return Err(NotCacheable::Mutation),
            Some("subscription") => return Err(NotCacheable::Subscription),
            Some(_) => return Err(NotCacheable::Document),
        }
        names.push(child(&definition, SyntaxKind::NAME));
    }
    let asked = names.iter().filter(|own| own.as_deref() == name).count();
    match (names.len(), name) {
        (0, _) => return Err(NotCacheable::Document),
        (1, None) => {}
        (_, Some(_)) if asked == 1 => {}
        _ => return Err(NotCacheable::OperationName),
    }
    let in_parts = |node: SyntaxNode| {
        node.kind() == SyntaxKind::DIRECTIVE
            && child(&node, SyntaxKind::NAME)
                .is_some_and(|name| name == "defer" || name == "stream")
    };
    if root.descendants().any(in_parts) { Err(NotCacheable::Incremental) } else { Ok(()) }
}

/// The text of the first child of that kind, without what is ignored.
fn child(node: &SyntaxNode, kind: SyntaxKind) -> Option<String> {
    let child = node.children().find(|child| child.kind() == kind)?;
    let mut text = String::new();
    write(&child, &mut text);
    Some(text)
}

fn write(node: &SyntaxNode, out: &mut String) {
    let unordered = match node.kind() {
        SyntaxKind::ARGUMENTS => Some(SyntaxKind::ARGUMENT),
        SyntaxKind::OBJECT_VALUE => Some(SyntaxKind::OBJECT_FIELD),
        _ => None,
    };
    // A name that comes twice makes an invalid document, and stays one: the sort is stable.
    let mut members: Vec<(Option<String>, String)> = Vec::new();
    for element in node.children_with_tokens() {
        match element {
            SyntaxElement::Node(node) if Some(node.kind()) == unordered => {
                let mut text = String::new();
                write(&node, &mut text);
                members.push((child(&node, SyntaxKind::NAME), text));
            }
            SyntaxElement::Node(node) => write(&node, out),
            SyntaxElement::Token(token) => match token.kind() {
                SyntaxKind::WHITESPACE | SyntaxKind::COMMENT | SyntaxKind::COMMA => {}
                kind => {
                    if matches!(kind, SyntaxKind::R_PAREN | SyntaxKind::R_CURLY) {
                        write_sorted(&mut members, out);
                    }
                    push(token.text(), out);
                }
            },
        }
    }
}

fn write_sorted(members: &mut Vec<(Option<String>, String)>, out: &mut String) {
    members.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (_, text) in members.drain(..) {
        push(&text, out);
    }
}

fn push(text: &str, out: &mut String) {
    if !out.is_empty() {
        out.push(' ');
    }
    out.push_str(text);
}
