//! From the commit point on: *activate*, *verify*, and what holds afterwards.
//!
//! Every step may be repeated, because a restarted control does them all again from the record.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::try_join_all;
use selvedge_fabric::Step;
use selvedge_model::documents::{AppRecord, HistoryEntry, PushApp, PushCause};
use selvedge_model::{
    Activation, AppName, Assignment, EnvironmentName, Epoch, Host, PushState, SiteId, Stage,
    Topology, hosts, keys,
};
use selvedge_plan::rollout::{self, FailureKind, RetireInput, Target};

use super::place::count;
use super::progress::seconds;
use super::rollout::{Rollout, Stop};
use super::run::{Refusal, Run, broken};
use super::{Shared, claims, recover, restore};
use crate::git::MAIN;
use crate::now_ms;

/// Releases of an app that are kept.
const KEPT_RELEASES: usize = 5;
/// Entries of an app's history that are kept.
const KEPT_ENTRIES: usize = 25;
/// The pause before a failing step is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Takes the push over the commit point and to its end. What fails on control's side is tried
/// again until it succeeds: there is no way back from here but a restore.
pub(super) async fn complete(run: &mut Run) {
    while let Err(refusal) = attempt(run).await {
        tracing::error!(repository = %run.push.repository, push = run.push.number,
            reason = %refusal.reason, "a push could not be completed yet");
        tokio::time::sleep(RETRY).await;
    }
}

async fn attempt(run: &mut Run) -> Result<(), Refusal> {
    if run.push.state != PushState::Settling {
        commit(run).await?;
    }
    // Otherwise the push has come to another end.
    if run.push.state == PushState::Settling {
        let rollouts = run.rollouts().await?;
        let gone = settle(run, &rollouts).await?;
        announce(run, &rollouts, &gone).await?;
        run.push.state = recover::settled(&run.push);
    }
    Ok(())
}

/// The two stages. What was verified is on record before anything is settled: a restart must not
/// ask again, for it could not bring back what has been taken down since.
async fn commit(run: &mut Run) -> Result<(), Refusal> {
    run.push.state = PushState::Committing;
    run.begin(Stage::Activate).await?;
    let mut rollouts = run.rollouts().await?;
    match move_main(run, &rollouts).await? {
        Main::Moved => {}
        Main::Newer => {
            supersede(run, "a newer release is live already".to_owned());
            return Ok(());
        }
        Main::Foreign => {
            let reason = "main was moved by somebody else; fetch it and push again";
            run.refuse(Refusal::new(reason)).await;
            return Ok(());
        }
    }
    // Who gets a host from another app comes first, so that sites never find it with nobody.
    for gains in [true, false] {
        for rollout in &rollouts {
            if claims::gains(&run.shared, &rollout.release).await? == gains {
                activate(&run.shared, rollout).await?;
            }
        }
    }
    run.end(None);
    run.begin(Stage::Verify).await?;
    rollouts = run.rollouts().await?;
    let note = match run.verify(&mut rollouts).await {
        Ok(note) => note,
        Err(Stop::Broken(refusal)) => return Err(refusal),
        // Nobody was there to ask, which does not speak against it.
        Err(Stop::Failed(_, failure)) if failure.kind == FailureKind::NoSite => failure.reason,
        Err(Stop::Failed(_, failure)) if failure.kind == FailureKind::Superseded => {
            supersede(run, failure.reason);
            return Ok(());
        }
        Err(stop @ Stop::Failed(..)) => {
            let refusal = stop.into_refusal();
            if !matches!(run.push.cause, PushCause::Restore { .. }) {
                return restore::restore(run, refusal).await;
            }
            // There is nothing better to go back to than what was restored.
            format!("not confirmed: {}", refusal.reason)
        }
    };
    run.end(Some(note));
    run.push.state = PushState::Settling;
    run.save().await
}

/// Ends a push that a later one has followed already. What is to hold now, and at which sites, is
/// the later one's to say.
fn supersede(run: &mut Run, note: String) {
    run.end(Some(note));
    run.push.state = PushState::Live;
}

/// Where main stands.
enum Main {
    /// At the pushed commit.
    Moved,
    /// Past it: a later push is live.
    Newer,
    /// Where the push has no business.
    Foreign,
}

/// Moves main from the old commit to the new one.
async fn move_main(run: &Run, rollouts: &[Rollout]) -> Result<Main, Refusal> {
    let (old, new) = (run.old_commit()?, run.new_commit()?);
    let main = run.repository.main().await.map_err(broken("read main"))?;
    if main.as_ref() == Some(&new) {
        return Ok(Main::Moved);
    }
    if main == old {
        let moved = run.repository.move_ref(MAIN, old.as_ref(), Some(&new)).await;
        return moved.map(|()| Main::Moved).map_err(broken("move main"));
    }
    for rollout in rollouts {
        let live = super::receive::live(&run.shared, rollout.app()).await?;
        if live.is_some_and(|(epoch, _)| epoch >= rollout.target.epoch) {
            return Ok(Main::Newer);
        }
    }
    Ok(Main::Foreign)
}

/// Writes the activation: the commit point of an app.
async fn activate(shared: &Shared, rollout: &Rollout) -> Result<(), Refusal> {
    let environment = EnvironmentName::production();
    let wanted = rollout::commit(rollout.app(), &environment, &rollout.target);
    let key = keys::activation(rollout.app(), &environment);
    let commit = |standing: Option<Activation>| {
        let newest = standing.as_ref().and_then(Activation::newest);
        if newest >= Some(rollout.target.epoch) {
            (Step::Keep, ())
        } else {
            (Step::Put(wanted.clone()), ())
        }
    };
    shared.store.update(&key, commit).await.map_err(broken("activate the release"))
}

/// Makes the records agree with what is live: history, hosts, assignments, kept objects, and apps
/// that the repository has no more.
/// Says which were taken down.
pub(super) async fn settle(run: &Run, rollouts: &[Rollout]) -> Result<Vec<AppName>, Refusal> {
    let shared = &run.shared;
    for rollout in rollouts {
        claims::pass_on(shared, &run.push.repository, &rollout.release).await?;
    }
    for planned in &run.push.apps {
        let Some(directory) = &planned.directory else { continue };
        let place = |standing: Option<AppRecord>| match standing {
            Some(record) if record.directory != *directory => {
                (Step::Put(AppRecord { directory: directory.clone(), ..record }), ())
            }
            _ => (Step::Keep, ()),
        };
        let placed = shared.store.update(&keys::app(&planned.app), place).await;
        placed.map_err(broken("record where the app is"))?;
    }
    for rollout in rollouts {
        let app = rollout.app();
        let entry = HistoryEntry {
            epoch: rollout.target.epoch,
            release: rollout.target.release,
            commit: run.push.new_commit.clone(),
            push: run.push.number,
            at_ms: now_ms(),
        };
        let add = |standing: Option<AppRecord>| match standing {
            None => (Step::Keep, ()),
            Some(mut record) => {
                record.history = extended(record.history, entry.clone());
                (Step::Put(record), ())
            }
        };
        let added = shared.store.update(&keys::app(app), add).await;
        added.map_err(broken("record what is live"))?;
        let keeper = format!("releases/{app}/{}", rollout.target.release.0);
        let kept = run.repository.keep(&keeper, &run.new_commit()?).await;
        kept.map_err(broken("keep the release's commit"))?;
        claims::give_back(shared, app).await?;
        retire(shared, app, &rollout.target, &rollout.sites, now_ms()).await?;
    }
    let gone = run.leaving().await?;
    for app in &gone {
        restore::take_down(shared, app).await?;
        run.say(format_args!("{app} is not in the repository any more and was taken down."));
    }
    Ok(gone)
}

/// Has every site keep what is live alone, and sites that are not planned any more nothing, once
/// nobody is sent there. Says whether some site is still to leave.
pub(super) async fn retire(
    shared: &Shared,
    app: &AppName,
    live: &Target,
    sites: &BTreeSet<SiteId>,
    live_since_ms: u64,
) -> Result<bool, Refusal> {
    let environment = EnvironmentName::production();
    let assignments = shared.assignments(app).await?;
    let grace = u64::try_from(shared.limits.leave.as_millis()).unwrap_or(u64::MAX);
    let retirement = rollout::retire(&RetireInput {
        app,
        environment: &environment,
        live,
        sites,
        assignments: &assignments,
        now_ms: now_ms(),
        leave_at_ms: live_since_ms.saturating_add(grace),
    });
    let writes = retirement.assignments.into_iter().map(|(site, wanted)| {
        let expected = assignments.get(&site).cloned();
        let key = keys::assignment(&site, app, &environment);
        async move {
            let replace = |standing: Option<Assignment>| match standing {
                standing if standing != expected => (Step::Keep, ()),
                _ if wanted.entries.is_empty() => (Step::Delete, ()),
                _ => (Step::Put(wanted.clone()), ()),
            };
            shared.store.update(&key, replace).await
        }
    });
    try_join_all(writes).await.map_err(broken("tell a site what to have"))?;
    Ok(!retirement.leaving.is_empty())
}

/// Tells the pusher what is live where.
async fn announce(run: &Run, rollouts: &[Rollout], gone: &[AppName]) -> Result<(), Refusal> {
    let topology: Option<Topology> =
        run.shared.store.get(keys::TOPOLOGY).await.map_err(broken("read the sites"))?;
    let topology = topology.unwrap_or_default();
    let took = seconds(now_ms().saturating_sub(run.push.received_ms));
    run.say("");
    if rollouts.is_empty() {
        let other = if gone.is_empty() { "" } else { "other " };
        run.say(format_args!("No {other}app changes; main is at {}.", run.new_commit()?.short()));
    }
    for rollout in rollouts {
        run.say(format_args!(
            "{} {} is live at {}, {took} after the push.",
            rollout.app(),
            rollout.target.release.0.short(),
            count(rollout.sites.len(), "site")
        ));
        let Some(site) = rollout.sites.first().and_then(|id| topology.sites.get(id)) else {
            continue;
        };
        for host in hosts::all_hosts(&rollout.release.app, &run.shared.installation) {
            run.say(format_args!("  {}", url(&host, site.http_port, site.https_port)));
        }
    }
    let same = |it: &&PushApp| it.epoch.is_none();
    let unchanged: Vec<&str> =
        run.push.apps.iter().filter(same).map(|it| it.app.as_str()).collect();
    if !rollouts.is_empty() && !unchanged.is_empty() {
        run.say(format_args!("Unchanged: {}.", unchanged.join(", ")));
    }
    Ok(())
}

/// What to open for a host.
fn url(host: &Host, http_port: u16, https_port: u16) -> String {
    // Browsers resolve names below localhost themselves, and take them for secure without TLS.
    if host.is_local() {
        match http_port {
            80 => format!("http://{host}/"),
            port => format!("http://{host}:{port}/"),
        }
    } else {
        match https_port {
            443 => format!("https://{host}/"),
            port => format!("https://{host}:{port}/"),
        }
    }
}

/// The history with a release that went live, cut to what is kept. A repeated entry changes
/// nothing.
fn extended(history: Vec<HistoryEntry>, entry: HistoryEntry) -> Vec<HistoryEntry> {
    let newest: Option<Epoch> = history.first().map(|it| it.epoch);
    if newest >= Some(entry.epoch) {
        return history;
    }
    let mut releases = BTreeSet::new();
    std::iter::once(entry)
        .chain(history)
        .take_while(|it| {
            releases.insert(it.release);
            releases.len() <= KEPT_RELEASES
        })
        .take(KEPT_ENTRIES)
        .collect()
}

#[cfg(test)]
mod tests {
    use selvedge_model::{Digest, ReleaseId};

    use super::*;

    fn entry(number: u64, release: u8) -> HistoryEntry {
        HistoryEntry {
            epoch: Epoch::new(1, number),
            release: ReleaseId(Digest::of(&[release])),
            commit: String::new(),
            push: number,
            at_ms: 0,
        }
    }

    #[test]
    fn five_releases_are_kept_however_often_they_were_live() {
        let mut history = Vec::new();
        for number in 1..=8 {
            history = extended(history, entry(number, number as u8));
        }
        assert_eq!(history.iter().map(|it| it.push).collect::<Vec<_>>(), [8, 7, 6, 5, 4]);
        history = extended(history, entry(9, 7));
        assert_eq!(history.iter().map(|it| it.push).collect::<Vec<_>>(), [9, 8, 7, 6, 5, 4]);
        let again = extended(history.clone(), entry(9, 7));
        assert_eq!(again, history);
        for number in 10..100 {
            history = extended(history, entry(number, (number % 2) as u8));
        }
        assert_eq!(history.len(), KEPT_ENTRIES);
    }

    #[test]
    fn urls_open() {
        let url = |host, http, https| url(&Host::new(host).unwrap(), http, https);
        assert_eq!(url("a.localhost", 8080, 8443), "http://a.localhost:8080/");
        assert_eq!(url("a.edge.test", 80, 8443), "https://a.edge.test:8443/");
        assert_eq!(url("a.example.com", 80, 443), "https://a.example.com/");
    }
}
