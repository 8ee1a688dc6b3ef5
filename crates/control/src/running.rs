//! Time in which this process ran: for judging how long others took.
//!
//! The wall clock can be set, and both clocks go on while the process is stopped, as a laptop's are
//! when it sleeps. What is measured here stands still meanwhile, so that a site is not said to be
//! late because everything slept.

use std::time::{Duration, Instant};

/// The longest step that counts. Whoever uses the clock looks at it more often than that; a longer
/// step was one in which the process did not run.
const LONGEST_STEP: Duration = Duration::from_secs(5);

/// How often to look, at least.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// A clock that starts at zero.
#[derive(Debug)]
pub(crate) struct RunningTime {
    seen: Instant,
    ran: Duration,
    resumed: Option<Duration>,
}

impl RunningTime {
    pub(crate) fn start(now: Instant) -> Self {
        Self { seen: now, ran: Duration::ZERO, resumed: None }
    }

    /// How long the process ran since the start, as far as it was looked at.
    pub(crate) fn look(&mut self, now: Instant) -> Duration {
        let step = now.saturating_duration_since(self.seen);
        self.seen = now;
        self.ran += step.min(LONGEST_STEP);
        if step > LONGEST_STEP {
            tracing::info!(seconds = step.as_secs(), "this process was stopped for a while");
            self.resumed = Some(self.ran);
        }
        self.ran
    }

    /// How long it runs since it was last stopped; `None` when it never was.
    pub(crate) fn since_resumed(&self) -> Option<Duration> {
        Some(self.ran - self.resumed?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_still_while_the_process_does() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut time = RunningTime::start(start);
        assert_eq!(time.look(at(1_000)), Duration::from_secs(1));
        assert_eq!(time.look(at(3_000)), Duration::from_secs(3));
        assert_eq!(time.since_resumed(), None);
        assert_eq!(time.look(at(7_200_000)), Duration::from_secs(8));
        assert_eq!(time.since_resumed(), Some(Duration::ZERO));
        assert_eq!(time.look(at(7_201_000)), Duration::from_secs(9));
        assert_eq!(time.since_resumed(), Some(Duration::from_secs(1)));
        assert_eq!(time.look(at(0)), Duration::from_secs(9), "never back");
    }
}
