//! The verbs, one module each.

pub(crate) mod apps;
mod check;
pub(crate) mod completions;
pub(crate) mod console;
mod curl;
mod demo;
mod deploy;
pub(crate) mod doctor;
pub(crate) mod init;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod ops;
pub(crate) mod plan;
pub(crate) mod proxy;
mod ps;
pub(crate) mod purge;
mod releases;
pub(crate) mod remote;
mod rollback;
pub(crate) mod schema;
mod sites;
mod status;
mod why;

use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Dev, Verb};
use crate::failure::{Code, OrFail as _, Outcome};
use crate::terminal::Terminal;
use crate::{context, dev, serve};

/// Does what the command line asks for.
pub(crate) async fn run(cli: Cli, terminal: Terminal) -> Outcome {
    let connection = cli.connection;
    match cli.verb {
        Verb::Dev(dev) => {
            crate::logging::start("dev", None)?;
            let options = dev_options(&dev)?;
            if dev.remove {
                return dev::remove(&options, terminal);
            }
            dev::run(options, dev::Audience::Terminal(terminal), CancellationToken::new()).await
        }
        Verb::Demo(demo) => demo::run(demo, terminal).await,
        Verb::Check(check) => check::run(&check, terminal),
        Verb::Proxy(args) => proxy::run(args, terminal).await,
        Verb::Schema(schema) => schema::run(&schema, terminal),
        Verb::Init(init) => init::run(&init, terminal),
        Verb::Plan(plan) => plan::run(plan, &connection, terminal).await,
        Verb::Deploy(deploy) => deploy::run(deploy, &connection, terminal).await,
        Verb::Status(choice) => status::run(choice, &connection, terminal).await,
        Verb::Apps(apps) => apps::run(apps, &connection, terminal).await,
        Verb::Logs(args) => logs::run(args, &connection, terminal).await,
        Verb::Ps(choice) => ps::run(choice, &connection, terminal).await,
        Verb::Purge(args) => purge::run(args, &connection, terminal).await,
        Verb::Ops(args) => ops::run(args, &connection, terminal).await,
        Verb::Releases(choice) => releases::run(choice, &connection, terminal).await,
        Verb::Rollback(rollback) => rollback::run(rollback, &connection, terminal).await,
        Verb::Why(choice) => why::run(choice, &connection, terminal).await,
        Verb::Sites => sites::run(&connection, terminal).await,
        Verb::Console(args) => console::run(args, &connection, terminal).await,
        Verb::Curl(curl) => curl::run(curl, &connection, terminal).await,
        Verb::Doctor(doctor) => doctor::run(doctor, &connection, terminal).await,
        Verb::Control(options) => serve::control(options, terminal).await,
        Verb::Agent(options) => serve::agent(options, terminal).await,
        Verb::Remote(options) => remote::run(options, &connection, terminal),
        Verb::Credential(options) => remote::credential(&options, &connection),
        Verb::Completions(options) => completions::run(&options, terminal),
        Verb::Man(options) => man::run(&options, terminal),
    }
}

/// The supervisor's options from the command line's.
fn dev_options(dev: &Dev) -> Outcome<dev::Options> {
    let usual = context::usual_data();
    let data = match &dev.data {
        Some(data) => data.clone(),
        None => context::default_data()?,
    };
    Ok(dev::Options {
        is_usual_place: usual.is_ok_and(|usual| usual == data),
        data: std::path::absolute(&data).or_fail(
            Code::Usage,
            format!("{:?} can't be a box's directory", data.display().to_string()),
            "name a directory with --data DIR",
        )?,
        sites: dev.sites,
        http: dev.http,
        https: dev.https,
        http3: !dev.no_http3,
        dns: dev.dns,
        control: dev.control,
        restart_after: dev.restart_after.0,
        reset: dev.reset,
        zone: dev.zone.clone(),
        unsafe_builds: dev.unsafe_builds,
        log_mib: dev.log_mib,
        cache_disk_size: dev.cache_disk_size,
    })
}

/// A path as people write it: relative to where they stand where that is shorter.
pub(crate) fn show(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let relative = path.strip_prefix(here).unwrap_or(path);
    let relative = relative.strip_prefix(".").unwrap_or(relative);
    if relative.as_os_str().is_empty() { ".".into() } else { relative.display().to_string() }
}

/// Unix milliseconds now.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}
