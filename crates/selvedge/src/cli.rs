//! The command line's form.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::ArgValueCompleter;
use selvedge_model::{AppName, Host, SiteId};

use crate::verbs::{completions, console, man, remote};

/// One edge out of machines at any provider.
#[derive(Debug, Parser)]
#[command(
    name = "selvedge",
    version,
    subcommand_value_name = "VERB",
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// Print one JSON value instead of text for people; errors too, on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// How to find control. In this order: these flags or their variables, the repository's git remote
/// `selvedge`, a box that runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Finding control")]
pub(crate) struct Connection {
    /// URL of the control API.
    #[arg(long, global = true, env = "SELVEDGE_CONTROL", value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) control_url: Option<String>,
    /// The data directory of the box to use, where several run.
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) data: Option<PathBuf>,
    /// A file that holds the operator's token.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A file with the certificate authority to trust, PEM.
    #[arg(long, global = true, env = "SELVEDGE_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// How much a log may be given: none keeps nothing, and more than a tebibyte is a slip.
fn log_mib() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..=1 << 20)
}

/// None, or as much as a cache on disk needs.
fn disk_size(text: &str) -> Result<u64, String> {
    match selvedge_proxy::standalone::size(text)? {
        bytes @ (0 | 0x400_0000..) => Ok(bytes),
        _ => Err("give it at least 64MiB, or 0 to store nothing on disk".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a planet in a box: control and eight sites on this machine's loopback.
    #[command(after_help = "Examples:
  selvedge dev
  selvedge dev --sites 3 --restart-after never
  selvedge dev --data /tmp/second --http 9080 --https 9443 --dns 9053 --control 9070  # beside another")]
    Dev(Dev),
    /// Start a box, bring the example apps live and show how the world sees them.
    #[command(after_help = "Examples:
  selvedge demo
  selvedge demo --once --json  # for scripts: one report, then it ends")]
    Demo(Demo),
    /// Write selvedge.toml for the project of a directory, and say why it looks so.
    Init(crate::verbs::init::Init),
    /// Check selvedge.toml and what it asks for, without contacting anything.
    #[command(after_help = "Examples:
  selvedge check
  selvedge check shop --json")]
    Check(Check),
    /// Run the HTTP proxy and cache alone, before a server of your own.
    Proxy(crate::verbs::proxy::ProxyArgs),
    /// Print the JSON schema of selvedge.toml, which editors check and complete it by.
    Schema(crate::verbs::schema::Schema),
    /// Show what a push would change: apps, configuration, files, commands, hosts, sites.
    Plan(crate::verbs::plan::Plan),
    /// Push HEAD of this repository and wait until it is live everywhere.
    #[command(after_help = "Examples:
  selvedge deploy
  selvedge deploy --repository shop")]
    Deploy(Deploy),
    /// Show what is live, where, and what is wrong.
    #[command(after_help = "Examples:
  selvedge status
  selvedge status shop --json")]
    Status(AppChoice),
    /// List the apps, or remove one.
    Apps(crate::verbs::apps::Apps),
    /// Show and follow what sites and control have to say: requests, output, pushes, events.
    Logs(crate::verbs::logs::Logs),
    /// List every process that runs, with the last lines of those that are not well.
    #[command(after_help = "Examples:
  selvedge ps
  selvedge ps shop --json")]
    Ps(AppChoice),
    /// Take back what sites have stored: by URL, tag, path, expression, or all of an app.
    Purge(crate::verbs::purge::Purge),
    /// Show operations: what was asked of many nodes at once, and what each has answered.
    Ops(crate::verbs::ops::Ops),
    /// List an app's releases, with the time of each stage of their pushes.
    #[command(after_help = "Examples:
  selvedge releases
  selvedge releases shop")]
    Releases(AppChoice),
    /// Make an earlier release live again, as a commit; nothing is rebuilt.
    #[command(after_help = "Examples:
  selvedge rollback  # to the release before
  selvedge rollback 3f9c1a --app shop")]
    Rollback(Rollback),
    /// Explain where an app runs: which sites, why these, the runner-up, what binds.
    #[command(after_help = "Examples:
  selvedge why
  selvedge why shop")]
    Why(AppChoice),
    /// List the sites.
    #[command(after_help = "Examples:
  selvedge sites
  selvedge sites --json")]
    Sites,
    /// Open the console: a web page that shows all of this, live.
    Console(console::Args),
    /// Fetch a URL as a client in a city would: resolved and routed from there.
    #[command(after_help = "Examples:
  selvedge curl https://shop.edge.test/ --from Tokyo
  selvedge curl https://shop.edge.test/api/cart --include")]
    Curl(Curl),
    /// Look for what is wrong with this machine and the installation on it, with the mend.
    Doctor(crate::verbs::doctor::Doctor),
    /// Run a control process.
    #[command(after_help = "Examples:
  selvedge control --data /var/lib/selvedge --topology sites.json")]
    Control(Control),
    /// Run the agent of one site.
    #[command(after_help = "Examples:
  selvedge agent --site fra --data /var/lib/selvedge-fra --fabric /var/lib/selvedge/fabric.sock")]
    Agent(Agent),
    /// Give this repository the git remote `selvedge`, for plain git with no token typed.
    #[command(after_help = "Examples:
  selvedge remote  # then: git push selvedge HEAD:main")]
    Remote(remote::Remote),
    /// Answer git's question for the token.
    #[command(hide = true)]
    Credential(remote::Credential),
    /// Print a script that lets a shell complete verbs, options, apps, sites and cities.
    #[command(after_help = "Examples:
  selvedge completions bash > ~/.local/share/bash-completion/completions/selvedge
  selvedge completions zsh > ~/.zfunc/_selvedge  # with ~/.zfunc in fpath
  selvedge completions fish > ~/.config/fish/completions/selvedge.fish")]
    Completions(completions::Completions),
    /// Write the manual's pages, one for each verb.
    #[command(after_help = "Examples:
  selvedge man ~/.local/share/man/man1  # then: man selvedge-deploy")]
    Man(man::Man),
}

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Where the box keeps everything [default: a directory of its own under ~/.local/share].
    #[arg(long, env = "SELVEDGE_DATA", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) data: Option<PathBuf>,
    /// How many sites.
    #[arg(long, default_value_t = selvedge_model::geo::DEFAULT_SITES, value_name = "N")]
    pub(crate) sites: usize,
    /// Port of plain HTTP at every site.
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    pub(crate) http: u16,
    /// Port of HTTPS at every site.
    #[arg(long, default_value_t = 8443, value_name = "PORT")]
    pub(crate) https: u16,
    /// Serve no HTTP/3 at that port.
    #[arg(long)]
    pub(crate) no_http3: bool,
    /// Port of DNS at every site.
    #[arg(long, default_value_t = 5300, value_name = "PORT")]
    pub(crate) dns: u16,
    /// Port of the control API.
    #[arg(long, default_value_t = 7070, value_name = "PORT")]
    pub(crate) control: u16,
    /// How long after its death a process is started again: `1s`, `500ms`, or `never`.
    #[arg(long, default_value = "1s", value_parser = restart_after, value_name = "DURATION")]
    pub(crate) restart_after: RestartAfter,
    /// Forget everything that an earlier box left in the directory, and start anew.
    #[arg(long)]
    pub(crate) reset: bool,
    /// Remove the box and everything it has left on this machine, and start nothing.
    #[arg(long, conflicts_with = "reset")]
    pub(crate) remove: bool,
    /// Where apps that name no host are served, as APP.ZONE.
    #[arg(long, default_value = "edge.test")]
    pub(crate) zone: Host,
    /// Run builds and workloads without a sandbox if this machine can't make one.
    #[arg(long)]
    pub(crate) unsafe_builds: bool,
    /// How much each site's log may take on disk, in MiB; the oldest lines are dropped beyond that.
    #[arg(long, default_value_t = 128, value_name = "MIB", value_parser = log_mib())]
    pub(crate) log_mib: u32,
    /// How much each site's stored responses may take on disk; 0 stores them in memory alone.
    #[arg(long, default_value = "256MiB", value_name = "SIZE", value_parser = disk_size)]
    pub(crate) cache_disk_size: u64,
}

/// `--restart-after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RestartAfter(pub(crate) Option<Duration>);

fn restart_after(text: &str) -> Result<RestartAfter, String> {
    if text == "never" {
        return Ok(RestartAfter(None));
    }
    let (number, ms) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1_000),
        (None, None) => (text, 1_000),
    };
    let number: u32 = number.parse().map_err(|_| "write `1s`, `500ms` or `never`".to_owned())?;
    Ok(RestartAfter(Some(Duration::from_millis(u64::from(number) * ms))))
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    pub(crate) dev: Dev,
    /// End after the demo instead of staying up.
    #[arg(long)]
    pub(crate) once: bool,
    /// The directory with the example apps.
    #[arg(long, default_value = "examples", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) examples: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// A repository or an app's directory.
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The repository's name at control [default: the git remote's, else the app's name].
    #[arg(long, value_name = "NAME")]
    pub(crate) repository: Option<selvedge_model::RepositoryName>,
}

#[derive(Debug, Args)]
pub(crate) struct AppChoice {
    /// The app [default: the one whose selvedge.toml is in this directory].
    #[arg(add = ArgValueCompleter::new(completions::apps))]
    pub(crate) app: Option<AppName>,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The release, or the first digits of it [default: the one that was live before].
    pub(crate) release: Option<String>,
    /// The app [default: the one whose selvedge.toml is in this directory].
    #[arg(long, add = ArgValueCompleter::new(completions::apps))]
    pub(crate) app: Option<AppName>,
}

#[derive(Debug, Args)]
pub(crate) struct Curl {
    /// The URL, such as https://shop.edge.test/.
    pub(crate) url: String,
    /// The city to be in.
    #[arg(long, value_name = "CITY", add = ArgValueCompleter::new(completions::cities))]
    pub(crate) from: Option<String>,
    /// Show the response's headers too.
    #[arg(short, long)]
    pub(crate) include: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Control {
    /// Where control keeps everything.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) data: PathBuf,
    /// Where the API and git are served; loopback only.
    #[arg(long, default_value = "127.0.0.1:7070")]
    pub(crate) listen: SocketAddr,
    /// Where apps that name no host are served, as APP.ZONE.
    #[arg(long, default_value = "edge.test")]
    pub(crate) zone: Host,
    /// A JSON file with the installation's sites.
    #[arg(long, value_name = "FILE")]
    pub(crate) topology: PathBuf,
    /// Serve apps at APP.localhost too.
    #[arg(long, hide = true)]
    pub(crate) in_a_box: bool,
    /// Let apps' upstreams be at the sites' own addresses, loopback included.
    #[arg(long)]
    pub(crate) allow_local_upstreams: bool,
    /// Run builds without a sandbox if this machine can't make one.
    #[arg(long)]
    pub(crate) unsafe_builds: bool,
    /// The table of tenants' user ids, one for all processes of the machine
    /// [default: /var/lib/selvedge/tenants].
    #[arg(long, value_name = "FILE")]
    pub(crate) tenants: Option<PathBuf>,
    #[arg(long, hide = true, value_name = "PID")]
    pub(crate) with_parent: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// The site that this agent is of.
    #[arg(long, add = ArgValueCompleter::new(completions::sites))]
    pub(crate) site: SiteId,
    /// Where the agent keeps its ledger and its access log.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) data: PathBuf,
    /// Where the machine's agents share unpacked artifacts [default: DATA/artifacts].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) artifacts: Option<PathBuf>,
    /// The fabric's socket: `fabric.sock` in control's data directory, beside `tunnel.sock`.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) fabric: PathBuf,
    /// Where stored responses are kept beside memory [default: DATA/stored].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) cache_disk: Option<PathBuf>,
    /// How much they may take there, at least 64MiB; 0 stores them in memory alone.
    #[arg(long, default_value = "1GiB", value_name = "SIZE", value_parser = disk_size)]
    pub(crate) cache_disk_size: u64,
    /// How much the site's log may take on disk, in MiB; the oldest lines are dropped beyond that.
    #[arg(long, default_value_t = 128, value_name = "MIB", value_parser = log_mib())]
    pub(crate) log_mib: u32,
    /// Where plain HTTP is served.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub(crate) http: SocketAddr,
    /// Where HTTPS is served.
    #[arg(long, default_value = "127.0.0.1:8443")]
    pub(crate) https: SocketAddr,
    /// Serve no HTTP/3 there, and tell clients of none.
    #[arg(long)]
    pub(crate) no_http3: bool,
    /// Where DNS is served.
    #[arg(long, default_value = "127.0.0.1:5300")]
    pub(crate) dns: SocketAddr,
    /// Where the agent's own endpoint for machines is served [default: a free port of loopback].
    #[arg(long)]
    pub(crate) admin: Option<SocketAddr>,
    /// Directories that no workload may see.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) hide: Vec<PathBuf>,
    /// Say more in error pages: for a developer's own machine.
    #[arg(long)]
    pub(crate) explain: bool,
    /// Run workloads without a sandbox if this machine can't make one.
    #[arg(long)]
    pub(crate) unsafe_builds: bool,
    /// The table of tenants' user ids, one for all processes of the machine
    /// [default: /var/lib/selvedge/tenants].
    #[arg(long, value_name = "FILE")]
    pub(crate) tenants: Option<PathBuf>,
    #[arg(long, hide = true, value_name = "PID")]
    pub(crate) with_parent: Option<u32>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_form_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn restart_after_forms() {
        assert_eq!(restart_after("never"), Ok(RestartAfter(None)));
        assert_eq!(restart_after("500ms"), Ok(RestartAfter(Some(Duration::from_millis(500)))));
        assert_eq!(restart_after("2s"), Ok(RestartAfter(Some(Duration::from_secs(2)))));
        assert!(restart_after("soon").is_err());
    }
}
