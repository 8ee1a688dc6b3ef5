//! `selvedge curl URL --from CITY`: what a client in a city gets, and how long it waits for it.
//!
//! The name is resolved with the city's client subnet, the request goes to the first site of the
//! answer, and the round trips that the distance would cost are added to the measured time.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use selvedge_api::DevInfo;
use selvedge_model::geo::{City, DistanceModel, Point, RoundTrips as _};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::cli::{Connection, Curl};
use crate::failure::{Code, Failure, OrFail as _, Outcome};
use crate::resolve;
use crate::terminal::{Look, Terminal};

/// The largest body that is shown.
const MAX_BODY: usize = 64 << 20;
/// How long the whole fetch may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A fetch, as programs see it.
#[derive(Debug, Serialize)]
pub(crate) struct Fetched {
    /// The city that it was made from.
    from: Option<String>,
    /// The site that answered, where the box tells.
    pub(crate) site: Option<String>,
    /// The address that DNS named first.
    address: SocketAddr,
    /// The status.
    pub(crate) status: u16,
    /// The protocol's version.
    version: String,
    /// The headers in the order received.
    headers: Vec<(String, String)>,
    /// From the first packet to the response's head: measured, plus the round trips of `from`.
    pub(crate) time_to_first_byte_ms: f64,
    /// How much of it is distance.
    pub(crate) round_trips_ms: f64,
    /// The body's size in bytes.
    size: usize,
    /// The body, where it is text.
    body: Option<String>,
    #[serde(skip)]
    raw: Bytes,
}

/// A parsed URL.
struct Target {
    secure: bool,
    host: String,
    port: u16,
    path: String,
}

/// Runs the verb.
pub(crate) async fn run(curl: Curl, connection: &Connection, terminal: Terminal) -> Outcome {
    let dev = crate::context::find_control(connection)?.dev.ok_or_else(|| {
        Failure::new(
            Code::Usage,
            "there is no box that runs here, so there is no city to be in",
            "start one with `selvedge dev`; against a real installation use curl itself",
        )
    })?;
    let city = curl.from.as_deref().map(find_city).transpose()?;
    let fetched = fetch(&dev, &curl.url, city).await?;
    terminal.object(&fetched)?;
    if curl.include {
        terminal.line(format!("{} {}", fetched.version, fetched.status));
        for (name, value) in &fetched.headers {
            terminal.line(format!("{}: {value}", terminal.paint(Look::Strong, name)));
        }
        terminal.line("");
    }
    if !terminal.json {
        terminal.bytes(&fetched.raw);
        terminal.note(format!(
            "\n{} {} from {} at {}: first byte after {:.0} ms, {:.0} of them distance",
            fetched.status,
            fetched.from.as_deref().unwrap_or("here"),
            fetched.site.as_deref().unwrap_or("an unknown site"),
            fetched.address,
            fetched.time_to_first_byte_ms,
            fetched.round_trips_ms,
        ));
    }
    Ok(())
}

fn find_city(name: &str) -> Outcome<&'static City> {
    City::find(name).ok_or_else(|| {
        let known: Vec<&str> = selvedge_model::geo::CITIES.iter().map(|city| city.name).collect();
        Failure::new(
            Code::Usage,
            format!("there is no city {name:?}"),
            match selvedge_model::closest(name, known.iter().copied()) {
                Some(likely) => format!("did you mean {likely:?}?"),
                None => format!("choose one of {}", known.join(", ")),
            },
        )
    })
}

/// Resolves and fetches `url` as a client in `city` does; without a city, as this machine.
pub(crate) async fn fetch(dev: &DevInfo, url: &str, city: Option<&City>) -> Outcome<Fetched> {
    let target = parse(url, dev)?;
    // Browsers resolve .localhost by themselves; what stands behind it is the default host.
    let name = match target.host.strip_suffix(".localhost") {
        Some(app) => format!("{app}.{}", dev.zone),
        None => target.host.clone(),
    };
    // Every site serves the zone, so another answers where the first does not.
    let sites = dev.sites.iter().map(|site| SocketAddr::new(site.address, dev.dns.port()));
    let servers: Vec<SocketAddr> = std::iter::once(dev.dns).chain(sites.rev()).collect();
    let addresses = resolve::lookup(&servers, &name, city.map(City::subnet)).await.or_fail(
        Code::Failed,
        format!("{name} can't be resolved"),
        "is the app live? `selvedge status` tells",
    )?;
    let nobody = || {
        Failure::new(
            Code::Failed,
            format!("DNS names no site for {name}"),
            "`selvedge why APP` tells why",
        )
    };
    let (last, others) = addresses.split_last().ok_or_else(nobody)?;
    // As clients do: an address that takes no connection is passed over.
    for ip in others {
        if TcpStream::connect((*ip, target.port)).await.is_ok() {
            return fetch_from(dev, url, &target, *ip, city).await;
        }
    }
    fetch_from(dev, url, &target, *last, city).await
}

/// Fetches `url` at one site, without asking DNS.
pub(crate) async fn fetch_at(dev: &DevInfo, url: &str, site: IpAddr) -> Outcome<Fetched> {
    fetch_from(dev, url, &parse(url, dev)?, site, None).await
}

async fn fetch_from(
    dev: &DevInfo,
    url: &str,
    target: &Target,
    ip: IpAddr,
    city: Option<&City>,
) -> Outcome<Fetched> {
    let address = SocketAddr::new(ip, target.port);
    let round_trips_ms = round_trips(dev, ip, city, target.secure);
    let exchange = tokio::time::timeout(TIMEOUT, exchange(target, address, &dev.ca));
    let (response, waited, body) = exchange
        .await
        .or_fail(
            Code::Failed,
            format!("{url} did not answer in time"),
            "`selvedge status` tells how the site is",
        )?
        .or_fail(
            Code::Failed,
            format!("{url} can't be fetched"),
            "`selvedge status` tells how the site is",
        )?;
    let headers = response.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    Ok(Fetched {
        from: city.map(|city| city.name.to_owned()),
        site: dev.sites.iter().find(|site| site.address == ip).map(|site| site.id.to_string()),
        address,
        status: response.status.as_u16(),
        version: format!("{:?}", response.version),
        headers: headers.collect(),
        time_to_first_byte_ms: waited.as_secs_f64() * 1e3 + round_trips_ms,
        round_trips_ms,
        size: body.len(),
        body: String::from_utf8(body.to_vec()).ok(),
        raw: body,
    })
}

fn parse(url: &str, dev: &DevInfo) -> Outcome<Target> {
    let wrong =
        || Failure::new(Code::Usage, format!("{url:?} is not a URL"), "write https://HOST/PATH");
    let uri: http::Uri =
        if url.contains("://") { url.parse() } else { format!("https://{url}").parse() }
            .map_err(|_| wrong())?;
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong()),
    };
    let host = uri.host().ok_or_else(wrong)?.to_owned();
    let site = dev.sites.first();
    // The box's ports stand in for 80 and 443.
    let usual = site
        .map_or(if secure { 443 } else { 80 }, |site| if secure { site.https } else { site.http });
    let port = uri.port_u16().unwrap_or(usual);
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    Ok(Target { secure, host, port, path })
}

/// What distance adds: one round trip for TCP, one for TLS 1.3, one for request and response.
fn round_trips(dev: &DevInfo, ip: IpAddr, city: Option<&City>, secure: bool) -> f64 {
    let site = dev.sites.iter().find(|site| site.address == ip);
    let (Some(site), Some(city)) = (site, city) else { return 0.0 };
    let rtt = DistanceModel.rtt_ms(city.point, Point { lat: site.lat, lon: site.lon });
    rtt * if secure { 3.0 } else { 2.0 }
}

async fn exchange(
    target: &Target,
    address: SocketAddr,
    ca: &Path,
) -> anyhow::Result<(http::response::Parts, Duration, Bytes)> {
    let tls = target
        .secure
        .then(|| selvedge_api::trust(ca).with_context(|| format!("can't read {}", ca.display())))
        .transpose()?;
    let started = Instant::now();
    let stream =
        TcpStream::connect(address).await.with_context(|| format!("no connection to {address}"))?;
    stream.set_nodelay(true)?;
    match tls {
        None => request(target, started, stream).await,
        Some(tls) => {
            let name = ServerName::try_from(target.host.clone())?;
            let stream = tls.connect(name, stream).await.context("the TLS handshake failed")?;
            request(target, started, stream).await
        }
    }
}

async fn request(
    target: &Target,
    started: Instant,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<(http::response::Parts, Duration, Bytes)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::builder()
        .uri(&target.path)
        .header(http::header::HOST, format!("{}:{}", target.host, target.port))
        .header(http::header::USER_AGENT, concat!("selvedge-curl/", env!("CARGO_PKG_VERSION")))
        .header(http::header::ACCEPT, "*/*")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let waited = started.elapsed();
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the body can't be read: {error}"))?
        .to_bytes();
    Ok((parts, waited, body))
}
