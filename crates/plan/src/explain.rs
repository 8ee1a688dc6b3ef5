//! Reports in plain English, shared by the CLI and the console.

use std::collections::BTreeSet;
use std::fmt;

use crate::placement::{
    Binding, Chosen, Conflict, Constraint, Gain, Latency, Limit, Reason, Report, SiteList, Spare,
    Why,
};

/// The placement report, a line each: which sites, why these, the runner-up, what binds.
pub fn placement(report: &Report) -> Vec<String> {
    let app = &report.app;
    if !report.conflicts.is_empty() {
        let mut lines = vec![format!("{app} can't be placed:")];
        lines.extend(report.conflicts.iter().map(|conflict| format!("  {conflict}.")));
        return lines;
    }
    let providers = match report.providers.len() {
        1 => "one provider".to_owned(),
        number => format!("{number} providers"),
    };
    let sites = sites(u32::try_from(report.chosen.len()).unwrap_or(u32::MAX));
    let mut lines = vec![format!("{app} runs at {sites} of {providers}:")];
    lines.extend(report.chosen.iter().map(|chosen| format!("  {}", chosen_line(chosen))));
    if let Some(latency) = &report.latency {
        lines.push(latency_line(latency));
    }
    match report.spare.split_first() {
        None => {}
        Some((runner_up, rest)) => lines.push(runner_up_line(runner_up, rest)),
    }
    if !report.rejected.is_empty() {
        lines.push("Not possible at:".to_owned());
        for (site, reasons) in &report.rejected {
            lines.push(format!("  {site}: {}", list(reasons.iter().map(reason))));
        }
    }
    if !report.binds.is_empty() {
        lines.push("What binds:".to_owned());
        lines.extend(report.binds.iter().map(|binding| format!("  {}", binding_line(binding))));
    }
    lines
}

fn chosen_line(chosen: &Chosen) -> String {
    let why = match chosen.why {
        Why::Included => "included by name",
        Why::MeetsConstraints => "meets every constraint",
        Why::Gain => "chosen for its gain",
    };
    let gain = match chosen.mean_ms {
        None => String::new(),
        Some(Gain { before_ms: None, after_ms }) => {
            format!("; mean round trip {after_ms:.1} ms with it alone")
        }
        Some(Gain { before_ms: Some(before_ms), after_ms }) => {
            format!("; mean round trip {before_ms:.1} to {after_ms:.1} ms")
        }
    };
    format!("{} ({}, {}): {why}{gain}", chosen.site, chosen.city, chosen.provider)
}

fn latency_line(latency: &Latency) -> String {
    let worst = latency.demand.iter().max_by(|a, b| a.rtt_ms.total_cmp(&b.rtt_ms));
    let worst = worst
        .map(|it| format!("; the farthest is {}, {:.0} ms from {}", it.name, it.rtt_ms, it.site))
        .unwrap_or_default();
    format!(
        "Clients are {:.1} ms from their nearest site on average, 95 % within {:.1} ms{worst}.",
        latency.mean_ms, latency.p95_ms
    )
}

fn runner_up_line(runner_up: &Spare, rest: &[Spare]) -> String {
    let Spare { site, city, gain_ms } = runner_up;
    let rest = match rest.len() {
        0 => String::new(),
        1 => " (1 further site qualifies)".to_owned(),
        number => format!(" ({number} further sites qualify)"),
    };
    format!("Next would be {site} ({city}), which would save {gain_ms:.1} ms more{rest}.")
}

fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Excluded => "excluded by name".to_owned(),
        Reason::Region { region, allowed } => {
            format!("it lies in {region}, not in {}", any(allowed))
        }
        Reason::Jurisdiction { country, allowed } => {
            format!("{country} is not in {}", any(allowed))
        }
        Reason::Draining => "it is draining".to_owned(),
        Reason::Capacity { need_mib, free_mib } => {
            format!("it has {free_mib} MiB of memory left and the app needs {need_mib} MiB")
        }
    }
}

fn binding_line(binding: &Binding) -> String {
    match binding {
        Binding::MaxSites { max_sites, feasible } => {
            format!("max_sites = {max_sites}, and {feasible} sites qualify")
        }
        Binding::MinSites { min_sites } => {
            format!("min_sites = {min_sites}: none of the sites can be lost without breaking it")
        }
        Binding::Constraint { constraint, sites } => {
            format!("{} alone rules out {}", constraint_name(*constraint), all(sites))
        }
        Binding::ProviderSpread { mean_ms, without_ms } => format!(
            "two providers are taken for safety: {mean_ms:.1} ms instead of {without_ms:.1} ms"
        ),
        Binding::Stability { mean_ms, could_be_ms } => format!(
            "other sites would give {could_be_ms:.1} ms instead of {mean_ms:.1} ms, too little to move"
        ),
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownSite { list, site, known } => {
                let key = list_name(*list);
                write!(f, "{key} names the site {site}, which does not exist: ")?;
                match known.is_empty() {
                    true => f.write_str("there are no sites yet"),
                    false => write!(f, "use {}", any(known)),
                }
            }
            Self::Included { site, reasons } => {
                let causes = list(reasons.iter().map(reason));
                let mends: BTreeSet<_> =
                    reasons.iter().map(|reason| mend(reason.constraint())).collect();
                write!(f, "include names {site}, but {causes}: take it out of include, or ")?;
                f.write_str(&join(mends, " and "))
            }
            Self::IncludeAboveMax { include, max_sites } => write!(
                f,
                "include names {include} sites, but max_sites is {max_sites}: raise max_sites to \
                 {include} or include fewer"
            ),
            Self::MinAboveMax { min_sites, max_sites } => write!(
                f,
                "min_sites is {min_sites}, but max_sites is {max_sites}: lower min_sites or raise \
                 max_sites"
            ),
            Self::TooFew { min_sites, feasible, total, limits } => {
                too_few(f, [*min_sites, *feasible, *total], limits)
            }
        }
    }
}

fn too_few(
    f: &mut fmt::Formatter<'_>,
    [min_sites, feasible, total]: [u32; 3],
    limits: &[Limit],
) -> fmt::Result {
    write!(f, "min_sites is {min_sites}, but ")?;
    if limits.is_empty() {
        return match total {
            0 => f.write_str("there are no sites yet: add some"),
            _ => write!(f, "there are only {total} sites: lower min_sites or add sites"),
        };
    }
    let limit = |limit: &Limit| {
        format!("{} rules out {}", constraint_name(limit.constraint), limit.rules_out)
    };
    let qualify = if feasible == 1 { "qualifies" } else { "qualify" };
    let limited = list(limits.iter().map(limit));
    write!(f, "{feasible} of {total} sites {qualify}: {limited}; ")?;
    let enough = |limit: &&Limit| limit.feasible_without >= min_sites;
    let mends: Vec<_> = limits
        .iter()
        .filter(enough)
        .map(|it| {
            let (mend, sites) = (mend(it.constraint), sites(it.feasible_without));
            format!("{mend} ({sites} qualify without this limit)")
        })
        .collect();
    if feasible > 0 {
        write!(f, "lower min_sites to {feasible}")?;
    }
    match (mends.is_empty(), feasible > 0) {
        (true, true) => Ok(()),
        (true, false) if total < min_sites => f.write_str("ease these and add sites"),
        (true, false) => f.write_str("ease more than one of these"),
        (false, true) => write!(f, ", or {}", join(mends, ", or ")),
        (false, false) => f.write_str(&join(mends, ", or ")),
    }
}

fn list_name(list: SiteList) -> &'static str {
    match list {
        SiteList::Include => "include",
        SiteList::Exclude => "exclude",
    }
}

fn constraint_name(constraint: Constraint) -> &'static str {
    match constraint {
        Constraint::Exclude => "exclude",
        Constraint::Regions => "regions",
        Constraint::Jurisdictions => "jurisdictions",
        Constraint::Draining => "draining",
        Constraint::Capacity => "memory",
    }
}

fn mend(constraint: Constraint) -> &'static str {
    match constraint {
        Constraint::Exclude => "exclude fewer sites",
        Constraint::Regions => "allow more regions",
        Constraint::Jurisdictions => "allow more jurisdictions",
        Constraint::Draining => "end a drain",
        Constraint::Capacity => "lower the services' memory",
    }
}

fn sites(number: u32) -> String {
    match number {
        1 => "1 site".to_owned(),
        number => format!("{number} sites"),
    }
}

/// `a`, `a or b`, `a, b or c`.
fn any<T: fmt::Display>(items: &BTreeSet<T>) -> String {
    enumerate(items.iter().map(T::to_string).collect(), "or")
}

/// `a`, `a and b`, `a, b and c`.
fn all<T: fmt::Display>(items: &BTreeSet<T>) -> String {
    enumerate(items.iter().map(T::to_string).collect(), "and")
}

fn list(items: impl Iterator<Item = String>) -> String {
    enumerate(items.collect(), "and")
}

fn enumerate(mut items: Vec<String>, word: &str) -> String {
    match (items.pop(), items.is_empty()) {
        (None, _) => String::new(),
        (Some(only), true) => only,
        (Some(last), false) => format!("{} {word} {last}", items.join(", ")),
    }
}

fn join<S: AsRef<str>>(items: impl IntoIterator<Item = S>, between: &str) -> String {
    let items: Vec<_> = items.into_iter().collect();
    items.iter().map(S::as_ref).collect::<Vec<_>>().join(between)
}
