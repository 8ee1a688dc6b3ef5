//! From a template as it streams to its segments.

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr_iter, memchr2, memmem};

use super::tag::{self, Element, Tag};

/// A piece of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// As it is.
    Text(Bytes),
    /// Another response's body.
    Include(Include),
    /// One of two things.
    Try(Try),
}

/// `<esi:include>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    /// The URL of what is included.
    pub src: String,
    /// The URL of what is included if that can't be.
    pub alt: Option<String>,
    /// Whether there is nothing here if neither can be.
    pub or_continue: bool,
}

/// `<esi:try>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Try {
    /// What is here if all that it includes can be had.
    pub attempt: Vec<Segment>,
    /// What is here otherwise.
    pub except: Vec<Segment>,
}

/// What is wrong with a template's markup, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ESI markup in line {line}: {wrong}")]
pub struct Malformed {
    /// The line that it begins in, from 1.
    pub line: u64,
    /// What is wrong.
    pub wrong: Wrong,
}

/// What is wrong with a piece of markup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// An element that is not understood.
    #[error("the element is not supported")]
    Element,
    /// An attribute that is malformed, comes twice, or has a value that is not understood.
    #[error("an attribute is malformed")]
    Attribute,
    /// An include without its source.
    #[error("an include needs a src")]
    Src,
    /// It is not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// It is longer than allowed.
    #[error("it is too long")]
    TooLong,
    /// Elements are nested too deeply.
    #[error("it is nested too deeply")]
    TooDeep,
    /// It ends what did not begin.
    #[error("it ends what did not begin")]
    Unopened,
    /// It does not end.
    #[error("it does not end")]
    Unclosed,
    /// A try has one attempt and one except and nothing else, and they are nowhere else.
    #[error("a try has one attempt and one except, and nothing else has one")]
    Try,
}

/// How deep elements may be nested in one template.
const MAX_FRAMES: usize = 16;
/// What a segment that is kept counts beside its text, in bytes.
const SEGMENT: usize = 64;

const ELEMENT: &[u8] = b"<esi:";
const END: &[u8] = b"</esi:";
const COMMENT: &[u8] = b"<!--";
const ESI_COMMENT: &[u8] = b"<!--esi";
const COMMENT_END: &[u8] = b"-->";
const REMOVE_END: &[u8] = b"</esi:remove";

/// Cuts a template into segments. Keeps what can't be told yet, never more than the limit.
#[derive(Debug)]
pub struct Parser {
    max_markup: usize,
    /// What was pushed and is not decided.
    rest: Bytes,
    mode: Mode,
    frames: Vec<Frame>,
    /// Bytes in `frames`.
    kept: usize,
    line: u64,
    /// The lines that the outermost open element and the last `remove` begin in.
    opened: u64,
    removing: u64,
    out: Vec<Segment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Text,
    /// In an HTML comment, behind `<!`.
    Comment,
    Remove,
}

#[derive(Debug)]
enum Frame {
    /// `<!--esi`.
    EsiComment,
    Try {
        attempt: Option<Vec<Segment>>,
        except: Option<Vec<Segment>>,
    },
    Attempt(Vec<Segment>),
    Except(Vec<Segment>),
}

/// What begins at a place in the text.
enum Mark {
    /// Nothing.
    Text,
    /// It takes more text to tell.
    Unknown,
    Tag,
    Comment,
    EsiComment,
    EsiCommentEnd,
}

impl Parser {
    /// A parser of one template, that keeps up to so many bytes of markup.
    pub fn new(max_markup: usize) -> Self {
        Self {
            max_markup,
            rest: Bytes::new(),
            mode: Mode::Text,
            frames: Vec::new(),
            kept: 0,
            line: 1,
            opened: 1,
            removing: 1,
            out: Vec::new(),
        }
    }

    /// Takes in the next piece of the template, and gives the segments that are known.
    ///
    /// # Errors
    /// When the markup is malformed. Segments before it are lost; nothing may be pushed after it.
    pub fn push(&mut self, piece: Bytes) -> Result<Vec<Segment>, Malformed> {
        let mut text = if self.rest.is_empty() {
            piece
        } else {
            let mut joined = BytesMut::with_capacity(self.rest.len() + piece.len());
            joined.extend_from_slice(&self.rest);
            joined.extend_from_slice(&piece);
            joined.freeze()
        };
        while !text.is_empty() && self.step(&mut text)? {}
        self.rest = text;
        Ok(std::mem::take(&mut self.out))
    }

    /// The template is over: the last segments.
    ///
    /// # Errors
    /// When something has not ended.
    pub fn finish(mut self) -> Result<Vec<Segment>, Malformed> {
        if self.mode == Mode::Remove {
            return Err(Malformed { line: self.removing, wrong: Wrong::Unclosed });
        }
        let is_tag = self.rest.starts_with(ELEMENT) || self.rest.starts_with(END);
        if is_tag && self.mode == Mode::Text {
            return Err(self.wrong(Wrong::Unclosed));
        }
        if !self.frames.is_empty() {
            return Err(Malformed { line: self.opened, wrong: Wrong::Unclosed });
        }
        let rest = std::mem::take(&mut self.rest);
        self.text(rest)?;
        Ok(self.out)
    }

    fn wrong(&self, wrong: Wrong) -> Malformed {
        Malformed { line: self.line, wrong }
    }

    /// Takes something off the text. False if that needs more of it.
    fn step(&mut self, text: &mut Bytes) -> Result<bool, Malformed> {
        match self.mode {
            Mode::Text => self.step_text(text),
            Mode::Comment => {
                let (length, is_over) = match memmem::find(text, COMMENT_END) {
                    Some(at) => (at + COMMENT_END.len(), true),
                    None => (text.len().saturating_sub(COMMENT_END.len() - 1), false),
                };
                let comment = text.split_to(length);
                self.text(comment)?;
                if is_over {
                    self.mode = Mode::Text;
                }
                Ok(is_over)
            }
            Mode::Remove => self.step_remove(text),
        }
    }

    fn step_remove(&mut self, text: &mut Bytes) -> Result<bool, Malformed> {
        let Some(at) = memmem::find(text, REMOVE_END) else {
            let removed = text.len().saturating_sub(REMOVE_END.len() - 1);
            self.count(&text.split_to(removed));
            return Ok(false);
        };
        self.count(&text.split_to(at));
        let behind = text.get(REMOVE_END.len()..).unwrap_or_default();
        match behind.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'>') => {
                let end = memchr(b'>', text).unwrap_or_default() + 1;
                self.count(&text.split_to(end));
                self.mode = Mode::Text;
            }
            // The end of something else.
            Some(_) => self.count(&text.split_to(REMOVE_END.len())),
            None if text.len() > self.max_markup => return Err(self.wrong(Wrong::TooLong)),
            None => return Ok(false),
        }
        Ok(true)
    }

    fn step_text(&mut self, text: &mut Bytes) -> Result<bool, Malformed> {
        let in_comment = self.frames.iter().any(|frame| matches!(frame, Frame::EsiComment));
        let mut from = 0;
        let (at, mark) = loop {
            let tail = text.get(from..).unwrap_or_default();
            let found = if in_comment { memchr2(b'<', b'-', tail) } else { memchr(b'<', tail) };
            let Some(found) = found else { break (text.len(), Mark::Text) };
            let at = from + found;
            match mark(text.get(at..).unwrap_or_default(), in_comment) {
                Mark::Text => from = at + 1,
                mark => break (at, mark),
            }
        };
        let before = text.split_to(at);
        self.text(before)?;
        match mark {
            Mark::Text => {}
            Mark::Unknown => return Ok(false),
            Mark::Comment => {
                // Its dashes count for the end, too: `<!-->` is a whole comment.
                let open = text.split_to(2);
                self.text(open)?;
                self.mode = Mode::Comment;
            }
            Mark::EsiComment => {
                self.count(&text.split_to(ESI_COMMENT.len()));
                self.open(Frame::EsiComment)?;
            }
            Mark::EsiCommentEnd => {
                self.count(&text.split_to(COMMENT_END.len()));
                if !matches!(self.frames.pop(), Some(Frame::EsiComment)) {
                    return Err(self.wrong(Wrong::Unclosed));
                }
            }
            Mark::Tag => return self.step_tag(text),
        }
        Ok(true)
    }

    fn step_tag(&mut self, text: &mut Bytes) -> Result<bool, Malformed> {
        let end = tag::end(text);
        if end.unwrap_or(text.len()) > self.max_markup {
            return Err(self.wrong(Wrong::TooLong));
        }
        let Some(end) = end else { return Ok(false) };
        let markup = text.split_to(end);
        let tag = tag::read(&markup).map_err(|wrong| self.wrong(wrong))?;
        let is_child = matches!(tag, Tag::Attempt | Tag::Except);
        let mut inside = self.frames.iter().rev();
        let innermost = inside.find(|frame| !matches!(frame, Frame::EsiComment));
        let in_try = matches!(innermost, Some(Frame::Try { .. }));
        if is_child && !in_try || in_try && matches!(tag, Tag::Include(_) | Tag::Try) {
            return Err(self.wrong(Wrong::Try));
        }
        match tag {
            Tag::Include(include) => {
                let size = include.src.len() + include.alt.as_ref().map_or(0, String::len);
                self.segment(Segment::Include(include), size)?;
            }
            Tag::Remove => {
                self.mode = Mode::Remove;
                self.removing = self.line;
            }
            Tag::Try => self.open(Frame::Try { attempt: None, except: None })?,
            Tag::Attempt => self.open(Frame::Attempt(Vec::new()))?,
            Tag::Except => self.open(Frame::Except(Vec::new()))?,
            Tag::End(element) => self.close(element)?,
            Tag::Nothing => {}
        }
        self.count(&markup);
        Ok(true)
    }

    fn open(&mut self, frame: Frame) -> Result<(), Malformed> {
        if self.frames.len() >= MAX_FRAMES {
            return Err(self.wrong(Wrong::TooDeep));
        }
        if self.frames.is_empty() {
            self.opened = self.line;
        }
        self.frames.push(frame);
        Ok(())
    }

    fn close(&mut self, element: Element) -> Result<(), Malformed> {
        let closed = self.frames.pop();
        match (element, closed, self.frames.last_mut()) {
            (
                Element::Attempt,
                Some(Frame::Attempt(segments)),
                Some(Frame::Try { attempt, .. }),
            ) if attempt.is_none() => {
                *attempt = Some(segments);
            }
            (Element::Except, Some(Frame::Except(segments)), Some(Frame::Try { except, .. }))
                if except.is_none() =>
            {
                *except = Some(segments);
            }
            (Element::Try, Some(Frame::Try { attempt, except }), _) => {
                let (Some(attempt), Some(except)) = (attempt, except) else {
                    return Err(self.wrong(Wrong::Try));
                };
                self.segment(Segment::Try(Try { attempt, except }), 0)?;
                if self.frames.iter().all(|frame| matches!(frame, Frame::EsiComment)) {
                    self.kept = 0;
                }
            }
            (_, Some(_), _) => return Err(self.wrong(Wrong::Try)),
            (_, None, _) => return Err(self.wrong(Wrong::Unopened)),
        }
        Ok(())
    }

    fn text(&mut self, text: Bytes) -> Result<(), Malformed> {
        self.count(&text);
        if text.is_empty() {
            return Ok(());
        }
        let size = text.len();
        self.segment(Segment::Text(text), size)
    }

    fn count(&mut self, text: &[u8]) {
        self.line += memchr_iter(b'\n', text).count() as u64;
    }

    /// Puts a segment where it belongs.
    fn segment(&mut self, segment: Segment, size: usize) -> Result<(), Malformed> {
        let mut inside = self.frames.iter_mut().rev();
        let list = match inside.find(|frame| !matches!(frame, Frame::EsiComment)) {
            None | Some(Frame::EsiComment) => {
                self.out.push(segment);
                return Ok(());
            }
            // White space, and what else stands between its two parts.
            Some(Frame::Try { .. }) => return Ok(()),
            Some(Frame::Attempt(list) | Frame::Except(list)) => list,
        };
        self.kept += size;
        // Text is copied, since the piece that it is of may be large, and joined.
        match (segment, list.last_mut()) {
            (Segment::Text(text), Some(Segment::Text(last))) => {
                let mut joined = match std::mem::take(last).try_into_mut() {
                    Ok(joined) => joined,
                    Err(shared) => BytesMut::from(shared.as_ref()),
                };
                joined.extend_from_slice(&text);
                *last = joined.freeze();
            }
            (segment, _) => {
                self.kept += SEGMENT;
                list.push(match segment {
                    Segment::Text(text) => Segment::Text(Bytes::copy_from_slice(&text)),
                    segment => segment,
                });
            }
        }
        if self.kept > self.max_markup {
            return Err(self.wrong(Wrong::TooLong));
        }
        Ok(())
    }
}

/// What begins with the text, whose first byte is `<` or, in an ESI comment, `-`.
fn mark(text: &[u8], in_comment: bool) -> Mark {
    if text.starts_with(ELEMENT) || text.starts_with(END) {
        return Mark::Tag;
    }
    if in_comment && text.starts_with(COMMENT_END) {
        return Mark::EsiCommentEnd;
    }
    if text.starts_with(ESI_COMMENT) {
        return match text.get(ESI_COMMENT.len()) {
            None => Mark::Unknown,
            Some(byte) if byte.is_ascii_whitespace() || *byte == b'<' => Mark::EsiComment,
            Some(_) => Mark::Comment,
        };
    }
    let may_become = |whole: &[u8]| whole.starts_with(text);
    if may_become(ELEMENT)
        || may_become(END)
        || may_become(ESI_COMMENT)
        || in_comment && may_become(COMMENT_END)
    {
        return Mark::Unknown;
    }
    if text.starts_with(COMMENT) { Mark::Comment } else { Mark::Text }
}
