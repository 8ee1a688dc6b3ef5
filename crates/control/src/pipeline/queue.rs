//! One queue for each repository, with an intake that fills it and a worker that empties it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use selvedge_api::PushEvent;
use selvedge_model::{Push, PushState, RepositoryName, keys};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::progress::ProgressLog;
use super::run::Run;
use super::{Shared, Submission, SubmitError, Ticket, collect, recover};
use crate::now_ms;

/// Pushes that may wait in one repository.
const WAITING: usize = 32;
/// The pause before the records are read again when that failed at the start.
const RETRY: Duration = Duration::from_secs(1);

/// What a worker does next.
enum Job {
    /// Pushes that an earlier life has left.
    Recover(Vec<u64>),
    /// A push.
    Push(Box<Push>, Arc<ProgressLog>),
    /// Sites that are to let go of an app.
    Retire,
}

struct Queue {
    submissions: mpsc::Sender<Submission>,
    jobs: mpsc::Sender<Job>,
}

/// Takes submissions until `token` is cancelled; the workers are dropped with it, wherever they are.
/// It also ends when a worker has failed: what that has left is for the next start to recover.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut submissions: mpsc::Receiver<Submission>,
    token: CancellationToken,
) {
    let mut queues = Queues { shared, queues: HashMap::new(), workers: JoinSet::new() };
    let work = async {
        queues.take_up().await;
        loop {
            tokio::select! {
                Some(ended) = queues.workers.join_next() => {
                    tracing::error!(?ended, "a repository's intake or worker has failed");
                    return;
                }
                submission = submissions.recv() => {
                    let Some(submission) = submission else { return };
                    queues.pass_on(submission);
                }
            }
        }
    };
    token.run_until_cancelled(work).await;
    queues.workers.shutdown().await;
}

struct Queues {
    shared: Arc<Shared>,
    queues: HashMap<RepositoryName, Queue>,
    workers: JoinSet<()>,
}

impl Queues {
    /// Starts a worker for every repository that has records, with what is unfinished there.
    async fn take_up(&mut self) {
        let pushes = loop {
            match self.shared.store.list::<Push>(keys::PUSHES).await {
                Ok(pushes) => break pushes,
                Err(error) => {
                    tracing::error!(%error, "the recorded pushes can't be read yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let mut unfinished: HashMap<RepositoryName, Vec<u64>> = HashMap::new();
        for (_, push) in pushes {
            let numbers = unfinished.entry(push.repository.clone()).or_default();
            if push.is_open() {
                numbers.push(push.number);
            }
        }
        for (repository, numbers) in unfinished {
            // A fresh queue has room.
            let _ = self.queue(&repository).jobs.try_send(Job::Recover(numbers));
        }
    }

    fn queue(&mut self, repository: &RepositoryName) -> &Queue {
        match self.queues.entry(repository.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let (submissions, submitted) = mpsc::channel(WAITING);
                let (jobs, receiver) = mpsc::channel(WAITING + 2);
                let pushes = Arc::new(AtomicU32::new(0));
                let intake = Intake {
                    shared: Arc::clone(&self.shared),
                    repository: repository.clone(),
                    pushes: Arc::clone(&pushes),
                    jobs: jobs.clone(),
                };
                self.workers.spawn(intake.run(submitted));
                let worker = Worker {
                    shared: Arc::clone(&self.shared),
                    repository: repository.clone(),
                    pushes: Arc::clone(&pushes),
                    jobs: jobs.downgrade(),
                };
                self.workers.spawn(worker.run(receiver));
                entry.insert(Queue { submissions, jobs })
            }
        }
    }

    /// Hands a submission to its repository, without waiting for it: others are not to wait either.
    fn pass_on(&mut self, submission: Submission) {
        let queue = self.queue(&submission.repository);
        if let Err(refused) = queue.submissions.try_send(submission) {
            let submission = refused.into_inner();
            let busy = SubmitError::Busy(submission.repository);
            let _ = submission.reply.send(Err(busy));
        }
    }
}

/// Records a repository's submissions, in their order, and queues them.
struct Intake {
    shared: Arc<Shared>,
    repository: RepositoryName,
    pushes: Arc<AtomicU32>,
    jobs: mpsc::Sender<Job>,
}

impl Intake {
    async fn run(self, mut submissions: mpsc::Receiver<Submission>) {
        while let Some(submission) = submissions.recv().await {
            let taken = self.accept(&submission).await;
            let _ = submission.reply.send(taken);
        }
    }

    async fn accept(&self, submission: &Submission) -> Result<Ticket, SubmitError> {
        let shared = &self.shared;
        let Ok(place) = self.jobs.try_reserve() else {
            return Err(SubmitError::Busy(self.repository.clone()));
        };
        let push = Push {
            number: 0,
            repository: self.repository.clone(),
            cause: submission.cause.clone(),
            old_commit: submission.old.as_ref().map(ToString::to_string),
            new_commit: submission.new.to_string(),
            received_ms: now_ms(),
            state: PushState::Queued,
            stages: Vec::new(),
            apps: Vec::new(),
        };
        let repository = shared.git.repository(&self.repository);
        let recorded = shared.record_push(&repository, push).await;
        let push = recorded.map_err(|refusal| {
            SubmitError::Fabric(selvedge_fabric::FabricError::Store(refusal.reason))
        })?;
        let log = ProgressLog::new();
        shared.running_add(&push, &log);
        log.add(PushEvent::Queued { ahead: self.pushes.fetch_add(1, Ordering::Relaxed) });
        let ticket = Ticket { number: push.number, progress: log.follow() };
        place.send(Job::Push(Box::new(push), log));
        Ok(ticket)
    }
}

struct Worker {
    shared: Arc<Shared>,
    repository: RepositoryName,
    pushes: Arc<AtomicU32>,
    /// To come back to itself later.
    jobs: mpsc::WeakSender<Job>,
}

impl Worker {
    async fn run(self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Recover(numbers) => self.recover(numbers).await,
                Job::Push(push, log) => {
                    let shared = Arc::clone(&self.shared);
                    let repository = shared.git.repository(&self.repository);
                    let push = Run { shared, repository, push: *push, log }.process().await;
                    self.shared.running_remove(&push);
                    self.pushes.fetch_sub(1, Ordering::Relaxed);
                }
                Job::Retire => {}
            }
            // Whoever waits is not to wait for this too; the last of them is followed by it.
            if jobs.is_empty() {
                self.tidy().await;
            }
        }
    }

    async fn recover(&self, numbers: Vec<u64>) {
        while let Err(error) =
            recover::recover(&self.shared, &self.repository, numbers.clone()).await
        {
            tracing::error!(%error, repository = %self.repository, "no recovery yet");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Collects what nothing needs any more, and comes back when a site is still to leave.
    async fn tidy(&self) {
        match collect::collect(&self.shared, &self.repository).await {
            Ok(false) => {}
            Ok(true) => {
                let (jobs, wait) = (self.jobs.clone(), self.shared.limits.leave);
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    if let Some(jobs) = jobs.upgrade() {
                        // A full queue tidies anyway.
                        let _ = jobs.try_send(Job::Retire);
                    }
                });
            }
            Err(refusal) => {
                tracing::warn!(repository = %self.repository, reason = %refusal.reason,
                    "what is not needed any more was not collected");
            }
        }
    }
}
