//! Takes up what the ledger holds: the documents that a site starts from.

use std::collections::BTreeMap;

use selvedge_model::{Epoch, Release, SiteId, keys};

use crate::documents::{AppKey, Documents, Name};
use crate::floors;
use crate::ledger::{Opened, Record};
use crate::snapshot::floor_without_record;

/// What an agent starts from.
pub(crate) struct Restored {
    pub(crate) documents: Documents,
    pub(crate) releases: Vec<Release>,
    pub(crate) floors: BTreeMap<AppKey, Epoch>,
    /// What was wrong, in words.
    pub(crate) problems: Vec<String>,
}

/// Sorts the ledger's records. One that can't be used is set aside like a damaged one.
pub(crate) fn restore(site: &SiteId, opened: &mut Opened) -> Restored {
    let mut restored = Restored {
        documents: Documents::default(),
        releases: Vec::new(),
        floors: BTreeMap::new(),
        problems: std::mem::take(&mut opened.problems),
    };
    for record in std::mem::take(&mut opened.records) {
        if let Err(reason) = take(site, &record, &mut restored) {
            restored.problems.push(opened.ledger.set_aside_key(&record.key, &reason));
        }
    }
    restored.documents.refused.clear();
    for (app, activation) in &restored.documents.activations {
        if let Some(floor) = floor_without_record(site, &activation.value) {
            restored.floors.entry(app.clone()).or_insert(floor);
        }
    }
    restored
}

fn take(site: &SiteId, record: &Record, restored: &mut Restored) -> Result<(), String> {
    if let Some((app, floor)) = floors::parse(record) {
        restored.floors.insert(app, floor);
        return Ok(());
    }
    if record.key.starts_with(keys::RELEASES) {
        let release: Release = serde_json::from_slice(&record.value)
            .map_err(|error| format!("can't be read ({error})"))?;
        restored.releases.push(release);
        return Ok(());
    }
    let name = Name::parse(&record.key, site)
        .ok_or_else(|| format!("is not of {site} or of no kind that is known"))?;
    if restored.documents.accept(site, &name, record.generation, &record.value) {
        return Ok(());
    }
    let reason = restored.documents.refused.get(&record.key);
    Err(reason.map_or_else(|| "can't be used".to_owned(), |it| format!("can't be used ({it})")))
}
