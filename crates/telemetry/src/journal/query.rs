//! A question to a journal, answered line by line.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Journal;
use super::reader::{self, Body, Entry, Matches, Reader, Wanted};

/// How long reading goes on before whoever waits is told of it.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// Which lines are wanted.
pub struct Query {
    /// Of these shares.
    pub shares: Wanted,
    /// With such a payload. Called where blocking is allowed.
    pub matches: Matches,
    /// After this sequence number; sequence numbers are no smaller than the time of writing in Unix
    /// microseconds.
    pub after: u64,
    /// Of those there are now, only the last so many.
    pub limit: Option<usize>,
    /// Go on with new lines as they come.
    pub follow: bool,
}

/// A step of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A line, in order.
    Entry(Entry),
    /// Nothing that is wanted was found for a second, and files are still being read.
    Reading,
    /// Everything up to this sequence number has been said, once.
    Current(u64),
}

/// The answer.
pub struct Entries {
    work: Option<Work>,
    steps: VecDeque<Step>,
    published: watch::Receiver<u64>,
    follow: bool,
    /// What was there when the question was asked, until it has been said.
    target: Option<u64>,
    /// Everything published has been read.
    caught_up: bool,
}

enum Work {
    Idle(Box<Reading>),
    /// On a thread where blocking is allowed.
    Busy(JoinHandle<io::Result<Batch>>),
}

struct Reading {
    reader: Reader,
    matches: Matches,
}

struct Batch {
    reading: Box<Reading>,
    /// Whether there was anything to read.
    read: bool,
    /// Those that are wanted.
    steps: VecDeque<Step>,
}

impl Journal {
    /// Asks for lines. Readers never hold up the writer: one that is too slow finds lines dropped.
    /// Reads from now on, on a thread where blocking is allowed.
    pub fn query(&self, query: Query) -> Entries {
        let published = self.shared.published.subscribe();
        let through = *published.borrow();
        let shared = Arc::clone(&self.shared);
        let Query { shares, matches, after, limit, follow } = query;
        let work = match limit {
            None => {
                let reader = Reader::new(shared, shares, after);
                Work::Idle(Box::new(Reading { reader, matches }))
            }
            Some(limit) => Work::Busy(tokio::task::spawn_blocking(move || {
                let range = (after, through);
                let after = reader::tail(&shared, &shares, &matches, range, limit)?;
                let reader = Reader::new(shared, shares, after);
                let reading = Box::new(Reading { reader, matches });
                Ok(Batch { reading, read: true, steps: VecDeque::new() })
            })),
        };
        Entries {
            work: Some(work),
            steps: VecDeque::new(),
            published,
            follow,
            target: Some(through),
            caught_up: false,
        }
    }
}

impl Entries {
    /// Whether there is a next step without waiting.
    pub fn is_ready(&self) -> bool {
        !self.steps.is_empty()
    }

    /// Waits for the next step; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// When files can't be read; the answer has ended then.
    pub async fn next(&mut self) -> io::Result<Option<Step>> {
        let mut quiet = Instant::now() + QUIET;
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Ok(Some(step));
            }
            match self.work.take() {
                None => return Ok(None),
                Some(Work::Idle(reading)) if self.caught_up => {
                    self.work = Some(Work::Idle(reading));
                    if self.published.changed().await.is_err() {
                        self.work = None;
                    }
                    self.caught_up = false;
                    quiet = Instant::now() + QUIET;
                }
                Some(Work::Idle(reading)) => {
                    let newest = *self.published.borrow_and_update();
                    let through = self.target.unwrap_or(newest);
                    let work = tokio::task::spawn_blocking(move || reading.read(through));
                    self.work = Some(Work::Busy(work));
                }
                Some(Work::Busy(work)) => {
                    // Kept by `self` meanwhile: whoever drops this future loses nothing.
                    let Work::Busy(work) = self.work.insert(Work::Busy(work)) else { continue };
                    let Ok(done) = tokio::time::timeout_at(quiet, work).await else {
                        return Ok(Some(Step::Reading));
                    };
                    self.work = None;
                    self.take(done.map_err(io::Error::other).flatten()?);
                }
            }
        }
    }

    fn take(&mut self, batch: Batch) {
        self.steps = batch.steps;
        if batch.read {
            self.work = Some(Work::Idle(batch.reading));
            return;
        }
        let told = self.target.take();
        self.caught_up = told.is_none();
        self.steps.extend(told.map(Step::Current));
        if self.follow {
            self.work = Some(Work::Idle(batch.reading));
        }
    }
}

impl Reading {
    fn read(mut self: Box<Self>, through: u64) -> io::Result<Batch> {
        let entries = self.reader.read(through)?;
        let read = !entries.is_empty();
        let wanted = entries.into_iter().filter(|entry| match &entry.body {
            Body::Line(line) => (self.matches)(line),
            Body::Dropped(_) => true,
        });
        let steps = wanted.map(Step::Entry).collect();
        Ok(Batch { reading: self, read, steps })
    }
}
