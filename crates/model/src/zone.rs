//! The DNS document: everything an authoritative server needs to answer, decided beforehand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::{Host, SiteId};

/// A zone and its steering. The server only looks up: it finds the client's location by the longest
/// matching prefix, takes that location's ranking, keeps the sites that the host lists, and answers
/// with the first [`Zone::answers`] of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// The zone's apex.
    pub origin: Host,
    /// SOA serial (RFC 1035): grows with every change.
    pub serial: u32,
    /// Hosts of the zone's name servers, in the zone, with their addresses.
    pub nameservers: BTreeMap<Host, BTreeSet<IpAddr>>,
    /// TTL of steered answers in seconds.
    pub ttl_s: u32,
    /// Negative TTL in seconds (SOA minimum, RFC 2308).
    pub negative_ttl_s: u32,
    /// How many sites an answer names.
    pub answers: u8,
    /// The sites' addresses.
    pub sites: BTreeMap<SiteId, BTreeSet<IpAddr>>,
    /// Hosts to the sites that may be answered: those that have certificate and release.
    pub hosts: BTreeMap<Host, BTreeSet<SiteId>>,
    /// Client prefixes to indexes of [`Zone::rankings`].
    pub locations: BTreeMap<IpNet, u32>,
    /// Sites by rising round-trip time, one list a location. The first is used where no prefix
    /// matches.
    pub rankings: Vec<Vec<SiteId>>,
}
