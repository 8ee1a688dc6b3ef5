//! What is promised of a response, whatever comes.

use bytes::BytesMut;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method};

use super::chunked::Part;
use super::head::{self, Framing};

/// A small limit, so that it is met.
const MAX_BYTES: usize = 2048;

/// What was made of a response: its head in writing, its body, trailers, and what was left.
#[derive(Debug, PartialEq)]
struct Made {
    head: String,
    body: Vec<u8>,
    trailers: HeaderMap,
    left: Vec<u8>,
}

/// The first byte is the method and how the rest is cut, which is what an upstream sends. Cuts make no
/// difference, what is read is framed in one way, and nothing is made up.
pub(crate) fn response(input: &[u8]) {
    let Some((&first, sent)) = input.split_first() else { return };
    let method = if first % 2 == 0 { Method::GET } else { Method::HEAD };
    let whole = read(&method, sent, sent.len().max(1));
    let pieces = read(&method, sent, usize::from(first / 2) + 1);
    assert_eq!(whole, pieces, "cuts changed what it says");
    if let Some(Some(made)) = whole {
        assert!(made.body.len() + made.left.len() <= sent.len(), "something was made up");
        assert!(method == Method::GET || made.body.is_empty(), "a body where there is none");
    }
}

/// None where it can't be read, and none within where more has to come.
fn read(method: &Method, sent: &[u8], size: usize) -> Option<Option<Made>> {
    let mut pieces = sent.chunks(size);
    let mut from = BytesMut::new();
    let head = loop {
        if let Some(head) = head::read(&mut from, method, MAX_BYTES).ok()? {
            break head;
        }
        let Some(piece) = pieces.next() else { return Some(None) };
        from.extend_from_slice(piece);
    };
    is_framed_once(&head);
    let mut made = Made {
        head: format!("{} {:?} {}", head.status, head.headers, head.persists),
        body: Vec::new(),
        trailers: HeaderMap::new(),
        left: Vec::new(),
    };
    let mut framing = head.framing;
    loop {
        match &mut framing {
            Framing::Length(0) => break,
            Framing::Length(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(from.len());
                *left -= most as u64;
                made.body.extend(from.split_to(most));
                if *left == 0 {
                    break;
                }
            }
            Framing::Close => made.body.extend(from.split()),
            Framing::Chunked(chunked) => match chunked.take(&mut from, MAX_BYTES).ok()? {
                Some(Part::Data(data)) => {
                    made.body.extend(data);
                    continue;
                }
                Some(Part::Trailers(trailers)) => {
                    made.trailers = trailers;
                    continue;
                }
                Some(Part::End) => break,
                None => {}
            },
        }
        let Some(piece) = pieces.next() else {
            return Some(matches!(framing, Framing::Close).then_some(made));
        };
        from.extend_from_slice(piece);
    }
    made.left = from.to_vec();
    pieces.for_each(|piece| made.left.extend_from_slice(piece));
    Some(Some(made))
}

fn is_framed_once(head: &head::Head) {
    let lengths: Vec<_> = head.headers.get_all(CONTENT_LENGTH).iter().collect();
    assert!(lengths.len() <= 1, "two lengths");
    match &head.framing {
        Framing::Length(_) => {}
        Framing::Chunked(_) => assert!(lengths.is_empty(), "a length beside chunks"),
        Framing::Close => {
            assert!(lengths.is_empty() && !head.persists, "it ends when the connection does");
        }
    }
    let values = head.headers.values().flat_map(|value| value.as_bytes());
    assert!(!values.into_iter().any(|byte| b"\r\n\0".contains(byte)), "a value holds lines");
}
