//! A journal: lines kept on disk within a limit, in the order in which they were written, and read
//! back by many readers at their own pace.
//!
//! Lines belong to *shares*, one for each kind of line and owner. The limit holds for all shares
//! together; when it is passed, the share that takes most loses its oldest lines, so that whoever
//! writes much pushes out nobody but itself. What is dropped is counted, in its place.
//!
//! Writing never waits: lines queue in memory, for each share within a limit of its own, and what
//! does not fit is dropped and counted too. What was handed to the system survives the end of the
//! process; a line that was cut off in the middle is taken back at the next start.
//!
//! It does not know what a line says: that is its callers' business, the agent's and control's.

mod query;
mod reader;
mod segments;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use query::{Entries, Query, Step};
pub use reader::{Body, Entry, Matches, Wanted};
use segments::{Batch, Index, Segments};

/// Bytes of a share's lines that wait for the writer before new ones are dropped.
const QUEUE_BYTES: usize = 1 << 20;
/// The longest line, in bytes; longer ones are dropped and counted.
const MAX_LINE: usize = 64 << 10;
/// A journal is made of this many segments, more or less: the least that is dropped at once.
const SEGMENTS: u64 = 64;
/// The smallest segment worth a file, in bytes.
const MIN_SEGMENT: u64 = 64 << 10;

/// Whose lines these are: a kind of line and, where there is one, an owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(String);

impl Share {
    /// The share of `kind` and `owner`, which consist of lower-case letters, digits and hyphens;
    /// `None` when they don't.
    pub fn new(kind: &str, owner: Option<&str>) -> Option<Self> {
        let plain = |text: &str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        match owner {
            Some(owner) => (plain(kind) && plain(owner)).then(|| Self(format!("{kind}.{owner}"))),
            None => plain(kind).then(|| Self(kind.to_owned())),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        match name.split_once('.') {
            Some((kind, owner)) => Self::new(kind, Some(owner)),
            None => Self::new(name, None),
        }
    }

    /// The kind of line.
    pub fn kind(&self) -> &str {
        self.0.split_once('.').map_or(&self.0, |(kind, _)| kind)
    }

    /// Whose lines, if they are anybody's.
    pub fn owner(&self) -> Option<&str> {
        self.0.split_once('.').map(|(_, owner)| owner)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A handle to a journal. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("directory", &self.shared.directory).finish_non_exhaustive()
    }
}

struct Shared {
    directory: PathBuf,
    pending: Mutex<Pending>,
    wake: Notify,
    index: Mutex<Index>,
    /// Every line up to this sequence number can be read.
    published: watch::Sender<u64>,
    problem: watch::Sender<Option<String>>,
}

/// Lines that wait for the writer.
#[derive(Default)]
struct Pending {
    last: u64,
    queues: BTreeMap<Share, Queue>,
}

#[derive(Default)]
struct Queue {
    batch: Batch,
    dropped: u64,
}

impl Pending {
    /// Sequence numbers grow with the clock, in microseconds, so that a journal which was lost goes
    /// on above what its readers have seen; when the clock goes back they go on from where it was.
    fn next(&mut self) -> u64 {
        let now = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
        self.last = now.max(self.last + 1);
        self.last
    }

    fn append(&mut self, share: &Share, payload: &[u8]) {
        let (gap, sequence) = (self.next(), self.next());
        let queue = match self.queues.get_mut(share) {
            Some(queue) => queue,
            None => self.queues.entry(share.clone()).or_default(),
        };
        let fits = payload.len() <= MAX_LINE
            && queue.batch.lines.len() + payload.len() <= QUEUE_BYTES
            && !payload.contains(&b'\n');
        if !fits {
            queue.dropped += 1;
            return;
        }
        if queue.dropped > 0 {
            queue.batch.push_gap(gap, std::mem::take(&mut queue.dropped));
        }
        queue.batch.push(sequence, payload);
    }

    /// Takes what waits. Lines that were dropped become a line that says so.
    fn take(&mut self) -> (u64, Vec<(Share, Batch)>) {
        let queues = std::mem::take(&mut self.queues);
        let batches = queues
            .into_iter()
            .map(|(share, mut queue)| {
                if queue.dropped > 0 {
                    queue.batch.push_gap(self.next(), queue.dropped);
                }
                (share, queue.batch)
            })
            .filter(|(_, batch)| batch.last > 0)
            .collect();
        (self.last, batches)
    }
}

impl Journal {
    /// Opens or makes the journal in `directory`, of at most `limit` bytes, more or less a segment
    /// for each share. Blocking. Nothing is written until the writer runs.
    ///
    /// # Errors
    /// When the directory can't be made or read.
    pub fn open(directory: &Path, limit: u64) -> io::Result<(Self, Writer)> {
        let (index, last) = Index::open(directory)?;
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            pending: Mutex::new(Pending { last, queues: BTreeMap::new() }),
            wake: Notify::new(),
            index: Mutex::new(index),
            published: watch::Sender::new(last),
            problem: watch::Sender::new(None),
        });
        let segment = (limit / SEGMENTS).max(MIN_SEGMENT);
        let writer = Writer { segments: Segments { shared: Arc::clone(&shared), limit, segment } };
        Ok((Self { shared }, writer))
    }

    /// Adds a line, or drops and counts it when the writer is behind. Never waits for the disk.
    pub fn append(&self, share: &Share, payload: &[u8]) {
        self.shared.pending().append(share, payload);
        self.shared.wake.notify_one();
    }

    /// Adds several lines at once.
    pub fn append_all<'a>(&self, lines: impl IntoIterator<Item = (&'a Share, &'a [u8])>) {
        {
            let mut pending = self.shared.pending();
            for (share, payload) in lines {
                pending.append(share, payload);
            }
        }
        self.shared.wake.notify_one();
    }

    /// Counts lines that were lost before they came here.
    pub fn count_dropped(&self, share: &Share, lines: u64) {
        if lines > 0 {
            self.shared.pending().queues.entry(share.clone()).or_default().dropped += lines;
            self.shared.wake.notify_one();
        }
    }

    /// Why lines can't be written down, in words; `None` while they can.
    pub fn problem(&self) -> watch::Receiver<Option<String>> {
        self.shared.problem.subscribe()
    }

    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        self.shared.index().size()
    }
}

impl Shared {
    // What these hold is whole at every step, so that a panic elsewhere spoils nothing.
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, share: &Share) -> PathBuf {
        self.directory.join(&share.0)
    }
}

/// The task that writes lines down.
pub struct Writer {
    segments: Segments,
}

impl Writer {
    /// Writes until `token` is cancelled; what was added by then is still written.
    pub async fn run(self, token: CancellationToken) {
        let mut segments = self.segments;
        let shared = Arc::clone(&segments.shared);
        loop {
            let ending = tokio::select! {
                () = shared.wake.notified() => false,
                () = token.cancelled() => true,
            };
            let (last, batches) = shared.pending().take();
            let worked = tokio::task::spawn_blocking(move || {
                let problem = segments.write(batches);
                (segments, problem)
            })
            .await;
            let problem = match worked {
                Ok((back, problem)) => {
                    segments = back;
                    problem
                }
                // Only a panic or the runtime's end.
                Err(_) => return,
            };
            if let Some(problem) = &problem {
                tracing::warn!("{problem}");
            }
            shared.problem.send_if_modified(|known| {
                let changed = *known != problem;
                *known = problem;
                changed
            });
            shared.published.send_replace(last);
            if ending {
                return;
            }
        }
    }
}
