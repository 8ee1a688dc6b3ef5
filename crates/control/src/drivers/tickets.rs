//! Gives all sites the same keys of TLS session tickets, and changes them in time.

use std::time::Duration;

use selvedge_fabric::{Expect, SharedFabric, Typed};
use selvedge_model::documents::TicketKeys;
use selvedge_model::keys;
use selvedge_plan::tickets;
use tokio::sync::watch;

use super::{DriverError, Reconciler, written};
use crate::data::random;
use crate::now_ms;
use crate::world::World;

/// The driver of [`selvedge_plan::tickets`].
pub(crate) struct Tickets {
    fabric: SharedFabric,
}

impl Tickets {
    pub(crate) fn new(fabric: SharedFabric) -> Self {
        Self { fabric }
    }
}

impl Reconciler for Tickets {
    const NAME: &'static str = "ticket keys";
    const DEBOUNCE: Duration = Duration::from_secs(60);

    async fn reconcile(
        &mut self,
        world: &mut watch::Receiver<World>,
    ) -> Result<Option<Duration>, DriverError> {
        world.mark_unchanged();
        let fabric = Typed(&*self.fabric);
        let held = fabric.get::<TicketKeys>(keys::TICKET_KEYS).await?;
        let now_ms = now_ms();
        let plan = tickets::plan(&tickets::Input {
            held: held.as_ref().map(|(_, held)| held),
            fresh: [random()?, random()?],
            now_ms,
        });
        if let Some(keys) = &plan.keys {
            let expect = held.map_or(Expect::Absent, |(seen, _)| Expect::Generation(seen));
            if written(fabric.put(keys::TICKET_KEYS, keys, expect).await)? {
                tracing::info!("sites make session tickets with another key");
            }
        }
        Ok(Some(Duration::from_millis(plan.next_ms.saturating_sub(now_ms))))
    }
}
