//! The control API as its callers see it: the types that travel as JSON, the problems that stand
//! for errors, the files by which tools find a running installation, and a client.
//!
//! Deliberately absent: anything that serves. `control` fills these types in and the command line
//! reads them; both depend on `model` alone through this crate.

mod client;
mod console;
mod contract;
mod logs;
mod operations;
mod plan;
mod problem;
mod push;
mod status;
mod transport;
mod tunnel;
mod why;
mod workloads;

pub use client::{Client, ClientConfig, ClientError, EventStream};
pub use console::ConsoleLink;
pub use contract::{AgentInfo, CityInfo, ControlInfo, DevInfo, DevSite, SCHEMA, Token};
pub use logs::{
    LogAccess, LogAccessError, LogCursor, LogEvent, LogFilter, LogGap, LogLevel, LogPush,
    LogRecord, LogSource, MAX_LOG_LIMIT, StatusRange,
};
pub use operations::OperationRow;
pub use plan::{PlanAnswer, PlanRequest, PlannedApp, WantedApp};
pub use problem::{PROBLEM_JSON, Problem, ProblemKind};
pub use push::{PushEvent, RollbackRequest, SiteProgress};
pub use status::{
    AppSite, AppSiteState, AppStatus, AppSummary, ControlStatus, FailedPush, LiveRelease,
    ReleaseRow, SiteHealth, SiteRow, StageTiming, Status, Version,
};
pub use transport::trust;
pub use tunnel::{
    MAX_TUNNEL_LINE, TUNNEL_VERSION, TunnelHello, TunnelProof, TunnelQuestion, TunnelWelcome,
};
pub use why::{HostWhy, Why};
pub use workloads::{WorkloadRow, WorkloadState, Workloads};

/// Media type of a stream of events: one JSON object a line. Empty lines keep the connection alive
/// and carry nothing.
pub const NDJSON: &str = "application/x-ndjson";
