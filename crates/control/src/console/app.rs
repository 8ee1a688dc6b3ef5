//! The page of an app: what users see of it, where, and why there.

use maud::{Markup, html};
use selvedge_api::{AppStatus, FailedPush, ReleaseRow, Why};
use selvedge_model::AppName;

use super::page::{Look, Page};
use super::parts::{
    Condition, app_condition, badge, commit, count, duration, lines, site_link, time,
};
use crate::views;

/// Releases shown.
const MAX_RELEASES: usize = 50;

/// Makes the page.
pub(crate) fn page(look: &Look<'_>, app: &AppName) -> Option<Page> {
    let record = look.world.apps.get(app)?;
    let status = views::apps(look.world).into_iter().find(|status| status.summary.app == *app)?;
    let mut page = Page::new(app.as_str());
    page.section("summary", summary(look, &status));
    page.section("failure", html! {
        section #failure {
            @if let Some(failure) = &status.last_failure { (last_failure(look, &status, failure)) }
        }
    });
    page.section("places", places(&status));
    page.section("releases", releases(look, &status, &views::releases(look.world, record)));
    if look.ask_why {
        page.section("why", why(views::why(look.world, record)));
    }
    Some(page)
}

fn summary(look: &Look<'_>, app: &AppStatus) -> Markup {
    let (serving, assigned) = (app.summary.serving as usize, app.summary.assigned as usize);
    let condition = match &app.summary.live {
        None => Condition("idle", "not live yet"),
        Some(_) if serving == assigned && assigned > 0 => Condition("good", "live"),
        Some(_) if serving == 0 => Condition("bad", "live nowhere"),
        Some(_) => Condition("warn", "live, not everywhere"),
    };
    html! {
        section #summary {
            h1 { (app.summary.app) }
            p.lead aria-live="polite" {
                (badge(condition))
                " at " (serving) " of " (count(assigned, "site"))
            }
            ul.urls {
                @for url in app.summary.urls.iter().take(20) {
                    li { a href=(url) rel="noreferrer" { (url) } }
                }
            }
            dl {
                @if let Some(live) = &app.summary.live {
                    dt { "Release" }
                    dd { code.id { (live.release) } " " (live.subject) }
                    dt { "Commit" } dd { (commit(&live.commit)) }
                    @if let Some(at) = live.at_ms { dt { "Live" } dd { (time(at, look.now_ms)) } }
                }
                dt { "Repository" }
                dd { (app.summary.repository) @if !app.summary.directory.is_empty() { ", " code { (app.summary.directory) } } }
                @if let Some(push) = app.pushing {
                    dt { "Push" }
                    dd { a href=(format!("/console/pushes/{}/{push}", app.summary.repository)) { "#" (push) } " " (badge(Condition("busy", "under way"))) }
                }
            }
        }
    }
}

fn last_failure(look: &Look<'_>, app: &AppStatus, failure: &FailedPush) -> Markup {
    html! {
        div.card.failure {
            h2 { "The last push did not go live" }
            p {
                a href=(format!("/console/pushes/{}/{}", app.summary.repository, failure.push)) {
                    (app.summary.repository) " #" (failure.push)
                }
                " " (commit(&failure.commit)) " " (time(failure.at_ms, look.now_ms))
            }
            p.reason { strong { "Stopped at " (failure.stage) ": " } (failure.reason) }
            (lines(&failure.last_lines))
        }
    }
}

fn places(app: &AppStatus) -> Markup {
    html! {
        section #places.card {
            h2 { "Sites" }
            @if app.sites.is_empty() { p.empty { "It is nowhere yet." } }
            @else {
                div.wide tabindex="0" role="region" aria-label="Sites of the app" {
                    table {
                        thead { tr {
                            th scope="col" { "Site" } th scope="col" { "State" }
                            th.number scope="col" { "Epoch" } th.number scope="col" { "Own request" }
                        } }
                        tbody {
                            @for site in &app.sites {
                                tr {
                                    th scope="row" { (site_link(&site.site)) }
                                    td {
                                        (badge(app_condition(site.state)))
                                        @if let Some(reason) = &site.reason { small.reason { (reason) } }
                                        (lines(&site.last_lines))
                                    }
                                    td.number { @if let Some(epoch) = site.active { (epoch.number) } }
                                    td.number { @if let Some(status) = site.probe { (probe(status)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn probe(status: u16) -> String {
    if status == 0 { "no answer".to_owned() } else { status.to_string() }
}

fn releases(look: &Look<'_>, app: &AppStatus, releases: &[ReleaseRow]) -> Markup {
    html! {
        section #releases.card {
            h2 { "Releases" }
            @if releases.is_empty() { p.empty { "None was live yet." } }
            @else {
                div.wide tabindex="0" role="region" aria-label="Releases" {
                    table {
                        thead { tr {
                            th scope="col" { "Release" } th scope="col" { "Subject" }
                            th scope="col" { "Push" } th.number scope="col" { "Took" } th scope="col" { "Live" }
                        } }
                        tbody {
                            @for release in releases.iter().take(MAX_RELEASES) {
                                tr {
                                    th scope="row" { code.id { (release.release) } @if release.live { " " (badge(Condition("good", "live"))) } }
                                    td.subject { (release.subject) }
                                    td {
                                        a href=(format!("/console/pushes/{}/{}", app.summary.repository, release.push)) { "#" (release.push) }
                                        @if release.cause != "push" { " " (release.cause) }
                                    }
                                    td.number { @if let Some(ms) = release.total_ms { (duration(ms)) } }
                                    td { (time(release.at_ms, look.now_ms)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn why(why: Option<Why>) -> Markup {
    html! {
        section #why.card {
            h2 { "Why it is where it is" }
            @match why {
                None => { p.empty { "Nothing is live yet." } }
                Some(why) => {
                    ul.report {
                        @for line in &why.lines {
                            @let inner = line.strip_prefix("  ");
                            li.inner[inner.is_some()] { (inner.unwrap_or(line)) }
                        }
                    }
                    h3 { "What DNS says" }
                    dl {
                        @for host in &why.hosts {
                            dt { (host.host) }
                            dd {
                                @if host.answered.is_empty() { "no site" }
                                @for (index, site) in host.answered.iter().enumerate() {
                                    @if index > 0 { ", " } (site_link(site))
                                }
                                @if host.failed_open { small.reason { "No site is well, so all are named." } }
                                @for (site, reason) in &host.withheld {
                                    small.reason { "Not " (site) ": " (reason) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
