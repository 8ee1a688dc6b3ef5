//! A site as an origin of log lines: asked through a tunnel, and while following asked again when
//! it comes back.

use std::collections::BTreeSet;
use std::time::Duration;

use selvedge_api::{LogEvent, LogFilter, TunnelQuestion};
use selvedge_fabric::{Lease, SharedFabric};
use selvedge_model::operation::TunnelPurpose;
use selvedge_model::{SiteId, keys};
use tokio::sync::{mpsc, watch};

use super::merge::Said;
use crate::tunnels::{Opening, Tunnels};

/// How long to wait before a site that has a lease is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// One site's part of a stream.
pub(super) struct Site {
    pub(super) id: SiteId,
    pub(super) tunnels: Tunnels,
    pub(super) fabric: SharedFabric,
    pub(super) filter: LogFilter,
    pub(super) said: mpsc::Sender<Said>,
}

/// Nobody listens any more.
struct Unheard;

impl Site {
    /// Says what the site says, until it has said everything or nobody listens.
    pub(super) async fn attend(mut self, opening: Result<Opening, String>) {
        let said = self.said.clone();
        tokio::select! {
            _ = self.follow(opening) => {}
            () = said.closed() => {}
        }
    }

    async fn follow(&mut self, first: Result<Opening, String>) -> Result<(), Unheard> {
        let mut opening = Some(first);
        let mut silent = false;
        loop {
            let opened = match opening.take() {
                Some(Ok(opening)) => Ok(opening),
                Some(Err(reason)) => Err(reason),
                None => self.open().await,
            };
            let Err(reason) = self.once(opened, &mut silent).await? else { return Ok(()) };
            if !std::mem::replace(&mut silent, true) {
                self.say(Said::Site { answers: false, reason }).await?;
            }
            if !self.filter.follow {
                return Ok(());
            }
            self.wait_for_lease().await;
        }
    }

    async fn open(&self) -> Result<Opening, String> {
        let sites = BTreeSet::from([self.id.clone()]);
        let opened = self.tunnels.open(TunnelPurpose::Logs, &sites).await;
        let opened = opened.map_err(|error| selvedge_telemetry::Chain(&error).to_string())?;
        opened.into_values().next().ok_or_else(|| "it was not asked".to_owned())
    }

    /// Through one tunnel. The inner error is the reason, in words, why not all was said.
    async fn once(
        &mut self,
        opening: Result<Opening, String>,
        silent: &mut bool,
    ) -> Result<Result<(), String>, Unheard> {
        let mut tunnel = match opening {
            Ok(opening) => match opening.wait().await {
                Ok(tunnel) => tunnel,
                Err(reason) => return Ok(Err(reason)),
            },
            Err(reason) => return Ok(Err(reason)),
        };
        let question = TunnelQuestion::Logs(Box::new(self.filter.clone()));
        if let Err(reason) = tunnel.ask(&question).await {
            return Ok(Err(reason));
        }
        if std::mem::take(silent) {
            self.say(Said::Site { answers: true, reason: "it answers again".to_owned() }).await?;
        }
        let mut current = false;
        while let Some(event) = tunnel.next::<LogEvent>().await {
            let event = match event {
                Ok(event) => event,
                Err(reason) => return Ok(Err(reason)),
            };
            // A site speaks for itself alone.
            let said = match event {
                LogEvent::Record(mut record) => {
                    record.site = Some(self.id.clone());
                    Said::Line(LogEvent::Record(record))
                }
                LogEvent::Gap(mut gap) => {
                    gap.site = Some(self.id.clone());
                    Said::Line(LogEvent::Gap(gap))
                }
                LogEvent::Current { cursor } => {
                    current = true;
                    Said::Current(cursor.of(Some(&self.id)).unwrap_or_default())
                }
                LogEvent::Pending { .. } => Said::Pending,
                LogEvent::Site { .. } => continue,
            };
            // Asked again, it goes on from here.
            match &said {
                Said::Line(event) => self.filter.after.note(event),
                Said::Current(sequence) => {
                    self.filter.after.advance(Some(&self.id), *sequence);
                }
                Said::Pending | Said::Site { .. } => {}
            }
            self.say(said).await?;
        }
        if current && !self.filter.follow {
            return Ok(Ok(()));
        }
        Ok(Err("the connection to it broke".to_owned()))
    }

    async fn say(&self, said: Said) -> Result<(), Unheard> {
        self.said.send(said).await.map_err(|_| Unheard)
    }

    /// Waits until the site has a lease, and a moment in any case.
    async fn wait_for_lease(&self) {
        tokio::time::sleep(ASK_AGAIN).await;
        let name = keys::site_lease(&self.id);
        let leases = self.fabric.watch_leases(keys::SITE_LEASES).await;
        if let Ok(mut leases) = leases {
            let _: Result<watch::Ref<'_, Vec<Lease>>, _> =
                leases.wait_for(|leases| leases.iter().any(|lease| lease.name == name)).await;
        }
    }
}
