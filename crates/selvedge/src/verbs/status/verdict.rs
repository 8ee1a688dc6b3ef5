//! Is it well, and if not, why: the findings in a status, each with what to do. Pure.

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

/// The one line that answers the question.
pub(crate) fn headline(findings: &[Finding]) -> String {
    match findings.len() {
        0 => "Everything is well.".to_owned(),
        1 => "One thing is wrong:".to_owned(),
        many => format!("{many} things are wrong:"),
    }
}
