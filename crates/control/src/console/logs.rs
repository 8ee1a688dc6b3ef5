//! The page of the log: every line that matches, requests at first.

use maud::{Markup, html};
use selvedge_api::{LogFilter, LogSource};

use super::page::{Look, Page};
use super::tail::Ask;

/// The longest value of a field that is heeded, in characters.
const MAX_FIELD: usize = 200;
/// Lines shown at first.
const MAX_LINES: usize = 200;

/// What is asked for, as it stands in the address. Empty fields ask for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Query {
    source: Option<String>,
    app: String,
    site: String,
    status: String,
    text: String,
    request: String,
}

impl Query {
    /// Reads an address's query. One that can't be read asks for nothing.
    pub(crate) fn parse(query: &str) -> Self {
        let uri = format!("/?{query}").parse::<http::Uri>();
        let read = uri.ok().and_then(|uri| axum::extract::Query::try_from_uri(&uri).ok());
        let mut query = read.map(|axum::extract::Query(query): axum::extract::Query<Self>| query);
        if let Some(query) = &mut query {
            let Self { source, app, site, status, text, request } = query;
            for field in [app, site, status, text, request].into_iter().chain(source) {
                *field = field.trim().chars().take(MAX_FIELD).collect();
            }
        }
        query.unwrap_or_default()
    }

    /// The same as an address's query.
    pub(crate) fn to_text(&self) -> String {
        let fields = [
            ("source", self.source()),
            ("app", &self.app),
            ("site", &self.site),
            ("status", &self.status),
            ("text", &self.text),
            ("request", &self.request),
        ];
        let escaped = |text: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            text.bytes()
                .map(|byte| {
                    if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
                })
                .collect::<String>()
        };
        fields.map(|(name, value)| format!("{name}={}", escaped(value))).join("&")
    }

    /// Requests, unless something else was chosen.
    fn source(&self) -> &str {
        self.source.as_deref().unwrap_or(LogSource::Access.name())
    }

    /// What is asked for, or what is wrong about it in words.
    fn filter(&self) -> Result<LogFilter, String> {
        let mut filter = LogFilter::default();
        if !self.source().is_empty() {
            filter.source.insert(self.source().parse()?);
        }
        if !self.app.is_empty() {
            let app = self.app.parse();
            filter.app = Some(app.map_err(|_| format!("{:?} can't be an app", self.app))?);
        }
        if !self.site.is_empty() {
            let site = self.site.parse();
            filter.site.insert(site.map_err(|_| format!("{:?} can't be a site", self.site))?);
        }
        if !self.status.is_empty() {
            filter.status = Some(self.status.parse()?);
        }
        filter.text = Some(self.text.clone()).filter(|text| !text.is_empty());
        filter.request = Some(self.request.clone()).filter(|id| !id.is_empty());
        Ok(filter)
    }

    /// The lines that the page shows.
    pub(crate) fn ask(&self) -> Option<Ask> {
        let filter = self.filter().ok()?;
        Some(Ask { filter, push: None, title: "Lines", more: None, most: MAX_LINES })
    }
}

/// Makes the page, but for the lines.
pub(crate) fn page(look: &Look<'_>, query: &Query) -> Page {
    let mut page = Page::new("Log");
    page.section(
        "summary",
        html! {
            section #summary {
                h1 { "Log" }
                p.lead { "Of all sites and control, newest first." }
                @if let Err(wrong) = query.filter() { p.notice role="alert" { (wrong) } }
            }
        },
    );
    page.section("filter", form(look, query));
    page
}

fn form(look: &Look<'_>, query: &Query) -> Markup {
    let sources = [
        (LogSource::Access.name(), "requests"),
        (LogSource::Output.name(), "output of apps"),
        (LogSource::Pipeline.name(), "pushes"),
        (LogSource::Event.name(), "events of sites"),
        ("", "everything"),
    ];
    let apps = look.world.apps.keys().map(|app| app.as_str());
    let sites = look.world.topology.sites.keys().map(|site| site.as_str());
    html! {
        form #filter.card method="get" action="/console/logs" {
            label { span { "Show" } (select("source", sources, query.source())) }
            label { span { "App" } (select("app", any(apps), &query.app)) }
            label { span { "Site" } (select("site", any(sites), &query.site)) }
            label { span { "Status" } input name="status" value=(query.status) placeholder="5xx" size="6"; }
            label.grow { span { "Text" } input name="text" value=(query.text); }
            label.grow { span { "Request" } input name="request" value=(query.request); }
            button type="submit" { "Show" }
        }
    }
}

fn any<'a>(names: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (&'a str, &'a str)> {
    std::iter::once(("", "all")).chain(names.map(|name| (name, name)))
}

fn select<'a>(
    name: &str,
    choices: impl IntoIterator<Item = (&'a str, &'a str)>,
    chosen: &str,
) -> Markup {
    html! {
        select name=(name) {
            @for (value, word) in choices {
                option value=(value) selected[value == chosen] { (word) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_what_is_asked_for() {
        let query = Query::parse("source=output&app=shop&site=fra&status=&text=a%26b+c&x=y");
        let filter = query.filter().unwrap();
        assert_eq!(filter.text.as_deref(), Some("a&b c"));
        assert_eq!((filter.app.unwrap().as_str(), filter.site.len()), ("shop", 1));
        assert_eq!(Query::parse(&query.to_text()), query);
        assert!(Query::default().filter().unwrap().source.contains(&LogSource::Access));
        assert!(Query::parse("source=").filter().unwrap().source.is_empty());
        for wrong in ["status=x", "app=%3Cb%3E", "site=..", "source=all"] {
            assert!(Query::parse(wrong).filter().is_err(), "{wrong}");
        }
        assert_eq!(Query::parse(&format!("text={}", "x".repeat(999))).text.len(), MAX_FIELD);
    }
}
