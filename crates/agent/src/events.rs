//! What is worth a line in the log, found by comparing what the agent said of itself before with
//! what it says now. Pure.

use std::collections::BTreeSet;

use selvedge_api::LogLevel;
use selvedge_model::documents::EpochReport;
use selvedge_model::{AppReport, EpochState, ServiceName};

use crate::log::Event;
use crate::status::Status;

/// Lines of output that an event carries.
const LAST_LINES: usize = 10;

/// What happened from `before` to `now`.
pub(crate) fn between(before: &Status, now: &Status) -> Vec<Event> {
    let mut events = Vec::new();
    for (key, report) in &now.apps {
        app(before.apps.get(key), report, &mut events);
    }
    for (key, report) in &before.apps {
        if !now.apps.contains_key(key) {
            events.push(about(report, None, LogLevel::Info, None, "not here any more".into()));
        }
    }
    for (host, fingerprint) in &now.certificates {
        if before.certificates.get(host) != Some(fingerprint) {
            let text = format!("certificate of {host} taken ({})", fingerprint.short());
            events.push(Event::site(LogLevel::Info, text));
        }
    }
    let (old, new): (BTreeSet<_>, BTreeSet<_>) =
        (before.problems.iter().collect(), now.problems.iter().collect());
    events.extend(new.difference(&old).map(|it| Event::site(LogLevel::Error, it.as_str())));
    events.extend(
        old.difference(&new).map(|it| Event::site(LogLevel::Info, format!("mended: {it}"))),
    );
    events
}

fn app(before: Option<&AppReport>, now: &AppReport, events: &mut Vec<Event>) {
    for (epoch, report) in &now.epochs {
        let old = before.and_then(|before| before.epochs.get(epoch)).map(|old| &old.state);
        if old == Some(&report.state) {
            continue;
        }
        let (level, service, text) = match &report.state {
            EpochState::Fetching => continue,
            EpochState::Starting => match old {
                None | Some(EpochState::Fetching) => continue,
                Some(_) => (LogLevel::Info, None, "starting again".to_owned()),
            },
            EpochState::Warm => (LogLevel::Info, None, "warm".to_owned()),
            EpochState::Draining => (LogLevel::Info, None, "draining".to_owned()),
            EpochState::Degraded { service, reason, last_lines } => {
                (LogLevel::Error, Some(service), words("degraded", reason, last_lines))
            }
            EpochState::Failed { service, reason, last_lines } => {
                (LogLevel::Error, service.as_ref(), words("failed", reason, last_lines))
            }
        };
        let text = format!("epoch {epoch}: {text}");
        events.push(about(now, Some(report), level, service, text));
    }
    let active = now.active.filter(|_| before.is_none_or(|it| it.active != now.active));
    if let Some(epoch) = active {
        let text = format!("epoch {epoch}: served from now on");
        events.push(about(now, now.epochs.get(&epoch), LogLevel::Info, None, text));
    }
}

fn words(what: &str, reason: &str, last_lines: &[String]) -> String {
    let skipped = last_lines.len().saturating_sub(LAST_LINES);
    let lines: String = last_lines.iter().skip(skipped).map(|line| format!(" | {line}")).collect();
    format!("{what}: {reason}{lines}")
}

fn about(
    report: &AppReport,
    epoch: Option<&EpochReport>,
    level: LogLevel,
    service: Option<&ServiceName>,
    text: String,
) -> Event {
    Event {
        level,
        app: Some(report.app.clone()),
        environment: Some(report.environment.clone()),
        service: service.cloned(),
        release: epoch.map(|epoch| epoch.release.short()),
        text,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use selvedge_model::{AppName, Digest, EnvironmentName, Epoch, Host, ReleaseId, SiteId};

    use super::*;

    fn status(states: &[(u64, EpochState)], active: Option<u64>, problems: &[&str]) -> Status {
        let key = (AppName::new("shop").unwrap(), EnvironmentName::production());
        let epochs = states.iter().map(|(number, state)| {
            let release = ReleaseId(Digest::of(&number.to_be_bytes()));
            (Epoch::new(1, *number), EpochReport { release, state: state.clone() })
        });
        let report = AppReport {
            app: key.0.clone(),
            environment: key.1.clone(),
            site: SiteId::new("fra").unwrap(),
            assignment: None,
            activation: None,
            epochs: epochs.collect(),
            active: active.map(|number| Epoch::new(1, number)),
            probe: None,
            warnings: Vec::new(),
        };
        let problems = problems.iter().map(|it| (*it).to_owned()).collect();
        Status { apps: BTreeMap::from([(key, report)]), problems, ..Status::default() }
    }

    fn said(before: &Status, now: &Status) -> Vec<String> {
        assert!(between(now, now).is_empty());
        let events = between(before, now);
        events.into_iter().map(|it| format!("{:?} {}", it.level, it.text)).collect()
    }

    #[test]
    fn what_changes_is_said_once() {
        let degraded = EpochState::Degraded {
            service: ServiceName::new("api").unwrap(),
            reason: "exited with code 7".into(),
            last_lines: (0..30).map(|number| format!("line {number}")).collect(),
        };
        let none = Status::default();
        let first = status(&[(1, EpochState::Fetching)], None, &[]);
        assert!(said(&none, &first).is_empty());
        let warm = status(&[(1, EpochState::Warm)], Some(1), &["no disk"]);
        assert_eq!(
            said(&first, &warm),
            ["Info epoch 1.1: warm", "Info epoch 1.1: served from now on", "Error no disk"]
        );
        let ill = status(&[(1, degraded)], Some(1), &[]);
        let [died, mended] = &said(&warm, &ill)[..] else { panic!("two") };
        assert!(
            died.starts_with("Error epoch 1.1: degraded: exited with code 7 | line 20 | line 21")
        );
        assert!(died.ends_with("| line 29"));
        assert_eq!(mended, "Info mended: no disk");
        let events = between(&warm, &ill);
        assert_eq!(events[0].service.as_ref().unwrap().as_str(), "api");
        assert!(events[0].release.is_some());
        assert_eq!(said(&ill, &none), ["Info not here any more"]);

        let mut certificates = Status::default();
        let host = Host::new("shop.edge.test").unwrap();
        certificates.certificates.insert(host, Digest::of(b"leaf"));
        let [taken] = &said(&none, &certificates)[..] else { panic!("one") };
        assert!(taken.starts_with("Info certificate of shop.edge.test taken"));
    }
}
