//! Keeps a [`World`] up to date with the fabric.

use selvedge_fabric::{Change, FabricError, Lease, SharedFabric, Watch};
use selvedge_model::keys;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::World;

/// A world that follows the fabric. Readers see it only once it was complete.
pub(crate) struct Mirror {
    watches: Vec<(&'static str, Watch)>,
    leases: watch::Receiver<Vec<Lease>>,
    world: watch::Sender<World>,
}

impl Mirror {
    /// Reads what is there under `prefixes`, and returns a mirror that is to be [`run`](Self::run).
    pub(crate) async fn start(
        fabric: &SharedFabric,
        prefixes: &[&'static str],
    ) -> Result<Self, FabricError> {
        let mut world = World::default();
        let mut watches = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            let mut watch = fabric.watch(prefix, None).await?;
            loop {
                match watch.next().await {
                    Some(Change::Current(_)) | None => break,
                    Some(change) => apply(&mut world, prefix, change),
                }
            }
            watches.push((*prefix, watch));
        }
        let leases = fabric.watch_leases(keys::SITE_LEASES).await?;
        world.set_leases(&leases.borrow());
        Ok(Self { watches, leases, world: watch::Sender::new(world) })
    }

    /// The world; wakes on every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<World> {
        self.world.subscribe()
    }

    /// Follows until `token` is cancelled or the fabric is shut down.
    pub(crate) async fn run(self, token: CancellationToken) {
        let tasks = TaskTracker::new();
        let Self { watches, mut leases, world } = self;
        for (prefix, mut watch) in watches {
            let world = world.clone();
            tasks.spawn(token.clone().run_until_cancelled_owned(async move {
                follow(prefix, &mut watch, &world).await;
            }));
        }
        tasks.spawn(token.run_until_cancelled_owned(async move {
            while leases.changed().await.is_ok() {
                let current = leases.borrow_and_update().clone();
                world.send_modify(|world| world.set_leases(&current));
            }
        }));
        tasks.close();
        tasks.wait().await;
    }
}

/// Applies changes one by one, and everything after a reset at once: a reader that saw half of it
/// would take the other half for deleted.
async fn follow(prefix: &str, watch: &mut Watch, world: &watch::Sender<World>) {
    let mut held: Option<Vec<Change>> = None;
    while let Some(change) = watch.next().await {
        match (change, &mut held) {
            (change @ Change::Reset, _) => held = Some(vec![change]),
            (Change::Current(_), held) => {
                if let Some(changes) = held.take() {
                    world.send_modify(|world| {
                        for change in changes {
                            apply(world, prefix, change);
                        }
                    });
                }
            }
            (change, Some(held)) => held.push(change),
            (change, None) => world.send_modify(|world| apply(world, prefix, change)),
        }
    }
}

fn apply(world: &mut World, prefix: &str, change: Change) {
    match change {
        Change::Put(document) => world.put(&document),
        Change::Delete { key, .. } => world.delete(&key),
        Change::Current(_) => {}
        Change::Reset => world.forget(prefix),
    }
}
