//! Operations: something done once at many nodes, with a result from each.
//!
//! Control writes an [`Operation`], the record, and for each site an [`Order`], which only that
//! site reads; a site answers with an [`Answer`]. What came of it all is worked out by
//! `plan::operations` and kept in the record; orders and answers are gone by then.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::id::{IdError, NodeId, SiteId};

/// An operation's id: 16 hexadecimal digits that sort by when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperationId(u64);

/// Bits of an id that are random.
const RANDOM_BITS: u32 = 20;

impl OperationId {
    /// An id for an operation that begins at `created_ms` (Unix milliseconds).
    pub fn new(created_ms: u64, random: u32) -> Self {
        let random = u64::from(random) & ((1 << RANDOM_BITS) - 1);
        Self((created_ms << RANDOM_BITS) | random)
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:016x}", self.0))
    }
}

impl FromStr for OperationId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.len() == 16
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let number = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or_else(|| IdError {
            kind: "operation id",
            text: text.chars().take(100).collect(),
            rule: "use the 16 hexadecimal digits that `selvedge ops` shows",
        })
    }
}

impl TryFrom<String> for OperationId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<OperationId> for String {
    fn from(id: OperationId) -> Self {
        id.to_string()
    }
}

/// A node that an operation is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The site.
    pub site: SiteId,
    /// The machine there.
    pub node: NodeId,
}

impl Target {
    /// The sole node of a site.
    pub fn sole(site: SiteId) -> Self {
        Self { site, node: NodeId::sole() }
    }
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// Each node opens a tunnel to control and answers a question through it.
    Tunnel(TunnelPurpose),
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tunnel(TunnelPurpose::Logs) => f.pad("tunnel for logs"),
            Self::Tunnel(TunnelPurpose::Workloads) => f.pad("tunnel for workloads"),
        }
    }
}

/// What a tunnel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelPurpose {
    /// Reading logs.
    Logs,
    /// Looking at workloads.
    Workloads,
}

/// An operation. The nodes that it is about are fixed when it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What is done.
    pub kind: OperationKind,
    /// When it began.
    pub created_ms: u64,
    /// Answers that come later do not count.
    pub deadline_ms: u64,
    /// The nodes.
    pub targets: BTreeSet<Target>,
    /// What came of it; `None` while it runs.
    pub outcome: Option<Outcome>,
}

/// What came of an operation, or has so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// How it stands.
    pub state: OperationState,
    /// Node by node. While it runs, nodes that have said nothing are not among them.
    pub nodes: Vec<NodeOutcome>,
}

/// How an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    /// Answers are awaited.
    Running,
    /// Every node has done it.
    Complete,
    /// Some nodes answered, and not all have done it.
    Partial,
    /// No node has answered in time.
    Expired,
}

impl fmt::Display for OperationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Expired => "expired",
        })
    }
}

/// What a node has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeOutcome {
    /// The site.
    pub site: SiteId,
    /// The machine there.
    pub node: NodeId,
    /// How far it is.
    pub state: NodeState,
    /// From the operation's beginning until control had the answer; `None` without one.
    pub ms: Option<u64>,
    /// Why it failed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How far a node is with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It knows of it.
    Received,
    /// It has done it.
    Applied,
    /// It could not.
    Failed,
    /// It has a lease and did not answer in time.
    TimedOut,
    /// It has no lease.
    Offline,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Received => "received",
            Self::Applied => "applied",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Offline => "offline",
        })
    }
}

/// What a site is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The operation that it is part of.
    pub operation: OperationId,
    /// What to do.
    pub task: Task,
}

/// A site's part of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Open a tunnel to control, in which both ends prove that they have this secret.
    OpenTunnel(TunnelSecret),
}

/// What a site says of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The operation.
    pub operation: OperationId,
    /// Who answers.
    pub target: Target,
    /// How far it is.
    pub state: AnswerState,
}

/// How far a site is with an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AnswerState {
    /// It has the order.
    Received,
    /// It has done it.
    Applied,
    /// It can't.
    Failed {
        /// Why, in words.
        reason: String,
    },
}

/// A secret of one tunnel of one site, used once. It is never sent through the tunnel: each end
/// shows that it has it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TunnelSecret(String);

impl fmt::Debug for TunnelSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TunnelSecret")
    }
}

/// An end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Control, which listens.
    Control,
    /// The site, which connects.
    Site,
}

impl TunnelSecret {
    /// A secret from 32 random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(hex::encode(random))
    }

    /// What `end` shows to the other, which has asked with `nonce`: HMAC-SHA-256 (RFC 2104) in
    /// hexadecimal.
    pub fn prove(&self, end: TunnelEnd, about: (OperationId, &Target), nonce: &str) -> String {
        hex::encode(
            self.mac(end, about, nonce)
                .map_or_else(Vec::new, |mac| mac.finalize().into_bytes().to_vec()),
        )
    }

    /// Whether `proof` is what `end` had to show. Takes the same time for all wrong proofs.
    pub fn verify(
        &self,
        end: TunnelEnd,
        about: (OperationId, &Target),
        nonce: &str,
        proof: &str,
    ) -> bool {
        let (Some(mac), Ok(proof)) = (self.mac(end, about, nonce), hex::decode(proof)) else {
            return false;
        };
        mac.verify_slice(&proof).is_ok()
    }

    fn mac(
        &self,
        end: TunnelEnd,
        (operation, target): (OperationId, &Target),
        nonce: &str,
    ) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).ok()?;
        let end = match end {
            TunnelEnd::Control => "control",
            TunnelEnd::Site => "site",
        };
        let operation = operation.to_string();
        let parts = [end, &operation, target.site.as_str(), target.node.as_str(), nonce];
        for part in ["tunnel/1"].into_iter().chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        Some(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_lead_back() {
        let (early, late) =
            (OperationId::new(1_700_000_000_000, u32::MAX), OperationId::new(1_700_000_000_001, 0));
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(early.to_string().parse(), Ok(early));
        for wrong in ["", "12", "00000000000000zz", "0000000000000000A"] {
            assert!(wrong.parse::<OperationId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_proof_is_good_for_one_end_operation_target_and_question() {
        let secret = TunnelSecret::new([7; 32]);
        let operation = OperationId::new(1, 2);
        let fra = Target::sole(SiteId::new("fra").unwrap());
        let nyc = Target::sole(SiteId::new("nyc").unwrap());
        let proof = secret.prove(TunnelEnd::Site, (operation, &fra), "n");
        let verify = |secret: &TunnelSecret, end, operation, target, nonce, proof: &str| {
            secret.verify(end, (operation, target), nonce, proof)
        };
        assert!(verify(&secret, TunnelEnd::Site, operation, &fra, "n", &proof));
        assert!(!verify(
            &TunnelSecret::new([8; 32]),
            TunnelEnd::Site,
            operation,
            &fra,
            "n",
            &proof
        ));
        assert!(!verify(&secret, TunnelEnd::Control, operation, &fra, "n", &proof));
        assert!(!verify(&secret, TunnelEnd::Site, OperationId::new(1, 3), &fra, "n", &proof));
        assert!(!verify(&secret, TunnelEnd::Site, operation, &nyc, "n", &proof));
        assert!(!verify(&secret, TunnelEnd::Site, operation, &fra, "m", &proof));
        assert!(!verify(&secret, TunnelEnd::Site, operation, &fra, "n", ""));
        assert!(!format!("{secret:?}").contains("07"));
    }
}
