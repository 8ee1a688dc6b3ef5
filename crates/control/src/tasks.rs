//! The parts of a process that run side by side, none of which it can do without.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// A part has ended although nobody asked it to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} has stopped by itself, which is a defect: see the log above")]
pub struct Ended(pub &'static str);

/// Running parts. Dropping it aborts them.
#[derive(Default)]
pub(crate) struct Tasks {
    tasks: JoinSet<&'static str>,
    last: JoinSet<&'static str>,
    ending: CancellationToken,
    very_end: CancellationToken,
}

impl Tasks {
    /// Starts a part, which ends when the token that it gets is cancelled.
    pub(crate) fn spawn<F>(&mut self, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(named(name, part(self.ending.clone())));
    }

    /// Starts a part that others need until they have ended.
    pub(crate) fn spawn_last<F>(
        &mut self,
        name: &'static str,
        part: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.last.spawn(named(name, part(self.very_end.clone())));
    }

    /// Waits until `token` is cancelled or a part ends by itself, then ends all.
    pub(crate) async fn run(mut self, token: CancellationToken) -> Result<(), Ended> {
        let ended = tokio::select! {
            () = token.cancelled() => None,
            Some(name) = self.tasks.join_next() => name.ok(),
            Some(name) = self.last.join_next() => name.ok(),
        };
        self.ending.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.very_end.cancel();
        while self.last.join_next().await.is_some() {}
        match ended {
            Some(name) => Err(Ended(name)),
            None => Ok(()),
        }
    }
}

/// Says who has ended, even by a panic.
async fn named(
    name: &'static str,
    part: impl Future<Output = ()> + Send + 'static,
) -> &'static str {
    if let Err(error) = AbortOnDropHandle::new(tokio::spawn(part)).await {
        tracing::error!(part = name, %error, "a part of control has failed");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_outlive_the_others() {
        let mut tasks = Tasks::default();
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn_last("store", |token| async move {
            token.cancelled().await;
            drop(receiver);
        });
        tasks.spawn("user", |token| async move {
            token.cancelled().await;
            assert!(!sender.is_closed());
        });
        let token = CancellationToken::new();
        token.cancel();
        assert_eq!(tasks.run(token).await, Ok(()));
    }

    #[tokio::test]
    async fn one_that_ends_or_panics_ends_all() {
        let mut tasks = Tasks::default();
        tasks.spawn("good", |token| async move { token.cancelled().await });
        tasks.spawn("bad", |_| async { panic!("on purpose") });
        assert_eq!(tasks.run(CancellationToken::new()).await, Err(Ended("bad")));
    }
}
