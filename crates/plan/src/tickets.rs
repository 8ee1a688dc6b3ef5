//! Which keys of TLS session tickets the sites share, and when they change.
//!
//! Sites learn of a change at different moments, and one site must never meet a ticket whose key it
//! does not have. So a key is known to all for a whole [`PERIOD`] before the first ticket is made
//! with it, and for another after the last: a ticket resumes for one period at least, two at most.

use std::time::Duration;

use selvedge_model::documents::TicketKeys;

/// How long tickets are made with one key.
pub const PERIOD: Duration = Duration::from_secs(6 * 60 * 60);

/// A secret of 32 random bytes.
pub type Secret = [u8; 32];

/// Everything that counts.
pub struct Input<'a> {
    /// The keys that sites have.
    pub held: Option<&'a TicketKeys>,
    /// Secrets that nobody has seen, for keys that are to be made.
    pub fresh: [Secret; 2],
    /// Now.
    pub now_ms: u64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What replaces the keys that sites have: the one in use, the next one, the one before.
    pub keys: Option<TicketKeys>,
    /// When to plan again.
    pub next_ms: u64,
}

/// Decides. A clock that was set back starts a new period, as one that was set forward does.
pub fn plan(input: &Input<'_>) -> Plan {
    let period_ms = PERIOD.as_millis() as u64;
    let held = input.held.and_then(|held| match &held.keys[..] {
        [current, next, ..] => Some((current, next, held.since_ms)),
        _ => None,
    });
    let since_ms = input.now_ms;
    let [fresh, other] = input.fresh.map(hex::encode);
    let keys = match held {
        Some((_, _, since_ms)) if input.now_ms.abs_diff(since_ms) < period_ms => {
            return Plan { keys: None, next_ms: since_ms.saturating_add(period_ms) };
        }
        Some((current, next, _)) => vec![next.clone(), fresh, current.clone()],
        None => vec![fresh, other],
    };
    Plan { keys: Some(TicketKeys { keys, since_ms }), next_ms: since_ms.saturating_add(period_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD_MS: u64 = PERIOD.as_millis() as u64;

    fn at(held: Option<&TicketKeys>, byte: u8, now_ms: u64) -> Plan {
        let plan = plan(&Input { held, fresh: [[byte; 32], [byte + 1; 32]], now_ms });
        let held = plan.keys.as_ref().or(held);
        let again = super::plan(&Input { held, fresh: [[99; 32]; 2], now_ms });
        assert_eq!(again, Plan { keys: None, next_ms: plan.next_ms }, "planning again");
        plan
    }

    #[test]
    fn a_key_is_known_before_it_is_used_and_after() {
        let key = |byte: u8| hex::encode([byte; 32]);
        let first = at(None, 1, 1000);
        assert_eq!(first.next_ms, 1000 + PERIOD_MS);
        let first = first.keys.unwrap();
        assert_eq!(first.keys, [key(1), key(2)]);
        assert_eq!(at(Some(&first), 3, 999 + PERIOD_MS).keys, None);
        let second = at(Some(&first), 3, 1000 + PERIOD_MS).keys.unwrap();
        assert_eq!(second.keys, [key(2), key(3), key(1)]);
        let third = at(Some(&second), 4, 1000 + 2 * PERIOD_MS).keys.unwrap();
        assert_eq!(third.keys, [key(3), key(4), key(2)]);
    }

    #[test]
    fn neither_clocks_nor_odd_documents_stop_it() {
        let held = at(None, 1, 10 * PERIOD_MS).keys.unwrap();
        assert_eq!(at(Some(&held), 3, 9 * PERIOD_MS + 1).keys, None, "set back a little");
        assert!(at(Some(&held), 3, 0).keys.is_some(), "set back far");
        assert!(at(Some(&held), 3, u64::MAX).keys.is_some());
        let odd = TicketKeys { keys: Vec::new(), since_ms: 7 };
        assert_eq!(at(Some(&odd), 1, 7).keys.unwrap().keys.len(), 2);
    }
}
