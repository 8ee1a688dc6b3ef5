//! Where stored responses are, and what purges them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName};
use selvedge_cache::disk::{Disk, Writer};
use selvedge_cache::key::Key;
use selvedge_cache::object::Object;
use selvedge_cache::purge::{
    self, Generation, Labels, Purgeable, Purger, Stamp, Sweeper, Tags, Verdict,
};
use selvedge_cache::store::{Cost, Counters, Limits, Memory};

use super::CacheScope;
use super::disk::{CacheDisk, Changes};

/// Objects that the sweeper looks at before it lets others have the thread.
const SWEEP_STEP: usize = 256;
/// How long the sweeper waits when there is nothing to do.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// What is known of a key.
#[derive(Debug, Clone)]
pub(super) struct Entry(Arc<Slot>);

/// Something that is stored, and what purges go by.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) what: What,
    about: Arc<About>,
    tags: Tags,
    stamp: Stamp,
}

/// What is stored.
#[derive(Debug)]
pub(super) enum What {
    /// A response.
    Object(Arc<Object>),
    /// The response depends on these fields of the request.
    Varies(Variants),
    /// Its responses were not to be shared, up to this time (milliseconds since 1970): those who
    /// want it need not wait for each other.
    Pass(u64),
}

/// How a key's variants are found.
#[derive(Debug, Clone)]
pub(super) struct Variants {
    pub(super) names: Box<[HeaderName]>,
    /// Another one each time, and in each process: variants that were invalid once are never found
    /// again.
    pub(super) generation: u64,
}

/// What was asked for, as far as purges tell it apart.
#[derive(Debug)]
pub(crate) struct About {
    pub(super) app: Box<[u8]>,
    pub(super) url: Key,
    pub(super) host: Box<[u8]>,
    pub(super) path: Box<[u8]>,
    /// Of what is no response.
    no_fields: HeaderMap,
}

impl About {
    /// `host` without a port; `path` as it is in the key.
    pub(crate) fn new(scope: &CacheScope, url: Key, host: &str, path: &str) -> Arc<Self> {
        Arc::new(Self {
            app: scope.app().into(),
            url,
            host: host.as_bytes().into(),
            path: path.as_bytes().into(),
            no_fields: HeaderMap::new(),
        })
    }

    /// As it was stored.
    pub(super) fn stored(app: Box<[u8]>, url: &[u8], host: Box<[u8]>, path: Box<[u8]>) -> Self {
        Self { app, url: Key::from_bytes(url), host, path, no_fields: HeaderMap::new() }
    }
}

impl Entry {
    pub(super) fn new(what: What, about: Arc<About>, tags: Tags, stamp: Stamp) -> Self {
        Self(Arc::new(Slot { what, about, tags, stamp }))
    }

    pub(super) fn what(&self) -> &What {
        &self.0.what
    }

    pub(super) fn about(&self) -> &About {
        &self.0.about
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Cost for Entry {
    fn bytes(&self) -> usize {
        let Slot { what, about, tags, .. } = &*self.0;
        let text =
            about.app.len() + about.url.as_bytes().len() + about.host.len() + about.path.len();
        let own = size_of::<Slot>() + size_of::<About>() + 4 * size_of::<usize>();
        let what = match what {
            What::Object(object) => 2 * size_of::<usize>() + object.bytes(),
            What::Varies(variants) => {
                let names = variants.names.iter().map(|name| name.as_str().len());
                variants.names.len() * size_of::<HeaderName>() + names.sum::<usize>()
            }
            What::Pass(_) => 0,
        };
        own + text + tags.bytes() + what
    }
}

impl Purgeable for Entry {
    fn labels(&self) -> Labels<'_> {
        let Slot { what, about, tags, .. } = &*self.0;
        Labels {
            app: &about.app,
            url: about.url.as_bytes(),
            host: &about.host,
            path: &about.path,
            tags,
            headers: match what {
                What::Object(object) => &object.headers,
                What::Varies(_) | What::Pass(_) => &about.no_fields,
            },
        }
    }

    fn stamp(&self) -> &Stamp {
        &self.0.stamp
    }
}

/// Where stored responses are.
pub(super) struct Shelf {
    pub(super) memory: Memory<Entry>,
    pub(super) disk: Option<Disk>,
    /// The largest body on disk.
    pub(super) max_on_disk: u64,
    pub(super) purger: Purger,
    pub(super) changes: Changes,
    generations: AtomicU64,
}

impl Shelf {
    /// One that holds this many bytes, and bodies up to `max_object` bytes.
    pub(super) fn new(bytes: u64, max_object: u64, disk: Option<CacheDisk>) -> Self {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        // Beside a body, an entry has a head.
        let largest = size(max_object).saturating_add(256 << 10).min(size(bytes));
        let memory = Memory::new(Limits { capacity: size(bytes), largest });
        let started = Generation::at_start(SystemTime::now()).as_u64();
        let (disk, purger, max_on_disk) = match disk {
            Some(CacheDisk { disk, purger, max_object }) => (Some(disk), purger, max_object),
            None => (None, Purger::new(purge::Limits::default()), 0),
        };
        let (changes, generations) = (Changes::default(), AtomicU64::new(started));
        Self { memory, disk, max_on_disk, purger, changes, generations }
    }

    /// What is stored at a key, and whether it has been purged softly.
    pub(super) fn get(&self, key: &Key) -> Option<(Entry, bool)> {
        let entry = self.memory.get(key.as_bytes())?;
        match self.purger.verdict(&entry) {
            Verdict::Good => Some((entry, false)),
            Verdict::Stale => Some((entry, true)),
            Verdict::Gone => {
                self.memory.remove_if(key.as_bytes(), |it| it.is(&entry));
                None
            }
        }
    }

    /// Stores something in memory, and on disk too if there is one.
    pub(super) fn put(&self, key: &Key, entry: Entry) {
        let writer = match entry.what() {
            // It is about the present.
            What::Pass(_) => {
                if let Some(disk) = &self.disk {
                    disk.remove(key.as_bytes());
                }
                None
            }
            What::Object(_) | What::Varies(_) => self.writer(key, entry.stamp().generation()),
        };
        self.put_both(key, entry, writer);
    }

    /// Stores something in memory, and on disk, where its body may have gone already.
    pub(super) fn put_both(&self, key: &Key, entry: Entry, writer: Option<Writer>) {
        if let Some(writer) = writer {
            super::disk::write(writer, &entry);
        }
        self.changes.note(key);
        let _ = self.memory.insert(key.as_bytes(), entry);
    }

    pub(super) fn counters(&self) -> Counters {
        self.memory.counters()
    }

    pub(super) fn remove(&self, key: &Key) {
        self.changes.note(key);
        self.memory.remove(key.as_bytes());
        if let Some(disk) = &self.disk {
            disk.remove(key.as_bytes());
        }
    }

    /// The variants of a key by these fields; made where there are none yet.
    pub(super) fn variants(
        &self,
        about: &Arc<About>,
        names: Box<[HeaderName]>,
        stamp: Stamp,
    ) -> Variants {
        if let Some((entry, _)) = self.get(&about.url)
            && let What::Varies(variants) = entry.what()
            && variants.names == names
        {
            return variants.clone();
        }
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let variants = Variants { names, generation };
        let what = What::Varies(variants.clone());
        self.put(&about.url, Entry::new(what, Arc::clone(about), Tags::default(), stamp));
        variants
    }

    /// Removes what has been purged, a little at a time, for ever.
    pub(super) async fn sweep(&self) {
        let mut sweeper = Sweeper::new(self.purger.clone());
        loop {
            match sweeper.step(&self.memory, SWEEP_STEP, self.oldest_on_disk()).idle {
                true => tokio::time::sleep(SWEEP_PAUSE).await,
                false => tokio::task::yield_now().await,
            }
        }
    }
}
