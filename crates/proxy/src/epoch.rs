//! Which epoch a client is served: no client goes back.
//!
//! Pure: what is warm, what is activated, what the client has seen and what the node has served
//! are inputs.

use selvedge_model::{Activation, Epoch, SiteId};

/// What the choice is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice<'a> {
    /// This site.
    pub(crate) site: &'a SiteId,
    /// What users see; `None` when nothing is live yet, or not known here.
    pub(crate) activation: Option<&'a Activation>,
    /// The client's bucket.
    pub(crate) bucket: u16,
    /// The oldest epoch that the client may be served: its verified pin, or for a client without
    /// one the newest epoch that this node has served to such clients.
    pub(crate) floor: Option<Epoch>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Serve this epoch, which is warm.
    Serve(Epoch),
    /// This epoch or a newer one is due and is not warm here.
    NotHere(Epoch),
    /// Nothing is live.
    NotLive,
}

impl Choice<'_> {
    /// Chooses among the epochs in `warm`, which are in rising order.
    ///
    /// The epoch due is the newer of the floor and the activation's. When it is not warm (the site
    /// has just started, or a workload is restarting) an older one may stand in for it, down to
    /// the floor; never one that is newer, since nothing says that it was ever activated.
    pub(crate) fn decide(&self, warm: impl DoubleEndedIterator<Item = Epoch>) -> Decision {
        let activated = self
            .activation
            .and_then(|activation| activation.select(self.site, self.bucket))
            .map(|entry| entry.epoch);
        let Some(due) = activated.max(self.floor) else {
            return Decision::NotLive;
        };
        let stands_in = |epoch: &Epoch| *epoch <= due && self.floor.is_none_or(|f| *epoch >= f);
        match warm.rev().find(stands_in) {
            Some(epoch) => Decision::Serve(epoch),
            None => Decision::NotHere(due),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use selvedge_model::documents::BUCKETS;
    use selvedge_model::{ActivationEntry, AppName, EnvironmentName, Ring};

    use super::*;

    fn epoch(number: u64) -> Epoch {
        Epoch::new(1, number)
    }

    fn activation(entries: &[(u64, u16, Ring)]) -> Activation {
        let entries = entries
            .iter()
            .map(|(number, share, sites)| ActivationEntry {
                epoch: epoch(*number),
                releases: BTreeMap::new(),
                share: *share,
                sites: sites.clone(),
            })
            .collect();
        let group = AppName::new("shop").unwrap();
        Activation { group, environment: EnvironmentName::production(), entries }
    }

    fn decide(
        activation: Option<&Activation>,
        bucket: u16,
        floor: Option<u64>,
        warm: &[u64],
    ) -> Decision {
        let site = SiteId::new("fra").unwrap();
        let floor = floor.map(epoch);
        Choice { site: &site, activation, bucket, floor }
            .decide(warm.iter().map(|number| epoch(*number)))
    }

    #[test]
    fn by_hand() {
        let at = |number| activation(&[(number, BUCKETS, Ring::All)]);
        let serve = |number| Decision::Serve(epoch(number));
        let not_here = |number| Decision::NotHere(epoch(number));
        for (live, floor, warm, expected) in [
            // Nothing live, nothing seen.
            (None, None, &[][..], Decision::NotLive),
            (None, None, &[3], Decision::NotLive),
            // The activation's epoch, whatever else is warm.
            (Some(2), None, &[1, 2, 3], serve(2)),
            (Some(2), Some(1), &[1, 2, 3], serve(2)),
            (Some(2), Some(2), &[1, 2, 3], serve(2)),
            // A pin that is newer than the activation known here.
            (Some(2), Some(3), &[2, 3], serve(3)),
            (None, Some(3), &[3], serve(3)),
            (Some(2), Some(3), &[2], not_here(3)),
            (Some(2), Some(3), &[2, 4], not_here(3)),
            // The activation's epoch is not warm: something older may stand in, down to the floor.
            (Some(3), None, &[1, 2], serve(2)),
            (Some(3), Some(2), &[1, 2], serve(2)),
            (Some(3), Some(2), &[1], not_here(3)),
            (Some(3), None, &[4], not_here(3)),
            (Some(3), None, &[], not_here(3)),
        ] {
            let live = live.map(at);
            assert_eq!(decide(live.as_ref(), 0, floor, warm), expected, "{floor:?} {warm:?}");
        }
    }

    #[test]
    fn shares_and_rings_select() {
        let here = Ring::Sites(BTreeSet::from([SiteId::new("fra").unwrap()]));
        let elsewhere = Ring::Sites(BTreeSet::from([SiteId::new("nyc").unwrap()]));
        let canary = activation(&[(2, 100, here), (1, BUCKETS, Ring::All)]);
        assert_eq!(decide(Some(&canary), 99, None, &[1, 2]), Decision::Serve(epoch(2)));
        assert_eq!(decide(Some(&canary), 100, None, &[1, 2]), Decision::Serve(epoch(1)));
        assert_eq!(decide(Some(&canary), 100, Some(2), &[1, 2]), Decision::Serve(epoch(2)));
        let ring = activation(&[(2, BUCKETS, elsewhere), (1, BUCKETS, Ring::All)]);
        assert_eq!(decide(Some(&ring), 0, None, &[1, 2]), Decision::Serve(epoch(1)));
        assert_eq!(decide(Some(&ring), 0, Some(2), &[1, 2]), Decision::Serve(epoch(2)));
    }

    #[test]
    fn a_new_incarnation_outranks_old_pins() {
        let restored = Activation::everyone(
            AppName::new("shop").unwrap(),
            EnvironmentName::production(),
            Epoch::new(2, 1),
            BTreeMap::new(),
        );
        let site = SiteId::new("fra").unwrap();
        let choice = Choice {
            site: &site,
            activation: Some(&restored),
            bucket: 0,
            floor: Some(Epoch::new(1, 99)),
        };
        let decision = choice.decide([Epoch::new(1, 99), Epoch::new(2, 1)].into_iter());
        assert_eq!(decision, Decision::Serve(Epoch::new(2, 1)));
    }

    /// Every activation, floor and warm set over four epochs.
    #[test]
    fn exhaustively() {
        for live in [None, Some(1), Some(2), Some(3), Some(4)] {
            let activation = live.map(|number| activation(&[(number, BUCKETS, Ring::All)]));
            for floor in [None, Some(1), Some(2), Some(3), Some(4)] {
                for set in 0..16_u64 {
                    let warm: Vec<u64> = (1..=4).filter(|n| set & (1 << (n - 1)) != 0).collect();
                    let due = live.max(floor);
                    match decide(activation.as_ref(), 0, floor, &warm) {
                        Decision::Serve(chosen) => {
                            let number = chosen.number;
                            assert!(warm.contains(&number), "cold");
                            assert!(floor.is_none_or(|floor| number >= floor), "went back");
                            assert!(Some(number) <= due, "never activated");
                            let better = |n: &u64| *n > number && Some(*n) <= due;
                            assert!(!warm.iter().any(better), "not the newest");
                        }
                        Decision::NotHere(wanted) => {
                            assert_eq!(Some(wanted.number), due);
                            let fits =
                                |n: &u64| Some(*n) <= due && floor.is_none_or(|floor| *n >= floor);
                            assert!(!warm.iter().any(fits), "could have served");
                        }
                        Decision::NotLive => assert_eq!(due, None),
                    }
                }
            }
        }
    }
}
