//! The life of a request: checked, located in the snapshot, answered, and named.
//!
//! What can be answered without waiting is: such a request costs no task and no boxed future.

mod coding;
mod learn;
mod page;
mod query;
mod workload;

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{ACCEPT, ALT_SVC, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH};
use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
};
use selvedge_cache::key::Key;
use selvedge_model::ServiceName;
use selvedge_model::manifest::PathPattern;
use selvedge_telemetry::Chain;

use crate::body::{ClientBody, Payload, RequestBody, ResponseBody};
use crate::check::{self, Checked};
use crate::files::{NoContent, StaticSite};
use crate::listener::Client;
use crate::locate::{self, Located};
use crate::pages::{self, Fault, PageContext};
use crate::record::Exchange;
use crate::trace::{REQUEST_ID, Trace};
use crate::{Target, forward, path, pins, probe, redirect, tls, tunnel};
use coding::Negotiated;
use query::Query;
use workload::Quick;

const RELEASE: HeaderName = HeaderName::from_static("selvedge-release");
const EPOCH: HeaderName = HeaderName::from_static("selvedge-epoch");
const SITE: HeaderName = HeaderName::from_static("selvedge-site");

/// A request with what is known of it. In a box: it goes from hand to hand, and is large.
struct Asked {
    client: Arc<Client>,
    trace: Trace,
    exchange: Exchange,
    head: Parts,
    /// None once it was sent on.
    body: Option<ClientBody>,
    checked: Checked,
    located: Located,
    /// The agent asks.
    own: bool,
    /// It asks to become a WebSocket.
    is_upgrade: bool,
    /// What a rewrite took off the path.
    prefix: Option<HeaderValue>,
    rewritten: Rewritten,
    shown: Shown,
    /// None where the answer goes out as it is.
    coding: Option<Negotiated>,
    /// Where the answer is stored, as far as it is.
    stored_at: Option<Key>,
    /// A page asks for one of its pieces.
    is_piece: bool,
    query: Query,
    /// A body that was read to see what is asked, and is to be sent all the same.
    unsent: Option<RequestBody>,
}

/// What a rewrite left of the address that the client asked for.
enum Rewritten {
    No,
    /// Another prefix; the address was this.
    Prefix(Uri),
    /// Nothing: the route names the path.
    Whole,
}

/// What the answer's form depends on.
#[derive(Clone)]
struct Shown {
    accept: Option<HeaderValue>,
    is_head: bool,
    one_at_a_time: bool,
    /// What the client used, as far as we believe it.
    scheme: &'static str,
}

impl Shown {
    fn of(head: &Parts, scheme: &'static str) -> Self {
        Self {
            scheme,
            accept: head.headers.get(ACCEPT).cloned(),
            is_head: head.method == Method::HEAD,
            one_at_a_time: head.version < Version::HTTP_2,
        }
    }
}

/// A request that is being answered.
#[expect(clippy::large_enum_variant, reason = "a box for each answer is what this is to spare")]
pub(crate) enum Handling {
    /// It is answered; taken by the first poll.
    Ready(Option<Response<ResponseBody>>),
    /// Somebody is waited for.
    Waiting(Pin<Box<dyn Future<Output = Response<ResponseBody>> + Send>>),
}

impl Future for Handling {
    type Output = Response<ResponseBody>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Ready(response) => response.take().map_or(Poll::Pending, Poll::Ready),
            Self::Waiting(future) => future.as_mut().poll(cx),
        }
    }
}

/// Answers one request.
pub(crate) fn handle(client: Arc<Client>, request: Request<ClientBody>) -> Handling {
    let (mut head, body) = request.into_parts();
    let trace = Trace::of(&head.headers, &client.shared.ids);
    let mut exchange = Exchange::begin(&client, &head, &trace);
    let shown = Shown::of(&head, client.scheme_of(&head.headers));
    let checked = match check::check(&head, &client.shared.limits) {
        Ok(checked) => checked,
        Err(fault) => {
            let response = finish(&client, &trace, exchange, None, &shown, None, Err(fault));
            return Handling::Ready(Some(response));
        }
    };
    let located = locate::locate(&client.shared, &checked, &head.headers);
    note(&mut exchange, &checked, &located);
    let own = probe::is_own(&head.headers, &located.snapshot);
    if own {
        exchange.own();
    }
    let is_upgrade = tunnel::is_asked(&head);
    forward::remove_nominated(&mut head.headers);
    let mut asked = Box::new(Asked {
        client,
        trace,
        exchange,
        head,
        body: Some(body),
        checked,
        located,
        own,
        is_upgrade,
        prefix: None,
        rewritten: Rewritten::No,
        shown,
        coding: None,
        stored_at: None,
        is_piece: false,
        query: Query::None,
        unsent: None,
    });
    asked.deliver();
    asked.answer()
}

/// Puts what was found into the record.
fn note(exchange: &mut Exchange, checked: &Checked, located: &Located) {
    let Some(record) = exchange.record() else { return };
    record.host = checked.authority.host().into_owned();
    if let Some(app) = &located.app {
        record.app = Some(app.app.to_string());
        record.environment = Some(app.environment.to_string());
    }
    if let Some(epoch) = &located.epoch {
        record.release = Some(epoch.release.short());
        record.epoch = Some(epoch.epoch.to_string());
    }
    record.service =
        located.route().and_then(|route| route.service.as_ref()).map(ToString::to_string);
}

/// Makes an answer the one that is sent: explained if it is a fault, named, and recorded at its end.
fn finish(
    client: &Arc<Client>,
    trace: &Trace,
    mut exchange: Exchange,
    located: Option<&Located>,
    shown: &Shown,
    coding: Option<Negotiated>,
    answer: Result<Response<Payload>, Fault>,
) -> Response<ResponseBody> {
    let (mut response, is_fault) = match answer {
        Ok(response) => (response, false),
        Err(fault) => {
            exchange.failed(fault.source, fault.kind);
            (explain(client, trace, located, &fault, shown), true)
        }
    };
    let is_recorded = exchange.record().is_some();
    let is_secure = shown.scheme == "https";
    name(client, trace, located, (is_fault, is_recorded, is_secure), &mut response);
    if let Some(coding) = coding.filter(|_| !is_fault) {
        response = coding.respond(response);
    }
    if shown.one_at_a_time && response.status() == StatusCode::BAD_REQUEST && is_fault {
        // Who sends one request that can be read two ways is not read any further.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.answered(response.status());
    let (head, payload) = response.into_parts();
    let body = match payload {
        Payload::Tunnel(tunnel) => {
            tunnel.begin(exchange, Arc::clone(client));
            ResponseBody::upgraded()
        }
        payload => ResponseBody::new(payload, exchange),
    };
    Response::from_parts(head, body)
}

impl Asked {
    /// Answers, at once where that can be.
    fn answer(mut self: Box<Self>) -> Handling {
        match self.target() {
            Ok(Answerer::Redirect(response)) => self.ready(Ok(response)),
            // To a client of HTTP/2, a file would mean that the tunnel is open.
            Ok(Answerer::Files(..)) if tunnel::is_connect(&self.head) => {
                self.ready(Err(refused(StatusCode::METHOD_NOT_ALLOWED)))
            }
            Ok(Answerer::Files(site, fallback)) => Handling::Waiting(Box::pin(async move {
                let answer = self.files(&site, fallback.as_deref()).await;
                self.assemble(answer).await
            })),
            Ok(Answerer::Workload(upstream)) if self.is_posted_query() => {
                Handling::Waiting(Box::pin(async move {
                    match self.read_posted_query().await {
                        Ok(()) => self.ask(upstream).await,
                        Err(fault) => self.finish(Err(fault)),
                    }
                }))
            }
            Ok(Answerer::Workload(upstream)) => {
                self.read_query();
                self.ask(upstream)
            }
            Err(fault) => self.ready(Err(fault)),
        }
    }

    /// Answers from the cache, or by asking.
    fn ask(mut self: Box<Self>, upstream: Arc<crate::upstream::Upstream>) -> Handling {
        let Some(in_flight) = self.located.in_flight.take() else {
            // Locating counts a workload's request in.
            return self.ready(Err(lost()));
        };
        let scope = self.located.route().and_then(|route| route.cache.clone());
        match self.look_up(scope.as_ref()) {
            Quick::Answer(answer) if self.is_template(&answer) || self.is_to_encode(&answer) => {
                Handling::Waiting(Box::pin(self.assemble(answer)))
            }
            Quick::Answer(answer) => self.ready(answer),
            Quick::Ask(caching, found) => Handling::Waiting(Box::pin(async move {
                let (asked, answer) = self.workload(caching, found, upstream, in_flight).await;
                asked.assemble(answer).await
            })),
        }
    }

    fn ready(self: Box<Self>, answer: Result<Response<Payload>, Fault>) -> Handling {
        Handling::Ready(Some(self.finish(answer)))
    }

    fn finish(self: Box<Self>, answer: Result<Response<Payload>, Fault>) -> Response<ResponseBody> {
        if self.is_piece {
            return self.finish_piece(answer);
        }
        let Self { client, trace, exchange, located, shown, coding, .. } = *self;
        finish(&client, &trace, exchange, Some(&located), &shown, coding, answer)
    }

    /// Who answers, with the request rewritten for them.
    fn target(&mut self) -> Result<Answerer, Fault> {
        if self.located.table().is_some_and(|table| table.force_https)
            && self.shown.scheme != "https"
            && !self.own
        {
            let port = self.client.shared.https_port();
            return redirect::to_https(&self.head, &self.checked, port).map(Answerer::Redirect);
        }
        if !self.own {
            let policy = &self.located.snapshot.tls;
            let host = self.checked.authority.host();
            tls::certified(&self.client, &host, &mut self.head.headers, policy)?;
        }
        if let Some(fault) = self.located.fault.take() {
            return Err(fault);
        }
        let Some(route) = self.located.route() else { return Err(lost()) };
        let rewrite = route.rewrite.clone().map(|rewrite| (route.path.clone(), rewrite));
        let target = route.target.clone();
        if let Some((path, rewrite)) = rewrite {
            self.rewrite(&path, &rewrite)?;
        }
        Ok(match target {
            Target::Static(site) => Answerer::Files(site, None),
            Target::Fallback(site, file) => Answerer::Files(site, Some(file)),
            Target::Workload(upstream) => Answerer::Workload(upstream),
            Target::Redirect(to) => {
                let scheme = self.shown.scheme;
                let answer = redirect::answer(&to, &self.head, &self.checked, scheme)?;
                Answerer::Redirect(answer)
            }
        })
    }

    /// Changes what is asked for. The workload is told of a prefix that was taken off.
    fn rewrite(&mut self, path: &PathPattern, rewrite: &PathPattern) -> Result<(), Fault> {
        let mut target = path.rewritten(rewrite, self.head.uri.path());
        self.checked.path = path::normalise(&target).map_err(|_| lost())?.into_owned();
        if let Some(query) = self.head.uri.query() {
            target.push('?');
            target.push_str(query);
        }
        let target = target.parse().map_err(|_| lost())?;
        let original = mem::replace(&mut self.head.uri, target);
        self.rewritten = Rewritten::Whole;
        if let (PathPattern::Prefix(prefix), PathPattern::Prefix(rest)) = (path, rewrite) {
            self.rewritten = Rewritten::Prefix(original);
            if rest.is_empty() {
                self.prefix = HeaderValue::try_from(prefix).ok();
            }
        }
        Ok(())
    }

    async fn files(
        &self,
        site: &StaticSite,
        fallback: Option<&str>,
    ) -> Result<Response<Payload>, Fault> {
        let checked = &self.checked;
        let Parts { method, uri, headers, .. } = &self.head;
        let asked = match &self.rewritten {
            Rewritten::No => Some(uri),
            Rewritten::Prefix(original) => Some(original),
            Rewritten::Whole => None,
        };
        match site.answer(method, &checked.path, asked, headers, fallback).await {
            Ok(response) => Ok(response.map(Payload::from)),
            Err(NoContent::Refused(status, headers)) => Err(refused(status).headers(headers)),
            Err(NoContent::Unreadable(error)) => {
                tracing::warn!(path = %checked.path, error = %Chain(&error), "file unreadable");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                let title = "A file of this site can't be read";
                Err(Fault::proxy(status, "file-unreadable", title, "Try again in a moment.")
                    .detail(Chain(&error).to_string()))
            }
        }
    }
}

/// Who answers.
#[expect(clippy::large_enum_variant, reason = "it lives for a few instructions")]
enum Answerer {
    /// The proxy: this.
    Redirect(Response<Payload>),
    /// Files.
    Files(Arc<StaticSite>, Option<Arc<str>>),
    /// A workload, or a server elsewhere.
    Workload(Arc<crate::upstream::Upstream>),
}

/// What can't be, answered all the same.
fn lost() -> Fault {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    Fault::proxy(status, "route-lost", "The request lost its way", "Try again in a moment.")
}

fn refused(status: StatusCode) -> Fault {
    let (kind, title, help) = match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method", "Files can only be read", "Use GET or HEAD here.")
        }
        StatusCode::PRECONDITION_FAILED => {
            ("precondition", "The file is not the one you have", "Fetch it again.")
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            ("range", "The file has no such part", "The content-range header says how long it is.")
        }
        _ => ("no-file", "There is no such file", "Check the address."),
    };
    Fault::client(status, kind, title, help)
}

/// The proxy's own answer.
fn explain(
    client: &Client,
    trace: &Trace,
    located: Option<&Located>,
    fault: &Fault,
    shown: &Shown,
) -> Response<Payload> {
    let snapshot = match located {
        Some(located) => Arc::clone(&located.snapshot),
        None => Arc::clone(&client.shared.snapshot.borrow()),
    };
    let app = located.and_then(|located| located.app.as_deref());
    let epoch = located.and_then(|located| located.epoch.as_deref());
    let release = epoch.map(|epoch| epoch.release.short());
    let page = PageContext {
        site: snapshot.site.as_str(),
        request_id: &trace.request_id(),
        app: app.map(|app| app.app.as_str()),
        service: located
            .and_then(Located::route)
            .and_then(|route| route.service.as_ref())
            .map(ServiceName::as_str),
        release: release.as_deref(),
        explain: snapshot.explain,
    };
    let accept = shown.accept.clone();
    let accept = HeaderMap::from_iter(accept.map(|accept| (ACCEPT, accept)));
    let mut response = pages::render(fault, &page, &accept);
    let length = response.body().len() as u64;
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response.map(|body| if shown.is_head { Payload::Empty } else { Payload::Memory(body) })
}

/// Puts on a response what says where it comes from, what its route adds, and the pin.
fn name(
    client: &Client,
    trace: &Trace,
    located: Option<&Located>,
    (is_fault, is_recorded, is_secure): (bool, bool, bool),
    response: &mut Response<Payload>,
) {
    let headers = response.headers_mut();
    if let Some(alternative) = client.alternative() {
        headers.insert(ALT_SVC, alternative);
    }
    let mut put = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    // An id that is in no record is of use only to who reports the page that shows it.
    if is_recorded || is_fault {
        put(REQUEST_ID, &trace.request_id());
    }
    let Some(located) = located else {
        put(SITE, client.shared.snapshot.borrow().site.as_str());
        return;
    };
    if let Some(epoch) = &located.epoch {
        put(RELEASE, &epoch.release.short());
        put(EPOCH, &epoch.epoch.to_string());
    }
    if located.snapshot.rest.is_none() || located.app.is_some() {
        put(SITE, located.snapshot.site.as_str());
        // A workload can't set a pin.
        headers.remove(pins::PIN);
    }
    for (name, value) in located.route().map_or(&[][..], |route| &route.response_headers) {
        if may_replace(name, is_fault) {
            headers.insert(name.clone(), value.clone());
        }
    }
    if let Some(pin) = &located.new_pin {
        pins::set(headers, pin, is_secure);
    }
}

/// Routes can't change how a message is framed, nor what the proxy's own page is.
fn may_replace(name: &HeaderName, is_fault: bool) -> bool {
    let framing = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING];
    let ours = [CONTENT_TYPE, CONTENT_ENCODING, CACHE_CONTROL];
    let fixed = framing.contains(name) || (is_fault && ours.contains(name));
    !fixed
}
