//! What a stream of HTTP/3 frames may hold, looked at before the frames are (RFC 9114, section
//! 7.1).
//!
//! The library keeps every frame but DATA in memory until it is whole, however long that is said to
//! be. What is passed through here can't make it keep more than is allowed.

/// Bytes of a DATA frame are handed on as they come.
const DATA: u64 = 0;
/// The type of the only stream in one direction whose frames are read.
const CONTROL: u64 = 0;

/// Follows the frames of a stream.
#[derive(Debug)]
pub(super) struct Frames {
    max_bytes: u64,
    within: Within,
}

#[derive(Debug, Clone, Copy)]
enum Within {
    /// The type that a stream in one direction begins with.
    Stream(Number),
    /// A frame's type.
    Type(Number),
    /// The length of a frame of this type.
    Length(u64, Number),
    /// So many more bytes of a frame.
    Frame(u64),
}

/// A number as QUIC writes it (RFC 9000, section 16), as far as it has come.
#[derive(Debug, Clone, Copy, Default)]
struct Number {
    value: u64,
    /// Bytes that are still to come; none before the first one.
    left: Option<u8>,
}

impl Number {
    /// Takes a byte; the number when that was its last one.
    fn push(&mut self, byte: u8) -> Option<u64> {
        let left = match self.left {
            None => {
                self.value = u64::from(byte & 0x3f);
                (1_u8 << (byte >> 6)) - 1
            }
            Some(left) => {
                self.value = self.value << 8 | u64::from(byte);
                left.saturating_sub(1)
            }
        };
        self.left = Some(left);
        (left == 0).then_some(self.value)
    }
}

/// A frame would be kept in memory and is larger than that may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an HTTP/3 frame of {bytes} bytes is too large")]
pub(super) struct FrameTooLarge {
    bytes: u64,
}

impl Frames {
    /// Of a request's stream.
    pub(super) fn of_request(max_bytes: u64) -> Self {
        Self { max_bytes, within: Within::Type(Number::default()) }
    }

    /// Of a stream in one direction, which begins with its own type.
    pub(super) fn after_type(max_bytes: u64) -> Self {
        Self { max_bytes, within: Within::Stream(Number::default()) }
    }

    /// Follows what has come.
    ///
    /// # Errors
    /// When a frame that begins in it is too large.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Result<(), FrameTooLarge> {
        while let Some((first, rest)) = bytes.split_first() {
            match &mut self.within {
                Within::Frame(left) => {
                    let here = (*left).min(bytes.len() as u64);
                    *left -= here;
                    if *left == 0 {
                        self.within = Within::Type(Number::default());
                    }
                    bytes =
                        usize::try_from(here).ok().and_then(|it| bytes.get(it..)).unwrap_or(&[]);
                    continue;
                }
                Within::Stream(number) => {
                    if let Some(kind) = number.push(*first) {
                        self.within = match kind {
                            CONTROL => Within::Type(Number::default()),
                            _ => Within::Frame(u64::MAX),
                        };
                    }
                }
                Within::Type(number) => {
                    if let Some(kind) = number.push(*first) {
                        self.within = Within::Length(kind, Number::default());
                    }
                }
                Within::Length(kind, number) => {
                    if let Some(length) = number.push(*first) {
                        if *kind != DATA && length > self.max_bytes {
                            return Err(FrameTooLarge { bytes: length });
                        }
                        self.within = match length {
                            0 => Within::Type(Number::default()),
                            length => Within::Frame(length),
                        };
                    }
                }
            }
            bytes = rest;
        }
        Ok(())
    }
}

/// The first byte is how the stream is cut and which kind it is: cuts make no difference.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(input: &[u8]) {
    let Some((&first, bytes)) = input.split_first() else { return };
    let begin = || match first & 1 {
        0 => Frames::of_request(1000),
        _ => Frames::after_type(1000),
    };
    let whole = begin().pass(bytes);
    let mut frames = begin();
    let size = usize::from(first >> 1) + 1;
    let cut = bytes.chunks(size).try_for_each(|piece| frames.pass(piece));
    assert_eq!(whole, cut, "cuts changed what it is");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(value: u64) -> Vec<u8> {
        match value {
            0..64 => vec![u8::try_from(value).unwrap()],
            64..16384 => (u16::try_from(value).unwrap() | 1 << 14).to_be_bytes().to_vec(),
            _ => (value | 3 << 62).to_be_bytes().to_vec(),
        }
    }

    fn frame(kind: u64, length: u64, there: usize) -> Vec<u8> {
        [number(kind), number(length), vec![b'x'; there]].concat()
    }

    #[test]
    fn only_what_is_kept_is_bounded() {
        for (bytes, too_large) in [
            (frame(1, 100, 100), None),
            (frame(1, 101, 0), Some(101)),
            (frame(0, 1 << 40, 1000), None),
            ([frame(1, 100, 100), frame(0, 500, 500), frame(1, 101, 0)].concat(), Some(101)),
            ([frame(0, 0, 0), frame(33, 0, 0), frame(1, 1 << 40, 0)].concat(), Some(1 << 40)),
            // What looks like a frame within a frame is none.
            (frame(0, 200, 100), None),
        ] {
            let passed = Frames::of_request(100).pass(&bytes);
            assert_eq!(passed.err(), too_large.map(|bytes| FrameTooLarge { bytes }));
        }
    }

    #[test]
    fn streams_in_one_direction_begin_with_their_type() {
        let settings = frame(4, 101, 0);
        let control = [vec![0], settings.clone()].concat();
        assert!(Frames::after_type(100).pass(&control).is_err());
        let other = [vec![2], settings].concat();
        assert!(Frames::after_type(100).pass(&other).is_ok());
    }

    proptest! {
        #[test]
        fn how_bytes_come_makes_no_difference(
            frames in prop::collection::vec((0_u64..40, 0_u64..20_000), 1..6),
            cuts in prop::collection::vec(1_usize..300, 1..200),
        ) {
            let whole = |(kind, length): &(u64, u64)| {
                frame(*kind, *length, usize::try_from(*length).unwrap())
            };
            let bytes = frames.iter().map(whole).collect::<Vec<_>>().concat();
            let at_once = Frames::of_request(9_000).pass(&bytes);
            let mut in_pieces = Frames::of_request(9_000);
            let mut rest = &bytes[..];
            let mut result = Ok(());
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                rest = after;
                result = result.and_then(|()| in_pieces.pass(piece));
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(result, at_once);
            let kept = |(kind, length): &&(u64, u64)| *kind != DATA && *length > 9_000;
            prop_assert_eq!(at_once.is_err(), frames.iter().any(|it| kept(&it)));
        }
    }
}
