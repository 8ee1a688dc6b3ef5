//! From a client's address to its location: the longest matching prefix, and how much of the
//! address that answer holds for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// A binary trie over prefixes of one address family.
#[derive(Debug, Default)]
struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Node {
    children: [Option<u32>; 2],
    location: Option<u32>,
}

/// What is known of a client's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Located {
    /// Index into the zone's rankings; `None` where no prefix matches.
    pub(crate) location: Option<u32>,
    /// Every address that shares this many leading bits gets the same answer (the scope of
    /// RFC 7871, section 7.2.1).
    pub(crate) scope: u8,
}

impl Trie {
    fn insert(&mut self, bits: u128, length: u8, location: u32) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = 0;
        for depth in 0..length {
            let side = bit(bits, depth);
            let next =
                self.nodes.get(at).and_then(|node| node.children.get(side).copied().flatten());
            at = match next {
                Some(child) => child as usize,
                None => {
                    let child = self.nodes.len();
                    self.nodes.push(Node::default());
                    if let Some(slot) =
                        self.nodes.get_mut(at).and_then(|node| node.children.get_mut(side))
                    {
                        *slot = u32::try_from(child).ok();
                    }
                    child
                }
            };
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.location = Some(location);
        }
    }

    /// Walks down `length` bits of an address. Where the walk leaves the trie, no prefix can
    /// differ any more, so the answer holds for everything that shares the bits walked.
    fn find(&self, bits: u128, length: u8) -> Located {
        let mut found = None;
        let mut at = 0;
        for depth in 0..=length {
            let Some(node) = self.nodes.get(at) else {
                return Located { location: found, scope: depth };
            };
            found = node.location.or(found);
            if node.children == [None, None] || depth == length {
                return Located { location: found, scope: depth };
            }
            match node.children.get(bit(bits, depth)).copied().flatten() {
                Some(child) => at = child as usize,
                None => return Located { location: found, scope: depth + 1 },
            }
        }
        Located { location: found, scope: length }
    }
}

/// The bit at `depth`, counted from the front.
fn bit(bits: u128, depth: u8) -> usize {
    usize::from((bits >> (127 - u32::from(depth))) & 1 == 1)
}

/// Locations by prefix, both families.
#[derive(Debug, Default)]
pub(crate) struct Locations {
    v4: Trie,
    v6: Trie,
}

impl Locations {
    pub(crate) fn new(prefixes: &BTreeMap<IpNet, u32>) -> Self {
        let mut locations = Self::default();
        for (prefix, location) in prefixes {
            let bits = left_aligned(prefix.network());
            let trie =
                if prefix.network().is_ipv4() { &mut locations.v4 } else { &mut locations.v6 };
            trie.insert(bits, prefix.prefix_len(), *location);
        }
        locations
    }

    /// Locates the network `address`/`length`.
    pub(crate) fn find(&self, address: IpAddr, length: u8) -> Located {
        let address = address.to_canonical();
        let trie = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        trie.find(left_aligned(address), length)
    }
}

fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => u128::from(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locations(prefixes: &[(&str, u32)]) -> Locations {
        Locations::new(
            &prefixes.iter().map(|(net, location)| (net.parse().unwrap(), *location)).collect(),
        )
    }

    fn find(locations: &Locations, net: &str) -> (Option<u32>, u8) {
        let net: IpNet = net.parse().unwrap();
        let located = locations.find(net.addr(), net.prefix_len());
        (located.location, located.scope)
    }

    #[test]
    fn the_longest_prefix_wins() {
        let all = locations(&[("198.18.0.0/15", 1), ("198.18.3.0/24", 2), ("2001:db8::/32", 3)]);
        assert_eq!(find(&all, "198.18.3.9/32"), (Some(2), 24));
        assert_eq!(
            find(&all, "198.18.200.0/24"),
            (Some(1), 17),
            "differs from 198.18.3.0 in bit 17"
        );
        assert_eq!(find(&all, "8.8.8.8/32"), (None, 1), "differs from 198 in bit 1");
        assert_eq!(find(&all, "2001:db8:1::/48"), (Some(3), 32));
    }

    #[test]
    fn a_short_source_is_not_exceeded() {
        let all = locations(&[("198.18.0.0/24", 1), ("198.18.1.0/24", 2)]);
        assert_eq!(find(&all, "198.18.0.0/16"), (None, 16));
        assert_eq!(find(&all, "0.0.0.0/0"), (None, 0));
        assert_eq!(find(&locations(&[]), "198.18.0.0/24"), (None, 0));
    }

    #[test]
    fn scope_holds_for_all_it_covers() {
        let all = locations(&[("10.0.0.0/8", 1), ("10.128.0.0/9", 2), ("10.128.1.0/24", 3)]);
        // Every address of the scope must be located as its representative is.
        for text in ["10.1.2.3", "10.128.0.1", "10.128.1.1", "10.200.0.1", "11.0.0.1", "192.0.2.1"]
        {
            let address: IpAddr = text.parse().unwrap();
            let located = all.find(address, 32);
            let net = IpNet::new(address, located.scope).unwrap();
            for edge in [net.network(), net.broadcast()] {
                assert_eq!(all.find(edge, 32).location, located.location, "{text} and {edge}");
            }
        }
    }
}
