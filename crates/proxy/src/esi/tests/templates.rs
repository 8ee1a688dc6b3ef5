//! Templates to segments.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::esi::{Include, Malformed, Parser, Segment, Try, Wrong};

/// Segments with neighbouring texts joined.
fn joined(segments: Vec<Segment>) -> Vec<Segment> {
    let mut out: Vec<Segment> = Vec::new();
    for segment in segments {
        match (segment, out.last_mut()) {
            (Segment::Text(text), Some(Segment::Text(last))) => {
                *last = [&last[..], &text[..]].concat().into();
            }
            (Segment::Try(Try { attempt, except }), _) => {
                let (attempt, except) = (joined(attempt), joined(except));
                out.push(Segment::Try(Try { attempt, except }));
            }
            (segment, _) => out.push(segment),
        }
    }
    out
}

fn parse(max: usize, pieces: &[&[u8]]) -> Result<Vec<Segment>, Malformed> {
    let mut parser = Parser::new(max);
    let mut segments = Vec::new();
    for piece in pieces {
        segments.extend(parser.push(Bytes::copy_from_slice(piece))?);
    }
    segments.extend(parser.finish()?);
    Ok(joined(segments))
}

/// However it is cut, a template means the same.
fn parse_whole(template: &str) -> Result<Vec<Segment>, Malformed> {
    let whole = parse(4096, &[template.as_bytes()]);
    let bytes: Vec<&[u8]> = template.as_bytes().chunks(1).collect();
    assert_eq!(parse(4096, &bytes), whole, "{template}");
    for at in 0..template.len() {
        let (one, other) = template.as_bytes().split_at(at);
        assert_eq!(parse(4096, &[one, other]), whole, "{template} at {at}");
    }
    whole
}

fn text(text: &str) -> Segment {
    Segment::Text(Bytes::copy_from_slice(text.as_bytes()))
}

fn include(src: &str, alt: Option<&str>, or_continue: bool) -> Segment {
    Segment::Include(Include { src: src.to_owned(), alt: alt.map(str::to_owned), or_continue })
}

#[test]
fn what_markup_means() {
    let a = || include("/a", None, false);
    for (template, expected) in [
        ("", vec![]),
        ("plain <b>text</b>", vec![text("plain <b>text</b>")]),
        ("<esi:include src=\"/a\"/>", vec![a()]),
        ("x<esi:include\n\tsrc = '/a' />y", vec![text("x"), a(), text("y")]),
        ("<esi:include src='/a'></esi:include>", vec![a()]),
        ("<esi:include src='/a'>", vec![a()]),
        (
            "<esi:include src='/a?x=1&amp;y=2&z=&quot;&#39;' alt=\"/b>'\" onerror='continue'/>",
            vec![include("/a?x=1&y=2&z=\"&#39;", Some("/b>'"), true)],
        ),
        ("<esi:include src='/a' ttl='5' vnd:x='y'/>", vec![a()]),
        ("<esi:include src='/a' alt=''/>", vec![a()]),
        ("a<esi:remove>x<esi:include src='/x'/></esi:removal></esi:remove\n>b", vec![text("ab")]),
        ("a<esi:remove/>b", vec![text("ab")]),
        ("a<esi:comment text='</esi:comment>'/>b", vec![text("ab")]),
        ("a<!--esi <b><esi:include src='/a'/> - -->c", vec![text("a <b>"), a(), text(" - c")]),
        ("<!--esi<esi:include src='/a'/>-->", vec![a()]),
        // Other comments are none of ours.
        ("<!--<esi:include src='/a'/>-->", vec![text("<!--<esi:include src='/a'/>-->")]),
        ("<!--esigma <esi:x> -->", vec![text("<!--esigma <esi:x> -->")]),
        ("<!--><esi:include src='/a'/>", vec![text("<!-->"), a()]),
        ("<!---><esi:include src='/a'/>", vec![text("<!--->"), a()]),
        ("<!-- <esi:x> ", vec![text("<!-- <esi:x> ")]),
        ("<!--esi <!-- <esi:x> --> a -->b", vec![text(" <!-- <esi:x> --> a b")]),
        ("<!--esi <!--esi a --> b --> -->", vec![text("  a  b  -->")]),
        // Nor is what looks like the beginning.
        ("<es", vec![text("<es")]),
        ("</esi", vec![text("</esi")]),
        ("<!--esi", vec![text("<!--esi")]),
        ("<ESI:include src='/a'/>", vec![text("<ESI:include src='/a'/>")]),
        ("< esi:include/><<esi:include src='/a'/>", vec![text("< esi:include/><"), a()]),
        (
            "<esi:try> x <esi:attempt>1<esi:include src='/a'/></esi:attempt>\n\
             <esi:except>2<!--esi 3--></esi:except></esi:try>4",
            vec![
                Segment::Try(Try { attempt: vec![text("1"), a()], except: vec![text("2 3")] }),
                text("4"),
            ],
        ),
    ] {
        assert_eq!(parse_whole(template), Ok(expected), "{template}");
    }
}

#[test]
fn what_is_wrong_and_where() {
    use Wrong::*;
    let long = format!("<esi:include src='/{}'/>", "a".repeat(5000));
    let held = format!("<esi:try><esi:attempt>{}", "a".repeat(5000));
    let deep = "<!--esi ".repeat(17);
    for (template, line, wrong) in [
        ("\n\n<esi:choose>", 3, Element),
        ("<esi:inline name='/a'>", 1, Element),
        ("<esi:vars>", 1, Element),
        ("<esi:>", 1, Element),
        ("</esi:choose>", 1, Element),
        ("<esi:include/>", 1, Src),
        ("a\n<esi:include\nsrc=''/>", 2, Src),
        ("<esi:include src=/a />", 1, Attribute),
        ("<esi:include src='/a' src='/b'/>", 1, Attribute),
        ("<esi:include src='/a' onerror='stop'/>", 1, Attribute),
        ("<esi:include src='/a' alt/>", 1, Attribute),
        ("<esi:include =\"/a\"/>", 1, Attribute),
        ("<esi:include src='/a'", 1, Unclosed),
        ("<esi:include src='/a>", 1, Unclosed),
        ("\n<esi:remove>\n\n", 2, Unclosed),
        ("\n<!--esi \n\n", 2, Unclosed),
        ("\n<esi:try>\n<esi:attempt>", 2, Unclosed),
        ("<!--esi <esi:try> -->", 1, Unclosed),
        ("\n</esi:try>", 2, Unopened),
        ("</esi:remove>", 1, Unopened),
        ("<esi:attempt>", 1, Try),
        ("<esi:try><esi:except/>", 1, Try),
        ("<esi:try></esi:try>", 1, Try),
        ("<esi:try><esi:attempt></esi:attempt></esi:try>", 1, Try),
        ("<esi:try><esi:include src='/a'/>", 1, Try),
        ("<esi:try><!--esi <esi:include src='/a'/>", 1, Try),
        ("<esi:try><esi:attempt></esi:attempt><esi:attempt></esi:attempt>", 1, Try),
        ("<esi:try><esi:attempt></esi:except>", 1, Try),
        (&long, 1, TooLong),
        (&held, 1, TooLong),
        (&deep, 1, TooDeep),
    ] {
        let shown: String = template.chars().take(80).collect();
        let whole = parse(4096, &[template.as_bytes()]);
        assert_eq!(whole, Err(Malformed { line, wrong }), "{shown}");
        if template.len() < 100 {
            parse_whole(template).unwrap_err();
        }
    }
    let not_utf8 = parse(4096, &[b"<esi:include src='\xff'/>"]);
    assert_eq!(not_utf8, Err(Malformed { line: 1, wrong: NotUtf8 }));
    let endless = "<esi:remove>".to_owned() + &"x".repeat(100_000) + "</esi:remove>";
    assert_eq!(parse(4096, &[endless.as_bytes()]), Ok(vec![]));
    let words = Malformed { line: 3, wrong: Element }.to_string();
    assert_eq!(words, "ESI markup in line 3: the element is not supported");
}

/// A template by its parts.
#[derive(Debug, Clone)]
enum Node {
    Text(String),
    Include(usize, bool, bool),
    Remove(String),
    Comment,
    HtmlComment(String),
    EsiComment(Vec<Node>),
    Try(Vec<Node>, Vec<Node>),
}

/// Text without markup, of pieces that make some.
fn plain() -> impl Strategy<Value = String> {
    let pieces = ["<", "</", "a", "\n", "-", "->", ">", "esi:", "<b c='>'>", "é", " ", "!--"];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..6).prop_map(|pieces| {
        let mut text = pieces.concat();
        while let Some(mark) = ["<esi:", "</esi:", "<!", "-->"].iter().find(|it| text.contains(*it))
        {
            text = text.replace(mark, "");
        }
        text
    })
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let leaf = prop_oneof![
        3 => plain().prop_map(Node::Text),
        2 => (0..3_usize, any::<bool>(), any::<bool>())
            .prop_map(|(src, alt, or_continue)| Node::Include(src, alt, or_continue)),
        1 => plain().prop_map(Node::Remove),
        1 => Just(Node::Comment),
        1 => plain().prop_map(Node::HtmlComment),
    ];
    let node = leaf.prop_recursive(3, 16, 4, |inner| {
        let nodes = || proptest::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            nodes().prop_map(Node::EsiComment),
            (nodes(), nodes()).prop_map(|(attempt, except)| Node::Try(attempt, except)),
        ]
    });
    proptest::collection::vec(node, 0..6)
}

const URLS: [&str; 3] = ["/a", "/b?c&d", "http://x/>"];

fn print(nodes: &[Node], out: &mut String, expected: &mut Vec<Segment>) {
    for (at, node) in nodes.iter().enumerate() {
        match node {
            // Two texts in a row could make markup together.
            Node::Text(_) if at > 0 && matches!(nodes[at - 1], Node::Text(_)) => {}
            Node::Text(plain) => {
                out.push_str(plain);
                if !plain.is_empty() {
                    expected.push(text(plain));
                }
            }
            Node::Include(src, alt, or_continue) => {
                let src = URLS[*src];
                out.push_str(&format!("<esi:include src=\"{}\"", src.replace('&', "&amp;")));
                if *alt {
                    out.push_str(" alt='/alt'");
                }
                if *or_continue {
                    out.push_str(" onerror = 'continue' ");
                }
                out.push_str("/>");
                expected.push(include(src, alt.then_some("/alt"), *or_continue));
            }
            Node::Remove(removed) => {
                out.push_str(&format!("<esi:remove>{removed}<esi:x></esi:remove>"));
            }
            Node::Comment => out.push_str("<esi:comment text=\"a > b\"/>"),
            Node::HtmlComment(comment) => {
                let comment = format!("<!-- {comment}<esi:include src='/no'/> -->");
                out.push_str(&comment);
                expected.push(text(&comment));
            }
            Node::EsiComment(inside) => {
                out.push_str("<!--esi\n");
                expected.push(text("\n"));
                print(inside, out, expected);
                out.push_str("-->");
            }
            Node::Try(attempt, except) => {
                let mut both = [vec![], vec![]];
                out.push_str("<esi:try>\n<esi:attempt>");
                print(attempt, out, &mut both[0]);
                out.push_str("</esi:attempt> - <esi:except>");
                print(except, out, &mut both[1]);
                out.push_str("</esi:except></esi:try>");
                let [attempt, except] = both;
                expected.push(Segment::Try(Try { attempt, except }));
            }
        }
    }
}

fn cut<'a>(text: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    places.sort_unstable();
    let (mut pieces, mut from) = (Vec::new(), 0);
    for to in places {
        pieces.push(&text[from..to]);
        from = to;
    }
    pieces.push(&text[from..]);
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_template_is_read_as_it_was_written(
        nodes in nodes(),
        cuts in proptest::collection::vec(any::<Index>(), 0..10),
    ) {
        let (mut template, mut expected) = (String::new(), Vec::new());
        print(&nodes, &mut template, &mut expected);
        let pieces = cut(template.as_bytes(), &cuts);
        prop_assert_eq!(parse(1 << 16, &pieces), Ok(joined(expected)), "{}", template);
    }

    /// Without markup the output is the input; with anything at all, cuts make no difference.
    #[test]
    fn anything_can_be_read(
        words in proptest::collection::vec(
            proptest::sample::select(vec![
                "<", ">", "/", "esi:", "<esi:", "</esi:", "<!--esi", "<!--", "-->", " ", "\n", "'",
                "include", "try", "attempt", "except", "remove", "src='a'", "\"", "-", "\u{e9}",
            ]),
            0..24,
        ),
        cuts in proptest::collection::vec(any::<Index>(), 0..10),
    ) {
        let template = words.concat();
        let pieces = cut(template.as_bytes(), &cuts);
        let whole = parse(200, &[template.as_bytes()]);
        prop_assert_eq!(parse(200, &pieces), whole.clone());
        if !["<esi:", "</esi:", "<!--esi"].iter().any(|mark| template.contains(mark)) {
            let expected = if template.is_empty() { vec![] } else { vec![text(&template)] };
            prop_assert_eq!(whole, Ok(expected));
        }
    }
}
