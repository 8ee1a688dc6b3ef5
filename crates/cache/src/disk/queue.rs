//! A queue that is bounded in jobs and in bytes, and never waits to take one.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(super) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    ready: Condvar,
    most_jobs: usize,
    most_bytes: usize,
}

struct Inner<T> {
    jobs: VecDeque<(T, usize)>,
    bytes: usize,
    closed: bool,
}

/// What waiting for a job gave.
pub(super) enum Popped<T> {
    Job(T),
    Nothing,
    Closed,
}

impl<T> Queue<T> {
    pub(super) fn new(most_jobs: usize, most_bytes: usize) -> Self {
        let inner = Inner { jobs: VecDeque::new(), bytes: 0, closed: false };
        Self { inner: Mutex::new(inner), ready: Condvar::new(), most_jobs, most_bytes }
    }

    /// Whether the job was taken.
    pub(super) fn push(&self, job: T, bytes: usize) -> bool {
        let inner = self.lock();
        let room = inner.jobs.len() < self.most_jobs && inner.bytes + bytes <= self.most_bytes;
        room && self.add(inner, job, bytes)
    }

    /// For jobs that hold nothing, and of which there are no more than of others.
    pub(super) fn push_small(&self, job: T) -> bool {
        self.add(self.lock(), job, 0)
    }

    fn add(&self, mut inner: MutexGuard<'_, Inner<T>>, job: T, bytes: usize) -> bool {
        if inner.closed {
            return false;
        }
        inner.bytes += bytes;
        inner.jobs.push_back((job, bytes));
        drop(inner);
        self.ready.notify_one();
        true
    }

    /// The next job, after at most this time. A closed queue gives what it still holds.
    pub(super) fn pop(&self, most: Duration) -> Popped<T> {
        let inner = self.lock();
        let idle = |inner: &mut Inner<T>| inner.jobs.is_empty() && !inner.closed;
        let waited = self.ready.wait_timeout_while(inner, most, idle);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match inner.jobs.pop_front() {
            Some((job, bytes)) => {
                inner.bytes -= bytes;
                Popped::Job(job)
            }
            None if inner.closed => Popped::Closed,
            None => Popped::Nothing,
        }
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
