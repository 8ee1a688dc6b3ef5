//! The log of the whole installation: what sites and control itself have to say, merged in order.

mod merge;

use futures_util::Stream;
use selvedge_api::{LogEvent, LogFilter};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Lines that wait for a slow reader before its sources are slowed down.
const QUEUE: usize = 256;

/// Opens streams of log lines. Cheap to clone.
#[derive(Clone, Default)]
pub struct Logs {}

impl Logs {
    /// Asks every site and control for the lines that `filter` wants. Ends after
    /// [`LogEvent::Current`] unless the filter follows. Dropping the stream ends the question at
    /// every site.
    pub fn open(&self, filter: LogFilter) -> LogStream {
        let (sender, events) = mpsc::channel(QUEUE);
        let task = tokio::spawn(merge::run(Vec::new(), filter, sender));
        LogStream { events, _task: AbortOnDropHandle::new(task) }
    }
}

/// Lines as they come, in order.
pub struct LogStream {
    events: mpsc::Receiver<LogEvent>,
    _task: AbortOnDropHandle<()>,
}

impl LogStream {
    /// Waits for the next event; `None` after the last. Cancel safe.
    pub async fn next(&mut self) -> Option<LogEvent> {
        self.events.recv().await
    }

    /// The events as a stream.
    pub fn into_stream(self) -> impl Stream<Item = LogEvent> + Send + 'static {
        futures_util::stream::unfold(self, |mut stream| async {
            Some((stream.next().await?, stream))
        })
    }
}
