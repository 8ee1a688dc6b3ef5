//! The life of a request: checked, located in the snapshot, answered, and named.

use std::mem;
use std::sync::Arc;

use http::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH};
use http::header::{CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use selvedge_model::ServiceName;
use selvedge_model::manifest::PathPattern;
use selvedge_telemetry::Chain;
use tokio::time::Instant;

use crate::body::{Payload, RequestBody, RequestBodyError, ResponseBody};
use crate::check::{self, Checked};
use crate::files::{NoContent, StaticSite};
use crate::listener::Client;
use crate::locate::{self, Located};
use crate::pages::{self, Fault, PageContext};
use crate::record::{Exchange, milliseconds};
use crate::trace::{REQUEST_ID, Trace};
use crate::tunnel::{self, Tunnel};
use crate::upstream::{InFlight, Upstream, UpstreamError, WorkloadBody};
use crate::{Limits, Target, forward, path, pins, probe, redirect};

/// How many of our own proxies a request may have passed.
const MAX_HOPS: usize = 8;

const RELEASE: HeaderName = HeaderName::from_static("selvedge-release");
const EPOCH: HeaderName = HeaderName::from_static("selvedge-epoch");
const SITE: HeaderName = HeaderName::from_static("selvedge-site");

/// A request with what is known of it.
struct Asked<'a> {
    client: &'a Client,
    trace: &'a Trace,
    head: Parts,
    body: Incoming,
    /// The agent asks.
    own: bool,
    /// What a rewrite took off the path.
    prefix: Option<HeaderValue>,
    rewritten: Rewritten,
}

/// What a rewrite left of the address that the client asked for.
enum Rewritten {
    No,
    /// Another prefix; the address was this.
    Prefix(Uri),
    /// Nothing: the route names the path.
    Whole,
}

/// Answers one request.
pub(crate) async fn handle(
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let (head, body) = request.into_parts();
    let trace = Trace::of(&head.headers, &client.shared.ids);
    let mut exchange = Exchange::begin(&client, &head, &trace);
    let accept = head.headers.get(ACCEPT).cloned();
    let is_head = head.method == Method::HEAD;
    let one_at_a_time = head.version != Version::HTTP_2;

    let mut located = None;
    let answer = match check::check(&head, &client.shared.limits) {
        Ok(mut checked) => {
            let found = locate::locate(&client.shared, &checked, &head.headers);
            note(&mut exchange, &checked, &found);
            let own = probe::is_own(&head.headers, &found.snapshot);
            if own {
                exchange.own();
            }
            let (client, trace) = (&*client, &trace);
            let rewritten = Rewritten::No;
            let asked = Asked { client, trace, head, body, own, prefix: None, rewritten };
            asked.answer(&mut exchange, &mut checked, located.insert(found)).await
        }
        Err(fault) => Err(fault),
    };
    let (mut response, is_fault) = match answer {
        Ok(response) => (response, false),
        Err(fault) => {
            exchange.failed(fault.source, fault.kind);
            (explain(&client, &trace, located.as_ref(), &fault, accept, is_head), true)
        }
    };
    name(&client, &trace, located.as_ref(), is_fault, &mut response);
    if one_at_a_time && response.status() == StatusCode::BAD_REQUEST && is_fault {
        // Who sends one request that can be read two ways is not read any further.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.record().status = response.status().as_u16();
    let (head, payload) = response.into_parts();
    let body = match payload {
        Payload::Tunnel(tunnel) => {
            tunnel.begin(exchange, client);
            ResponseBody::upgraded()
        }
        payload => ResponseBody::new(payload, exchange),
    };
    Response::from_parts(head, body)
}

/// Puts what was found into the record.
fn note(exchange: &mut Exchange, checked: &Checked, located: &Located) {
    let record = exchange.record();
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

impl Asked<'_> {
    async fn answer(
        mut self,
        exchange: &mut Exchange,
        checked: &mut Checked,
        located: &mut Located,
    ) -> Result<Response<Payload>, Fault> {
        let client = self.client;
        if located.epoch.as_ref().is_some_and(|epoch| epoch.force_https)
            && !client.secure()
            && !self.own
        {
            return redirect::to_https(&self.head, checked, client.shared.https_port);
        }
        if let Some(fault) = located.fault.take() {
            return Err(fault);
        }
        let in_flight = located.in_flight.take();
        let Some(route) = located.route() else { return Err(lost()) };
        if let Some(rewrite) = &route.rewrite {
            self.rewrite(&route.path, rewrite, checked)?;
        }
        match (&route.target, in_flight) {
            (Target::Static(site), _) => self.files(site, None, checked).await,
            (Target::Fallback(site, file), _) => self.files(site, Some(file), checked).await,
            (Target::Redirect(to), _) => redirect::answer(to, &self.head, checked, client.scheme()),
            (Target::Workload(upstream), Some(in_flight)) => {
                self.workload(exchange, checked, upstream, in_flight).await
            }
            // Locating counts a workload's request in.
            (Target::Workload(_), None) => Err(lost()),
        }
    }

    /// Changes what is asked for. The workload is told of a prefix that was taken off.
    fn rewrite(
        &mut self,
        path: &PathPattern,
        rewrite: &PathPattern,
        checked: &mut Checked,
    ) -> Result<(), Fault> {
        let mut target = path.rewritten(rewrite, self.head.uri.path());
        checked.path = path::normalise(&target).map_err(|_| lost())?.into_owned();
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
        self,
        site: &StaticSite,
        fallback: Option<&str>,
        checked: &Checked,
    ) -> Result<Response<Payload>, Fault> {
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

    async fn workload(
        mut self,
        exchange: &mut Exchange,
        checked: &Checked,
        upstream: &Upstream,
        in_flight: InFlight,
    ) -> Result<Response<Payload>, Fault> {
        let client = self.client;
        let limits = &client.shared.limits;
        if forward::hops(&self.head.headers) >= MAX_HOPS {
            let status = StatusCode::LOOP_DETECTED;
            let title = "The request goes in a circle";
            let help = "In the app's selvedge.toml, an upstream leads back to an edge.";
            return Err(Fault::proxy(status, "proxy-loop", title, help));
        }
        // Only HTTP/1.1 connections have one.
        let upgrade = tunnel::is_asked(&self.head);
        let to_client = self.head.extensions.remove::<OnUpgrade>().filter(|_| upgrade);
        let takes_trailers = forward::takes_trailers(&self.head);
        let mut headers = self.head.headers;
        pins::strip(&mut headers);
        headers.remove(probe::PROBE);
        forward::to_workload(&mut headers, &checked.authority, client.peer, client.scheme());
        headers.extend(self.prefix.map(|prefix| (forward::X_FORWARDED_PREFIX, prefix)));
        if let Some(host) = upstream.host() {
            headers.insert(HOST, host.clone());
        }
        if to_client.is_some() {
            tunnel::put(&mut headers);
        }
        self.trace.propagate(&mut headers, &client.shared.ids);

        let received = Arc::clone(exchange.received());
        let body = RequestBody::new(self.body, limits, &received);
        let mut request = Request::new(body);
        *request.method_mut() = self.head.method;
        *request.uri_mut() =
            self.head.uri.into_parts().path_and_query.map(Uri::from).unwrap_or_default();
        *request.headers_mut() = headers;

        let started = Instant::now();
        let upgrade = to_client.is_some();
        let result = upstream.send(in_flight, request, &received, upgrade).await;
        exchange.record().upstream_ms = Some(milliseconds(started));
        let mut response = result.map_err(|error| workload_fault(&error, upstream, limits))?;
        // The version is the connection's too: a workload that speaks HTTP/1.0 must not end ours.
        *response.version_mut() = Version::HTTP_11;
        if response.status().is_informational() {
            return upgraded(response, to_client, upstream);
        }
        let mut response = response.map(Payload::Workload);
        forward::to_client(response.headers_mut(), takes_trailers);
        Ok(response)
    }
}

/// The workload switches protocols.
fn upgraded(
    mut response: Response<WorkloadBody>,
    to_client: Option<OnUpgrade>,
    upstream: &Upstream,
) -> Result<Response<Payload>, Fault> {
    let agreed = tunnel::is_websocket(response.headers());
    let to_upstream = response.extensions_mut().remove::<OnUpgrade>();
    let (Some(client), Some(to_upstream), true) = (to_client, to_upstream, agreed) else {
        let title = "The app answered with an upgrade that nobody asked for";
        return Err(Fault::workload(StatusCode::BAD_GATEWAY, "malformed", title));
    };
    forward::to_client(response.headers_mut(), false);
    tunnel::put(response.headers_mut());
    let ending = upstream.ending();
    Ok(response.map(|body| {
        let counted = body.into_counted();
        Payload::Tunnel(Box::new(Tunnel { client, upstream: to_upstream, counted, ending }))
    }))
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

fn workload_fault(error: &UpstreamError, upstream: &Upstream, limits: &Limits) -> Fault {
    let fault = |status, kind, title: &'static str| Fault::workload(status, kind, title);
    let fault = match error {
        UpstreamError::Busy => {
            fault(StatusCode::SERVICE_UNAVAILABLE, "busy", "The app has too much to do")
                .retry_after(1)
        }
        UpstreamError::Refused(_) => {
            fault(StatusCode::BAD_GATEWAY, "connect-refused", "The app can't be reached")
        }
        UpstreamError::ConnectTimeout => {
            fault(StatusCode::GATEWAY_TIMEOUT, "connect-timeout", "The app can't be reached")
        }
        UpstreamError::ClosedEarly(_) => {
            fault(StatusCode::BAD_GATEWAY, "closed-early", "The app hung up before it answered")
        }
        UpstreamError::HeadTooLarge => {
            let title = "The app's answer has too large headers";
            fault(StatusCode::BAD_GATEWAY, "headers-too-large", title)
        }
        UpstreamError::Malformed(_) => {
            fault(StatusCode::BAD_GATEWAY, "malformed", "The app's answer is no valid HTTP")
        }
        UpstreamError::ResponseTimeout => {
            fault(StatusCode::GATEWAY_TIMEOUT, "response-timeout", "The app did not answer in time")
        }
        UpstreamError::Request(RequestBodyError::TooLarge) => check::too_large(limits),
        UpstreamError::Request(RequestBodyError::Stalled) => Fault::client(
            StatusCode::REQUEST_TIMEOUT,
            "body-stalled",
            "The request's body did not arrive in time",
            "Send it again.",
        ),
        UpstreamError::Request(RequestBodyError::Broken) => Fault::client(
            StatusCode::BAD_REQUEST,
            "body-broken",
            "The request's body did not arrive whole",
            "Send it again.",
        ),
    };
    fault.detail(format!("{}: {}", upstream.name(), Chain(error)))
}

/// The proxy's own answer.
fn explain(
    client: &Client,
    trace: &Trace,
    located: Option<&Located>,
    fault: &Fault,
    accept: Option<HeaderValue>,
    is_head: bool,
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
        request_id: &trace.request_id,
        app: app.map(|app| app.app.as_str()),
        service: located
            .and_then(Located::route)
            .and_then(|route| route.service.as_ref())
            .map(ServiceName::as_str),
        release: release.as_deref(),
        explain: snapshot.explain,
    };
    let accept = HeaderMap::from_iter(accept.map(|accept| (ACCEPT, accept)));
    let mut response = pages::render(fault, &page, &accept);
    let length = response.body().len() as u64;
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response.map(|body| if is_head { Payload::Empty } else { Payload::Memory(body) })
}

/// Puts on a response what says where it comes from, what its route adds, and the pin.
fn name(
    client: &Client,
    trace: &Trace,
    located: Option<&Located>,
    is_fault: bool,
    response: &mut Response<Payload>,
) {
    let headers = response.headers_mut();
    let mut put = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    put(REQUEST_ID, &trace.request_id);
    let Some(located) = located else {
        put(SITE, client.shared.snapshot.borrow().site.as_str());
        return;
    };
    put(SITE, located.snapshot.site.as_str());
    let Some(epoch) = &located.epoch else { return };
    put(RELEASE, &epoch.release.short());
    put(EPOCH, &epoch.epoch.to_string());
    // A workload can't set a pin.
    headers.remove(pins::PIN);
    for (name, value) in located.route().map_or(&[][..], |route| &route.response_headers) {
        if may_replace(name, is_fault) {
            headers.insert(name.clone(), value.clone());
        }
    }
    if let Some(pin) = &located.new_pin {
        pins::set(headers, pin, client.secure());
    }
}

/// Routes can't change how a message is framed, nor what the proxy's own page is.
fn may_replace(name: &HeaderName, is_fault: bool) -> bool {
    let framing = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING];
    let ours = [CONTENT_TYPE, CONTENT_ENCODING, CACHE_CONTROL];
    let fixed = framing.contains(name) || (is_fault && ours.contains(name));
    !fixed
}
