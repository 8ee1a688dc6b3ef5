//! The cache in the path of a request: looked up without waiting, filled by one request for all that
//! want the same.
//!
//! What may be stored and reused is decided by [`selvedge_cache::policy`]; here is what waits.

mod aside;
mod body;
mod disk;
mod encoded;
mod fetch;
mod fills;
mod handle;
mod lookup;
mod scope;
mod serve;
mod shelf;
mod stream;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use selvedge_cache::policy::Policy;
use tokio::time::Instant;

pub(crate) use aside::{Aside, Whose};
pub(crate) use body::{DiskBody, StoredBody};
pub use disk::{CacheDisk, DiskCounters};
pub(crate) use fetch::{Fetch, Fetched};
pub(crate) use fills::{Join, Lead, Outcome};
pub use handle::CacheHandle;
pub(crate) use lookup::{Asking, Found};
pub use scope::{CacheScope, QueryRules};
pub(crate) use serve::{as_asked, conditional, respond};
pub(crate) use shelf::About;
pub(crate) use stream::StreamBody;

use encoded::Encoders;
use fills::Fills;
use shelf::Shelf;

/// How a proxy caches.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// Bytes of memory for stored responses; 0 turns the cache off.
    pub memory: u64,
    /// The largest body that is kept in memory, in bytes. Without a disk it is the largest that is
    /// stored; what is larger is on disk only.
    pub max_object: u64,
    /// Where else responses are stored.
    pub disk: Option<CacheDisk>,
    /// What is left to a cache to decide.
    pub policy: Policy,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { memory: 64 << 20, max_object: 16 << 20, disk: None, policy: Policy::default() }
    }
}

/// The cache of a proxy, shared by its shards.
pub(crate) struct Cache {
    policy: Policy,
    max_object: u64,
    clock: Clock,
    shelf: Shelf,
    fills: Fills,
    encoders: Encoders,
}

impl Cache {
    /// None where it is turned off.
    pub(crate) fn new(config: CacheConfig) -> Option<Arc<Self>> {
        (config.memory > 0).then(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Self::at(config, u64::try_from(since.as_millis()).unwrap_or_default())
        })
    }

    /// One that begins at a time, in milliseconds since 1970.
    pub(crate) fn at(config: CacheConfig, began_ms: u64) -> Arc<Self> {
        let max_object = config.max_object.min(config.memory / 2);
        Arc::new(Self {
            policy: config.policy,
            max_object,
            clock: Clock { began_ms, began: Instant::now() },
            shelf: Shelf::new(config.memory, max_object, config.disk),
            fills: Fills::new(config.memory / 4),
            encoders: Encoders::new(max_object),
        })
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// What others may do to it.
    pub(crate) fn handle(self: &Arc<Self>) -> CacheHandle {
        CacheHandle(Arc::clone(self))
    }

    /// Removes what has been purged, for ever.
    pub(crate) async fn sweep(self: Arc<Self>) {
        self.shelf.sweep().await;
    }

    /// Gives the directory on disk to whoever wants it next.
    pub(crate) async fn close(&self) {
        self.shelf.close().await;
    }
}

/// The time of day as it was at the start, carried on by a clock that does not jump: an age must
/// not change because somebody sets the time.
struct Clock {
    began_ms: u64,
    began: Instant,
}

impl Clock {
    fn now_ms(&self) -> u64 {
        let passed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or_default();
        self.began_ms + passed
    }
}
