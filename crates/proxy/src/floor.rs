//! What this node has served to clients without a pin, so that none of them goes back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use selvedge_model::{AppName, EnvironmentName, Epoch};

type Floor = Arc<ArcSwap<Epoch>>;
type Apps = HashMap<AppName, BTreeMap<EnvironmentName, Floor>>;

/// The newest epoch served to clients without a pin, by app and environment. It belongs to the
/// proxy and outlives snapshots; after a restart the floor in the agent's ledger takes its place. Reads take no lock: an entry is written only when an epoch is served for the first time.
#[derive(Debug, Default)]
pub(crate) struct Floors {
    apps: ArcSwap<Apps>,
}

impl Floors {
    /// The floor of an app, if anything has been served.
    pub(crate) fn get(&self, app: &AppName, environment: &EnvironmentName) -> Option<Epoch> {
        let apps = self.apps.load();
        let floor = apps.get(app)?.get(environment)?;
        Some(**floor.load())
    }

    /// Notes that `epoch` is served. Never lowers the floor.
    pub(crate) fn raise(&self, app: &AppName, environment: &EnvironmentName, epoch: Epoch) {
        let apps = self.apps.load();
        if let Some(floor) = apps.get(app).and_then(|environments| environments.get(environment)) {
            raise(floor, epoch);
            return;
        }
        // Two threads may race to add the entry; `rcu` keeps the first and both then raise it.
        self.apps.rcu(|apps| {
            let mut apps = Apps::clone(apps);
            apps.entry(app.clone())
                .or_default()
                .entry(environment.clone())
                .or_insert_with(|| Arc::new(ArcSwap::from_pointee(epoch)));
            apps
        });
        if let Some(floor) = self.apps.load().get(app).and_then(|known| known.get(environment)) {
            raise(floor, epoch);
        }
    }
}

fn raise(floor: &Floor, epoch: Epoch) {
    if epoch > **floor.load() {
        floor.rcu(|current| epoch.max(**current));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_only_rise() {
        let floors = Floors::default();
        let (shop, blog) = (AppName::new("shop").unwrap(), AppName::new("blog").unwrap());
        let production = EnvironmentName::production();
        assert_eq!(floors.get(&shop, &production), None);
        for (number, floor) in [(2, 2), (1, 2), (5, 5), (4, 5)] {
            floors.raise(&shop, &production, Epoch::new(1, number));
            assert_eq!(floors.get(&shop, &production), Some(Epoch::new(1, floor)));
        }
        floors.raise(&shop, &production, Epoch::new(2, 1));
        assert_eq!(floors.get(&shop, &production), Some(Epoch::new(2, 1)));
        assert_eq!(floors.get(&blog, &production), None);
    }

    #[test]
    fn threads_agree_on_the_greatest() {
        let floors = Floors::default();
        let shop = AppName::new("shop").unwrap();
        let production = EnvironmentName::production();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (floors, shop, production) = (&floors, &shop, &production);
                scope.spawn(move || {
                    for number in 0..500 {
                        floors.raise(shop, production, Epoch::new(1, number * 4 + thread));
                    }
                });
            }
        });
        assert_eq!(floors.get(&shop, &production), Some(Epoch::new(1, 1999)));
    }
}
