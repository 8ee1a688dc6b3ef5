//! Watches the fabric, takes the documents that pass, writes them to the ledger, and only then
//! shows them to the reconciler.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use selvedge_fabric::{Change, SharedFabric};
use selvedge_model::{Generation, SiteId, keys};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::documents::{Documents, Name};
use crate::ledger::{Entry, Ledger, Record};

/// How many changes wait for the ledger before the watches are slowed down.
const QUEUE: usize = 256;

/// How long to wait before a failed watch or ledger is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The prefixes that a site follows.
fn prefixes(site: &SiteId) -> Vec<String> {
    vec![
        keys::INSTALLATION.to_owned(),
        keys::TOPOLOGY.to_owned(),
        keys::PIN_KEYS.to_owned(),
        keys::TICKET_KEYS.to_owned(),
        keys::assignments(site),
        keys::ACTIVATIONS.to_owned(),
        keys::certificates(site),
        keys::ZONES.to_owned(),
    ]
}

/// Follows the fabric until `token` is cancelled.
pub(crate) async fn run(
    site: SiteId,
    fabric: SharedFabric,
    ledger: Ledger,
    documents: watch::Sender<Arc<Documents>>,
    token: CancellationToken,
) {
    let (sender, mut receiver) = mpsc::channel(QUEUE);
    let mut followers = tokio::task::JoinSet::new();
    for prefix in prefixes(&site) {
        followers.spawn(follow(Arc::clone(&fabric), prefix, sender.clone()));
    }
    drop(sender);
    let current = Documents::clone(&documents.borrow());
    let mut taker = Taker { site, current, ledger, listings: BTreeMap::new(), documents };
    let mut changes = Vec::with_capacity(QUEUE);
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            count = receiver.recv_many(&mut changes, QUEUE) => {
                if count == 0 {
                    return;
                }
            }
        }
        tokio::select! {
            () = token.cancelled() => return,
            () = taker.take(std::mem::take(&mut changes)) => {}
        }
    }
}

/// Passes on the changes of one prefix. A new watch begins with the current documents, so it
/// starts as if the fabric had said [`Change::Reset`].
async fn follow(fabric: SharedFabric, prefix: String, sender: mpsc::Sender<(String, Change)>) {
    loop {
        match fabric.watch(&prefix, None).await {
            Ok(mut watch) => {
                let mut change = Some(Change::Reset);
                while let Some(next) = change {
                    if sender.send((prefix.clone(), next)).await.is_err() {
                        return;
                    }
                    change = watch.next().await;
                }
            }
            Err(error) => tracing::debug!(%prefix, "watch: {error}"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

struct Taker {
    site: SiteId,
    current: Documents,
    ledger: Ledger,
    /// For each prefix of which a full listing is under way, what it has named so far.
    listings: BTreeMap<String, BTreeSet<Name>>,
    documents: watch::Sender<Arc<Documents>>,
}

impl Taker {
    /// Takes a batch: decides, writes the ledger, publishes.
    async fn take(&mut self, changes: Vec<(String, Change)>) {
        let mut entries = Vec::new();
        for (prefix, change) in changes {
            self.decide(&prefix, change, &mut entries);
        }
        if !entries.is_empty() {
            self.write(entries).await;
        }
        self.documents.send_replace(Arc::new(self.current.clone()));
    }

    fn decide(&mut self, prefix: &str, change: Change, entries: &mut Vec<Entry>) {
        match change {
            Change::Put(document) => {
                let Some(name) = Name::parse(&document.key, &self.site) else { return };
                if let Some(listing) = self.listings.get_mut(prefix) {
                    listing.insert(name.clone());
                }
                let (generation, value) = (document.generation, document.value.as_ref());
                let known = self.current.generation(&name).is_some();
                if self.current.accept(&self.site, &name, generation, value)
                    && self.current.matters(&name)
                {
                    entries.push(self.entry(&name, generation, value));
                    if let Name::Assignment(app) = &name
                        && !known
                    {
                        self.keep_activation(&Name::Activation(app.clone()), entries);
                    }
                }
            }
            Change::Delete { key, generation } => {
                if let Some(name) = Name::parse(&key, &self.site) {
                    self.forget(&name, generation, entries);
                }
            }
            Change::Reset => {
                self.listings.insert(prefix.to_owned(), BTreeSet::new());
            }
            Change::Current(generation) => {
                let Some(listed) = self.listings.remove(prefix) else { return };
                for name in self.current.names() {
                    let ours = name.key(&self.site).starts_with(prefix);
                    if ours && !listed.contains(&name) {
                        self.forget(&name, generation, entries);
                    }
                }
            }
        }
    }

    fn forget(&mut self, name: &Name, generation: Generation, entries: &mut Vec<Entry>) {
        if self.current.forget(&self.site, name, generation) {
            entries.push(Entry::Remove(name.key(&self.site)));
            if let Name::Assignment(app) = name {
                entries.push(Entry::Remove(Name::Activation(app.clone()).key(&self.site)));
            }
        }
    }

    /// An activation that came before its assignment is written when the assignment comes.
    fn keep_activation(&self, name: &Name, entries: &mut Vec<Entry>) {
        let Name::Activation(app) = name else { return };
        if let Some(activation) = self.current.activations.get(app)
            && let Ok(value) = serde_json::to_vec(activation.value.as_ref())
        {
            entries.push(self.entry(name, activation.generation, &value));
        }
    }

    fn entry(&self, name: &Name, generation: Generation, value: &[u8]) -> Entry {
        Entry::Write(Record { key: name.key(&self.site), generation, value: value.to_vec() })
    }

    /// Nothing is acted on that a restart would not find again: with a disk that fails, the site
    /// goes on with what it has, says so, and tries again.
    async fn write(&mut self, entries: Vec<Entry>) {
        let entries = Arc::new(entries);
        loop {
            let (ledger, batch) = (self.ledger.clone(), Arc::clone(&entries));
            let written = tokio::task::spawn_blocking(move || ledger.apply(&batch)).await;
            let error = match written {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(panic) => std::io::Error::other(panic),
            };
            let message =
                format!("the ledger can't be written, so no new document is taken: {error}");
            tracing::error!("{message}");
            self.documents.send_modify(|documents| {
                Arc::make_mut(documents).refused.insert("ledger".to_owned(), message);
            });
            tokio::time::sleep(RETRY).await;
        }
    }
}
