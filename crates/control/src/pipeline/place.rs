//! The *plan* stage: which sites, and which epoch.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_fabric::Step;
use selvedge_model::documents::AppRecord;
use selvedge_model::geo::DistanceModel;
use selvedge_model::manifest;
use selvedge_model::{
    App, AppName, Assignment, Epoch, Release, ReleaseId, SiteId, Stage, Topology, keys,
};
use selvedge_plan::placement::{self, Demand};

use super::receive::{Candidate, Work};
use super::run::{Refusal, Run, broken};

impl Run {
    /// Chooses sites for everything that changes, and reserves its epochs.
    pub(super) async fn place(&mut self, candidates: &[Candidate]) -> Result<(), Refusal> {
        self.begin(Stage::Plan).await?;
        let chosen = self.choose(candidates).await?;
        let notes: Vec<String> = chosen
            .iter()
            .map(|(app, sites)| format!("{app} at {}", count(sites.len(), "site")))
            .collect();
        for (app, sites) in chosen {
            if let Some(planned) = self.push.apps.iter_mut().find(|it| it.app == app) {
                planned.sites = sites;
            }
        }
        self.reserve().await?;
        self.end(Some(if notes.is_empty() {
            "nothing changes".to_owned()
        } else {
            notes.join(", ")
        }));
        Ok(())
    }

    /// The sites of everything that changes, or which placement can't be met and why. Changes
    /// nothing, so *validate* asks it too: what can't be placed need not be built.
    pub(super) async fn choose(
        &self,
        candidates: &[Candidate],
    ) -> Result<Vec<(AppName, BTreeSet<SiteId>)>, Refusal> {
        let topology: Option<Topology> =
            self.shared.store.get(keys::TOPOLOGY).await.map_err(broken("read the sites"))?;
        let topology = topology.unwrap_or_default();
        let assignments: Vec<(String, Assignment)> = self
            .shared
            .store
            .list(keys::ASSIGNMENTS)
            .await
            .map_err(broken("read what sites have"))?;
        let needs = self.needs(&assignments).await?;
        let changed: Vec<_> = candidates.iter().filter(|it| it.work != Work::Nothing).collect();
        let apps: Vec<&App> = changed.iter().map(|it| &it.app).collect();
        let choices = choose(&topology, needs, |app| sites_of(&assignments, app), &apps);
        let place = |(choice, candidate): (Choice, &&Candidate)| {
            let file = manifest::path_in(&candidate.directory);
            let sites = choice.plan.map_err(|why| Refusal::new(format!("{file}: {why}")))?.sites;
            Ok((candidate.app.name.clone(), sites))
        };
        choices.into_iter().zip(&changed).map(place).collect()
    }

    /// Gives every app that has sites its epoch.
    pub(super) async fn reserve(&mut self) -> Result<(), Refusal> {
        let incarnation =
            self.shared.store.0.incarnation().await.map_err(broken("reserve an epoch"))?;
        for planned in &mut self.push.apps {
            if planned.sites.is_empty() {
                continue;
            }
            let reserve = |standing: Option<AppRecord>| match standing {
                Some(record) if record.repository == self.push.repository => {
                    let epoch = next(record.last_epoch, incarnation);
                    (Step::Put(AppRecord { last_epoch: epoch, ..record }), Some(epoch))
                }
                _ => (Step::Keep, None),
            };
            let key = keys::app(&planned.app);
            let epoch = self.shared.store.update(&key, reserve).await;
            let epoch = epoch.map_err(broken("reserve an epoch"))?;
            let taken = || {
                let app = &planned.app;
                Refusal::new(format!(
                    "the app name {app} was taken by another repository meanwhile"
                ))
            };
            planned.epoch = Some(epoch.ok_or_else(taken)?);
        }
        Ok(())
    }

    /// The memory that every app has at each site, in MiB.
    async fn needs(&self, assignments: &[(String, Assignment)]) -> Result<Needs, Refusal> {
        let mut known: BTreeMap<(AppName, ReleaseId), u64> = BTreeMap::new();
        let mut needs = Needs::new();
        for (_, assignment) in assignments {
            let newest = assignment.entries.iter().max_by_key(|entry| entry.epoch);
            let Some(entry) = newest else { continue };
            let name = (assignment.app.clone(), entry.release);
            let need = match known.get(&name) {
                Some(need) => *need,
                None => {
                    let key = keys::release(&assignment.app, &entry.release);
                    let release: Option<Release> =
                        self.shared.store.get(&key).await.map_err(broken("read a release"))?;
                    let need = release.map_or(0, |release| placement::need_mib(&release.app));
                    known.insert(name, need);
                    need
                }
            };
            needs.entry(assignment.app.clone()).or_default().insert(assignment.site.clone(), need);
        }
        Ok(needs)
    }
}

/// The memory that every app has at each site, in MiB.
pub(crate) type Needs = BTreeMap<AppName, BTreeMap<SiteId, u64>>;

/// Where an app is to go, and why; or why it can't.
pub(crate) struct Choice {
    pub(crate) plan: Result<placement::Plan, placement::Infeasible>,
    pub(crate) report: placement::Report,
}

/// Chooses sites for `apps`, each beside those before it and all others.
pub(crate) fn choose(
    topology: &Topology,
    mut needs: Needs,
    current: impl Fn(&AppName) -> BTreeSet<SiteId>,
    apps: &[&App],
) -> Vec<Choice> {
    let mut choices = Vec::new();
    for app in apps {
        let need_mib = placement::need_mib(app);
        needs.remove(&app.name);
        let (plan, report) = placement::plan(&placement::Input {
            topology,
            app: &app.name,
            placement: &app.placement,
            need_mib,
            used_mib: &used(&needs),
            current: &current(&app.name),
            demand: &Demand::cities(),
            round_trips: &DistanceModel,
        });
        if let Ok(plan) = &plan {
            let at_each = plan.sites.iter().map(|site| (site.clone(), need_mib)).collect();
            needs.insert(app.name.clone(), at_each);
        }
        choices.push(Choice { plan, report });
    }
    choices
}

/// The epoch after `last` in the store's present life.
fn next(last: Epoch, incarnation: u64) -> Epoch {
    if last.incarnation >= incarnation {
        Epoch::new(last.incarnation, last.number + 1)
    } else {
        Epoch::new(incarnation, 1)
    }
}

fn used(needs: &Needs) -> BTreeMap<SiteId, u64> {
    let mut used = BTreeMap::new();
    for (site, need) in needs.values().flatten() {
        *used.entry(site.clone()).or_insert(0) += need;
    }
    used
}

fn sites_of(assignments: &[(String, Assignment)], app: &AppName) -> BTreeSet<SiteId> {
    assignments
        .iter()
        .filter(|(_, it)| it.app == *app && !it.entries.is_empty())
        .map(|(_, it)| it.site.clone())
        .collect()
}

/// `1 site`, `2 sites`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_never_go_back() {
        assert_eq!(next(Epoch::new(0, 0), 7), Epoch::new(7, 1));
        assert_eq!(next(Epoch::new(7, 4), 7), Epoch::new(7, 5));
        assert_eq!(next(Epoch::new(8, 4), 7), Epoch::new(8, 5));
    }
}
