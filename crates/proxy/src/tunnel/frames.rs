//! Where WebSocket frames begin and end (RFC 6455, section 5.2). Pure.

/// A close frame of a server that goes away (status 1001, section 7.4.1).
pub(super) const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

const CLOSE: u8 = 8;

/// The place in a stream of frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The head that has begun.
    head: Vec<u8>,
    /// Bytes of payload to come.
    payload: u64,
    closed: bool,
}

impl Frames {
    /// Takes note of bytes that pass.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload > 0 {
                let here = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= here as u64;
                bytes = bytes.get(here..).unwrap_or_default();
                continue;
            }
            self.head.push(*first);
            bytes = rest;
            if let Some(payload) = payload_length(&self.head) {
                self.closed |= self.head.first().is_some_and(|first| first & 0x0f == CLOSE);
                self.payload = payload;
                self.head.clear();
            }
        }
    }

    /// Whether no frame has begun that has not ended.
    pub(super) fn is_between(&self) -> bool {
        self.head.is_empty() && self.payload == 0
    }

    /// Whether a close frame has passed.
    pub(super) fn has_closed(&self) -> bool {
        self.closed
    }
}

/// The payload's length, once the head is whole.
fn payload_length(head: &[u8]) -> Option<u64> {
    let [_, second, rest @ ..] = head else { return None };
    let mask = if second & 0x80 != 0 { 4 } else { 0 };
    let wide = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if rest.len() < wide + mask {
        return None;
    }
    let short = u64::from(second & 0x7f);
    let length = rest.iter().take(wide).fold(0, |length, byte| length << 8 | u64::from(*byte));
    Some(if wide == 0 { short } else { length })
}

/// The first byte is how the stream is cut: cuts make no difference, and what is kept is small.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(input: &[u8]) {
    let Some((&first, bytes)) = input.split_first() else { return };
    let (mut whole, mut cut) = (Frames::default(), Frames::default());
    whole.pass(bytes);
    for piece in bytes.chunks(usize::from(first) + 1) {
        cut.pass(piece);
        assert!(cut.head.len() < 14, "a head is longer than any");
    }
    let state = |frames: &Frames| (frames.is_between(), frames.has_closed(), frames.payload);
    assert_eq!(state(&whole), state(&cut), "cuts changed what it is");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        let mask = if masked { 0x80 } else { 0 };
        match length {
            0..126 => frame.push(mask | length as u8),
            126..0x1_0000 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(0x88, length + if masked { 4 } else { 0 }));
        frame
    }

    #[test]
    fn a_frame_is_whole_at_its_last_byte_only() {
        for length in [0, 1, 125, 126, 0xffff, 0x1_0000] {
            for masked in [false, true] {
                let bytes = frame(2, length, masked);
                for chunk in [1, 7, bytes.len()] {
                    let mut frames = Frames::default();
                    let mut passed = 0;
                    for part in bytes.chunks(chunk) {
                        assert_eq!(frames.is_between(), passed == 0, "{length} at {passed}");
                        frames.pass(part);
                        passed += part.len();
                    }
                    assert!(frames.is_between() && !frames.has_closed(), "{length}");
                }
            }
        }
    }

    #[test]
    fn a_close_is_noticed_and_payloads_are_not_taken_for_one() {
        let mut frames = Frames::default();
        frames.pass(&[frame(1, 300, false), frame(9, 0, false)].concat());
        assert!(!frames.has_closed());
        frames.pass(&GOING_AWAY);
        assert!(frames.has_closed() && frames.is_between());
    }
}
