//! Keeps the zones: one for the installation's own names, and one for each host outside of it, so
//! that whoever delegates such a host to our name servers gets the same steering.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use selvedge_fabric::{Expect, SharedFabric, Typed};
use selvedge_model::geo::DistanceModel;
use selvedge_model::{Activation, AppName, EnvironmentName, Generation, Host, SiteId, Zone, keys};
use selvedge_plan::dns::{self, Location, Settings};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{DriverError, Reconciler, written};
use crate::steering::{SETTLE, TTL_S};
use crate::world::World;

/// TTL of "no such name": short, since the next push may create it.
const NEGATIVE_TTL_S: u32 = 5;
/// Sites in an answer: a second one for clients that retry by themselves.
const ANSWERS: u8 = 2;
/// Name servers of a zone.
const NAMESERVERS: usize = 4;

/// The driver of [`selvedge_plan::dns`].
pub(crate) struct Names {
    fabric: SharedFabric,
    /// Until when absent leases say nothing; `None` once every site has had one.
    settles_at: Option<Instant>,
}

impl Names {
    pub(crate) fn new(fabric: SharedFabric) -> Self {
        Self { fabric, settles_at: Some(Instant::now() + SETTLE) }
    }

    /// How long the zones are still to be left as they are.
    fn unsettled(&mut self, world: &World) -> Option<Duration> {
        let rest = self.settles_at?.saturating_duration_since(Instant::now());
        let all_leased = world.topology.sites.keys().all(|site| world.leases.contains_key(site));
        if all_leased || rest.is_zero() {
            self.settles_at = None;
        }
        // Where there are no zones there is nothing to lose.
        self.settles_at.filter(|_| !world.zones.is_empty()).map(|_| rest)
    }
}

impl Reconciler for Names {
    const NAME: &'static str = "names";
    /// A release goes live at many sites within moments: one zone for all of them.
    const DEBOUNCE: Duration = Duration::from_millis(40);

    async fn reconcile(
        &mut self,
        world: &mut watch::Receiver<World>,
    ) -> Result<Option<Duration>, DriverError> {
        let (changed, gone) = {
            let world = world.borrow_and_update();
            if let Some(rest) = self.unsettled(&world) {
                return Ok(Some(rest));
            }
            plan(&world)
        };
        for (zone, expect) in changed {
            let key = keys::zone(&zone.origin);
            if written(Typed(&*self.fabric).put(&key, &zone, expect).await)? {
                tracing::debug!(origin = %zone.origin, serial = zone.serial, "wrote a zone");
            }
        }
        for (origin, expect) in gone {
            written(self.fabric.delete(&keys::zone(&origin), expect).await)?;
        }
        Ok(None)
    }
}

type Changed = Vec<(Zone, Expect)>;
type Gone = Vec<(Host, Expect)>;

/// Zones to write and zones to delete.
fn plan(world: &World) -> (Changed, Gone) {
    let Some(installation) = &world.installation else { return (Vec::new(), Vec::new()) };
    let leased = leased(world);
    let locations = if installation.in_a_box { Location::cities() } else { Vec::new() };
    let origins = origins(world, &installation.zone);
    let mut changed = Vec::new();
    for origin in &origins {
        let (zone, report) = plan_zone(world, &leased, &locations, origin);
        if report.changed {
            let previous = world.zones.get(origin);
            let expect = previous.map_or(Expect::Absent, |(seen, _)| Expect::Generation(*seen));
            changed.push((zone, expect));
        }
    }
    let gone = world
        .zones
        .iter()
        .filter(|(origin, _)| !origins.contains(*origin))
        .map(|(origin, (seen, _))| (origin.clone(), Expect::Generation(*seen)))
        .collect();
    (changed, gone)
}

/// Why each host of the installation is answered as it is.
pub(crate) fn explain(world: &World) -> BTreeMap<Host, dns::HostReport> {
    let Some(installation) = &world.installation else { return BTreeMap::new() };
    let leased = leased(world);
    origins(world, &installation.zone)
        .iter()
        .flat_map(|origin| plan_zone(world, &leased, &[], origin).1.hosts)
        .collect()
}

fn plan_zone(
    world: &World,
    leased: &BTreeSet<SiteId>,
    locations: &[Location],
    origin: &Host,
) -> (Zone, dns::Report) {
    let settings = Settings {
        nameservers: dns::nameservers(origin, &world.topology, NAMESERVERS),
        ttl_s: TTL_S,
        negative_ttl_s: NEGATIVE_TTL_S,
        answers: ANSWERS,
    };
    dns::plan(&dns::Input {
        origin,
        topology: &world.topology,
        leased,
        site_reports: &world.site_reports,
        apps: apps(world),
        locations,
        round_trips: &DistanceModel,
        settings: &settings,
        previous: world.zones.get(origin).map(|(_, zone)| zone),
    })
}

fn leased(world: &World) -> BTreeSet<SiteId> {
    world.leases.keys().cloned().collect()
}

/// The apps that users see something of. A host that passes from one app to another is for a moment
/// with both; it is the newer activation's, as it is at the sites.
fn apps(world: &World) -> Vec<dns::App<'_>> {
    let mut owners: BTreeMap<Host, (Option<&Generation>, &(AppName, EnvironmentName))> =
        BTreeMap::new();
    for (key, activation) in &world.activations {
        let since = world.activated.get(key);
        for host in hosts(world, activation) {
            let owner = owners.entry(host).or_insert((since, key));
            if since > owner.0 {
                *owner = (since, key);
            }
        }
    }
    let mut owned: BTreeMap<&(AppName, EnvironmentName), BTreeSet<Host>> = BTreeMap::new();
    for (host, (_, key)) in owners {
        owned.entry(key).or_default().insert(host);
    }
    world
        .activations
        .iter()
        .map(|(key @ (app, environment), activation)| dns::App {
            app,
            environment,
            hosts: owned.remove(key).unwrap_or_default(),
            activation: Some(activation),
            assigned: world
                .assignments_of(app, environment)
                .map(|(site, assignment)| {
                    (site.clone(), assignment.entries.iter().map(|entry| entry.epoch).collect())
                })
                .collect(),
            reports: world
                .app_reports
                .iter()
                .filter(|((_, of, env), _)| of == app && env == environment)
                .map(|((site, _, _), report)| (site.clone(), report))
                .collect(),
        })
        .collect()
}

/// The hosts of everything that an activation shows.
fn hosts(world: &World, activation: &Activation) -> BTreeSet<Host> {
    activation
        .entries
        .iter()
        .flat_map(|entry| &entry.releases)
        .filter_map(|(app, release)| world.release(app, release))
        .flat_map(|release| world.hosts_of(release))
        .collect()
}

/// The apexes to be authoritative for.
fn origins(world: &World, own: &Host) -> BTreeSet<Host> {
    let mut origins: BTreeSet<Host> = world
        .activations
        .values()
        .flat_map(|activation| hosts(world, activation))
        .filter(|host| !host.is_in(own) && !host.is_local())
        .collect();
    // Of two hosts of which one is below the other, one zone has both.
    let all = origins.clone();
    origins.retain(|host| !all.iter().any(|other| other != host && host.is_in(other)));
    origins.insert(own.clone());
    origins
}
