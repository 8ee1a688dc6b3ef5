//! The files by which tools and tests find what runs. Each has mode 0600, is written atomically
//! when the process is ready, and is removed at its end.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use selvedge_model::id::ProviderName;
use selvedge_model::{Host, SiteId};
use serde::{Deserialize, Serialize};

/// The version of the files' form.
pub const SCHEMA: u32 = 1;

/// A secret that gives the right to do everything. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// `DIR/dev.json`: a planet in a box.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DevInfo {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The supervisor's process id.
    pub pid: u32,
    /// URL of the control API, without a slash at the end.
    pub control: String,
    /// URL base of git: a remote is `GIT/REPOSITORY.git`.
    pub git: String,
    /// The operator's token.
    pub token: Token,
    /// A DNS server for all hosts of the box.
    pub dns: SocketAddr,
    /// Where apps that name no host are served: `APP.ZONE`.
    pub zone: Host,
    /// The certificate authority's certificate, PEM.
    pub ca: PathBuf,
    /// URL of the console: signed out, it says how to get a link.
    pub console: String,
    /// The control process's id.
    pub control_pid: u32,
    /// Cities that `--from` knows.
    pub cities: Vec<CityInfo>,
    /// The sites.
    pub sites: Vec<DevSite>,
}

/// A city whose clients can be played.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CityInfo {
    /// English name.
    pub name: String,
    /// Its clients' subnet.
    pub subnet: Ipv4Net,
    /// Latitude in degrees.
    pub lat: f64,
    /// Longitude in degrees.
    pub lon: f64,
}

/// A site of the box.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DevSite {
    /// Its id.
    pub id: SiteId,
    /// The city, for people.
    pub city: String,
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// Latitude in degrees.
    pub lat: f64,
    /// Longitude in degrees.
    pub lon: f64,
    /// Whose machines these are said to be.
    pub provider: ProviderName,
    /// Its loopback address.
    pub address: IpAddr,
    /// TCP port of plain HTTP.
    pub http: u16,
    /// TCP port of HTTPS.
    pub https: u16,
    /// URL of the agent's own endpoint for machines.
    pub admin: String,
    /// The agent's socket to purge and look at the cache by. Empty where a version that
    /// had none started the box.
    #[serde(default)]
    pub admin_socket: PathBuf,
    /// The agent's process id.
    pub pid: u32,
}

/// `DIR/control.json`: a control process run alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlInfo {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The process id.
    pub pid: u32,
    /// URL of the control API, without a slash at the end.
    pub control: String,
    /// URL base of git.
    pub git: String,
    /// URL of the console.
    pub console: String,
    /// The operator's token.
    pub token: Token,
    /// Where apps that name no host are served.
    pub zone: Host,
    /// The certificate authority's certificate, PEM.
    pub ca: PathBuf,
    /// The fabric's socket, for agents of the same machine.
    pub fabric: PathBuf,
}

/// `DIR/agent.json`: an agent run alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The process id.
    pub pid: u32,
    /// The site.
    pub site: SiteId,
    /// Plain HTTP.
    pub http: SocketAddr,
    /// HTTPS.
    pub https: SocketAddr,
    /// DNS.
    pub dns: SocketAddr,
    /// URL of the agent's own endpoint for machines.
    pub admin: String,
    /// The agent's socket to purge and look at the cache by.
    pub admin_socket: PathBuf,
}
