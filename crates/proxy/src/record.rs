//! One request from its head to the end of its response, and the record of it.

use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;
use jiff::Timestamp;
use selvedge_telemetry::access::{AccessError, AccessLog, AccessRecord, ErrorSource};
use tokio::time::Instant;

use crate::activity::Busy;
use crate::body::Received;
use crate::listener::Client;
use crate::trace::Trace;

/// How much of a request target a record keeps, in bytes.
const PATH_MAX: usize = 2048;

/// A request under way. However it ends, its record is written when this is dropped.
pub(crate) struct Exchange {
    /// None where records are not kept.
    record: Option<Box<AccessRecord>>,
    /// Of the response; 0 until there is one.
    status: u16,
    /// None where records are not kept.
    started: Option<Instant>,
    /// None while nothing was asked of the request's body.
    received: Option<Arc<Received>>,
    log: AccessLog,
    /// None for a piece of a page: the page keeps the client's connection busy.
    busy: Option<Busy>,
    complete: bool,
    /// The agent asked.
    own: bool,
}

impl Exchange {
    pub(crate) fn begin(client: &Client, head: &Parts, trace: &Trace) -> Self {
        let record = client.shared.access.is_kept().then(|| {
            let target = head.uri.path_and_query().map_or("*", http::uri::PathAndQuery::as_str);
            Box::new(AccessRecord {
                request_id: trace.request_id(),
                trace_id: trace.trace_id(),
                protocol: protocol(head.version).to_owned(),
                method: head.method.to_string(),
                path: truncate(target).to_owned(),
                client: client.address(&head.headers).to_string(),
                scheme: client.scheme_of(&head.headers).to_owned(),
                ..of(client)
            })
        });
        Self {
            started: record.is_some().then(Instant::now),
            record,
            status: 0,
            received: None,
            log: client.shared.access.clone(),
            busy: Some(client.activity.begin(head.version)),
            complete: false,
            own: false,
        }
    }

    /// A piece of a page is asked for. It is recorded only if it was not answered.
    pub(crate) fn piece(client: &Client, head: &Parts, trace: &Trace) -> Self {
        let mut exchange = Self::begin(client, head, trace);
        exchange.busy = None;
        exchange.own = true;
        exchange
    }

    /// The agent asked, to judge a release: nobody's request, and recorded only if it was not answered.
    pub(crate) fn own(&mut self) {
        self.own = true;
    }

    /// The record, where it is kept.
    pub(crate) fn record(&mut self) -> Option<&mut AccessRecord> {
        self.record.as_deref_mut()
    }

    /// When it is, where records are kept.
    pub(crate) fn now(&self) -> Option<Instant> {
        self.record.is_some().then(Instant::now)
    }

    /// The workload has answered what it was asked then.
    pub(crate) fn upstream_answered(&mut self, asked: Option<Instant>) {
        if let Some(record) = &mut self.record {
            record.upstream_ms = asked.map(milliseconds);
        }
    }

    /// There is a response.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    /// How far the request's body has been read.
    pub(crate) fn received(&mut self) -> Arc<Received> {
        Arc::clone(self.received.get_or_insert_default())
    }

    pub(crate) fn failed(&mut self, source: ErrorSource, kind: &str) {
        if let Some(record) = &mut self.record {
            record.error = Some(AccessError { source, kind: kind.to_owned() });
        }
    }

    /// The response's body can't go on: the client's doing if the request's did not either, the
    /// workload's if it has a name, ours otherwise.
    pub(crate) fn body_failed(&mut self, workload: Option<&'static str>) {
        let client = self.received.as_ref().and_then(|received| received.error());
        match (workload, client) {
            (Some(_), Some(error)) => self.failed(ErrorSource::Client, error.kind()),
            (Some(kind), None) => self.failed(ErrorSource::Workload, kind),
            (None, _) => self.failed(ErrorSource::Proxy, "file-unreadable"),
        }
        self.complete = true;
    }

    pub(crate) fn asked(&mut self) {
        if let Some(busy) = &mut self.busy {
            busy.asked();
        }
    }

    pub(crate) fn sent(&mut self, bytes: u64) {
        self.tunnelled(bytes);
        if let Some(busy) = &mut self.busy {
            busy.handed();
        }
    }

    /// Bytes went to the client by an upgraded connection.
    pub(crate) fn tunnelled(&mut self, bytes: u64) {
        if let Some(record) = &mut self.record {
            record.bytes_sent += bytes;
        }
    }

    /// The whole response was handed to the connection.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        if !self.complete && record.error.is_none() {
            let kind = "aborted".to_owned();
            record.error = Some(AccessError { source: ErrorSource::Client, kind });
        }
        record.status = self.status;
        record.bytes_received = self.received.as_ref().map_or(0, |received| received.bytes());
        record.duration_ms = self.started.map_or(0.0, milliseconds);
        if !self.own || !matches!(self.status, 1..500) {
            self.log.record(*record);
        }
    }
}

/// What every record of a client's says.
fn of(client: &Client) -> AccessRecord {
    AccessRecord {
        time: Timestamp::now(),
        site: client.shared.snapshot.borrow().site.to_string(),
        client: client.peer.to_string(),
        scheme: client.scheme().to_owned(),
        tls: client.tls.map(str::to_owned),
        ..AccessRecord::default()
    }
}

/// Records a request whose head could not be read; it was answered with this status.
pub(crate) fn unreadable(client: &Client, protocol: &str, status: u16) {
    client.shared.access.record(AccessRecord {
        request_id: client.shared.ids.request_id(),
        protocol: protocol.to_owned(),
        status,
        error: Some(AccessError {
            source: ErrorSource::Client,
            kind: "unreadable-head".to_owned(),
        }),
        ..of(client)
    });
}

/// Milliseconds since `start`, to the microsecond.
fn milliseconds(start: Instant) -> f64 {
    (start.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_3 => "HTTP/3",
        http::Version::HTTP_2 => "HTTP/2",
        http::Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn truncate(text: &str) -> &str {
    text.get(..text.floor_char_boundary(PATH_MAX)).unwrap_or(text)
}
