//! Pages put together of pieces, each of which is a request to the same app.

use std::sync::Arc;

use http::header::HOST;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use selvedge_telemetry::Chain;

use super::{Asked, Handling, Query, Rewritten, Shown, note};
use crate::body::{BodyError, Payload, ResponseBody};
use crate::check;
use crate::encode::Budget;
use crate::esi::{self, Failure, Fetch, Fragment, Origin, Page};
use crate::listener::Client;
use crate::locate;
use crate::pages::Fault;
use crate::record::Exchange;
use crate::trace::Trace;

/// Memory for one page to decode pieces that come encoded though they were asked for plain.
const DECODE_BYTES: u64 = 32 << 20;

/// The way from a page to its pieces.
struct Pieces {
    client: Arc<Client>,
    /// The page's host and port, as the client asked for it.
    host: HeaderValue,
    scheme: &'static str,
}

impl Fetch for Pieces {
    type Body = ResponseBody;

    async fn fetch(&self, fragment: Fragment) -> Result<Response<ResponseBody>, BodyError> {
        if !fragment.is_own {
            return Err("pieces of other hosts are not fetched".into());
        }
        let (mut head, ()) = Request::new(()).into_parts();
        head.uri = fragment.uri;
        head.headers = fragment.headers;
        head.headers.insert(HOST, self.host.clone());
        Ok(piece(Arc::clone(&self.client), head, self.scheme).await)
    }
}

/// Answers for a piece.
fn piece(client: Arc<Client>, head: http::request::Parts, scheme: &'static str) -> Handling {
    let trace = Trace::of(&head.headers, &client.shared.ids);
    let mut exchange = Exchange::piece(&client, &head, &trace);
    let shown = Shown::of(&head, scheme);
    let checked = match check::check(&head, &client.shared.limits) {
        Ok(checked) => checked,
        Err(fault) => return Handling::Ready(Some(refused(&fault, exchange))),
    };
    let located = locate::locate(&client.shared, &checked, &head.headers);
    note(&mut exchange, &checked, &located);
    let asked = Box::new(Asked {
        client,
        trace,
        exchange,
        head,
        body: None,
        checked,
        located,
        own: false,
        is_upgrade: false,
        prefix: None,
        rewritten: Rewritten::No,
        shown,
        coding: None,
        stored_at: None,
        is_piece: true,
        query: Query::None,
        unsent: None,
    });
    asked.answer()
}

/// A piece that can't be had: its page only wants to know that.
fn refused(fault: &Fault, mut exchange: Exchange) -> Response<ResponseBody> {
    exchange.failed(fault.source, fault.kind);
    exchange.answered(fault.status);
    let mut response = Response::new(ResponseBody::new(Payload::Empty, exchange));
    *response.status_mut() = fault.status;
    response
}

impl Asked {
    /// The answer as a piece of a page: without what is only for clients.
    pub(super) fn finish_piece(
        mut self: Box<Self>,
        answer: Result<Response<Payload>, Fault>,
    ) -> Response<ResponseBody> {
        match answer {
            Ok(response) => {
                self.exchange.answered(response.status());
                let exchange = self.exchange;
                response.map(|payload| ResponseBody::new(payload, exchange))
            }
            Err(fault) => refused(&fault, self.exchange),
        }
    }

    /// Whether an answer is to be put together with pieces.
    pub(super) fn is_template(&self, answer: &Result<Response<Payload>, Fault>) -> bool {
        let has_esi = || self.located.route().is_some_and(|route| route.delivery.esi.is_some());
        let is_template =
            |response: &Response<Payload>| esi::is_template(response.status(), response.headers());
        !self.is_piece && !self.own && has_esi() && answer.as_ref().is_ok_and(is_template)
    }

    /// Finishes an answer, put together with its pieces if it is a template.
    pub(super) async fn assemble(
        self: Box<Self>,
        answer: Result<Response<Payload>, Fault>,
    ) -> Response<ResponseBody> {
        if !self.is_template(&answer) {
            if let Some(encoding) = self.encoding(&answer) {
                encoding.await;
            }
            return self.finish(answer);
        }
        let answer = match answer {
            Ok(template) if self.head.method == Method::HEAD => {
                let mut head = template.map(|_| Payload::Empty);
                esi::page_head(head.headers_mut());
                Ok(head)
            }
            Ok(template) => self.page(template).await,
            Err(fault) => Err(fault),
        };
        self.finish(answer)
    }

    async fn page(&self, template: Response<Payload>) -> Result<Response<Payload>, Fault> {
        let route = self.located.route();
        let Some(config) = route.and_then(|route| route.delivery.esi.clone()) else {
            return Ok(template);
        };
        let host = self.checked.authority.as_header().clone();
        let authority = host.to_str().unwrap_or_default().to_owned();
        let page = Page {
            fetch: Pieces { client: Arc::clone(&self.client), host, scheme: self.shown.scheme },
            config,
            budget: Budget::new(DECODE_BYTES),
            origin: Origin { authority, scheme: self.shown.scheme },
            uri: self.asked_for().clone(),
            client: self.head.headers.clone(),
        };
        let template = template.map(ResponseBody::template);
        match esi::assemble(page, template).await {
            Ok(page) => Ok(page.map(|page| Payload::Page(Box::new(page)))),
            Err(failure) => Err(broken(&failure)),
        }
    }

    /// What the client asked for, before any rewrite.
    fn asked_for(&self) -> &http::Uri {
        match &self.rewritten {
            Rewritten::Prefix(original) => original,
            _ => &self.head.uri,
        }
    }
}

fn broken(failure: &Failure) -> Fault {
    let status = match failure {
        Failure::Timeout | Failure::Late { .. } => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    Fault::workload(status, "page-broken", "The page can't be put together")
        .detail(Chain(failure).to_string())
}
