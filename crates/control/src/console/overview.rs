//! The first page: everything at one look.

use std::collections::BTreeMap;

use maud::{Markup, html};
use selvedge_api::{AppStatus, AppSummary, SiteHealth, SiteRow};
use selvedge_model::{Push, SiteId};

use super::map::{self, Mark, Side};
use super::page::{Look, Page};
use super::parts::{
    Condition, app_condition, app_link, badge, mark, push_condition, push_path, site_condition,
    site_link, stage_table,
};
use super::pushes;
use crate::views;

/// Pushes shown here.
const RECENT: usize = 8;
/// Apps shown in the table. There are other ways to find one among more.
const MAX_APPS: usize = 200;

/// Makes the page.
pub(crate) fn page(look: &Look<'_>) -> Page {
    let sites = views::sites(look.world);
    let apps = views::apps(look.world);
    let mut page = Page::new("Overview");
    page.section("summary", summary(look, &sites, &apps));
    page.section("now", now(look));
    page.section("map", map_of(look, &sites));
    page.section("apps", apps_table(&sites, &apps));
    page.section("recent", recent(look));
    page.section("sites", sites_table(&sites));
    page
}

fn summary(look: &Look<'_>, sites: &[SiteRow], apps: &[AppStatus]) -> Markup {
    let healthy = sites.iter().filter(|site| site.health == SiteHealth::Healthy).count();
    let well = apps.iter().filter(|app| is_well(app)).count();
    let sites_words = match (healthy, sites.len()) {
        (_, 0) => "There is no site.".to_owned(),
        (healthy, all) if healthy == all => format!("{} healthy.", all_of(all, "site")),
        (_, 1) => "The site is not healthy.".to_owned(),
        (0, all) => format!("None of {all} sites is healthy."),
        (1, all) => format!("1 of {all} sites is healthy."),
        (healthy, all) => format!("{healthy} of {all} sites are healthy."),
    };
    let apps_words = match (well, apps.len()) {
        (_, 0) => "No app has been pushed yet.".to_owned(),
        (well, all) if well == all => format!("{} live everywhere.", all_of(all, "app")),
        (_, 1) => "The app is not live everywhere.".to_owned(),
        (0, all) => format!("None of {all} apps is live everywhere."),
        (1, all) => format!("1 of {all} apps is live everywhere."),
        (well, all) => format!("{well} of {all} apps are live everywhere."),
    };
    html! {
        section #summary {
            h1 { "Overview" }
            // Announced when it changes: what somebody who does not see the map must hear of.
            p.lead aria-live="polite" { (sites_words) " " (apps_words) }
            @for problem in look.control.problems.iter().take(10) {
                p.notice { strong { "Control: " } (problem) }
            }
            @for limitation in look.control.limitations.iter().take(10) {
                p.faint { (limitation) }
            }
        }
    }
}

fn all_of(number: usize, what: &str) -> String {
    match number {
        1 => format!("The {what} is"),
        2 => format!("Both {what}s are"),
        _ => format!("All {number} {what}s are"),
    }
}

/// Whether an app is live at every site that it is to be at.
fn is_well(app: &AppStatus) -> bool {
    let AppSummary { live, serving, assigned, .. } = &app.summary;
    live.is_some() && serving == assigned && *assigned > 0
}

/// Pushes that are under way, with their stages.
fn now(look: &Look<'_>) -> Markup {
    let open: Vec<&Push> = look
        .world
        .pushes
        .values()
        .flat_map(BTreeMap::values)
        .filter(|push| push.is_open())
        .collect();
    html! {
        section #now {
            @if !open.is_empty() { h2 { "Under way" } }
            @for push in open.iter().take(RECENT) {
                article.card.running id=(format!("running-{}-{}", push.repository, push.number)) {
                    h3 {
                        a href=(push_path(push)) { (push.repository) " #" (push.number) }
                        " " (badge(push_condition(push)))
                    }
                    (stage_table(push, look.now_ms))
                }
            }
        }
    }
}

fn recent(look: &Look<'_>) -> Markup {
    let newest = pushes::newest(look.world, RECENT);
    html! {
        section #recent.card {
            h2 { a href="/console/pushes" { "Recent pushes" } }
            @if newest.is_empty() {
                p.empty { "Nothing has been pushed yet. In an app's repository, " code { "selvedge deploy" } " brings it live." }
            } @else {
                (pushes::rows(look, &newest))
            }
        }
    }
}

fn map_of(look: &Look<'_>, sites: &[SiteRow]) -> Markup {
    let places: Vec<_> = sites.iter().map(|site| (site.point, site.city.chars().count())).collect();
    let marks = map::arrange(&places);
    let land = format!("/console/assets/{}/land.svg#land", look.version);
    html! {
        section #map.card {
            h2.unseen { "Map" }
            figure {
                // The table of sites says the same, and better to those who don't look.
                svg.world viewBox=(format!("0 0 {} {}", map::WIDTH, map::HEIGHT)) aria-hidden="true" {
                    use.land href=(land) {}
                    @for (site, mark) in sites.iter().zip(&marks) { (map_site(site, mark)) }
                }
                figcaption { (legend(sites)) }
            }
        }
    }
}

fn map_site(site: &SiteRow, mark: &Mark) -> Markup {
    let Condition(class, word) = site_condition(site.health);
    let spot = mark.spot;
    let shape = match class {
        "good" => html! { circle cx=(n(spot.x)) cy=(n(spot.y)) r="5.5" {} },
        "warn" => html! {
            path d=(format!("M{} {}l7 12h-14z", n(spot.x), n(spot.y - 7.0))) {}
        },
        "lost" => html! {
            path.cross d=(format!("M{} {}l10 10m0-10l-10 10", n(spot.x - 5.0), n(spot.y - 5.0))) {}
        },
        _ => html! { rect x=(n(spot.x - 5.0)) y=(n(spot.y - 5.0)) width="10" height="10" {} },
    };
    html! {
        a class=(format!("site {class}")) href=(format!("/console/sites/{}", site.id)) tabindex="-1" {
            title { (site.city) " (" (site.id) "): " (word) }
            @if mark.is_moved() {
                path.lead d=(format!("M{} {}L{} {}", n(mark.home.x), n(mark.home.y), n(spot.x), n(spot.y))) {}
                circle.home cx=(n(mark.home.x)) cy=(n(mark.home.y)) r="1.5" {}
            }
            // Fingers are wider than marks.
            circle.reach cx=(n(spot.x)) cy=(n(spot.y)) r="9" {}
            (shape)
            @if let Some(side) = mark.label {
                @let (dx, dy, anchor) = match side {
                    Side::Right => (10.0, 4.0, "start"),
                    Side::Left => (-10.0, 4.0, "end"),
                    Side::Above => (0.0, -10.0, "middle"),
                    Side::Below => (0.0, 18.0, "middle"),
                };
                text x=(n(spot.x + dx)) y=(n(spot.y + dy)) text-anchor=(anchor) { (site.city) }
            }
        }
    }
}

/// A coordinate, no finer than anybody sees.
fn n(value: f64) -> String {
    format!("{value:.1}")
}

fn legend(sites: &[SiteRow]) -> Markup {
    let each = [SiteHealth::Healthy, SiteHealth::Degraded, SiteHealth::Draining, SiteHealth::Lost];
    html! {
        @for health in each {
            @let number = sites.iter().filter(|site| site.health == health).count();
            @if number > 0 || health == SiteHealth::Healthy {
                @let Condition(class, word) = site_condition(health);
                span { (badge(Condition(class, ""))) (number) " " (word) }
            }
        }
    }
}

fn apps_table(sites: &[SiteRow], apps: &[AppStatus]) -> Markup {
    html! {
        section #apps.card {
            h2 { "Apps" }
            @if apps.is_empty() {
                p.empty { "No app yet." }
            } @else {
                div.wide tabindex="0" role="region" aria-label="Apps by site" {
                    table.matrix {
                        thead { tr {
                            th scope="col" { "App" }
                            th scope="col" { "Live" }
                            th.number scope="col" { "Sites" }
                            @for site in sites {
                                th.site scope="col" { a href=(format!("/console/sites/{}", site.id)) title=(site.city) { (site.id) } }
                            }
                        } }
                        tbody { @for app in apps.iter().take(MAX_APPS) { (app_row(sites, app)) } }
                    }
                }
                @if apps.len() > MAX_APPS {
                    p { "And " (apps.len() - MAX_APPS) " more; " code { "selvedge status" } " lists all." }
                }
            }
        }
    }
}

fn app_row(sites: &[SiteRow], app: &AppStatus) -> Markup {
    let at: BTreeMap<&SiteId, Condition> =
        app.sites.iter().map(|row| (&row.site, app_condition(row.state))).collect();
    html! {
        tr id=(format!("app-{}", app.summary.app)) {
            th scope="row" { (app_link(app.summary.app.as_str())) }
            td {
                @match &app.summary.live {
                    Some(live) => { code.id { (live.release) } }
                    None => { span.faint { "not yet" } }
                }
                @if app.pushing.is_some() { " " (badge(Condition("busy", "push under way"))) }
                @else if app.last_failure.is_some() { " " (badge(Condition("bad", "last push failed"))) }
            }
            td.number { (app.summary.serving) "/" (app.summary.assigned) }
            @for site in sites {
                td.site {
                    @match at.get(&site.id) {
                        Some(condition) => (mark(*condition, site.id.as_str())),
                        None => span.faint title=(format!("{}: not placed here", site.id)) { "–" span.unseen { "not placed here" } },
                    }
                }
            }
        }
    }
}

fn sites_table(sites: &[SiteRow]) -> Markup {
    html! {
        section #sites.card {
            h2 { "Sites" }
            div.wide tabindex="0" role="region" aria-label="Sites" {
                table {
                    thead { tr {
                        th scope="col" { "Site" } th scope="col" { "Health" } th scope="col" { "City" }
                        th scope="col" { "Provider" } th.number scope="col" { "Apps" }
                        th.number scope="col" { "Certificates" }
                    } }
                    tbody {
                        @for site in sites {
                            tr {
                                th scope="row" { (site_link(&site.id)) }
                                td {
                                    (badge(site_condition(site.health)))
                                    @for problem in site.problems.iter().take(3) { small.reason { (problem) } }
                                }
                                td { (site.city) ", " (site.country) }
                                td { (site.provider) }
                                td.number { (site.serving) "/" (site.assigned) }
                                td.number { (site.certificates) }
                            }
                        }
                    }
                }
            }
        }
    }
}
