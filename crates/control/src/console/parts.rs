//! Pieces of which pages are made. Everything that comes from outside goes through `maud`, which
//! escapes it.

use maud::{Markup, html};
use selvedge_api::{AppSiteState, SiteHealth};
use selvedge_model::documents::PushFailure;
use selvedge_model::{Push, PushState, SiteId, Stage};

/// How something is, as a shape, a colour and a word: the class of the stylesheet, and the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition(pub(crate) &'static str, pub(crate) &'static str);

pub(crate) fn site_condition(health: SiteHealth) -> Condition {
    match health {
        SiteHealth::Healthy => Condition("good", "healthy"),
        SiteHealth::Degraded => Condition("warn", "degraded"),
        SiteHealth::Draining => Condition("idle", "draining"),
        SiteHealth::Lost => Condition("lost", "lost"),
    }
}

pub(crate) fn app_condition(state: AppSiteState) -> Condition {
    match state {
        AppSiteState::Live => Condition("good", "live"),
        AppSiteState::Behind => Condition("warn", "behind"),
        AppSiteState::Warming => Condition("busy", "warming"),
        AppSiteState::Degraded => Condition("warn", "degraded"),
        AppSiteState::Failed => Condition("bad", "failed"),
        AppSiteState::Draining => Condition("idle", "draining"),
        AppSiteState::Unknown => Condition("idle", "not heard of"),
        AppSiteState::Lost => Condition("lost", "lost"),
    }
}

pub(crate) fn push_condition(push: &Push) -> Condition {
    match push.state {
        PushState::Queued => Condition("idle", "waiting"),
        PushState::Preparing | PushState::Committing | PushState::Settling => {
            Condition("busy", "under way")
        }
        PushState::Live => Condition("good", "live"),
        PushState::Refused(_) => Condition("bad", "refused"),
        PushState::RolledBack(_) => Condition("bad", "rolled back"),
    }
}

pub(crate) fn failure_of(push: &Push) -> Option<&PushFailure> {
    match &push.state {
        PushState::Refused(failure) | PushState::RolledBack(failure) => Some(failure),
        _ => None,
    }
}

/// A mark and its word.
pub(crate) fn badge(Condition(class, word): Condition) -> Markup {
    html! { span class=(format!("badge {class}")) { (dot(class)) (word) } }
}

/// A mark whose word is for those who don't see it.
pub(crate) fn mark(Condition(class, word): Condition, of: &str) -> Markup {
    html! {
        span.mark title=(format!("{of}: {word}")) { (dot(class)) span.unseen { (word) } }
    }
}

fn dot(class: &str) -> Markup {
    html! { i class=(format!("dot {class}")) aria-hidden="true" {} }
}

/// A point in time: how long ago, and exactly.
pub(crate) fn time(then_ms: u64, now_ms: u64) -> Markup {
    let exact = rfc3339(then_ms);
    html! { time datetime=(exact) title=(exact) { (ago(then_ms, now_ms)) } }
}

pub(crate) fn rfc3339(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map(|time| format!("{time:.0}")).unwrap_or_default()
}

/// How long ago, no finer than people look.
pub(crate) fn ago(then_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1_000;
    match seconds {
        0..60 => "just now".to_owned(),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// A duration as people read it.
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min {:02} s", ms / 60_000, ms / 1_000 % 60),
    }
}

/// `1 site`, `2 sites`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The last lines of an output.
pub(crate) fn lines(lines: &[String]) -> Markup {
    html! {
        @if !lines.is_empty() {
            pre.lines tabindex="0" role="region" aria-label="Last lines of output" {
                @for line in lines { (line) "\n" }
            }
        }
    }
}

/// What went wrong with a push.
pub(crate) fn failure(failure: &PushFailure) -> Markup {
    html! {
        p.reason { strong { "Stopped at " (failure.stage) ": " } (failure.reason) }
        (lines(&failure.last_lines))
    }
}

pub(crate) fn site_link(site: &SiteId) -> Markup {
    html! { a href=(format!("/console/sites/{site}")) { (site) } }
}

pub(crate) fn app_link(app: &str) -> Markup {
    html! { a href=(format!("/console/apps/{app}")) { (app) } }
}

pub(crate) fn push_path(push: &Push) -> String {
    format!("/console/pushes/{}/{}", push.repository, push.number)
}

/// The first digits of a commit.
pub(crate) fn commit(commit: &str) -> Markup {
    html! { code.id { (commit.get(..8).unwrap_or(commit)) } }
}

/// How a stage of a push is, for its bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StageBar {
    pub(crate) stage: Stage,
    pub(crate) condition: Condition,
    /// Since reception.
    pub(crate) from_ms: u64,
    /// How long it took, or has been running.
    pub(crate) ms: Option<u64>,
}

/// The stages of a push with their times, those to come included.
pub(crate) fn stages(push: &Push, now_ms: u64) -> Vec<StageBar> {
    let failed = failure_of(push).map(|failure| failure.stage);
    let bar = |stage: Stage| {
        let record = push.stages.iter().rfind(|record| record.stage == stage);
        let Some(record) = record else {
            let condition = if failed == Some(stage) {
                Condition("bad", "failed")
            } else if push.is_open() {
                Condition("idle", "to come")
            } else {
                Condition("idle", "not run")
            };
            return StageBar { stage, condition, from_ms: 0, ms: None };
        };
        let condition = match record.duration_ms {
            _ if failed == Some(stage) => Condition("bad", "failed"),
            Some(_) => Condition("good", "done"),
            None if push.is_open() => Condition("busy", "running"),
            None => Condition("idle", "not finished"),
        };
        let running = push.is_open().then(|| now_ms.saturating_sub(record.started_ms));
        StageBar {
            stage,
            condition,
            from_ms: record.started_ms.saturating_sub(push.received_ms),
            ms: record.duration_ms.or(running),
        }
    };
    Stage::ALL.into_iter().map(bar).collect()
}

/// From reception until the last stage ended, or until now.
pub(crate) fn total_ms(push: &Push, now_ms: u64) -> Option<u64> {
    if push.is_open() {
        return Some(now_ms.saturating_sub(push.received_ms));
    }
    let last = push.stages.iter().rev().find_map(|it| Some(it.started_ms + it.duration_ms?))?;
    Some(last.saturating_sub(push.received_ms))
}

/// A push in a line of small bars, one a stage.
pub(crate) fn strip(push: &Push, now_ms: u64) -> Markup {
    let stages = stages(push, now_ms);
    let done = stages.iter().filter(|bar| bar.condition.0 == "good").count();
    let words = format!("{done} of {} stages done", stages.len());
    html! {
        span.strip role="img" aria-label=(words) {
            @for bar in &stages {
                i class=(format!("step {}", bar.condition.0)) title=(format!("{}: {}", bar.stage, bar.condition.1)) {}
            }
        }
    }
}

/// A push's stages as a table with a bar each, to one scale.
pub(crate) fn stage_table(push: &Push, now_ms: u64) -> Markup {
    let bars = stages(push, now_ms);
    let whole = bars.iter().filter_map(|bar| Some(bar.from_ms + bar.ms?)).max().unwrap_or(0).max(1);
    let share = |ms: u64| ms as f64 * 100.0 / whole as f64;
    html! {
        table.stages {
            caption.unseen { "Stages of push " (push.number) " of " (push.repository) }
            thead.unseen { tr { th scope="col" { "Stage" } th scope="col" { "Time" } th scope="col" { "When" } } }
            tbody {
                @for bar in &bars {
                    tr class=(bar.condition.0) {
                        th scope="row" { (bar.stage) span.unseen { ", " (bar.condition.1) } }
                        td.number { @if let Some(ms) = bar.ms { (duration(ms)) } }
                        td.bar {
                            svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" {
                                rect.track x="0" y="0" width="100" height="10" {}
                                @if let Some(ms) = bar.ms {
                                    // Nothing that took time is to be invisible.
                                    @let width = share(ms).max(0.6);
                                    rect.fill x=(format!("{:.2}", share(bar.from_ms).min(100.0 - width)))
                                        y="0" width=(format!("{width:.2}")) height="10" {}
                                }
                            }
                            @if let Some(note) = note(push, bar.stage) { small { (note) } }
                        }
                    }
                }
            }
        }
    }
}

fn note(push: &Push, stage: Stage) -> Option<&str> {
    push.stages.iter().rfind(|record| record.stage == stage)?.note.as_deref()
}
