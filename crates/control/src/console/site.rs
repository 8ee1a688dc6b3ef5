//! The page of a site.

use maud::{Markup, html};
use selvedge_api::{AppStatus, SiteRow};
use selvedge_model::SiteId;

use super::page::{Look, Page};
use super::parts::{app_condition, app_link, badge, lines, site_condition, time};
use crate::views;

/// Makes the page.
pub(crate) fn page(look: &Look<'_>, site: &SiteId) -> Option<Page> {
    let row = views::sites(look.world).into_iter().find(|row| row.id == *site)?;
    let apps = views::apps(look.world);
    let mut page = Page::new(format!("{} ({})", row.city, row.id));
    page.section(
        "summary",
        html! {
            section #summary {
                h1 { (row.city) " " span.faint { (row.id) } }
                p.lead aria-live="polite" { (badge(site_condition(row.health))) }
                @for problem in row.problems.iter().take(20) { p.notice { (problem) } }
                @for limitation in row.limitations.iter().take(20) { p.faint { (limitation) } }
            }
        },
    );
    page.section("apps", here(&row, &apps));
    page.section("facts", facts(look, &row));
    Some(page)
}

fn here(row: &SiteRow, apps: &[AppStatus]) -> Markup {
    let here: Vec<_> = apps
        .iter()
        .filter_map(|app| Some((app, app.sites.iter().find(|at| at.site == row.id)?)))
        .collect();
    html! {
        section #apps.card {
            h2 { "Apps" }
            @if here.is_empty() { p.empty { "No app is here." } }
            @else {
                div.wide tabindex="0" role="region" aria-label="Apps at the site" {
                    table {
                        thead { tr { th scope="col" { "App" } th scope="col" { "State" } th.number scope="col" { "Epoch" } } }
                        tbody {
                            @for (app, at) in here {
                                tr {
                                    th scope="row" { (app_link(app.summary.app.as_str())) }
                                    td {
                                        (badge(app_condition(at.state)))
                                        @if let Some(reason) = &at.reason { small.reason { (reason) } }
                                        (lines(&at.last_lines))
                                    }
                                    td.number { @if let Some(epoch) = at.active { (epoch.number) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn facts(look: &Look<'_>, row: &SiteRow) -> Markup {
    html! {
        section #facts.card {
            h2 { "What it is" }
            dl {
                dt { "Provider" } dd { (row.provider) }
                dt { "Country" } dd { (row.country) ", " (row.region) }
                dt { "Addresses" }
                dd {
                    @for (index, address) in row.addresses.iter().enumerate() {
                        @if index > 0 { ", " } (address)
                    }
                }
                dt { "Ports" } dd { "HTTP " (row.http_port) ", HTTPS " (row.https_port) }
                dt { "Certificates" } dd { (row.certificates) }
                @if let Some(version) = &row.version { dt { "Version" } dd { (version) } }
                @if let Some(pid) = row.pid { dt { "Process" } dd { (pid) } }
                @if let Some(started) = row.started_ms { dt { "Started" } dd { (time(started, look.now_ms)) } }
            }
        }
    }
}
