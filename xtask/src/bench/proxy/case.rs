//! What is measured: the cases, their names, and how a name is given on the command line.

use std::fmt;

const KIB: usize = 1024;
/// Sizes of cached bodies.
const HIT_SIZES: [usize; 4] = [KIB, 10 * KIB, 100 * KIB, 10 * KIB * KIB];
/// Sizes of bodies that pass through.
const PROXIED_SIZES: [usize; 2] = [KIB, 100 * KIB];
/// What the objects of the cases with many of them weigh.
pub(super) const OBJECT_SIZE: usize = KIB;
/// What the object weighs that is compressed, before that.
pub(super) const TEXT_SIZE: usize = 100 * KIB;

/// How a request travels to the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    H1,
    H1Tls,
    H2,
    H3,
}

impl Over {
    pub(super) const ALL: [Self; 4] = [Self::H1, Self::H1Tls, Self::H2, Self::H3];

    pub(super) fn is_encrypted(self) -> bool {
        self != Self::H1
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Case {
    /// One object, answered from the cache.
    Hit { size: usize, over: Over },
    /// One object, answered from the cache to a client that takes gzip.
    Compressed,
    /// A body that may not be stored.
    Proxied { size: usize, over: Over },
    /// A new TLS connection for every request, and a full handshake for every connection.
    Handshakes,
    /// Connections that have asked once and stay.
    Idle { encrypted: bool },
    /// Many small objects in the cache.
    Objects,
    /// Requests for one object that is not there yet, all at once.
    Collapse,
}

impl Case {
    pub(super) fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for over in Over::ALL {
            cases.extend(HIT_SIZES.map(|size| Self::Hit { size, over }));
            cases.extend(PROXIED_SIZES.map(|size| Self::Proxied { size, over }));
        }
        cases.extend([Self::Compressed, Self::Handshakes]);
        cases.extend([false, true].map(|encrypted| Self::Idle { encrypted }));
        cases.extend([Self::Objects, Self::Collapse]);
        cases
    }

    /// The cases that a name of the command line means: the one of this name, or else all whose
    /// names begin with it.
    pub(super) fn named(name: &str) -> Vec<Self> {
        let (exact, others): (Vec<Self>, Vec<Self>) =
            Self::all().into_iter().partition(|case| case.to_string() == name);
        if !exact.is_empty() {
            return exact;
        }
        let begins = |case: &Self| {
            case.to_string().strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
        };
        others.into_iter().filter(begins).collect()
    }

    pub(super) fn is_encrypted(self) -> bool {
        match self {
            Self::Hit { over, .. } | Self::Proxied { over, .. } => over.is_encrypted(),
            Self::Handshakes => true,
            Self::Idle { encrypted } => encrypted,
            Self::Compressed | Self::Objects | Self::Collapse => false,
        }
    }

    pub(super) fn needs_cache(self) -> bool {
        matches!(self, Self::Hit { .. } | Self::Compressed | Self::Objects | Self::Collapse)
    }

    pub(super) fn is_over(self, protocol: Over) -> bool {
        match self {
            Self::Hit { over, .. } | Self::Proxied { over, .. } => over == protocol,
            _ => false,
        }
    }

    /// What a person reads in a table.
    pub(super) fn title(self) -> String {
        match self {
            Self::Hit { size, over } => format!("cached {}, {}", bytes(size), words(over)),
            Self::Proxied { size, over } => format!("proxied {}, {}", bytes(size), words(over)),
            Self::Compressed => format!("cached {}, gzip, HTTP/1.1", bytes(TEXT_SIZE)),
            Self::Handshakes => "TLS 1.3 handshake and one request".to_owned(),
            Self::Idle { encrypted: false } => "idle connection".to_owned(),
            Self::Idle { encrypted: true } => "idle connection, TLS".to_owned(),
            Self::Objects => "cached object of 1 KiB".to_owned(),
            Self::Collapse => "simultaneous misses".to_owned(),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let over = |over: Over| match over {
            Over::H1 => "h1",
            Over::H1Tls => "h1-tls",
            Over::H2 => "h2",
            Over::H3 => "h3",
        };
        let short = |size: usize| match size / KIB {
            kib if kib >= KIB => format!("{}m", kib / KIB),
            kib => format!("{kib}k"),
        };
        match self {
            Self::Hit { size, over: by } => write!(to, "hit-{}-{}", short(*size), over(*by)),
            Self::Proxied { size, over: by } => {
                write!(to, "proxied-{}-{}", short(*size), over(*by))
            }
            Self::Compressed => write!(to, "gzip-{}-h1", short(TEXT_SIZE)),
            Self::Handshakes => write!(to, "handshakes"),
            Self::Idle { encrypted: false } => write!(to, "idle-h1"),
            Self::Idle { encrypted: true } => write!(to, "idle-h1-tls"),
            Self::Objects => write!(to, "objects"),
            Self::Collapse => write!(to, "collapse"),
        }
    }
}

fn words(over: Over) -> &'static str {
    match over {
        Over::H1 => "HTTP/1.1",
        Over::H1Tls => "HTTP/1.1 over TLS",
        Over::H2 => "HTTP/2 over TLS",
        Over::H3 => "HTTP/3",
    }
}

fn bytes(size: usize) -> String {
    match size / KIB {
        kib if kib >= KIB => format!("{} MiB", kib / KIB),
        kib => format!("{kib} KiB"),
    }
}

/// Every size of body that a case asks for.
pub(super) fn sizes() -> Vec<usize> {
    HIT_SIZES.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own_that_finds_it() {
        for case in Case::all() {
            assert_eq!(Case::named(&case.to_string()), [case]);
        }
        assert_eq!(Case::named("hit").len(), 16);
        assert_eq!(Case::named("hit-1k").len(), 4);
        assert_eq!(Case::named("proxied").len(), 8);
        assert_eq!(Case::named("idle").len(), 2);
        assert!(Case::named("hi").is_empty());
    }
}
