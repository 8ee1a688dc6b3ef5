//! The frame of every page, and which page is at which path.
//!
//! A page is a list of sections, each with an id. The same functions make them for a whole page and
//! for the stream that keeps it up to date, so that both show the same.

use maud::{DOCTYPE, Markup, html};
use selvedge_api::{ControlStatus, LogFilter, LogSource};
use selvedge_model::{AppName, RepositoryName, SiteId};

use super::logs::{self, Query};
use super::tail::Ask;
use super::{app, overview, pushes, site};
use crate::world::World;

/// A part of a page that is brought up to date as a whole.
pub(crate) struct Section {
    /// The element's id.
    pub(crate) id: &'static str,
    /// The element.
    pub(crate) html: Markup,
}

/// What a page shows.
pub(crate) struct Page {
    /// What it is about, for the window's title.
    pub(crate) title: String,
    /// What is in it, from top to bottom.
    pub(crate) sections: Vec<Section>,
}

impl Page {
    /// A page that is called `title`.
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), sections: Vec::new() }
    }

    /// Adds a section: the element with this id.
    pub(crate) fn section(&mut self, id: &'static str, html: Markup) {
        self.sections.push(Section { id, html });
    }
}

/// What pages are made of.
pub(crate) struct Look<'a> {
    pub(crate) world: &'a World,
    pub(crate) control: ControlStatus,
    pub(crate) now_ms: u64,
    /// Of the assets.
    pub(crate) version: &'a str,
    /// Whether to ask the planners again why things are as they are, which takes its time.
    pub(crate) ask_why: bool,
}

/// A page that follows what happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum View {
    /// Everything at one look.
    Overview,
    /// All pushes that are kept.
    Pushes,
    /// One push.
    Push(RepositoryName, u64),
    /// One app.
    App(AppName),
    /// One site.
    Site(SiteId),
    /// The log.
    Logs(Query),
}

/// Lines of the log on pages that are about something else.
const SOME_LINES: usize = 30;
/// Lines of a push.
const PUSH_LINES: usize = 1_000;

impl View {
    /// The view at a path below `/console`, without slashes at its ends, and a query.
    pub(crate) fn at(path: &str, query: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            [""] => Some(Self::Overview),
            ["pushes"] => Some(Self::Pushes),
            ["pushes", repository, number] => {
                Some(Self::Push(repository.parse().ok()?, number.parse().ok()?))
            }
            ["apps", app] => Some(Self::App(app.parse().ok()?)),
            ["sites", site] => Some(Self::Site(site.parse().ok()?)),
            ["logs"] => Some(Self::Logs(Query::parse(query))),
            _ => None,
        }
    }

    /// Its path below `/console`, and its query.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Overview => String::new(),
            Self::Pushes => "pushes".to_owned(),
            Self::Push(repository, number) => format!("pushes/{repository}/{number}"),
            Self::App(app) => format!("apps/{app}"),
            Self::Site(site) => format!("sites/{site}"),
            Self::Logs(query) => format!("logs?{}", query.to_text()),
        }
    }

    /// The lines of the log that belong to it.
    pub(crate) fn ask(&self, world: &World) -> Option<Ask> {
        let some = |filter: LogFilter, more: String| Ask {
            filter,
            push: None,
            title: "Requests and output",
            more: Some(more),
            most: SOME_LINES,
        };
        let source = [LogSource::Access, LogSource::Output].into();
        match self {
            Self::Overview | Self::Pushes => None,
            Self::Logs(query) => query.ask(),
            Self::App(app) => {
                let filter = LogFilter { app: Some(app.clone()), source, ..LogFilter::default() };
                Some(some(filter, format!("/console/logs?source=&app={app}")))
            }
            Self::Site(site) => {
                let site_only = [site.clone()].into();
                let filter = LogFilter { site: site_only, source, ..LogFilter::default() };
                Some(some(filter, format!("/console/logs?source=&site={site}")))
            }
            Self::Push(repository, number) => {
                let push = world.pushes.get(repository)?.get(number)?;
                let source = [LogSource::Pipeline].into();
                let filter =
                    LogFilter { source, since: pushes::began(push), ..LogFilter::default() };
                let push = Some((repository.clone(), *number));
                Some(Ask { filter, push, title: "Output", more: None, most: PUSH_LINES })
            }
        }
    }

    /// The page, if what it is about exists.
    pub(crate) fn page(&self, look: &Look<'_>) -> Option<Page> {
        match self {
            Self::Overview => Some(overview::page(look)),
            Self::Pushes => Some(pushes::list(look)),
            Self::Push(repository, number) => pushes::page(look, repository, *number),
            Self::App(app) => app::page(look, app),
            Self::Site(site) => site::page(look, site),
            Self::Logs(query) => Some(logs::page(look, query)),
        }
    }
}

/// The frame: what is the same on every page.
pub(crate) struct Frame<'a> {
    /// Of the assets.
    pub(crate) version: &'a str,
    /// Where everything is served, to tell installations apart.
    pub(crate) zone: &'a str,
}

impl Frame<'_> {
    /// A page for somebody who is signed in.
    pub(crate) fn signed_in(&self, view: &View, page: &Page) -> Markup {
        let live = format!("/console/live/{}", view.path());
        self.document(
            &page.title,
            Some(&live),
            html! {
                (self.header(Some(view)))
                main #main tabindex="-1" {
                    @for section in &page.sections { (section.html) }
                }
                (self.footer())
            },
        )
    }

    /// A page that stands alone.
    pub(crate) fn plain(&self, title: &str, content: &Markup) -> Markup {
        self.document(
            title,
            None,
            html! {
                (self.header(None))
                main #main.plain tabindex="-1" { (content) }
                (self.footer())
            },
        )
    }

    fn document(&self, title: &str, live: Option<&str>, body: Markup) -> Markup {
        let asset = |name: &str| format!("/console/assets/{}/{name}", self.version);
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    title { (title) " · Selvedge" }
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    link rel="icon" type="image/svg+xml" href=(asset("icon.svg"));
                    link rel="stylesheet" href=(asset("console.css"));
                    @if live.is_some() { script src=(asset("console.js")) defer {} }
                }
                body data-live=[live] data-version=(self.version) { (body) }
            }
        }
    }

    fn header(&self, view: Option<&View>) -> Markup {
        let icon = format!("/console/assets/{}/icon.svg", self.version);
        html! {
            a.skip href="#main" { "Skip to content" }
            header.top {
                a.brand href="/console" {
                    img src=(icon) alt="" width="24" height="24";
                    span { "Selvedge" }
                    span.zone { (self.zone) }
                }
                @if let Some(view) = view {
                    nav aria-label="Console" {
                        (nav_link("/console", "Overview", *view == View::Overview))
                        (nav_link("/console/pushes", "Pushes", *view == View::Pushes))
                        (nav_link("/console/logs", "Log", matches!(view, View::Logs(_))))
                    }
                    p #connection role="status" hidden {}
                    form method="post" action="/console/sign-out" {
                        button.quiet type="submit" { "Sign out" }
                    }
                }
            }
        }
    }

    fn footer(&self) -> Markup {
        html! {
            footer.bottom {
                p { "Selvedge " (env!("CARGO_PKG_VERSION")) }
                noscript { p { "Without JavaScript this page shows how things stood when it was loaded. Reload it to see more." } }
            }
        }
    }
}

fn nav_link(path: &str, word: &str, current: bool) -> Markup {
    html! { a href=(path) aria-current=[current.then_some("page")] { (word) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_views_are_the_same_thing() {
        for path in ["", "pushes", "pushes/shops/12", "apps/shop", "sites/fra"] {
            assert_eq!(View::at(path, "").unwrap().path(), path);
        }
        for path in
            ["apps", "apps/", "apps/NO", "apps/a/b", "pushes/shop/x", "x", "/", "sites/../x"]
        {
            assert_eq!(View::at(path, ""), None, "{path}");
        }
    }
}
