//! `[placement]`: at which sites an app may and must run. Which sites there are is not known here;
//! what can be wrong only with them (an unknown site, too few that qualify) the planner reports.

use std::collections::BTreeSet;

use super::Placement;
use super::author::label;
use super::diagnostic::{Problems, closest, one_of, quote};
use super::keys::{self, MAX_ENTRIES};
use super::section::{Section, Text};
use crate::id::SiteId;
use crate::topology::{Jurisdiction, Region};

pub(super) fn read(section: &Section<'_>, problems: &mut Problems<'_>) -> Placement {
    section.refuse_unknown(&keys::PLACEMENT.names(), &[], problems);
    let min = at_least_one(section, "min_sites", problems);
    let max = at_least_one(section, "max_sites", problems);
    let include = sites(section, "include", problems);
    let exclude = sites(section, "exclude", problems);
    if let (Some((min, _)), Some((max, at))) = (min, max)
        && min > max
    {
        let message = format!("`max_sites` is {max}, and `min_sites` is {min}");
        problems.report(at, message, "raise `max_sites`, or lower `min_sites`");
    }
    if let Some((max, at)) = max
        && include.len() > max as usize
    {
        let message = format!("`include` names {} sites, and `max_sites` is {max}", include.len());
        problems.report(at, message, "raise `max_sites`, or include fewer sites");
    }
    for (site, at) in &exclude {
        if include.iter().any(|(included, _)| included == site) {
            let message = format!("site \"{site}\" is both included and excluded");
            problems.report(*at, message, "take it out of `include` or of `exclude`");
        }
    }
    Placement {
        min_sites: min.map_or(keys::DEFAULT_MIN_SITES, |(min, _)| min),
        max_sites: max.map(|(max, _)| max),
        include: include.into_iter().map(|(site, _)| site).collect(),
        exclude: exclude.into_iter().map(|(site, _)| site).collect(),
        regions: regions(section, problems),
        jurisdictions: jurisdictions(section, problems),
    }
}

fn at_least_one(
    section: &Section<'_>,
    key: &str,
    problems: &mut Problems<'_>,
) -> Option<(u32, usize)> {
    let (number, at) = section.number(key, problems)?;
    if number == 0 {
        let mend = match key {
            "max_sites" => "choose 1 or more, or leave it out for every site that qualifies",
            _ => "choose 1 or more",
        };
        problems.report(at, format!("`{key}` is 0, and an app must run somewhere"), mend);
        return None;
    }
    Some((number, at))
}

fn sites(section: &Section<'_>, key: &str, problems: &mut Problems<'_>) -> Vec<(SiteId, usize)> {
    let texts = section.texts(key, MAX_ENTRIES, problems);
    let site = |text: &Text<'_>| {
        label(*text, "a site's id", SiteId::new, problems).map(|site| (site, text.at))
    };
    texts.iter().filter_map(site).collect()
}

fn regions(section: &Section<'_>, problems: &mut Problems<'_>) -> BTreeSet<Region> {
    let names = || Region::ALL.map(Region::name);
    let mut regions = BTreeSet::new();
    for Text { text, at } in section.texts("regions", MAX_ENTRIES, problems) {
        match Region::ALL.into_iter().find(|region| region.name() == text) {
            Some(region) => {
                regions.insert(region);
            }
            None => {
                let mend = match closest(text, names()) {
                    Some(likely) => format!("did you mean \"{likely}\"?"),
                    None => format!("use {}", one_of(names())),
                };
                problems.report(at, format!("there is no region {}", quote(text)), mend);
            }
        }
    }
    regions
}

fn jurisdictions(section: &Section<'_>, problems: &mut Problems<'_>) -> BTreeSet<Jurisdiction> {
    let mut jurisdictions = BTreeSet::new();
    for Text { text, at } in section.texts("jurisdictions", MAX_ENTRIES, problems) {
        let mend = match Jurisdiction::new(text) {
            Ok(code) if code.as_str() == "UK" => "did you mean \"GB\"?",
            Ok(code) if !code.is_assigned() => "use a country code of ISO 3166-1 such as DE, or EU",
            Ok(code) => {
                jurisdictions.insert(code);
                continue;
            }
            Err(error) => error.rule,
        };
        problems.report(at, format!("there is no jurisdiction {}", quote(text)), mend);
    }
    jurisdictions
}
