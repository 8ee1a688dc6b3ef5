//! Is it well, and if not, why: the findings in a status, each with what to do. Pure.

use std::collections::BTreeMap;

use selvedge_api::{AppSite, AppSiteState, AppStatus, SiteHealth, SiteRow, Status};
use serde::Serialize;

/// Lines of output that a finding carries.
const LAST_LINES: usize = 8;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What, where and why, in words.
    pub(crate) what: String,
    /// What to do.
    pub(crate) mend: String,
    /// The last lines of the output that shows it.
    pub(crate) last_lines: Vec<String>,
}

/// What is wrong: the installation first, then sites, then apps.
pub(crate) fn findings(status: &Status) -> Vec<Finding> {
    let control = status.control.problems.iter().map(|problem| Finding {
        what: format!("control: {problem}"),
        mend: "`selvedge doctor` looks at the machine".to_owned(),
        last_lines: Vec::new(),
    });
    let sites = status.sites.iter().filter_map(site);
    let apps = status.apps.iter().flat_map(|it| app(it, &status.sites));
    control.chain(sites).chain(apps).collect()
}

fn site(site: &SiteRow) -> Option<Finding> {
    let name = format!("{} ({})", site.id, site.city);
    let (what, mend) = match site.health {
        SiteHealth::Healthy | SiteHealth::Draining => return None,
        SiteHealth::Lost => (
            format!("{name} is lost: control has no word from it"),
            "start its agent again, or look why it can't reach control".to_owned(),
        ),
        SiteHealth::Degraded => (
            format!("{name}: {}", site.problems.join("; ")),
            format!("`selvedge logs --all --site {} --source event` says when it began", site.id),
        ),
    };
    Some(Finding { what, mend, last_lines: Vec::new() })
}

fn app(app: &AppStatus, sites: &[SiteRow]) -> Vec<Finding> {
    let name = &app.summary.app;
    let mut findings: Vec<Finding> = app
        .sites
        .iter()
        .filter(|it| !is_well(it, app))
        // A lost site has been named already.
        .filter(|it| {
            let lost = |row: &SiteRow| row.id == it.site && row.health == SiteHealth::Lost;
            it.state != AppSiteState::Lost && !sites.iter().any(lost)
        })
        .map(|it| {
            let site = &it.site;
            let reason = it.reason.as_ref().map(|reason| format!(": {reason}"));
            let skipped = it.last_lines.len().saturating_sub(LAST_LINES);
            Finding {
                what: format!("{name} at {site} {}{}", words(it.state), reason.unwrap_or_default()),
                mend: format!("`selvedge logs {name} --site {site}` shows what led to it"),
                last_lines: it.last_lines.iter().skip(skipped).cloned().collect(),
            }
        })
        .collect();
    if app.summary.live.is_some() && app.summary.assigned == 0 && app.pushing.is_none() {
        findings.push(Finding {
            what: format!("{name} is placed nowhere"),
            mend: format!("`selvedge why {name}` says which constraint no site meets"),
            last_lines: Vec::new(),
        });
    }
    findings
}

/// Whether it is as it should be at a site, or on its way there.
fn is_well(site: &AppSite, app: &AppStatus) -> bool {
    match site.state {
        AppSiteState::Live | AppSiteState::Draining => true,
        AppSiteState::Warming | AppSiteState::Behind | AppSiteState::Unknown => {
            app.pushing.is_some()
        }
        AppSiteState::Degraded | AppSiteState::Failed | AppSiteState::Lost => false,
    }
}

fn words(state: AppSiteState) -> &'static str {
    match state {
        AppSiteState::Live => "is live",
        AppSiteState::Behind => "serves an older release",
        AppSiteState::Warming => "is getting ready",
        AppSiteState::Degraded => "is degraded",
        AppSiteState::Failed => "can't be started",
        AppSiteState::Draining => "is being stopped",
        AppSiteState::Unknown => "has not been heard of",
        AppSiteState::Lost => "is out of sight",
    }
}

/// What machines lack, each once, with where. It is not wrong: it is how the machines are.
pub(crate) fn limitations(status: &Status) -> Vec<String> {
    let control = status.control.limitations.iter().map(|it| (it, "control".to_owned()));
    let sites = status
        .sites
        .iter()
        .flat_map(|site| site.limitations.iter().map(|it| (it, site.id.to_string())));
    let mut found: BTreeMap<&String, Vec<String>> = BTreeMap::new();
    for (limitation, place) in control.chain(sites) {
        found.entry(limitation).or_default().push(place);
    }
    found.into_iter().map(|(what, places)| format!("{}: {what}", places.join(", "))).collect()
}

/// The one line that answers the question.
pub(crate) fn headline(findings: &[Finding]) -> String {
    match findings.len() {
        0 => "Everything is well.".to_owned(),
        1 => "One thing is wrong:".to_owned(),
        many => format!("{many} things are wrong:"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A status of two sites and an app at both, as control sends it.
    fn status(change: impl Fn(&mut Value)) -> Status {
        let site = |id: &str, city: &str| {
            json!({"id": id, "city": city, "country": "DE", "region": "europe",
                "point": {"lat": 50.0, "lon": 8.0}, "provider": "acme", "addresses": ["127.0.1.1"],
                "http_port": 1, "https_port": 2, "health": "healthy", "problems": [],
                "assigned": 1, "serving": 1, "certificates": 1})
        };
        let at = |id: &str| json!({"site": id, "state": "live", "last_lines": []});
        let mut status = json!({
            "control": {"version": "1", "pid": 1, "started_ms": 0, "incarnation": 1,
                "zone": "edge.test", "problems": []},
            "sites": [site("fra", "Frankfurt"), site("nyc", "New York")],
            "apps": [{"app": "shop", "repository": "shop", "directory": "", "live": null,
                "urls": [], "assigned": 2, "serving": 2, "environment": "production",
                "hosts": [], "sites": [at("fra"), at("nyc")], "pushing": null,
                "last_failure": null}],
        });
        change(&mut status);
        serde_json::from_value(status).unwrap()
    }

    fn found(change: impl Fn(&mut Value)) -> Vec<String> {
        findings(&status(change))
            .into_iter()
            .map(|it| format!("{} -> {}", it.what, it.mend))
            .collect()
    }

    #[test]
    fn nothing_is_wrong_until_something_is() {
        assert!(found(|_| {}).is_empty());
        assert_eq!(headline(&[]), "Everything is well.");
        // On its way is not wrong, and where a site is lost its apps are not named again.
        assert!(
            found(|it| {
                it["apps"][0]["pushing"] = json!(3);
                it["apps"][0]["sites"][0]["state"] = json!("warming");
            })
            .is_empty()
        );
        assert_eq!(
            found(|it| {
                it["sites"][1]["health"] = json!("lost");
                it["apps"][0]["sites"][1]["state"] = json!("lost");
            }),
            [
                "nyc (New York) is lost: control has no word from it -> start its agent again, or look why it can't reach control"
            ]
        );
        assert_eq!(
            found(|it| {
                it["control"]["problems"] = json!(["no disk"]);
                it["sites"][0]["health"] = json!("degraded");
                it["sites"][0]["problems"] = json!(["no room", "no port"]);
                it["apps"][0]["sites"][0]["state"] = json!("behind");
            }),
            [
                "control: no disk -> `selvedge doctor` looks at the machine",
                "fra (Frankfurt): no room; no port -> `selvedge logs --all --site fra --source event` says when it began",
                "shop at fra serves an older release -> `selvedge logs shop --site fra` shows what led to it",
            ]
        );
    }

    #[test]
    fn what_machines_lack_is_named_once_and_is_not_wrong() {
        let lacking = status(|it| {
            it["control"]["limitations"] = json!(["no groups"]);
            for site in 0..2 {
                it["sites"][site]["limitations"] = json!(["no groups"]);
            }
            it["sites"][1]["limitations"] = json!(["no groups", "an old kernel"]);
        });
        assert!(findings(&lacking).is_empty());
        assert_eq!(limitations(&lacking), ["nyc: an old kernel", "control, fra, nyc: no groups"]);
    }

    #[test]
    fn a_failure_carries_its_last_lines() {
        let lines: Vec<String> = (0..20).map(|number| format!("line {number}")).collect();
        let ill = status(|it| {
            let site = &mut it["apps"][0]["sites"][0];
            site["state"] = json!("failed");
            site["reason"] = json!("api: exited with code 7");
            site["last_lines"] = json!(lines);
        });
        let [finding] = &findings(&ill)[..] else { panic!("one") };
        assert_eq!(finding.what, "shop at fra can't be started: api: exited with code 7");
        assert_eq!(finding.last_lines, lines[12..]);
        assert_eq!(headline(&findings(&ill)), "One thing is wrong:");
    }
}
