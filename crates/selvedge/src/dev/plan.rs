//! What the box consists of: sites, addresses, children and their arguments, worked out beforehand.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use selvedge_api::{AgentInfo, CityInfo, ControlInfo, DevInfo, DevSite};
use selvedge_model::geo::{CITIES, City};
use selvedge_model::id::ProviderName;
use selvedge_model::{Site, SiteId, Topology};

use super::child::Spec;
use super::data::TENANTS;
use super::ports::Wanted;
use super::{CONTROL, Options, ports, relay};
use crate::contract;
use crate::failure::{Code, Failure, OrFail as _, Outcome};

/// Names of the box's providers; sites go to them in turn.
const PROVIDERS: [&str; 3] = ["alder", "birch", "cedar"];
/// What each site of the box says that it has for workloads.
const SITE_MEMORY_MIB: u64 = 4_096;

fn check_count(sites: usize) -> Outcome {
    if (1..=CITIES.len()).contains(&sites) {
        return Ok(());
    }
    Err(Failure::new(
        Code::Usage,
        format!("a box has 1 to {} sites, not {sites}", CITIES.len()),
        "give --sites a number in that range",
    ))
}

/// Every listener that a box of `sites` sites would open; `ports` are those of HTTP, HTTPS, DNS
/// and control.
pub(crate) fn wanted_ports(sites: usize, ports: [u16; 4]) -> Outcome<Vec<Wanted>> {
    check_count(sites)?;
    Ok(listeners((0..sites).map(address), ports))
}

fn listeners(sites: impl Iterator<Item = IpAddr>, ports: [u16; 4]) -> Vec<Wanted> {
    let [http, https, dns, control] = ports;
    let mut wanted: Vec<Wanted> = relay::LOOPBACK
        .into_iter()
        .chain(sites)
        .flat_map(|ip| {
            [(http, false, "--http"), (https, false, "--https"), (dns, true, "--dns")]
                .map(|(port, udp, flag)| Wanted { address: SocketAddr::new(ip, port), udp, flag })
        })
        .collect();
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), control);
    wanted.push(Wanted { address, udp: false, flag: "--control" });
    wanted
}

/// The loopback address of a site, by its place among the sites.
fn address(index: usize) -> IpAddr {
    Ipv4Addr::new(127, 0, 1, u8::try_from(index + 1).unwrap_or(u8::MAX)).into()
}

/// The box, planned.
#[derive(Debug, Clone)]
pub(crate) struct BoxPlan {
    options: Options,
    executable: PathBuf,
    sites: Vec<Site>,
}

impl BoxPlan {
    /// Plans the box that `options` ask for.
    pub(crate) fn new(options: &Options) -> Outcome<Self> {
        check_count(options.sites)?;
        let executable = crate::serve::executable()?;
        let mut options = options.clone();
        let addresses: Vec<IpAddr> =
            relay::LOOPBACK.into_iter().chain((0..options.sites).map(address)).collect();
        let Options { http, https, dns, control, .. } = &mut options;
        ports::settle(
            [("--http", http), ("--https", https), ("--dns", dns), ("--control", control)],
            &addresses,
        )?;
        let sites = CITIES
            .iter()
            .take(options.sites)
            .enumerate()
            .map(|(index, city)| site(index, city, &options))
            .collect::<Result<_, _>>()
            .or_fail(Code::Failed, "the box's sites can't be named", "give fewer --sites")?;
        Ok(Self { options, executable, sites })
    }

    /// What was asked for.
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Every listener of the box.
    pub(crate) fn wanted_ports(&self) -> Vec<Wanted> {
        let Options { http, https, dns, control, .. } = self.options;
        listeners(self.site_addresses().into_values(), [http, https, dns, control])
    }

    /// Sites' addresses by the names of the children that serve there.
    pub(crate) fn site_addresses(&self) -> BTreeMap<String, IpAddr> {
        self.sites
            .iter()
            .filter_map(|site| {
                site.addresses.first().map(|address| (site.id.to_string(), *address))
            })
            .collect()
    }

    /// Makes the directories and writes the topology for control.
    pub(crate) fn write(&self) -> Outcome {
        for directory in ["logs", "sites", "artifacts"] {
            contract::private_directory(&self.options.data.join(directory))?;
        }
        let topology = Topology {
            sites: self.sites.iter().map(|site| (site.id.clone(), site.clone())).collect(),
        };
        contract::write(&self.topology_path(), &topology)
    }

    fn topology_path(&self) -> PathBuf {
        self.options.data.join("topology.json")
    }

    /// Where a child's standard error goes.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.options.data.join("logs").join(format!("{name}.log"))
    }

    /// Control, then the agents.
    pub(crate) fn children(&self) -> Vec<Spec> {
        let agents =
            self.sites.iter().map(|site| self.spec(site.id.as_str(), self.agent_arguments(site)));
        std::iter::once(self.spec(CONTROL, self.control_arguments())).chain(agents).collect()
    }

    fn spec(&self, name: &str, mut arguments: Vec<String>) -> Spec {
        if self.options.unsafe_builds {
            arguments.push("--unsafe-builds".into());
        }
        arguments.push(format!("--tenants={}", self.options.data.join(TENANTS).to_string_lossy()));
        Spec {
            name: name.to_owned(),
            executable: self.executable.clone(),
            arguments,
            log: self.log(name),
            restart_after: self.options.restart_after,
        }
    }

    fn control_arguments(&self) -> Vec<String> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        vec![
            "control".into(),
            format!("--data={}", text(self.control_data())),
            format!("--listen=127.0.0.1:{}", self.options.control),
            format!("--zone={}", self.options.zone),
            format!("--topology={}", text(self.topology_path())),
            "--in-a-box".into(),
        ]
    }

    fn agent_arguments(&self, site: &Site) -> Vec<String> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let ip = site.addresses.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into());
        let data = &self.options.data;
        let mut arguments = vec![
            "agent".into(),
            format!("--site={}", site.id),
            format!("--data={}", text(data.join("sites").join(site.id.as_str()))),
            format!("--artifacts={}", text(data.join("artifacts"))),
            format!("--fabric={}", text(self.control_data().join(selvedge_control::FABRIC_SOCKET))),
            format!("--http={}", SocketAddr::new(ip, self.options.http)),
            format!("--https={}", SocketAddr::new(ip, self.options.https)),
            format!("--dns={}", SocketAddr::new(ip, self.options.dns)),
            format!("--hide={}", text(data.clone())),
            format!("--log-mib={}", self.options.log_mib),
            format!("--cache-disk-size={}", self.options.cache_disk_size),
            "--explain".into(),
        ];
        if !self.options.http3 {
            arguments.push("--no-http3".into());
        }
        arguments
    }

    fn control_data(&self) -> PathBuf {
        self.options.data.join(CONTROL)
    }

    /// What tools are told once all children are ready.
    pub(crate) fn info(
        &self,
        control: ControlInfo,
        agents: &BTreeMap<SiteId, AgentInfo>,
    ) -> DevInfo {
        let cities = CITIES.iter().map(|city| CityInfo {
            name: city.name.into(),
            subnet: city.subnet(),
            lat: city.point.lat,
            lon: city.point.lon,
        });
        let sites =
            self.sites.iter().filter_map(|site| Some(dev_site(site, agents.get(&site.id)?)));
        DevInfo {
            schema: selvedge_api::SCHEMA,
            pid: std::process::id(),
            control: control.control,
            git: control.git,
            token: control.token,
            dns: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.options.dns),
            zone: control.zone,
            ca: control.ca,
            console: control.console,
            control_pid: control.pid,
            cities: cities.collect(),
            sites: sites.collect(),
        }
    }
}

fn site(index: usize, city: &City, options: &Options) -> anyhow::Result<Site> {
    let provider = PROVIDERS.iter().cycle().nth(index).copied().unwrap_or_default();
    Ok(Site {
        id: SiteId::new(city.code)?,
        city: city.name.into(),
        country: city.country.into(),
        region: city.region,
        point: city.point,
        provider: ProviderName::new(provider)?,
        addresses: vec![address(index)],
        http_port: options.http,
        https_port: options.https,
        memory_mib: SITE_MEMORY_MIB,
        draining: false,
    })
}

fn dev_site(site: &Site, agent: &AgentInfo) -> DevSite {
    DevSite {
        id: site.id.clone(),
        city: site.city.clone(),
        country: site.country.clone(),
        lat: site.point.lat,
        lon: site.point.lon,
        provider: site.provider.clone(),
        address: agent.http.ip(),
        http: agent.http.port(),
        https: agent.https.port(),
        admin: agent.admin.clone(),
        admin_socket: agent.admin_socket.clone(),
        pid: agent.pid,
    }
}
