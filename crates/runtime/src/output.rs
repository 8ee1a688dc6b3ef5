//! What programs print: cut into lines, cleaned, bounded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

/// A longer line is cut here, and what is cut is left out.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// Reads lines from the pipe that a program writes to.
pub(crate) struct Lines {
    pipe: pipe::Receiver,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    line: Vec<u8>,
    cut: bool,
    /// Bytes read so far.
    read: Arc<AtomicU64>,
}

impl Lines {
    pub(crate) fn new(pipe: pipe::Receiver) -> Self {
        let buffer = vec![0; 16 * 1024].into_boxed_slice();
        let read = Arc::default();
        Self { pipe, buffer, start: 0, end: 0, line: Vec::new(), cut: false, read }
    }

    /// Counts the bytes that the program has printed so far.
    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// The next line; `None` once every process that could write has ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            let unread = self.buffer.get(self.start..self.end).unwrap_or_default();
            let newline = unread.iter().position(|byte| *byte == b'\n');
            let taken = newline.unwrap_or(unread.len());
            let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
            self.line.extend_from_slice(unread.get(..taken.min(room)).unwrap_or_default());
            self.cut |= taken > room;
            if newline.is_some() {
                self.start += taken + 1;
                return Some(self.finish());
            }
            self.start = 0;
            self.end = 0;
            match self.pipe.read(&mut self.buffer).await {
                Ok(0) | Err(_) if self.line.is_empty() => return None,
                Ok(0) | Err(_) => return Some(self.finish()),
                Ok(length) => {
                    self.end = length;
                    self.read.fetch_add(length as u64, Ordering::Relaxed);
                }
            }
        }
    }

    fn finish(&mut self) -> String {
        let mut text = clean(&String::from_utf8_lossy(&self.line));
        if std::mem::take(&mut self.cut) {
            text.push_str(" [line cut]");
        }
        self.line.clear();
        text
    }
}

/// Leaves out what would move a terminal's cursor, colour it or worse: control characters and
/// escape sequences (ECMA-48).
fn clean(line: &str) -> String {
    // Most lines have none; 0x7f and what lies above ASCII may be or begin one.
    if line.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return line.to_owned();
    }
    let mut clean = String::with_capacity(line.len());
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\t' => clean.push(character),
            '\u{1b}' => match characters.next() {
                // A control sequence, up to its final byte.
                Some('[') => while characters.next_if(|c| !('@'..='~').contains(c)).is_some() {},
                // An operating system command, up to BEL or ESC.
                Some(']') => {
                    while characters.next_if(|c| !matches!(c, '\u{7}' | '\u{1b}')).is_some() {}
                }
                _ => continue,
            },
            _ if character.is_control() => {}
            _ => clean.push(character),
        }
        if character == '\u{1b}' {
            characters.next();
        }
    }
    clean
}

/// Leaves out lines that only repeat the one before, and counts them.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    last: Option<String>,
    count: u64,
}

impl Repeats {
    /// A line to show, after a note on what was left out before it; `None` for a repeated one.
    pub(crate) fn add(&mut self, line: String) -> Option<(Option<String>, String)> {
        if self.last.as_ref() == Some(&line) {
            self.count += 1;
            return None;
        }
        let note = self.note();
        self.last = Some(line.clone());
        Some((note, line))
    }

    /// What was left out since the last line that was shown.
    pub(crate) fn note(&mut self) -> Option<String> {
        match std::mem::take(&mut self.count) {
            0 => None,
            1 => self.last.clone(),
            count => Some(format!("[the same line {count} times more]")),
        }
    }
}

/// The last lines.
#[derive(Debug)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    most: usize,
    /// How many lines have been dropped from the front.
    dropped: u64,
}

impl Tail {
    pub(crate) fn new(most: usize) -> Self {
        Self { lines: VecDeque::with_capacity(most), most, dropped: 0 }
    }

    pub(crate) fn push(&mut self, line: String) {
        if self.lines.len() == self.most {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back(line);
    }

    pub(crate) fn clear(&mut self) {
        self.lines.clear();
        self.dropped = 0;
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: &[u8]) -> Vec<String> {
        let (mut sender, receiver) = pipe::pipe().expect("a pipe");
        let input = input.to_vec();
        let writer = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            sender.write_all(&input).await.expect("write");
        });
        let mut lines = Lines::new(receiver);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.push(line);
        }
        writer.await.expect("written");
        all
    }

    #[tokio::test]
    async fn lines_are_cut_and_cleaned() {
        let mut input = b"\x1b[31mred\x1b[0m\r\n\ta\x07b\n\xff\n\x1b]0;title\x07shown\n".to_vec();
        input.extend(vec![b'x'; 3 * MAX_LINE_BYTES]);
        input.extend(b"\n\nlast");
        let all = lines(&input).await;
        let long = format!("{} [line cut]", "x".repeat(MAX_LINE_BYTES));
        assert_eq!(all, ["red", "\tab", "\u{fffd}", "shown", &long, "", "last"]);
    }

    #[test]
    fn a_repeated_line_is_shown_once() {
        let mut repeats = Repeats::default();
        let mut shown = Vec::new();
        for line in ["a", "b", "b", "c", "c", "c", "c", "a", "a", "a"] {
            if let Some((note, line)) = repeats.add(line.to_owned()) {
                shown.extend(note.into_iter().chain([line]));
            }
        }
        shown.extend(repeats.note());
        let more = |count| format!("[the same line {count} times more]");
        assert_eq!(shown, ["a", "b", "b", "c", &more(3), "a", &more(2)]);
        assert_eq!(repeats.note(), None);
    }
}
