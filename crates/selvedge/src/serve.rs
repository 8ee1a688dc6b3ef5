//! The verbs `control` and `agent`: one process each, run alone or by the supervisor.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use selvedge_api::{AgentInfo, ControlInfo, SCHEMA, Token};
use selvedge_proxy::standalone::DiskSettings;
use tokio_util::sync::CancellationToken;

use crate::failure::{Code, OrFail as _, Outcome};
use crate::terminal::Terminal;
use crate::{cli, contract, signals};

/// Runs a control process until it is asked to end.
pub(crate) async fn control(options: cli::Control, terminal: Terminal) -> Outcome {
    if let Some(parent) = options.with_parent {
        signals::die_with_parent(parent)?;
    }
    crate::logging::start("control", None)?;
    contract::private_directory(&options.data)?;
    let topology = read_topology(&options.topology)?;
    let config = selvedge_control::Config {
        data: absolute(&options.data)?,
        listen: options.listen,
        zone: options.zone.clone(),
        topology,
        in_a_box: options.in_a_box,
        allow_local_upstreams: options.allow_local_upstreams,
        executable: executable()?,
        unsafe_builds: options.unsafe_builds,
        tenants: options.tenants.as_deref().map(absolute).transpose()?,
    };
    let control = selvedge_control::Control::start(config).await.or_fail(
        Code::Failed,
        "control can't start",
        "mend that and start it again; what it kept is as it was",
    )?;
    let url = control.url();
    let info = ControlInfo {
        schema: SCHEMA,
        pid: std::process::id(),
        git: format!("{url}/git"),
        console: format!("{url}/console"),
        control: url,
        token: Token(control.token().to_owned()),
        zone: options.zone,
        ca: control.authority_path(),
        fabric: control.fabric_socket(),
    };
    let path = options.data.join(contract::CONTROL);
    contract::write(&path, &info)?;
    terminal.object(&info)?;
    terminal.line(format!("control is up at {}; its token is in {}", info.control, path.display()));
    let token = CancellationToken::new();
    let signals = signals::cancel_on_signal(token.clone());
    let ended = control.run(token).await;
    signals.abort();
    let _ = std::fs::remove_file(&path);
    ended.or_fail(
        Code::Failed,
        "control has ended",
        "the log says why; it completes what it had begun when started again",
    )
}

/// A directory by its whole path, as children stand elsewhere.
fn absolute(directory: &Path) -> Outcome<PathBuf> {
    std::path::absolute(directory).or_fail(
        Code::Usage,
        format!("{:?} can't be a directory", directory.display().to_string()),
        "give the path of a directory",
    )
}

/// This program's own file.
pub(crate) fn executable() -> Outcome<PathBuf> {
    std::env::current_exe().or_fail(
        Code::Failed,
        "can't find this program's own file",
        "start it by its full path",
    )
}

fn read_topology(path: &Path) -> Outcome<selvedge_model::Topology> {
    let hint = "write the sites as JSON; `selvedge dev` writes such a file as topology.json in its data directory";
    let text = std::fs::read(path).or_fail(
        Code::Usage,
        format!("can't read the topology {}", path.display()),
        hint,
    )?;
    serde_json::from_slice(&text).or_fail(
        Code::Usage,
        format!("{} is not a topology", path.display()),
        hint,
    )
}

/// Runs the agent of a site until it is asked to end.
pub(crate) async fn agent(options: cli::Agent, terminal: Terminal) -> Outcome {
    if let Some(parent) = options.with_parent {
        signals::die_with_parent(parent)?;
    }
    crate::logging::start("agent", Some(options.site.as_str()))?;
    contract::private_directory(&options.data)?;
    let data = absolute(&options.data)?;
    let artifacts = options.artifacts.clone().unwrap_or_else(|| data.join("artifacts"));
    let artifacts = absolute(&artifacts)?;
    let stored = options.cache_disk.clone().unwrap_or_else(|| data.join("stored"));
    let stored = absolute(&stored)?;
    let config = selvedge_agent::Config {
        site: options.site.clone(),
        data,
        artifacts,
        fabric: Arc::new(selvedge_fabric::client::Client::connect(&options.fabric)),
        tunnel: options.fabric.with_file_name(selvedge_control::TUNNEL_SOCKET),
        log_bytes: u64::from(options.log_mib) << 20,
        http: options.http,
        https: options.https,
        http3: !options.no_http3,
        cache_disk: (options.cache_disk_size > 0)
            .then_some(DiskSettings { directory: stored, bytes: options.cache_disk_size }),
        dns: options.dns,
        admin: options.admin.unwrap_or(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)),
        executable: executable()?,
        hidden: options.hide.clone(),
        allow_unsafe: options.unsafe_builds,
        tenants: options.tenants.as_deref().map(absolute).transpose()?,
        explain: options.explain,
    };
    let admin_socket = config.data.join(selvedge_agent::ADMIN_SOCKET);
    let agent = selvedge_agent::Agent::start(config).await.or_fail(
        Code::Failed,
        format!("the agent of {} can't start", options.site),
        "mend that and start it again; other ports are set with --http, --https and --dns",
    )?;
    let info = AgentInfo {
        schema: SCHEMA,
        pid: std::process::id(),
        site: options.site.clone(),
        http: agent.http_address(),
        https: agent.https_address(),
        dns: agent.dns_address(),
        admin: format!("http://{}", agent.admin_address()),
        admin_socket,
    };
    let path = options.data.join(contract::AGENT);
    // A site that can serve does, even where the disk is full.
    if let Err(failure) = contract::write(&path, &info) {
        tracing::warn!("{}", failure.what());
    }
    terminal.object(&info)?;
    terminal.line(format!(
        "the agent of {} is up: http {}, https {}",
        info.site, info.http, info.https
    ));
    let token = CancellationToken::new();
    let signals = signals::cancel_on_signal(token.clone());
    agent.run(token).await;
    signals.abort();
    let _ = std::fs::remove_file(&path);
    Ok(())
}
