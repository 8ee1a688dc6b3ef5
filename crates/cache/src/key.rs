//! Cache keys: every component is written with its length before it, so that no two lists of
//! components make the same key.

use std::fmt;

/// The bytes that a stored response is found by.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Key(Vec<u8>);

impl Key {
    /// A key without components. Reusing one spares allocations.
    pub fn new() -> Self {
        Self(Vec::with_capacity(128))
    }

    /// A key as it was stored, of [`Key::as_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Adds a component.
    pub fn push(&mut self, component: &[u8]) {
        self.0.extend_from_slice(&(component.len() as u64).to_le_bytes());
        self.0.extend_from_slice(component);
    }

    /// The key with more components.
    pub fn with<const N: usize>(&self, components: [&[u8]; N]) -> Self {
        let room: usize = components.iter().map(|component| component.len() + 8).sum();
        let mut key = Self(Vec::with_capacity(self.0.len() + room));
        key.0.extend_from_slice(&self.0);
        for component in components {
            key.push(component);
        }
        key
    }

    /// The key as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(components: &[Vec<u8>]) -> Key {
        let mut key = Key::new();
        for component in components {
            key.push(component);
        }
        key
    }

    proptest! {
        #[test]
        fn different_components_make_different_keys(
            one in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4), 0..4),
            other in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4), 0..4),
        ) {
            prop_assert_eq!(key(&one) == key(&other), one == other);
        }
    }
}
