//! A question to a journal, answered line by line.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use super::Journal;
use super::reader::{self, Body, Entry, Matches, Reader, Wanted};

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
    /// Everything up to this sequence number has been said, once.
    Current(u64),
}

/// The answer.
pub struct Entries {
    reading: Option<Box<Reading>>,
    steps: VecDeque<Step>,
    published: watch::Receiver<u64>,
    follow: bool,
    /// What was there when the question was asked, until it has been said.
    target: Option<u64>,
}

struct Reading {
    reader: Reader,
    matches: Matches,
}

impl Journal {
    /// Asks for lines. Readers never hold up the writer: one that is too slow finds lines dropped.
    ///
    /// # Errors
    /// When files can't be read.
    pub async fn query(&self, query: Query) -> io::Result<Entries> {
        let published = self.shared.published.subscribe();
        let through = *published.borrow();
        let shared = Arc::clone(&self.shared);
        let Query { shares, matches, after, limit, follow } = query;
        let reading = blocking(move || {
            let after = match limit {
                Some(limit) => reader::tail(&shared, &shares, &matches, (after, through), limit)?,
                None => after,
            };
            Ok(Box::new(Reading { reader: Reader::new(shared, shares, after), matches }))
        })
        .await?;
        let steps = VecDeque::new();
        Ok(Entries { reading: Some(reading), steps, published, follow, target: Some(through) })
    }
}

impl Entries {
    /// Whether there is a next step without waiting.
    pub fn is_ready(&self) -> bool {
        !self.steps.is_empty()
    }

    /// Waits for the next step; `None` at the end. When it was dropped in the middle, the answer
    /// has ended.
    ///
    /// # Errors
    /// When files can't be read; the answer has ended then.
    pub async fn next(&mut self) -> io::Result<Option<Step>> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Ok(Some(step));
            }
            let newest = *self.published.borrow_and_update();
            let through = self.target.unwrap_or(newest);
            let Some(mut reading) = self.reading.take() else { return Ok(None) };
            let (reading, read, entries) = blocking(move || {
                let entries = reading.reader.read(through)?;
                let read = !entries.is_empty();
                let matches = &reading.matches;
                let wanted = entries.into_iter().filter(|entry| match &entry.body {
                    Body::Line(line) => matches(line),
                    Body::Dropped(_) => true,
                });
                let wanted: VecDeque<Step> = wanted.map(Step::Entry).collect();
                Ok((reading, read, wanted))
            })
            .await?;
            self.steps = entries;
            if read {
                self.reading = Some(reading);
                continue;
            }
            let told = self.target.take();
            self.steps.extend(told.map(Step::Current));
            if self.follow {
                self.reading = Some(reading);
                if told.is_none() && self.published.changed().await.is_err() {
                    return Ok(None);
                }
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten()
}
