//! What others may do to a proxy's cache while it serves.

use std::sync::Arc;

use selvedge_cache::purge::{Kind, Scope};
use selvedge_cache::store::Counters;

use super::{Cache, CacheScope, DiskCounters};

/// The cache of a proxy that serves. Cheap to clone.
#[derive(Clone)]
pub struct CacheHandle(pub(super) Arc<Cache>);

impl CacheHandle {
    /// Purges what is an app's: from now on it is not served, or not as fresh.
    pub fn purge(&self, app: &[u8], scope: &Scope, kind: Kind) {
        self.0.shelf.purger.purge(app, scope, kind);
    }

    /// Purges what is stored for a URL by a route's scope, in all its variants. `authority` is the
    /// host, with the port if it is not the scheme's own; `target` is path and query as they are
    /// sent on.
    pub fn purge_url(
        &self,
        scope: &CacheScope,
        scheme: &str,
        authority: &str,
        target: &str,
        kind: Kind,
    ) {
        let key = scope.key(scheme, authority.as_bytes(), target);
        self.0.fills.void(&key);
        let url = Scope::Url(key.as_bytes().to_vec());
        self.0.shelf.purger.purge(scope.app(), &url, kind);
    }

    /// Waits until what was purged before survives a restart, and a loss of power. Whether it does:
    /// not while the disk has an error, or belongs to another process.
    pub async fn flush(&self) -> bool {
        match &self.0.shelf.disk {
            Some(disk) => disk.flush().await,
            // Nothing survives.
            None => true,
        }
    }

    /// What is on disk, if that is used, and how often something was found there.
    pub fn disk_counters(&self) -> Option<DiskCounters> {
        self.0.shelf.disk.as_ref().map(selvedge_cache::disk::Disk::counters)
    }

    /// How often a stored body was compressed to be kept so.
    pub fn encoded(&self) -> u64 {
        self.0.encoders.made()
    }

    /// What is stored in memory, and how often something was found.
    pub fn counters(&self) -> Counters {
        self.0.shelf.counters()
    }
}

impl std::fmt::Debug for CacheHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CacheHandle")
    }
}
