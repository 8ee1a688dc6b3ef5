//! The access record: one JSON line a request, written by a task of its own so that a slow disk
//! never delays an answer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::logging::Chain;

/// How many records may wait for the writer before new ones are dropped and counted.
const QUEUE: usize = 8192;
/// How many records are written at once.
const BATCH: usize = 512;
/// The size in bytes at which a file is set aside. The one before it is removed.
const ROTATE_AT: u64 = 64 << 20;

/// What happened with one request. Written when the response's body has ended or the client has
/// gone. Fields that don't apply are left out of the line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AccessRecord {
    /// When the request's head had arrived (RFC 3339, UTC).
    pub time: Timestamp,
    /// The site that answered.
    pub site: String,
    /// The app that the host belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The app's environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// The service that the route leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The release, as in the header `selvedge-release`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// The epoch, as in the header `selvedge-epoch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// As in the header `x-request-id`.
    pub request_id: String,
    /// The trace id of W3C `traceparent`, 32 hexadecimal digits.
    pub trace_id: String,
    /// The client's IP address and port.
    pub client: String,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: String,
    /// `http` or `https`.
    pub scheme: String,
    /// The TLS version, such as `TLSv1.3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// The method.
    pub method: String,
    /// The host asked for, without the port.
    pub host: String,
    /// Path and query as sent, cut to 2,048 bytes.
    pub path: String,
    /// The status sent; 0 when the client left before there was one.
    pub status: u16,
    /// Bytes of the response's body handed to the connection.
    pub bytes_sent: u64,
    /// Bytes of the request's body read.
    pub bytes_received: u64,
    /// From the request's head to the end of the response's body, in milliseconds.
    pub duration_ms: f64,
    /// From choosing a workload to its response's head, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_ms: Option<f64>,
    /// What went wrong, if something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AccessError>,
}

/// What went wrong with a request, and on whose side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessError {
    /// Whose side.
    pub source: ErrorSource,
    /// A short stable name, such as `connect-refused`.
    pub kind: String,
}

/// On whose side an error arose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorSource {
    /// The client sent something wrong, was too slow or went away.
    Client,
    /// The proxy has nothing to answer with.
    Proxy,
    /// The workload failed.
    Workload,
}

/// A handle to the writer. Cheap to clone; never blocks.
#[derive(Debug, Clone)]
pub struct AccessLog {
    queue: Option<mpsc::Sender<AccessRecord>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Opens the file at `path` for appending. Nothing is written until the writer runs.
    pub async fn open(path: &Path) -> io::Result<(Self, AccessWriter)> {
        let (log, records) = Self::channel(QUEUE);
        let (file, size) = open(path).await?;
        let writer = AccessWriter {
            path: path.to_owned(),
            file,
            size,
            rotate_at: ROTATE_AT,
            records,
            dropped: Arc::clone(&log.dropped),
        };
        Ok((log, writer))
    }

    /// A log whose records are received instead of written.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<AccessRecord>) {
        let (queue, records) = mpsc::channel(capacity.max(1));
        (Self { queue: Some(queue), dropped: Arc::default() }, records)
    }

    /// A log that keeps nothing.
    pub fn discard() -> Self {
        Self { queue: None, dropped: Arc::default() }
    }

    /// Hands a record to the writer, or drops and counts it when the writer is behind.
    pub fn record(&self, record: AccessRecord) {
        if let Some(queue) = &self.queue
            && queue.try_send(record).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many records have been dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The task that writes records.
#[derive(Debug)]
pub struct AccessWriter {
    path: PathBuf,
    file: File,
    size: u64,
    rotate_at: u64,
    records: mpsc::Receiver<AccessRecord>,
    dropped: Arc<AtomicU64>,
}

impl AccessWriter {
    /// Writes records until `token` is cancelled or every [`AccessLog`] is gone; what has been
    /// handed over by then is still written.
    pub async fn run(mut self, token: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut lines = Vec::new();
        let mut told = 0;
        loop {
            tokio::select! {
                biased;
                received = self.records.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return;
                    }
                }
                () = token.cancelled(), if !self.records.is_closed() => {
                    self.records.close();
                    continue;
                }
            }
            lines.clear();
            for record in batch.drain(..) {
                if serde_json::to_writer(&mut lines, &record).is_ok() {
                    lines.push(b'\n');
                }
            }
            if let Err(error) = self.write(&lines).await {
                let path = self.path.display();
                tracing::warn!(%path, error = %Chain(&error), "access records can't be written");
            }
            let dropped = self.dropped.load(Ordering::Relaxed);
            if dropped > told {
                tracing::warn!(count = dropped - told, "access records dropped: the disk is slow");
                told = dropped;
            }
        }
    }

    async fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.size >= self.rotate_at {
            tokio::fs::rename(&self.path, aside(&self.path)).await?;
            (self.file, self.size) = open(&self.path).await?;
        }
        self.file.write_all(lines).await?;
        self.file.flush().await?;
        self.size += lines.len() as u64;
        Ok(())
    }
}

async fn open(path: &Path) -> io::Result<(File, u64)> {
    // Paths that clients asked for are nobody else's business.
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).await?;
    let size = file.metadata().await?.len();
    Ok((file, size))
}

/// Where the previous file is kept: `access.jsonl.1`.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn record(path: &str) -> AccessRecord {
        AccessRecord {
            time: Timestamp::UNIX_EPOCH,
            site: "fra".into(),
            app: Some("shop".into()),
            environment: None,
            service: None,
            release: None,
            epoch: None,
            request_id: "1".into(),
            trace_id: "2".into(),
            client: "192.0.2.1:5000".into(),
            protocol: "HTTP/2".into(),
            scheme: "https".into(),
            tls: None,
            method: "GET".into(),
            host: "shop.edge.test".into(),
            path: path.into(),
            status: 200,
            bytes_sent: 5,
            bytes_received: 0,
            duration_ms: 1.25,
            upstream_ms: None,
            error: Some(AccessError { source: ErrorSource::Client, kind: "aborted".into() }),
        }
    }

    fn read(path: &Path) -> Vec<AccessRecord> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn what_was_handed_over_is_written_before_the_writer_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.jsonl");
        let (log, writer) = AccessLog::open(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for number in 0..100 {
            log.record(record(&format!("/{number}\n")));
        }
        let token = CancellationToken::new();
        token.cancel();
        writer.run(token).await;
        let records = read(&path);
        assert_eq!(records.len(), 100);
        assert_eq!(records[99], record("/99\n"));
        assert!(std::fs::read_to_string(&path).unwrap().contains("1970-01-01T00:00:00Z"));
    }

    #[tokio::test]
    async fn a_full_file_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.jsonl");
        for round in 0..3 {
            let (log, mut writer) = AccessLog::open(&path).await.unwrap();
            writer.rotate_at = 1;
            log.record(record(&format!("/{round}")));
            drop(log);
            writer.run(CancellationToken::new()).await;
        }
        assert_eq!(read(&path)[0].path, "/2");
        assert_eq!(read(&aside(&path))[0].path, "/1");
    }

    #[tokio::test]
    async fn a_lagging_writer_drops_and_counts() {
        let (log, mut records) = AccessLog::channel(2);
        for _ in 0..5 {
            log.record(record("/"));
        }
        assert_eq!(log.dropped(), 3);
        assert!(records.recv().await.is_some());
        AccessLog::discard().record(record("/"));
    }
}
