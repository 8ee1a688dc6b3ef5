//! `selvedge purge`: takes back what sites of this machine have stored, through their admin sockets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::{ArgGroup, Args, ValueHint};
use clap_complete::ArgValueCompleter;
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use selvedge_model::{AppName, SiteId};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::cli::Connection;
use crate::context::{app_here, find_control};
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::terminal::{Cell, Look, Terminal};
use crate::verbs::completions;

/// How long a site may take: a purge is answered when it is on disk.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// The command line of `purge`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["url", "tag", "prefix", "ban", "all"]))]
#[command(after_help = "Examples:\n  \
    selvedge purge --url https://shop.edge.test:8443/news\n  \
    selvedge purge --app shop --tag article-7 --soft\n  \
    selvedge purge --app shop --prefix shop.edge.test/img --site fra\n  \
    selvedge purge --all --socket /var/lib/selvedge-fra/admin.sock  # a site or a proxy by itself")]
pub(crate) struct Purge {
    /// Everything stored for a URL, as clients ask for it: with the port where it has one.
    #[arg(long, value_hint = ValueHint::Url)]
    url: Option<String>,
    /// Every response with this tag of its surrogate-key or cache-tag.
    #[arg(long)]
    tag: Option<String>,
    /// Everything below HOST/PATH, or below /PATH at all of the app's hosts.
    #[arg(long)]
    prefix: Option<String>,
    /// Everything that an expression over path, host, tag and header(NAME) is true of.
    #[arg(long, value_name = "EXPRESSION")]
    ban: Option<String>,
    /// Everything of the app.
    #[arg(long)]
    all: bool,
    /// Keep it, and ask the app anew before it is used again.
    #[arg(long)]
    soft: bool,
    /// The app [default: the one whose selvedge.toml is in this directory].
    #[arg(long, add = ArgValueCompleter::new(completions::apps))]
    app: Option<AppName>,
    /// Only at this site of the box; may be given several times.
    #[arg(long, value_name = "SITE", add = ArgValueCompleter::new(completions::sites))]
    site: Vec<SiteId>,
    /// The admin socket of a site or a proxy: `admin.sock` in an agent's data directory; may be
    /// given several times [default: those of the box's sites].
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath, conflicts_with = "site")]
    socket: Vec<PathBuf>,
}

/// What the socket is asked for.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    all: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ban: Option<&'a str>,
    soft: bool,
}

#[derive(Deserialize)]
struct Answer {
    message: String,
}

/// What became of it at one place.
#[derive(Debug, Serialize)]
struct Purged {
    /// A site's id, or a socket.
    at: String,
    result: Fate,
    /// In the words of the site.
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Fate {
    Purged,
    /// No route there stores such a thing now; what may be left of before was purged.
    Nothing,
    /// The request is no good there.
    Refused,
    Failed,
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    sites: &'a [Purged],
}

/// Runs the verb.
pub(crate) async fn run(args: Purge, connection: &Connection, terminal: Terminal) -> Outcome {
    let places = places(&args, connection)?;
    let here = if args.socket.is_empty() && args.url.is_none() { app_here()? } else { None };
    let app = args.app.clone().or(here);
    let body = Body {
        app: app.as_ref().map(AppName::as_str),
        all: args.all,
        url: args.url.as_deref(),
        tag: args.tag.as_deref(),
        prefix: args.prefix.as_deref(),
        ban: args.ban.as_deref(),
        soft: args.soft,
    };
    let body = serde_json::to_vec(&body).map(Bytes::from);
    let body = body.or_fail(Code::Failed, "the request can't be written", "report this")?;
    let asked = places.into_iter().map(|(at, socket)| {
        let body = body.clone();
        async move {
            let asked = tokio::time::timeout(PATIENCE, ask(&socket, body)).await;
            let (result, message) = match asked.map_err(anyhow::Error::from).flatten() {
                Ok((status, message)) => (outcome(status), message),
                Err(error) => (Fate::Failed, format!("{error:#}")),
            };
            Purged { at, result, message }
        }
    });
    let all = join_all(asked).await;
    // What some did is told also where others failed.
    if all.iter().any(|it| it.result == Fate::Purged) {
        terminal.object(&Report { schema: selvedge_api::SCHEMA, sites: &all })?;
        let rows: Vec<Vec<Cell>> = all.iter().map(row).collect();
        terminal.table(&["AT", "RESULT"], &rows);
    }
    judge(&all)
}

fn outcome(status: StatusCode) -> Fate {
    match status {
        status if status.is_success() => Fate::Purged,
        StatusCode::NOT_FOUND => Fate::Nothing,
        status if status.is_client_error() => Fate::Refused,
        _ => Fate::Failed,
    }
}

fn row(purged: &Purged) -> Vec<Cell> {
    let result = match purged.result {
        Fate::Purged => Cell::new("purged", Look::Good),
        _ => Cell::new(purged.message.clone(), Look::Faint),
    };
    vec![purged.at.clone().into(), result]
}

/// A purge that did not happen everywhere has failed: what was to go may still be served.
fn judge(all: &[Purged]) -> Outcome {
    let refused = all.first().filter(|_| all.iter().all(|it| it.result == Fate::Refused));
    if let Some(refused) = refused {
        let hint = "`selvedge purge --help` shows what can be asked for";
        return Err(Failure::new(Code::Usage, &refused.message, hint));
    }
    let failed: Vec<String> = all
        .iter()
        .filter(|it| matches!(it.result, Fate::Failed | Fate::Refused))
        .map(|it| format!("{} ({})", it.at, it.message))
        .collect();
    if !failed.is_empty() {
        return Err(Failure::new(
            Code::Failed,
            format!("not purged at {}", failed.join(", ")),
            "what was to go may still be served there: purge again once that is well",
        ));
    }
    match all.iter().any(|it| it.result == Fate::Purged) {
        true => Ok(()),
        false => Err(Failure::new(
            Code::Usage,
            all.first().map_or("no site was asked", |it| &it.message),
            "only what processes and upstreams answer is stored: look at the app's name and routes",
        )),
    }
}

/// Whom to ask: names for people, and sockets.
fn places(args: &Purge, connection: &Connection) -> Outcome<Vec<(String, PathBuf)>> {
    if !args.socket.is_empty() {
        let sockets = args.socket.iter();
        return Ok(sockets.map(|socket| (socket.display().to_string(), socket.clone())).collect());
    }
    let dev = find_control(connection)?.dev.ok_or_else(|| {
        Failure::new(
            Code::Usage,
            "that control is no box of this machine",
            "name sites by their sockets: --socket DATA/admin.sock at each machine",
        )
    })?;
    let known = |site: &&SiteId| !dev.sites.iter().any(|it| it.id == **site);
    if let Some(unknown) = args.site.iter().find(known) {
        let sites: Vec<&str> = dev.sites.iter().map(|it| it.id.as_str()).collect();
        let hint = format!("there are {}", sites.join(", "));
        return Err(Failure::new(Code::Usage, format!("the box has no site {unknown}"), hint));
    }
    let wanted = dev.sites.iter().filter(|it| args.site.is_empty() || args.site.contains(&it.id));
    Ok(wanted.map(|it| (it.id.to_string(), it.admin_socket.clone())).collect())
}

/// One request, and what the answer says.
async fn ask(socket: &Path, body: Bytes) -> anyhow::Result<(StatusCode, String)> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("nobody answers at {}", socket.display()))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post("/purge").header("host", "site").body(Full::new(body))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let limited = Limited::new(body, MAX_ANSWER).collect().await;
    connection.abort();
    let body = limited.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    let message = match serde_json::from_slice::<Answer>(&body) {
        Ok(answer) => answer.message,
        Err(_) => format!("it answers {} without a word", head.status),
    };
    Ok((head.status, message))
}
