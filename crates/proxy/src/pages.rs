//! Answers that the proxy makes itself when it can't give the app's: a plain page for browsers, a
//! problem document (RFC 9457) for everything else.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use selvedge_telemetry::access::ErrorSource;

/// Why a request can't be answered with what it asked for.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) status: StatusCode,
    pub(crate) source: ErrorSource,
    /// A short stable name, for records and programs.
    pub(crate) kind: &'static str,
    /// What happened, in a few words.
    pub(crate) title: Cow<'static, str>,
    /// What to do.
    pub(crate) help: &'static str,
    /// More for a developer: shown only where the site explains.
    pub(crate) detail: Option<String>,
    pub(crate) retry_after_s: Option<u32>,
    /// Further headers that belong to the status.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Fault {
    fn new(
        status: StatusCode,
        source: ErrorSource,
        kind: &'static str,
        title: impl Into<Cow<'static, str>>,
        help: &'static str,
    ) -> Self {
        let (title, headers) = (title.into(), Vec::new());
        Self { status, source, kind, title, help, detail: None, retry_after_s: None, headers }
    }

    /// The client's mistake.
    pub(crate) fn client(
        status: StatusCode,
        kind: &'static str,
        title: impl Into<Cow<'static, str>>,
        help: &'static str,
    ) -> Self {
        Self::new(status, ErrorSource::Client, kind, title, help)
    }

    /// Something that the site can't do now.
    pub(crate) fn proxy(
        status: StatusCode,
        kind: &'static str,
        title: impl Into<Cow<'static, str>>,
        help: &'static str,
    ) -> Self {
        Self::new(status, ErrorSource::Proxy, kind, title, help)
    }

    /// The workload's failure.
    pub(crate) fn workload(
        status: StatusCode,
        kind: &'static str,
        title: impl Into<Cow<'static, str>>,
    ) -> Self {
        let help = "Try again in a moment. If it goes on, the app's log says why: its program \
                    answered too late, wrongly or not at all.";
        Self::new(status, ErrorSource::Workload, kind, title, help)
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub(crate) fn headers(mut self, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        self.headers = headers;
        self
    }
}

/// What every page names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageContext<'a> {
    pub(crate) site: &'a str,
    pub(crate) request_id: &'a str,
    /// App, service and release, where the site explains and they are known.
    pub(crate) app: Option<&'a str>,
    pub(crate) service: Option<&'a str>,
    pub(crate) release: Option<&'a str>,
    pub(crate) explain: bool,
}

/// Writes the answer.
pub(crate) fn render(fault: &Fault, page: &PageContext<'_>, accept: &HeaderMap) -> Response<Bytes> {
    let (mime, body) = if prefers_html(accept) {
        ("text/html; charset=utf-8", html(fault, page))
    } else {
        ("application/problem+json", problem(fault, page))
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = fault.status;
    let headers = response.headers_mut();
    headers.extend(fault.headers.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(mime));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(seconds) = fault.retry_after_s {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Whether a page suits the client: browsers name HTML, programs mostly name nothing.
fn prefers_html(headers: &HeaderMap) -> bool {
    let (mut html, mut json) = (0.0_f32, 0.0_f32);
    for line in headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok()) {
        for range in line.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts
                .find_map(|part| part.strip_prefix("q="))
                .map_or(1.0, |text| text.parse().unwrap_or(0.0));
            match name.as_str() {
                "text/html" | "application/xhtml+xml" => html = html.max(quality),
                "application/json" | "application/problem+json" => json = json.max(quality),
                _ => {}
            }
        }
    }
    html > 0.0 && html >= json
}

fn facts<'a>(fault: &'a Fault, page: &PageContext<'a>) -> Vec<(&'static str, &'a str)> {
    let mut facts = vec![("request", page.request_id), ("site", page.site)];
    if page.explain {
        let known = [
            ("app", page.app),
            ("service", page.service),
            ("release", page.release),
            ("detail", fault.detail.as_deref()),
        ];
        facts.extend(known.into_iter().filter_map(|(name, value)| Some((name, value?))));
    }
    facts
}

fn problem(fault: &Fault, page: &PageContext<'_>) -> String {
    let mut document = serde_json::json!({
        "type": "about:blank",
        "title": fault.title,
        "status": fault.status.as_u16(),
        "detail": fault.help,
        "kind": fault.kind,
    });
    if let Some(members) = document.as_object_mut() {
        for (name, value) in facts(fault, page) {
            let name = if name == "detail" { "explanation" } else { name };
            members.insert(name.to_owned(), value.into());
        }
    }
    document.to_string()
}

fn html(fault: &Fault, page: &PageContext<'_>) -> String {
    let status = fault.status.as_u16();
    let (title, help) = (escape(&fault.title), escape(fault.help));
    let mut rows = String::new();
    for (name, value) in facts(fault, page) {
        // Writing to a string does not fail.
        let _ = write!(rows, "<dt>{name}<dd>{}", escape(value));
    }
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>{status} {title}</title>\
         <style>:root{{color-scheme:light dark}}body{{font:1rem/1.5 system-ui,sans-serif;\
         max-width:38rem;margin:15vh auto;padding:0 1.5rem}}h1{{font-size:1.5rem}}\
         dl{{display:grid;grid-template-columns:auto 1fr;gap:.2rem 1rem;font-size:.85rem;\
         opacity:.75}}dd{{margin:0;overflow-wrap:anywhere;font-family:ui-monospace,monospace}}\
         </style><h1>{title}</h1><p>{help}<dl><dt>status<dd>{status}{rows}</dl>\n"
    )
}

fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> Fault {
        let title = "Nothing is served at <script>alert(1)</script>";
        Fault::client(StatusCode::MISDIRECTED_REQUEST, "unknown-host", title, "Look & see.")
            .detail("hosts: 'a'")
            .retry_after(5)
    }

    fn rendered(accept: Option<&'static str>, explain: bool) -> (String, String) {
        let page = PageContext {
            site: "fra",
            request_id: "0123",
            app: Some("shop"),
            service: None,
            release: None,
            explain,
        };
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        let response = render(&fault(), &page, &headers);
        assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST);
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(response.headers()[RETRY_AFTER], "5");
        let mime = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        (mime, String::from_utf8(response.into_body().to_vec()).unwrap())
    }

    #[test]
    fn browsers_get_a_page_without_foreign_markup() {
        let (mime, body) = rendered(Some("text/html,application/xml;q=0.9,*/*;q=0.8"), true);
        assert_eq!(mime, "text/html; charset=utf-8");
        assert!(body.contains("&lt;script&gt;") && !body.contains("<script"), "{body}");
        for part in ["421", "Look &amp; see.", "0123", "fra", "shop", "hosts: &#39;a&#39;"] {
            assert!(body.contains(part), "{part}: {body}");
        }
    }

    #[test]
    fn programs_get_a_problem() {
        for accept in [None, Some("*/*"), Some("application/json, text/html;q=0.5")] {
            let (mime, body) = rendered(accept, false);
            assert_eq!(mime, "application/problem+json");
            let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(problem["status"], 421);
            assert_eq!(problem["kind"], "unknown-host");
            assert_eq!(problem["request"], "0123");
            assert_eq!(problem.get("app"), None);
            assert_eq!(problem.get("explanation"), None);
        }
    }
}
