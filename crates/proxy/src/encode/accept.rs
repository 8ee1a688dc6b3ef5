//! `accept-encoding` (RFC 9110, section 12.5.3).

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

use super::Coding;
use crate::fields::{members, split};

/// How much a client likes each coding, in thousandths; `None` where it says nothing of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accept {
    gzip: Option<u16>,
    brotli: Option<u16>,
    zstd: Option<u16>,
    identity: Option<u16>,
    any: Option<u16>,
}

impl Accept {
    /// What the request's headers say. A request without the header would take any coding by the
    /// letter of the RFC; in practice its client can't decode, so it is taken to want none.
    ///
    /// Where a coding is named twice the smaller weight counts; a weight that can't be read is 0.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut accept = Self::default();
        for member in members(headers, &ACCEPT_ENCODING) {
            let mut parts = split(member, b';');
            let name = parts.next().unwrap_or_default();
            let weight = parts.try_fold(1000, |_, part| parameter(part)).unwrap_or(0);
            if let Some(slot) = accept.slot(name) {
                *slot = Some(slot.map_or(weight, |other| other.min(weight)));
            }
        }
        accept
    }

    fn slot(&mut self, name: &[u8]) -> Option<&mut Option<u16>> {
        if name == b"*" {
            return Some(&mut self.any);
        }
        if name.eq_ignore_ascii_case(b"identity") {
            return Some(&mut self.identity);
        }
        Some(match Coding::named(name)? {
            Coding::Gzip => &mut self.gzip,
            Coding::Brotli => &mut self.brotli,
            Coding::Zstd => &mut self.zstd,
        })
    }

    /// The weight of a coding, in thousandths. 0: the client does not take it.
    pub fn weight(&self, coding: Coding) -> u16 {
        let own = match coding {
            Coding::Gzip => self.gzip,
            Coding::Brotli => self.brotli,
            Coding::Zstd => self.zstd,
        };
        own.or(self.any).unwrap_or(0)
    }

    /// Whether the client takes a response as it is: it does unless it says otherwise.
    pub fn takes_identity(&self) -> bool {
        self.identity.or(self.any) != Some(0)
    }

    /// Whether the client takes any of our codings.
    pub fn takes_codings(&self) -> bool {
        Coding::ALL.into_iter().any(|coding| self.weight(coding) > 0)
    }

    /// The coding to answer with; `None` is the response as it is. Of those liked equally, the
    /// first of `prefer` wins, and any wins over none.
    pub fn choose(&self, prefer: &[Coding]) -> Option<Coding> {
        let mut best: Option<(Coding, u16)> = None;
        for &coding in prefer {
            let weight = self.weight(coding);
            if weight > best.map_or(0, |(_, best)| best) {
                best = Some((coding, weight));
            }
        }
        let (coding, weight) = best?;
        (weight >= self.identity.unwrap_or(0)).then_some(coding)
    }

    /// What an upstream is asked for in the client's name: the codings that the client takes, in
    /// one spelling, so that there are at most eight different ones. `None`: no coding at all.
    pub fn canonical(&self) -> Option<&'static str> {
        let taken = [Coding::Zstd, Coding::Brotli, Coding::Gzip].map(|one| self.weight(one) > 0);
        Some(match taken {
            [false, false, false] => return None,
            [false, false, true] => "gzip",
            [false, true, false] => "br",
            [false, true, true] => "br, gzip",
            [true, false, false] => "zstd",
            [true, false, true] => "zstd, gzip",
            [true, true, false] => "zstd, br",
            [true, true, true] => "zstd, br, gzip",
        })
    }
}

/// The weight that a parameter gives, in thousandths.
fn parameter(text: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(text).ok()?;
    let (name, value) = text.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{fraction:0<3}").parse().ok()?;
    match (whole, thousandths) {
        ("0", _) => Some(thousandths),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accept(lines: &[&str]) -> Accept {
        let line = |line: &&str| (ACCEPT_ENCODING, line.parse().unwrap());
        Accept::of(&lines.iter().map(line).collect())
    }

    #[test]
    fn the_client_chooses_and_then_we_do() {
        use Coding::{Brotli, Gzip, Zstd};
        for (line, expected, identity) in [
            ("gzip, deflate, br, zstd", Some(Zstd), true),
            ("gzip, br", Some(Brotli), true),
            ("GZIP", Some(Gzip), true),
            ("x-gzip", Some(Gzip), true),
            ("gzip;q=1.0, br;q=0.9", Some(Gzip), true),
            ("gzip;q=0.5, br;q=0.501", Some(Brotli), true),
            ("gzip ; q=0.8 , zstd;Q=0.8", Some(Zstd), true),
            ("identity", None, true),
            ("identity, gzip;q=0.5", None, true),
            ("identity;q=0.5, gzip;q=0.5", Some(Gzip), true),
            ("identity;q=0, gzip;q=0.1", Some(Gzip), false),
            ("identity;q=0", None, false),
            ("*", Some(Zstd), true),
            ("*;q=0", None, false),
            ("*;q=0, br", Some(Brotli), false),
            ("*;q=0, identity", None, true),
            ("zstd;q=0, *", Some(Brotli), true),
            ("gzip;q=0", None, true),
            ("gzip;q=0.000", None, true),
            ("gzip;q=0.001", Some(Gzip), true),
            // What can't be read is not taken.
            ("gzip;q=2", None, true),
            ("gzip;q=1.001", None, true),
            ("gzip;q=0.0001", None, true),
            ("gzip;q=-1", None, true),
            ("gzip;q=", None, true),
            ("gzip;q", None, true),
            ("gzip;level=9", None, true),
            ("gzip, gzip;q=0", None, true),
            ("deflate, compress", None, true),
            ("", None, true),
            (",;,", None, true),
        ] {
            let accept = accept(&[line]);
            assert_eq!(accept.choose(&Coding::ALL), expected, "{line}");
            assert_eq!(accept.takes_identity(), identity, "{line}");
        }
        assert_eq!(accept(&[]).choose(&Coding::ALL), None);
        assert_eq!(accept(&["gzip", "br"]).choose(&Coding::ALL), Some(Brotli));
        assert_eq!(accept(&["gzip, br, zstd"]).choose(&[Gzip, Brotli]), Some(Gzip));
        assert_eq!(accept(&["gzip"]).choose(&[]), None);
    }

    proptest! {
        #[test]
        fn the_canonical_form_means_the_same(weights in any::<[Option<bool>; 5]>()) {
            let names = ["gzip", "br", "zstd", "*", "identity"];
            let line: Vec<String> = names.iter().zip(weights)
                .filter_map(|(name, taken)| taken.map(|taken| format!("{name};q={}", u8::from(taken))))
                .collect();
            let original = accept(&[&line.join(", ")]);
            let canonical = accept(&original.canonical().into_iter().collect::<Vec<_>>());
            for coding in Coding::ALL {
                prop_assert_eq!(canonical.weight(coding) > 0, original.weight(coding) > 0);
            }
        }

        #[test]
        fn anything_can_be_read(line in proptest::collection::vec(0x20_u8..0x7f, 0..60)) {
            let value = http::HeaderValue::from_bytes(&line).unwrap();
            let accept = Accept::of(&HeaderMap::from_iter([(ACCEPT_ENCODING, value)]));
            if let Some(coding) = accept.choose(&Coding::ALL) {
                prop_assert!(accept.weight(coding) > 0);
            }
        }
    }
}
