//! The log of the whole installation: what sites and control itself have to say, merged in order.

mod merge;
mod own;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::Stream;
use selvedge_api::{LogEvent, LogFilter, LogSource};
use selvedge_fabric::{FabricError, SharedFabric, Typed};
use selvedge_model::documents::AppRecord;
use selvedge_model::operation::TunnelPurpose;
use selvedge_model::{RepositoryName, SiteId, Topology, keys};
use selvedge_telemetry::Chain;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use own::OwnLog;

use crate::tunnels::{Opening, Tunnels};
use merge::Origin;
use site::Site;

/// Lines that wait for a slow reader before its sources are slowed down.
const QUEUE: usize = 256;

/// Opens streams of log lines. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    fabric: SharedFabric,
    tunnels: Tunnels,
    own: OwnLog,
}

impl Logs {
    pub(crate) fn new(fabric: SharedFabric, tunnels: Tunnels, own: OwnLog) -> Self {
        Self { fabric, tunnels, own }
    }

    /// Asks every site and control for the lines that `filter` wants. Ends after
    /// [`LogEvent::Current`] unless the filter follows. Dropping the stream ends the question at
    /// every site.
    pub fn open(&self, filter: LogFilter) -> LogStream {
        self.start(filter, None)
    }

    /// The same for a reader that can't wait: what was there is said after `patience`, without
    /// those who have not said it by then. They are named, and what they say later comes if the
    /// filter follows.
    pub(crate) fn open_within(&self, filter: LogFilter, patience: Duration) -> LogStream {
        self.start(filter, Some(patience))
    }

    fn start(&self, filter: LogFilter, patience: Option<Duration>) -> LogStream {
        let (sender, events) = mpsc::channel(QUEUE);
        let task = tokio::spawn(self.clone().answer(filter, patience, sender));
        LogStream { events, _task: AbortOnDropHandle::new(task) }
    }

    /// Why control's own lines can't be written down, in words.
    pub(crate) fn problem(&self) -> Option<String> {
        self.own.problem()
    }

    async fn answer(
        self,
        filter: LogFilter,
        patience: Option<Duration>,
        out: mpsc::Sender<LogEvent>,
    ) {
        // Ends with this task, and with it every question.
        let mut tasks = JoinSet::new();
        let mut origins = Vec::new();
        if filter.site.is_empty()
            && (filter.source.is_empty() || filter.source.contains(&LogSource::Pipeline))
            && filter.status.is_none()
        {
            let (sender, said) = mpsc::channel(QUEUE);
            origins.push(Origin { site: None, said });
            let repository = self.repository(&filter).await.unwrap_or_default();
            tasks.spawn(self.own.clone().attend(filter.clone(), repository, sender));
        }
        for (id, opening) in self.ask(&filter).await {
            let (sender, said) = mpsc::channel(QUEUE);
            origins.push(Origin { site: Some(id.clone()), said });
            let site = Site {
                id,
                tunnels: self.tunnels.clone(),
                fabric: self.fabric.clone(),
                filter: filter.clone(),
                said: sender,
            };
            tasks.spawn(site.attend(opening));
        }
        merge::run(origins, filter, patience, out).await;
    }

    /// Asks the sites for a tunnel each.
    async fn ask(&self, filter: &LogFilter) -> BTreeMap<SiteId, Result<Opening, String>> {
        let theirs = [LogSource::Access, LogSource::Output, LogSource::Event];
        if !filter.source.is_empty() && theirs.iter().all(|it| !filter.source.contains(it)) {
            return BTreeMap::new();
        }
        let known = match self.sites().await {
            Ok(sites) => sites,
            Err(error) => {
                tracing::warn!("logs: the sites are not known: {}", Chain(&error));
                BTreeSet::new()
            }
        };
        let wanted = if filter.site.is_empty() { known.clone() } else { filter.site.clone() };
        let mut asked: BTreeMap<SiteId, Result<Opening, String>> = wanted
            .difference(&known)
            .map(|site| (site.clone(), Err("there is no such site".to_owned())))
            .collect();
        let sites: BTreeSet<SiteId> = wanted.intersection(&known).cloned().collect();
        match self.tunnels.open(TunnelPurpose::Logs, &sites).await {
            Ok(openings) => {
                asked.extend(openings.into_iter().map(|(site, opening)| (site, Ok(opening))));
            }
            Err(error) => {
                let reason = Chain(&error).to_string();
                asked.extend(sites.into_iter().map(|site| (site, Err(reason.clone()))));
            }
        }
        asked
    }

    async fn sites(&self) -> Result<BTreeSet<SiteId>, FabricError> {
        let topology = Typed(&*self.fabric).get::<Topology>(keys::TOPOLOGY).await?;
        Ok(topology.map(|(_, topology)| topology.sites.into_keys().collect()).unwrap_or_default())
    }

    async fn repository(&self, filter: &LogFilter) -> Result<Option<RepositoryName>, FabricError> {
        let Some(app) = &filter.app else { return Ok(None) };
        let record = Typed(&*self.fabric).get::<AppRecord>(&keys::app(app)).await?;
        Ok(record.map(|(_, record)| record.repository))
    }
}

/// Lines as they come, in order.
pub struct LogStream {
    events: mpsc::Receiver<LogEvent>,
    _task: AbortOnDropHandle<()>,
}

impl LogStream {
    /// Waits for the next event; `None` after the last. Cancel safe.
    pub async fn next(&mut self) -> Option<LogEvent> {
        self.events.recv().await
    }

    /// The events as a stream.
    pub fn into_stream(self) -> impl Stream<Item = LogEvent> + Send + 'static {
        futures_util::stream::unfold(self, |mut stream| async {
            Some((stream.next().await?, stream))
        })
    }
}
