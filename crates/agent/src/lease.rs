//! The site's lease: while it runs, the site counts as alive.

use std::time::Duration;

use selvedge_fabric::SharedFabric;
use selvedge_model::{SiteId, keys};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long the site counts as alive after the last renewal.
const TTL: Duration = Duration::from_secs(5);

/// How often the lease is renewed.
const RENEW: Duration = Duration::from_millis(1_500);

/// How soon a lease that another holder has is asked for again: an earlier life of this agent
/// leaves one behind when it is killed.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Refusals in a row after which it is no earlier life's lease any more.
const REFUSALS: u32 = 30;

/// Renews the lease until `token` is cancelled, then gives it back.
pub(crate) async fn run(
    site: SiteId,
    holder: String,
    fabric: SharedFabric,
    problem: watch::Sender<Option<String>>,
    token: CancellationToken,
) {
    let name = keys::site_lease(&site);
    let mut refusals = 0;
    loop {
        // A renewal that hangs longer than the lease runs is of no use.
        let answer = tokio::select! {
            () = token.cancelled() => break,
            answer = tokio::time::timeout(TTL, fabric.lease(&name, &holder, TTL)) => answer,
        };
        let pause = match answer {
            Ok(Ok(Some(_))) => {
                refusals = 0;
                RENEW
            }
            Ok(Ok(None)) => {
                refusals += 1;
                ASK_AGAIN
            }
            Ok(Err(_)) | Err(_) => ASK_AGAIN,
        };
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
