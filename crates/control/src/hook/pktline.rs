//! The pkt-line framing of git's protocols (gitprotocol-common(5)): four hexadecimal digits of
//! length, themselves included, then the content; length 0 is a *flush*.

use std::io::{self, Read, Write};

/// The most that one line can carry, in bytes.
pub const MAX_CONTENT: usize = 65_516;

/// A line, or the mark between groups of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Content without a line feed at its end.
    Data(Vec<u8>),
    /// The end of a group.
    Flush,
}

/// Reads one line.
pub fn read(from: &mut impl Read) -> io::Result<Line> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "not a pkt-line");
    let text = std::str::from_utf8(&length).map_err(|_| wrong())?;
    let length = usize::from_str_radix(text, 16).map_err(|_| wrong())?;
    if length == 0 {
        return Ok(Line::Flush);
    }
    let length = length.checked_sub(4).filter(|n| *n <= MAX_CONTENT).ok_or_else(wrong)?;
    let mut content = vec![0; length];
    from.read_exact(&mut content)?;
    if content.last() == Some(&b'\n') {
        content.pop();
    }
    Ok(Line::Data(content))
}

/// Reads lines up to the next flush, at most `limit` of them.
pub fn read_group(from: &mut impl Read, limit: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    while let Line::Data(content) = read(from)? {
        if lines.len() == limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many pkt-lines"));
        }
        lines.push(content);
    }
    Ok(lines)
}

/// Writes one line; content beyond [`MAX_CONTENT`] is cut.
pub fn write(to: &mut impl Write, content: &[u8]) -> io::Result<()> {
    let content = content.get(..MAX_CONTENT).unwrap_or(content);
    write!(to, "{:04x}", content.len() + 4)?;
    to.write_all(content)
}

/// Writes a flush.
pub fn flush(to: &mut impl Write) -> io::Result<()> {
    to.write_all(b"0000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back() {
        let mut wire = Vec::new();
        write(&mut wire, b"version=1\0atomic").unwrap();
        write(&mut wire, b"line\n").unwrap();
        flush(&mut wire).unwrap();
        assert!(wire.starts_with(b"0014version=1\0atomic0009line\n0000"));
        let group = read_group(&mut wire.as_slice(), 10).unwrap();
        assert_eq!(group, [b"version=1\0atomic".to_vec(), b"line".to_vec()]);
        assert!(read_group(&mut wire.as_slice(), 1).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for wire in [&b"zzzz"[..], b"0003", b"0008ab", b"ffff", b"00"] {
            assert!(read(&mut &wire[..]).is_err(), "{wire:?}");
        }
        assert_eq!(read(&mut &b"0004"[..]).unwrap(), Line::Data(Vec::new()));
    }
}
