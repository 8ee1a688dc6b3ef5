//! Pushes: all of them, and one with its stages and output.

use std::collections::BTreeMap;

use maud::{Markup, html};
use selvedge_model::documents::PushCause;
use selvedge_model::{Push, RepositoryName};

use super::page::{Look, Page};
use super::parts::{
    app_link, badge, commit, duration, failure, failure_of, push_condition, push_path, site_link,
    stage_table, strip, time, total_ms,
};
use crate::world::World;

/// Pushes in the list.
const MAX_PUSHES: usize = 100;

/// The newest pushes of all repositories.
pub(crate) fn newest(world: &World, most: usize) -> Vec<&Push> {
    let mut pushes: Vec<&Push> = world.pushes.values().flat_map(BTreeMap::values).collect();
    pushes.sort_by(|a, b| {
        (b.received_ms, &b.repository, b.number).cmp(&(a.received_ms, &a.repository, a.number))
    });
    pushes.truncate(most);
    pushes
}

/// The page of all pushes.
pub(crate) fn list(look: &Look<'_>) -> Page {
    let newest = newest(look.world, MAX_PUSHES);
    let mut page = Page::new("Pushes");
    page.section(
        "pushes",
        html! {
            section #pushes {
                h1 { "Pushes" }
                @if newest.is_empty() {
                    p.lead { "Nothing has been pushed yet." }
                } @else {
                    div.card { (rows(look, &newest)) }
                }
            }
        },
    );
    page
}

/// Pushes as a list.
pub(crate) fn rows(look: &Look<'_>, pushes: &[&Push]) -> Markup {
    html! {
        ol.pushes {
            @for push in pushes {
                li id=(format!("push-{}-{}", push.repository, push.number)) {
                    p.what {
                        a href=(push_path(push)) { (push.repository) " #" (push.number) }
                        " " span.subject { (subject(look.world, push)) }
                    }
                    p.how {
                        (badge(push_condition(push)))
                        (strip(push, look.now_ms))
                        @if let Some(ms) = total_ms(push, look.now_ms) { span.number { (duration(ms)) } }
                        (time(push.received_ms, look.now_ms))
                    }
                    @if let Some(failure) = failure_of(push) {
                        p.reason { (failure.stage) ": " (first_line(&failure.reason)) }
                    }
                }
            }
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// What a push is about: the message of its commit, where a release of it is known.
fn subject(world: &World, push: &Push) -> String {
    let subject = push
        .apps
        .iter()
        .find_map(|app| world.release(&app.app, &app.release))
        .map(|release| release.subject.clone());
    match &push.cause {
        PushCause::Rollback { release } => format!("Rollback to {}", release.short()),
        PushCause::Restore { push } => format!("Restored after push {push}"),
        PushCause::Removal { app } => format!("Removal of {app}"),
        PushCause::Push => subject.unwrap_or_else(|| push.new_commit.chars().take(8).collect()),
    }
}

/// From when on a push can have said something.
pub(crate) fn began(push: &Push) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_millisecond(i64::try_from(push.received_ms).ok()?).ok()
}

/// The page of one push.
pub(crate) fn page(look: &Look<'_>, repository: &RepositoryName, number: u64) -> Option<Page> {
    let push = look.world.pushes.get(repository)?.get(&number)?;
    let mut page = Page::new(format!("{repository} #{number}"));
    page.section("summary", html! {
        section #summary {
            h1 { (repository) " #" (number) }
            p.lead aria-live="polite" { (badge(push_condition(push))) " " (subject(look.world, push)) }
        }
    });
    page.section(
        "failure",
        html! {
            section #failure {
                @if let Some(it) = failure_of(push) {
                    div.card.failure { h2 { "Why it did not go live" } (failure(it)) }
                }
            }
        },
    );
    page.section("stages", html! {
        section #stages.card {
            h2 {
                "Stages"
                @if let Some(ms) = total_ms(push, look.now_ms) { " " span.faint { (duration(ms)) } }
            }
            (stage_table(push, look.now_ms))
        }
    });
    page.section("facts", facts(look, push));
    Some(page)
}

fn facts(look: &Look<'_>, push: &Push) -> Markup {
    html! {
        section #facts.card {
            h2 { "What it is" }
            dl {
                dt { "Commit" } dd { (commit(&push.new_commit)) }
                @if let Some(old) = &push.old_commit { dt { "After" } dd { (commit(old)) } }
                dt { "Received" } dd { (time(push.received_ms, look.now_ms)) }
                @for app in &push.apps {
                    dt { "App" }
                    dd {
                        (app_link(app.app.as_str())) ", release " code.id { (app.release.short()) }
                        @if let Some(epoch) = app.epoch { ", epoch " (epoch.number) }
                        @if !app.sites.is_empty() {
                            ", at "
                            @for (index, site) in app.sites.iter().enumerate() {
                                @if index > 0 { ", " } (site_link(site))
                            }
                        }
                    }
                }
            }
        }
    }
}
