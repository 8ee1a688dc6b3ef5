//! The access record: what happened with one request, handed on so that whoever keeps records
//! never delays an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

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
    /// What the cache did: `hit`, `stale`, `revalidated`, `collapsed`, `miss` or `pass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
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

/// Where records go. Cheap to clone; never blocks.
#[derive(Debug, Clone)]
pub struct AccessLog {
    queue: Option<mpsc::Sender<AccessRecord>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// A log of which at most `capacity` records wait to be received.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<AccessRecord>) {
        let (queue, records) = mpsc::channel(capacity.max(1));
        (Self { queue: Some(queue), dropped: Arc::default() }, records)
    }

    /// A log that keeps nothing.
    pub fn discard() -> Self {
        Self { queue: None, dropped: Arc::default() }
    }

    /// Whether records are kept at all: none need be made otherwise.
    pub fn is_kept(&self) -> bool {
        self.queue.is_some()
    }

    /// Hands a record over, or drops and counts it when the receiver is behind.
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

#[cfg(test)]
mod tests {
    use super::*;

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
            cache: None,
            error: Some(AccessError { source: ErrorSource::Client, kind: "aborted".into() }),
        }
    }

    #[tokio::test]
    async fn a_lagging_receiver_drops_and_counts() {
        let (log, mut records) = AccessLog::channel(2);
        for _ in 0..5 {
            log.record(record("/"));
        }
        assert_eq!(log.dropped(), 3);
        assert!(records.recv().await.is_some());
        AccessLog::discard().record(record("/"));
    }
}
