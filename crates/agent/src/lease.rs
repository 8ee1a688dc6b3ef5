//! The site's lease: while it runs, the site counts as alive.

use std::time::Duration;

use selvedge_api::LogLevel;
use selvedge_fabric::SharedFabric;
use selvedge_model::{SiteId, keys};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::log::{Event, SiteLog};

/// How long the site counts as alive after the last renewal.
const TTL: Duration = Duration::from_secs(5);

/// How often the lease is renewed.
const RENEW: Duration = Duration::from_millis(1_500);

/// How soon a lease that another holder has is asked for again: an earlier life of this agent
/// leaves one behind when it is killed.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Refusals in a row after which it is no earlier life's lease any more.
const REFUSALS: u32 = 30;

/// What the lease is asked for with.
pub(crate) struct Lease {
    pub(crate) site: SiteId,
    pub(crate) holder: String,
    pub(crate) fabric: SharedFabric,
    pub(crate) log: SiteLog,
}

impl Lease {
    /// Renews the lease until `token` is cancelled, then gives it back.
    pub(crate) async fn run(
        self,
        problem: watch::Sender<Option<String>>,
        token: CancellationToken,
    ) {
        let Self { site, holder, fabric, log } = self;
        let name = keys::site_lease(&site);
        let mut refusals = 0;
        // When it was last renewed, while it is held.
        let mut held: Option<Instant> = None;
        loop {
            // A renewal that hangs longer than the lease runs is of no use.
            let answer = tokio::select! {
                () = token.cancelled() => break,
                answer = tokio::time::timeout(TTL, fabric.lease(&name, &holder, TTL)) => answer,
            };
            let pause = match answer {
                Ok(Ok(Some(_))) => {
                    refusals = 0;
                    if held.replace(Instant::now()).is_none() {
                        log.event(Event::site(
                            LogLevel::Info,
                            "lease held: control knows of this site",
                        ));
                    }
                    RENEW
                }
                Ok(Ok(None)) => {
                    refusals += 1;
                    ASK_AGAIN
                }
                Ok(Err(_)) | Err(_) => ASK_AGAIN,
            };
            if held.take_if(|renewed| renewed.elapsed() >= TTL).is_some() {
                let text = "lease lost: control can't be reached; what is served here goes on";
                log.event(Event::site(LogLevel::Warn, text));
            }
            let words = (refusals >= REFUSALS)
                .then(|| format!("another agent holds the lease of {site}: is it running twice?"));
            problem.send_if_modified(|current| {
                let changed = *current != words;
                *current = words;
                changed
            });
            tokio::select! {
                () = token.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        let _ = tokio::time::timeout(RENEW, fabric.release_lease(&name, &holder)).await;
    }
}
