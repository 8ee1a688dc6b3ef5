//! From what is to be run to what a shim is told.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use crate::cgroup::{self, Controller, Group, Hierarchies};
use crate::disk::{Free, Usage, Watch};
use crate::egress::{self, Egress, Policy, Upstreams};
use crate::environment::{self, PassedOn, Places};
use crate::guard::Guard;
use crate::limits::{Limits, mib};
use crate::link::Shim;
use crate::output::Lines;
use crate::protocol::{self, AppAccess, Isolation, Launch, WORKLOAD_PORT};
use crate::tenant::{self, Tenants};
use crate::{Config, RuntimeError, credentials, degraded, probe, task, tree};

/// Open files of one process.
const MAX_FILES: u64 = 16_384;
/// Processes and threads of one tenant, where a group limits those of each sandbox.
const MAX_PROCESSES: u64 = 16_384;
/// The same where no group does, or each of them has the whole memory limit. A build with npm or
/// pip has some 60 threads, a Node.js workload a dozen, of which a tenant may have several.
pub(crate) const MAX_PROCESSES_WITHOUT_GROUP: u64 = 256;
/// The shares of processor time where more is wanted than there is: a task has a fifth of what
/// a workload has, and that half of what the group has in which sites serve requests.
const TASK_WEIGHT: u32 = 10;
const WORKLOAD_WEIGHT: u32 = 50;
/// How far tasks yield where there is no group for that.
const TASK_NICE: i32 = 10;

/// What this machine can do, found once.
#[derive(Debug)]
pub(crate) struct Machine {
    config: Config,
    ability: Ability,
    hierarchies: Option<Hierarchies>,
    tenants: Tenants,
    passed_on: PassedOn,
    /// The proxies that the machine itself goes through, for programs that share its network.
    proxies: BTreeMap<String, String>,
    egress: Arc<Egress>,
    /// Where shims mount the roots of sandboxes.
    mount_point: PathBuf,
}

/// How programs are isolated here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ability {
    /// As users of their own.
    Users,
    /// As this user, in a user namespace.
    UserNamespace,
    /// They can't be, for this reason.
    None(String),
}

/// What tasks and workloads have in common.
pub(crate) struct Program<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) app: &'a Path,
    pub(crate) cache: Option<&'a Path>,
    pub(crate) command: &'a str,
    pub(crate) environment: &'a BTreeMap<String, String>,
    pub(crate) limits: Limits,
    pub(crate) network: bool,
}

/// A program in its sandbox. Dropping it ends the program.
pub(crate) struct Running {
    pub(crate) shim: Shim,
    pub(crate) guard: Guard,
    _egress: Option<AbortOnDropHandle<io::Result<()>>>,
}

impl Machine {
    pub(crate) fn new(config: Config) -> Result<Self, RuntimeError> {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let mount_point = config.state.join("root");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&mount_point).map_err(
            |error| RuntimeError::Setup(format!("can't make {}: {error}", mount_point.display())),
        )?;
        let mount_point = mount_point.canonicalize().map_err(|error| {
            RuntimeError::Setup(format!("can't find {}: {error}", mount_point.display()))
        })?;
        let (ability, hierarchies) =
            probe::find(&config.executable, &mount_point, Hierarchies::find());
        if let Some(hierarchies) = &hierarchies {
            tracing::debug!(versions = hierarchies.versions(), "control groups");
        }
        let egress = Egress {
            policy: Policy { allow: config.egress_allow.clone() },
            upstreams: Upstreams::from(&environment),
        };
        let passed_on = PassedOn::from(environment.clone().into_iter());
        let variables = passed_on.withheld().iter().map(String::as_str);
        for name in variables.chain(credentials::withheld_files()) {
            tracing::warn!(name, "not shown to builds and workloads: it holds a credential");
        }
        let is_proxy = |name: &str| name.to_ascii_lowercase().ends_with("_proxy");
        let proxies = environment.iter().filter(|(name, _)| is_proxy(name));
        Ok(Self {
            ability,
            hierarchies,
            tenants: Tenants::new(config.tenants.clone()),
            proxies: proxies.map(|(name, value)| (name.clone(), value.clone())).collect(),
            passed_on,
            egress: Arc::new(egress),
            mount_point,
            config,
        })
    }

    pub(crate) fn no_sandbox(&self) -> Option<&str> {
        match &self.ability {
            Ability::None(reason) => Some(reason),
            Ability::Users | Ability::UserNamespace => None,
        }
    }

    pub(crate) fn degraded(&self) -> Vec<String> {
        if self.no_sandbox().is_some() {
            return Vec::new();
        }
        degraded::words(&self.missing(), crate::shim::filters_calls())
    }

    /// The controllers that can't be had.
    fn missing(&self) -> Vec<Controller> {
        self.hierarchies.as_ref().map_or(Controller::ALL.to_vec(), Hierarchies::missing)
    }

    /// Which version of control groups has each controller, in words.
    pub(crate) fn control_groups(&self) -> Option<String> {
        self.hierarchies.as_ref().map(Hierarchies::versions)
    }

    /// Starts a task: its checkout and cache are given to the tenant's user first.
    pub(crate) async fn start_task(
        self: &Arc<Self>,
        program: Program<'_>,
    ) -> Result<(Running, Lines), RuntimeError> {
        let isolation = self.isolation(program.tenant).await?;
        let app = canonical(program.app)?;
        let cache = match program.cache {
            None => None,
            Some(cache) => {
                fs::create_dir_all(cache).map_err(|error| {
                    RuntimeError::Setup(format!("can't make {}: {error}", cache.display()))
                })?;
                Some(canonical(cache)?)
            }
        };
        if let Isolation::User(id) = isolation {
            let (app, cache) = (app.clone(), cache.clone());
            blocking(move || {
                tenant::give(&app, id)?;
                cache.map_or(Ok(()), |cache| tenant::give_once(&cache, id))
            })
            .await
            .map_err(|error| {
                RuntimeError::Setup(format!(
                    "can't give {} to the task's user: {error}",
                    program.app.display()
                ))
            })?;
        }
        let disk = self.watch(&program.limits, &app, cache.as_deref()).await?;
        let mut launch = self.launch(&program, isolation, AppAccess::Write, app, cache, 0);
        launch.limits.file_bytes = Some(program.limits.disk_bytes());
        launch.limits.temporary_mib = task::temporary_mib(&program.limits);
        if !self.has(Controller::Cpu) {
            launch.limits.nice = TASK_NICE;
        }
        let (shim, lines) = self.run(launch, &program.limits, TASK_WEIGHT).await?;
        let guard = Guard::new(program.limits, shim.counters(), lines.counter(), Some(disk));
        Ok((self.running(shim, guard), lines))
    }

    /// Looks at what a task finds on disk. A cache that fills most of what the task may have is
    /// emptied: it holds nothing that can't be had again.
    async fn watch(
        &self,
        limits: &Limits,
        app: &Path,
        cache: Option<&Path>,
    ) -> Result<Watch, RuntimeError> {
        let (limits, reserve) = (*limits, self.config.reserve);
        let app = app.to_owned();
        let cache = cache.map(Path::to_owned);
        let begun = blocking(move || {
            if let Some(excess) = Free::of(&app)?.short_of(&reserve) {
                return Ok(Err(excess));
            }
            if let Some(cache) = &cache {
                let half = Usage { bytes: limits.disk_bytes() / 2, files: limits.files() / 2 };
                let used = Usage::of(std::slice::from_ref(cache), &half);
                if used.exceeds(&half) {
                    tracing::info!(cache = %cache.display(), "emptied: it has grown too large");
                    tree::empty(cache).map_err(|error| {
                        let words = format!("can't empty the cache {}", cache.display());
                        io::Error::new(error.kind(), format!("{words}: {error}"))
                    })?;
                }
            }
            Watch::new(std::iter::once(app).chain(cache).collect(), limits, reserve).map(Ok)
        })
        .await
        .map_err(|error| RuntimeError::Setup(format!("can't look at the disk: {error}")))?;
        begun.map_err(RuntimeError::NoRoom)
    }

    fn has(&self, controller: Controller) -> bool {
        self.hierarchies.as_ref().is_some_and(|found| found.has(controller))
    }

    /// Starts a workload, which finds its port in `$PORT`.
    pub(crate) async fn start_workload(
        self: &Arc<Self>,
        program: Program<'_>,
    ) -> Result<(Running, Lines), RuntimeError> {
        let isolation = self.isolation(program.tenant).await?;
        let app = canonical(program.app)?;
        let port = if isolation == Isolation::None {
            free_port().map_err(|error| {
                RuntimeError::Setup(format!("no free port for the program: {error}"))
            })?
        } else {
            WORKLOAD_PORT
        };
        let mut launch = self.launch(&program, isolation, AppAccess::Overlay, app, None, port);
        launch.environment.insert("PORT".into(), port.to_string());
        let (shim, lines) = self.run(launch, &program.limits, WORKLOAD_WEIGHT).await?;
        let guard = Guard::new(program.limits, shim.counters(), lines.counter(), None);
        Ok((self.running(shim, guard), lines))
    }

    async fn isolation(&self, tenant: &str) -> Result<Isolation, RuntimeError> {
        match &self.ability {
            Ability::Users => {
                let (tenants, tenant) = (self.tenants.clone(), tenant.to_owned());
                let id = blocking(move || tenants.id(&tenant)).await.map_err(|error| {
                    RuntimeError::Setup(format!("no user id for the tenant: {error}"))
                })?;
                Ok(Isolation::User(id))
            }
            Ability::UserNamespace => Ok(Isolation::UserNamespace),
            Ability::None(_) if self.config.allow_unsafe => Ok(Isolation::None),
            Ability::None(reason) => Err(RuntimeError::NoSandbox(reason.clone())),
        }
    }

    fn launch(
        &self,
        program: &Program<'_>,
        isolation: Isolation,
        app_access: AppAccess,
        app: PathBuf,
        cache: Option<PathBuf>,
        port: u16,
    ) -> Launch {
        let confined = isolation != Isolation::None;
        let egress = program.network && confined;
        let inside = Path::new("/cache");
        let cache_seen = cache.as_deref().map(|cache| if confined { inside } else { cache });
        let places = Places { cache: cache_seen, temporary: Path::new("/tmp") };
        let mut environment =
            environment::compose(&self.passed_on, &places, egress, program.environment);
        if !confined {
            for (name, value) in &self.proxies {
                environment.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        let limits = &program.limits;
        let processes = u64::from(limits.processes);
        Launch {
            isolation,
            command: program.command.to_owned(),
            environment,
            app,
            app_access,
            cache,
            hidden: self.hidden(),
            files: self.passed_on.files(),
            mount_point: self.mount_point.clone(),
            cgroups: Vec::new(),
            limits: protocol::Limits {
                data_bytes: (!self.has(Controller::Memory)).then_some(mib(limits.memory_mib)),
                processes: match (self.has(Controller::Processes), self.has(Controller::Memory)) {
                    (true, true) => MAX_PROCESSES,
                    (_, false) => processes.min(MAX_PROCESSES_WITHOUT_GROUP),
                    (false, true) => processes,
                },
                files: MAX_FILES,
                file_bytes: None,
                nice: 0,
                temporary_mib: limits.disk_mib,
                temporary_files: limits.files(),
            },
            egress,
            port,
        }
    }

    async fn run(
        &self,
        mut launch: Launch,
        limits: &Limits,
        cpu_weight: u32,
    ) -> Result<(Shim, Lines), RuntimeError> {
        let limits = cgroup::Limits {
            memory_mib: limits.memory_mib,
            processes: limits.processes,
            cpu_millis: limits.cpu_millis,
            cpu_weight,
        };
        let group = self.hierarchies.as_ref().map(|hierarchies| hierarchies.make(&limits));
        let group = group.transpose().map_err(|error| {
            RuntimeError::Setup(format!("no control group for the limits: {error}"))
        })?;
        launch.cgroups = group.as_ref().map(Group::joins).unwrap_or_default();
        let (shim, output) = Shim::start(&self.config.executable, &launch, group).await?;
        Ok((shim, Lines::new(output)))
    }

    fn running(&self, mut shim: Shim, guard: Guard) -> Running {
        let egress = shim.take_egress().map(|listener| {
            let serving = egress::serve(listener, Arc::clone(&self.egress));
            AbortOnDropHandle::new(tokio::spawn(serving))
        });
        Running { shim, guard, _egress: egress }
    }

    /// The hidden directories that exist, by their real names. The runtime's own state and its
    /// table of tenants are among them.
    fn hidden(&self) -> Vec<PathBuf> {
        self.config
            .hidden
            .iter()
            .map(PathBuf::as_path)
            .chain([self.config.state.as_path()])
            .chain(self.config.tenants.parent())
            .filter_map(|path| path.canonicalize().ok())
            .collect()
    }
}

impl Running {
    /// Ends everything, and returns when it has.
    pub(crate) async fn close(self) {
        self.shim.close().await;
    }
}

fn canonical(path: &Path) -> Result<PathBuf, RuntimeError> {
    let found = path.canonicalize();
    found.map_err(|error| RuntimeError::Setup(format!("can't find {}: {error}", path.display())))
}

/// Without a network namespace, a port that nobody has now.
fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
