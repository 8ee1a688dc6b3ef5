//! Shards: each an operating system thread with a runtime of its own. A connection stays on the
//! shard that accepted it, so that what serves it is never moved between processors.

use std::io;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Threads for work that blocks, such as reading files, of each shard at once.
const BLOCKING_THREADS: usize = 64;

/// The threads of a proxy. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Shards {
    handles: Vec<Handle>,
    end: CancellationToken,
    ended: Vec<CancellationToken>,
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Shards {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// When the system has no threads or files left.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let mut shards =
            Self { handles: Vec::new(), end: CancellationToken::new(), ended: Vec::new() };
        for index in 0..count {
            let ended = CancellationToken::new();
            shards.handles.push(start(index, shards.end.clone(), ended.clone())?);
            shards.ended.push(ended);
        }
        Ok(shards)
    }

    pub(super) fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// Ready when a shard has ended though nobody told it to.
    pub(super) async fn failed(&self) {
        let ended = self.ended.iter().map(|ended| Box::pin(ended.cancelled()));
        futures_util::future::select_all(ended).await;
    }

    /// Ends the threads, with all that still runs on them.
    pub(super) async fn end(&self) {
        self.end.cancel();
        for ended in &self.ended {
            ended.cancelled().await;
        }
    }
}

fn start(index: usize, end: CancellationToken, ended: CancellationToken) -> io::Result<Handle> {
    let (to_us, started) = mpsc::sync_channel(1);
    let name = format!("proxy-{index}");
    thread::Builder::new().name(name.clone()).spawn(move || {
        let _ended = ended.drop_guard();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name(name)
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = to_us.send(Err(error));
                return;
            }
        };
        let _ = to_us.send(Ok(runtime.handle().clone()));
        runtime.block_on(end.cancelled());
        runtime.shutdown_background();
    })?;
    started.recv().map_err(io::Error::other)?
}
