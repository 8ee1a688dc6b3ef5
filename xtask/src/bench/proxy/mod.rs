//! `cargo xtask bench proxy`: `selvedge proxy` beside nginx, HAProxy, Varnish, Caddy, Apache Traffic
//! Server and Envoy.
//!
//! Every proxy has one core, and the load and the origin have another. What counts is the CPU time
//! of the proxy's processes for each request answered: it holds on a machine that does other
//! things too, and requests per second do not. The proxies take turns in each round, so that
//! noise hits all alike, and medians are compared. `docs/benchmarks.md` says more.

mod case;
mod certificate;
mod check;
mod children;
mod client;
mod load;
mod measure;
mod origin;
mod peers;
mod processes;
mod report;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::Args;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

use case::Case;
use certificate::Certificate;
use children::Children;
use measure::Bench;
use origin::Origin;
use peers::{Peer, Tools};
use report::{Cell, Machine, Report, Row, Unit};
use server::{Ground, Server};

const LOAD_CORE: usize = 0;
const SERVER_CORE: usize = 1;
/// Files that are open beside those of the connections of an idle case.
const SPARE_FILES: u64 = 4096;
/// The cache of a proxy where the case does not need more.
const CACHE_MIB: u64 = 512;
/// Connections and objects do not vary like times do.
const MEMORY_RUNS: usize = 3;

#[derive(Args)]
pub(crate) struct Proxy {
    /// The binary to measure; `make bench-proxy` builds it.
    #[arg(long, default_value = "target/release/selvedge", value_name = "FILE")]
    binary: PathBuf,
    /// A case, or the beginning of cases' names, such as `hit-1k`; can be given again. [default: all]
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// A proxy to measure; can be given again. [default: all]
    #[arg(long = "peer", value_enum, value_name = "NAME")]
    peers: Vec<Peer>,
    /// How many runs each proxy has, in turn with the others.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// How long a run takes.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Objects in the case with many.
    #[arg(long, default_value_t = 1_000_000)]
    objects: u64,
    /// Connections in the idle cases.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Three runs of one second, and a tenth of the objects and connections: to see that it works.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object in place of the tables.
    #[arg(long)]
    json: bool,
    /// Where the JSON object is stored, after every case.
    #[arg(long, default_value = "target/bench-proxy.json", value_name = "FILE")]
    out: PathBuf,
    /// Also put the results into docs/benchmarks.md and docs/benchmarks.json.
    #[arg(long)]
    docs: bool,
    /// List the cases, and measure nothing.
    #[arg(long)]
    list: bool,
    /// Measure what is installed, and install nothing.
    #[arg(long)]
    no_install: bool,
}

impl Proxy {
    fn chosen(&self) -> anyhow::Result<(Vec<Case>, Vec<Peer>)> {
        let mut cases = Vec::new();
        for name in &self.cases {
            let found = Case::named(name);
            ensure!(!found.is_empty(), "there is no case {name}; --list shows them");
            cases
                .extend(found.into_iter().filter(|case| !cases.contains(case)).collect::<Vec<_>>());
        }
        if self.cases.is_empty() {
            cases = Case::all();
        }
        let mut peers = self.peers.clone();
        peers.sort_unstable();
        peers.dedup();
        if peers.is_empty() {
            peers = Peer::ALL.to_vec();
        }
        Ok((cases, peers))
    }

    fn runs(&self) -> usize {
        if self.quick { 3 } else { self.runs }
    }

    fn seconds(&self) -> u64 {
        if self.quick { 1 } else { self.seconds }
    }
}

/// Measures, stores after every case, prints; fails when a proxy failed where it should not.
pub(crate) fn proxy(root: &Path, options: &Proxy) -> anyhow::Result<()> {
    let (cases, peers) = options.chosen()?;
    if options.list {
        cases.iter().for_each(|case| println!("{case:<20}{}", case.title()));
        return Ok(());
    }
    ensure!(options.runs > 0 && options.seconds > 0, "--runs and --seconds are at least 1");
    let children = Children::new()?;
    prepare(root, options)?;
    let tools = Tools {
        selvedge: std::path::absolute(&options.binary)?,
        envoy: root.join("target/bench-peers/envoy/_bin/envoy"),
    };
    let directory = memory_directory()?;
    let certificate = Certificate::create(directory.path())?;
    let origin = Origin::start(&case::sizes())?;
    let tenth = if options.quick { 10 } else { 1 };
    let bench = Bench {
        ground: Ground {
            tools: &tools,
            children: &children,
            certificate: &certificate,
            origin: origin.port(),
            directory: directory.path(),
        },
        origin: &origin,
        seconds: options.seconds(),
        objects: options.objects / u64::try_from(tenth)?,
        connections: options.connections / tenth,
    };
    let mut report = begin(options, &tools, &peers)?;
    let mut failed = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        children.check()?;
        eprintln!("{}/{} {case}", number + 1, cases.len());
        report.rows.extend(measure(&bench, *case, &peers, options.runs(), &mut failed)?);
        keep(root, options, &report)?;
    }
    children.check()?;
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.tables());
    }
    ensure!(failed.is_empty(), "these have no result:\n{}", failed.join("\n"));
    Ok(())
}

/// Installs the peers, binds this process to the load's core, and raises its limits.
fn prepare(root: &Path, options: &Proxy) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores > SERVER_CORE, "this takes two cores: one for the load, one for the proxy");
    if !options.no_install {
        let script = root.join("scripts/install-bench-peers.sh");
        let status = Command::new(&script).status().context("can't install the peers")?;
        ensure!(status.success(), "{} failed", script.display());
    }
    let mut cores = CpuSet::new();
    cores.set(LOAD_CORE)?;
    sched_setaffinity(Pid::from_raw(0), &cores).context("can't bind to a core")?;
    let want = u64::try_from(options.connections)? + SPARE_FILES;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Only root may go beyond the hard limit.
    if hard < want && setrlimit(Resource::RLIMIT_NOFILE, want, want).is_err() {
        eprintln!("only {hard} files may be open, and the idle cases take {want}");
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("can't raise the limit of files")
}

fn memory_directory() -> anyhow::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    Ok(tempfile::Builder::new().prefix("selvedge-bench-").tempdir_in(place)?)
}

fn begin(options: &Proxy, tools: &Tools, peers: &[Peer]) -> anyhow::Result<Report> {
    let mut versions = BTreeMap::new();
    for peer in peers {
        versions.insert(peer.name().to_owned(), peer.version(tools)?);
    }
    for (program, argument) in [("wrk", "-v"), ("h2load", "--version")] {
        let version = peers::version_of(&peers::found(program), argument)?;
        versions.insert(program.to_owned(), version);
    }
    Ok(Report {
        machine: machine()?,
        versions,
        began: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        runs: options.runs(),
        seconds: options.seconds(),
        peers: peers.iter().map(|peer| peer.name().to_owned()).collect(),
        rows: Vec::new(),
    })
}

fn machine() -> anyhow::Result<Machine> {
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kib = field(&memory, "MemTotal").context("/proc/meminfo has no MemTotal")?;
    let kib: u64 = kib.trim_end_matches("kB").trim().parse()?;
    Ok(Machine {
        cpu: field(&cpu, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: cpu.lines().filter(|line| line.starts_with("processor")).count(),
        memory_mib: kib / 1024,
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
    })
}

fn store(report: &Report, file: &Path) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    std::fs::write(file, text + "\n").with_context(|| format!("can't write {}", file.display()))
}

/// After every case, so that an interrupt costs no more than one.
fn keep(root: &Path, options: &Proxy, report: &Report) -> anyhow::Result<()> {
    store(report, &options.out)?;
    if options.docs {
        report.put_into(&root.join("docs/benchmarks.md"))?;
        store(report, &root.join("docs/benchmarks.json"))?;
    }
    Ok(())
}

/// The rows of one case. Interrupts are errors; what goes wrong at one proxy is said in its cell.
fn measure(
    bench: &Bench<'_>,
    case: Case,
    peers: &[Peer],
    runs: usize,
    failed: &mut Vec<String>,
) -> anyhow::Result<Vec<Row>> {
    let load_average = std::fs::read_to_string("/proc/loadavg")?;
    let load_average = load_average.split(' ').next().unwrap_or_default().parse()?;
    let row = |name: String, title: String, unit| Row {
        case: name,
        title,
        unit,
        load_average,
        cells: BTreeMap::new(),
    };
    let (name, title) = (case.to_string(), case.title());
    let mut rows = match case {
        Case::Objects => vec![
            row("objects-memory".to_owned(), title, Unit::Bytes),
            row("objects-hit".to_owned(), "one of many objects".to_owned(), Unit::CpuMicros),
        ],
        Case::Idle { .. } => vec![row(name, title, Unit::Bytes)],
        Case::Collapse => vec![row(name, title, Unit::UpstreamRequests)],
        _ => vec![row(name, title, Unit::CpuMicros)],
    };
    let (able, unable): (Vec<Peer>, _) = peers.iter().partition(|peer| peer.lacks(case).is_none());
    for peer in unable {
        let cell = Cell::lacking(peer.lacks(case).unwrap_or_default());
        rows.iter_mut()
            .for_each(|row| drop(row.cells.insert(peer.name().to_owned(), cell.clone())));
    }
    let mut cells = match case {
        Case::Objects => with_many_objects(bench, case, &able, runs)?,
        Case::Idle { encrypted } => vec![idle(bench, case, &able, runs, encrypted)?],
        _ => vec![in_turn(bench, case, &able, runs)?],
    };
    for (row, cells) in rows.iter_mut().zip(&mut cells) {
        for (peer, cell) in std::mem::take(cells) {
            if let Some(reason) = &cell.reason {
                failed.push(format!("{}, {}: {reason}", peer, row.case));
            }
            row.cells.insert(peer, cell);
        }
    }
    Ok(rows)
}

type Cells = BTreeMap<String, Cell>;

/// Every proxy runs, and each is measured in every round.
fn in_turn(bench: &Bench<'_>, case: Case, peers: &[Peer], runs: usize) -> anyhow::Result<Cells> {
    let mut cells = Cells::new();
    let mut servers = Vec::new();
    for peer in peers {
        let started = start(bench, case, *peer, CACHE_MIB).and_then(|server| {
            if case != Case::Collapse {
                bench.check(case, &server)?;
            }
            Ok(server)
        });
        match started {
            Ok(server) => servers.push(server),
            Err(error) => give_up(bench, &mut cells, *peer, &error)?,
        }
    }
    for run in 1..=runs {
        for server in &servers {
            let sample = match case {
                Case::Collapse => bench.collapse(server, run),
                _ => bench.requests(case, server),
            };
            note(bench, &mut cells, server.peer(), run, sample)?;
        }
    }
    Ok(judged(cells))
}

/// Each run has a new proxy, so that its memory holds nothing of the run before.
fn idle(
    bench: &Bench<'_>,
    case: Case,
    peers: &[Peer],
    runs: usize,
    encrypted: bool,
) -> anyhow::Result<Cells> {
    let mut cells = Cells::new();
    for run in 1..=runs.min(MEMORY_RUNS) {
        for peer in peers {
            let sample = start(bench, case, *peer, CACHE_MIB)
                .and_then(|server| bench.idle(&server, encrypted));
            note(bench, &mut cells, *peer, run, sample)?;
        }
    }
    Ok(judged(cells))
}

/// One proxy after the other: all caches at once would not fit into many a memory.
fn with_many_objects(
    bench: &Bench<'_>,
    case: Case,
    peers: &[Peer],
    runs: usize,
) -> anyhow::Result<Vec<Cells>> {
    let (mut memory, mut hits) = (Cells::new(), Cells::new());
    for peer in peers {
        let filled = start(bench, case, *peer, peer.cache_for(bench.objects)).and_then(|server| {
            let share = bench.fill(&server)?;
            Ok((server, share))
        });
        let server = match filled {
            Ok((server, share)) => {
                note(bench, &mut memory, *peer, 1, Ok(share))?;
                server
            }
            Err(error) => {
                give_up(bench, &mut memory, *peer, &error)?;
                give_up(bench, &mut hits, *peer, &error)?;
                continue;
            }
        };
        for run in 1..=runs {
            note(bench, &mut hits, *peer, run, bench.objects(&server))?;
        }
    }
    Ok(vec![judged(memory), judged(hits)])
}

fn start(bench: &Bench<'_>, case: Case, peer: Peer, cache_mib: u64) -> anyhow::Result<Server> {
    Server::start(peer, &bench.ground, case.is_encrypted(), cache_mib)
}

fn give_up(
    bench: &Bench<'_>,
    cells: &mut Cells,
    peer: Peer,
    error: &anyhow::Error,
) -> anyhow::Result<()> {
    bench.ground.children.check()?;
    eprintln!("  {}: {error:#}", peer.name());
    cells.insert(peer.name().to_owned(), Cell::lacking(format!("{error:#}")));
    Ok(())
}

fn note(
    bench: &Bench<'_>,
    cells: &mut Cells,
    peer: Peer,
    run: usize,
    sample: anyhow::Result<f64>,
) -> anyhow::Result<()> {
    // After an interrupt, runs fail because of it.
    bench.ground.children.check()?;
    let cell = cells.entry(peer.name().to_owned()).or_default();
    match sample {
        Ok(sample) => {
            eprintln!("  {run} {:<10}{sample:>10.2}", peer.name());
            cell.samples.push(sample);
        }
        Err(error) => {
            eprintln!("  {run} {:<10}thrown away: {error:#}", peer.name());
            cell.thrown.push(format!("run {run}: {error:#}"));
        }
    }
    Ok(())
}

/// A cell whose runs were all thrown away says so.
fn judged(mut cells: Cells) -> Cells {
    for cell in cells.values_mut() {
        if cell.samples.is_empty() && cell.reason.is_none() {
            cell.reason = Some(cell.thrown.pop().unwrap_or_else(|| "no run".to_owned()));
        }
    }
    cells
}
