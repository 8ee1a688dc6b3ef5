//! The life of a request: checked, located in the snapshot, answered, and named.

use std::sync::Arc;

use http::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH};
use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
};
use hyper::body::Incoming;
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
use crate::upstream::{InFlight, Upstream, UpstreamError};
use crate::{Limits, Target, forward, pins};

const RELEASE: HeaderName = HeaderName::from_static("selvedge-release");
const EPOCH: HeaderName = HeaderName::from_static("selvedge-epoch");
const SITE: HeaderName = HeaderName::from_static("selvedge-site");

/// A request with what is known of it.
struct Asked<'a> {
    client: &'a Client,
    trace: &'a Trace,
    head: Parts,
    body: Incoming,
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
        Ok(checked) => {
            let found = locate::locate(&client.shared, &checked, &head.headers);
            note(&mut exchange, &checked, &found);
            let asked = Asked { client: &client, trace: &trace, head, body };
            asked.answer(&mut exchange, &checked, located.insert(found)).await
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
    response.map(|payload| ResponseBody::new(payload, exchange))
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
    record.service = located.route().map(|route| route.service.to_string());
}

impl Asked<'_> {
    async fn answer(
        self,
        exchange: &mut Exchange,
        checked: &Checked,
        located: &mut Located,
    ) -> Result<Response<Payload>, Fault> {
        if let Some(fault) = located.fault.take() {
            return Err(fault);
        }
        let in_flight = located.in_flight.take();
        match (located.route().map(|route| &route.target), in_flight) {
            (Some(Target::Static(site)), _) => self.files(site, checked).await,
            (Some(Target::Workload(upstream)), Some(in_flight)) => {
                self.workload(exchange, checked, upstream, in_flight).await
            }
            // Locating leaves a fault when there is no route, and counts a workload's request in.
            _ => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                let title = "The request lost its way";
                Err(Fault::proxy(status, "route-lost", title, "Try again in a moment."))
            }
        }
    }

    async fn files(self, site: &StaticSite, checked: &Checked) -> Result<Response<Payload>, Fault> {
        let Parts { method, uri, headers, .. } = &self.head;
        match site.answer(method, &checked.path, uri.query(), headers).await {
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
        self,
        exchange: &mut Exchange,
        checked: &Checked,
        upstream: &Upstream,
        in_flight: InFlight,
    ) -> Result<Response<Payload>, Fault> {
        let client = self.client;
        let limits = &client.shared.limits;
        let mut headers = self.head.headers;
        pins::strip(&mut headers);
        forward::to_workload(&mut headers, &checked.authority, client.peer, client.scheme());
        self.trace.propagate(&mut headers, &client.shared.ids);

        let received = Arc::clone(exchange.received());
        let body = RequestBody::new(self.body, limits, &received);
        let mut request = Request::new(body);
        *request.method_mut() = self.head.method;
        *request.uri_mut() =
            self.head.uri.into_parts().path_and_query.map(Uri::from).unwrap_or_default();
        *request.headers_mut() = headers;

        let started = Instant::now();
        let result = upstream.send(in_flight, request, &received).await;
        exchange.record().upstream_ms = Some(milliseconds(started));
        let response = result.map_err(|error| workload_fault(&error, upstream, limits))?;
        if response.status().is_informational() {
            let title = "The app answered with an upgrade that nobody asked for";
            return Err(Fault::workload(StatusCode::BAD_GATEWAY, "malformed", title));
        }
        let mut response = response.map(Payload::Workload);
        // The version is the connection's too: a workload that speaks HTTP/1.0 must not end ours.
        *response.version_mut() = Version::HTTP_11;
        forward::to_client(response.headers_mut());
        Ok(response)
    }
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
        service: located.and_then(Located::route).map(|route| route.service.as_str()),
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
