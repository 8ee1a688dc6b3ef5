//! Generations and epochs: ordered by incarnation first, so that a restored backup is always newer
//! than what it replaces.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no `INCARNATION.NUMBER`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form INCARNATION.NUMBER")]
pub struct VersionError(pub String);

macro_rules! version {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name {
            /// The life of the store that gave the number. A restore starts a greater one.
            pub incarnation: u64,
            /// Counts up within an incarnation.
            pub number: u64,
        }

        impl $name {
            /// Puts the two parts together.
            pub fn new(incarnation: u64, number: u64) -> Self {
                Self { incarnation, number }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.incarnation, self.number)
            }
        }

        impl FromStr for $name {
            type Err = VersionError;
            fn from_str(text: &str) -> Result<Self, VersionError> {
                let wrong = || VersionError(text.chars().take(50).collect());
                let (incarnation, number) = text.split_once('.').ok_or_else(wrong)?;
                Ok(Self {
                    incarnation: incarnation.parse().map_err(|_| wrong())?,
                    number: number.parse().map_err(|_| wrong())?,
                })
            }
        }

        impl TryFrom<String> for $name {
            type Error = VersionError;
            fn try_from(text: String) -> Result<Self, VersionError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(version: $name) -> String {
                version.to_string()
            }
        }
    };
}

version!(
    /// A document's version: the fabric's incarnation and the revision that last wrote it.
    Generation
);
version!(
    /// A step in what an activation group's users have seen. Never reused, never going back.
    Epoch
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incarnation_outranks_number() {
        assert!(Epoch::new(2, 1) > Epoch::new(1, 900));
        assert_eq!("7.12".parse::<Epoch>(), Ok(Epoch::new(7, 12)));
        assert!("7".parse::<Epoch>().is_err());
    }
}
