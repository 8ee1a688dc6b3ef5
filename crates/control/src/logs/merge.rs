//! Many logs, each in its own order, as one.
//!
//! What was there when the question was asked is merged exactly: nothing is said before every
//! origin has said its next line or that it has no more. After that lines come as they are
//! written, and each is held back for a moment in which an earlier one may still arrive.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;
use jiff::Timestamp;
use selvedge_api::{LogCursor, LogEvent, LogFilter};
use selvedge_model::SiteId;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// How long an origin may be silent while what was there is being merged.
const STALL: Duration = Duration::from_secs(10);
/// How long a new line is held back while following.
const WINDOW: Duration = Duration::from_millis(250);
/// How many lines are held back at most.
const MAX_HELD: usize = 4096;

/// What an origin says.
#[derive(Debug)]
pub(super) enum Said {
    /// A line or a gap, in the origin's order.
    Line(LogEvent),
    /// It has said everything up to this sequence number that was there.
    Current(u64),
    /// It does not answer (any more), or answers again.
    Site { answers: bool, reason: String },
}

/// Somebody who has a log: a site, or control.
pub(super) struct Origin {
    pub(super) site: Option<SiteId>,
    pub(super) said: mpsc::Receiver<Said>,
}

/// Where a line stands.
type Place = (Timestamp, Option<SiteId>, u64);

fn place(event: &LogEvent) -> Option<Place> {
    match event {
        LogEvent::Record(it) => Some((it.time, it.site.clone(), it.sequence)),
        LogEvent::Gap(it) => Some((it.time, it.site.clone(), it.sequence)),
        LogEvent::Site { .. } | LogEvent::Current { .. } => None,
    }
}

/// Merges until every origin has ended or nobody listens.
pub(super) async fn run(mut origins: Vec<Origin>, filter: LogFilter, out: mpsc::Sender<LogEvent>) {
    let mut merge = Merge { cursor: filter.after.clone(), out };
    // A reader that goes on where it was gets everything since.
    let limit = filter.limit.filter(|_| filter.after.is_empty());
    if merge.history(&mut origins, limit).await.is_none() || !filter.follow {
        return;
    }
    merge.follow(origins).await;
}

struct Merge {
    cursor: LogCursor,
    out: mpsc::Sender<LogEvent>,
}

impl Merge {
    /// `None` when nobody listens any more.
    async fn send(&mut self, event: LogEvent) -> Option<()> {
        self.cursor.note(&event);
        self.out.send(event).await.ok()
    }

    async fn site(&mut self, site: Option<&SiteId>, answers: bool, reason: String) -> Option<()> {
        match site {
            Some(site) => self.send(LogEvent::Site { site: site.clone(), answers, reason }).await,
            None => Some(()),
        }
    }

    /// Says what was there when the question was asked.
    async fn history(&mut self, origins: &mut [Origin], limit: Option<u32>) -> Option<()> {
        let mut heads: BTreeMap<Place, (usize, LogEvent)> = BTreeMap::new();
        let mut last = VecDeque::new();
        for index in 0..origins.len() {
            self.advance(origins, index, &mut heads).await?;
        }
        while let Some((_, (index, event))) = heads.pop_first() {
            match limit {
                None => self.send(event).await?,
                Some(limit) => {
                    last.push_back(event);
                    if last.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
                        last.pop_front();
                    }
                }
            }
            self.advance(origins, index, &mut heads).await?;
        }
        for event in last {
            self.send(event).await?;
        }
        let cursor = self.cursor.clone();
        self.send(LogEvent::Current { cursor }).await
    }

    /// Waits for the next line of an origin, or for its word that there is none.
    async fn advance(
        &mut self,
        origins: &mut [Origin],
        index: usize,
        heads: &mut BTreeMap<Place, (usize, LogEvent)>,
    ) -> Option<()> {
        let Some(origin) = origins.get_mut(index) else { return Some(()) };
        loop {
            let said = match tokio::time::timeout(STALL, origin.said.recv()).await {
                Ok(None) => return Some(()),
                Ok(Some(said)) => said,
                Err(_) => {
                    origin.said.close();
                    let reason = format!("it said nothing for {} s", STALL.as_secs());
                    let site = origin.site.clone();
                    return self.site(site.as_ref(), false, reason).await;
                }
            };
            match said {
                Said::Line(event) => {
                    if let Some(place) = place(&event) {
                        heads.insert(place, (index, event));
                        return Some(());
                    }
                }
                Said::Current(sequence) => {
                    self.cursor.advance(origin.site.as_ref(), sequence);
                    return Some(());
                }
                Said::Site { answers, reason } => {
                    let site = origin.site.clone();
                    self.site(site.as_ref(), answers, reason).await?;
                    if !answers {
                        return Some(());
                    }
                }
            }
        }
    }

    /// Says new lines as they come.
    async fn follow(&mut self, origins: Vec<Origin>) -> Option<()> {
        let mut said: SelectAll<_> = origins
            .into_iter()
            .map(|origin| {
                let site = origin.site;
                ReceiverStream::new(origin.said).map(move |said| (site.clone(), said)).boxed()
            })
            .collect();
        let mut held = Held::default();
        loop {
            let due = held.due();
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = timer => {
                    for event in held.release(Instant::now()) {
                        self.send(event).await?;
                    }
                }
                next = said.next() => match next {
                    None => break,
                    Some((_, Said::Line(event))) => held.add(event),
                    Some((site, Said::Current(sequence))) => {
                        self.cursor.advance(site.as_ref(), sequence);
                    }
                    Some((site, Said::Site { answers, reason })) => {
                        self.site(site.as_ref(), answers, reason).await?;
                    }
                },
                () = self.out.closed() => return None,
            }
        }
        for (_, event) in held.lines.into_values() {
            self.send(event).await?;
        }
        Some(())
    }
}

/// Lines held back.
#[derive(Default)]
struct Held {
    lines: BTreeMap<Place, (Instant, LogEvent)>,
    /// When the first of them came.
    oldest: Option<Instant>,
}

impl Held {
    fn add(&mut self, event: LogEvent) {
        if let Some(place) = place(&event) {
            let now = Instant::now();
            self.lines.insert(place, (now, event));
            self.oldest.get_or_insert(now);
        }
    }

    /// When the next line must go out.
    fn due(&self) -> Option<Instant> {
        if self.lines.len() >= MAX_HELD {
            return Some(Instant::now());
        }
        self.oldest.map(|came| came + WINDOW)
    }

    /// The lines whose time has come, and those that belong before them.
    fn release(&mut self, now: Instant) -> Vec<LogEvent> {
        let full = self.lines.len() >= MAX_HELD;
        let last = self
            .lines
            .iter()
            .enumerate()
            .filter(|(index, (_, (came, _)))| {
                *came + WINDOW <= now || (full && *index < MAX_HELD / 2)
            })
            .map(|(_, (place, _))| place.clone())
            .next_back();
        let Some(last) = last else { return Vec::new() };
        let rest = self.lines.split_off(&last);
        let mut out = std::mem::replace(&mut self.lines, rest);
        out.extend(self.lines.remove_entry(&last));
        self.oldest = self.lines.values().map(|(came, _)| *came).min();
        out.into_values().map(|(_, event)| event).collect()
    }
}
