//! From a request on a connection to its route's stack, and back.

mod reply;

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, MAX_FORWARDS};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tower_service::Service;

use self::reply::{Active, ReplyBody};
use crate::http::attempt::{ClientCert, UpstreamTime};
use crate::http::body::ResponseBody;
use crate::http::layer::IdempotencyLayer;
use crate::http::policy::{KeySource, Mode, Policy, ScopeSource};
use crate::http::refusal::{Refusal, Refused};
use crate::http::report::Report;
use crate::http::service::Idempotency;
use crate::proxy::connection::activity::Activity;
use crate::proxy::connection::body::ClientBody;
use crate::proxy::forward::Forward;
use crate::proxy::generation::{Generation, Seat};
use crate::proxy::headers::{
    EffectiveHost, Peer, Scheme, Via, check_coding, check_nominated, effective_host, prepare_request, steers,
    takes_trailers,
};
use crate::proxy::listener::ListenerSpec;
use crate::proxy::listener::address::PeerAddress;
use crate::proxy::router::{NoRoute, Router};
use crate::proxy::tunnel::{Switch, Switched};
use crate::proxy::upstream::body::UpstreamBody;
use crate::proxy::upstream::frame::TakesTrailers;

/// The methods that this proxy takes, for `Allow`.
const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Hears of every request.
pub trait Observer: Send + Sync + 'static {
    /// A request of a route begins.
    fn began(&self, route: usize);
    /// A request has its answer's head.
    fn answered(&self, exchange: &Exchange<'_>);
    /// What a client sent was no request, or none in time, and was answered with a problem.
    fn refused(&self, peer: &Peer, status: StatusCode, code: &'static str);
    /// A request of a route has ended, its answer's body included.
    fn ended(&self, route: usize);
}

/// A request and what became of it.
pub struct Exchange<'a> {
    /// Who asked.
    pub peer: &'a Peer,
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub target: &'a Uri,
    /// The index of the route; none when no route was found.
    pub route: Option<usize>,
    /// The answer's status.
    pub status: StatusCode,
    /// The `Idempotency-Status` value, a problem's code, or `passed`.
    pub outcome: &'static str,
    /// What the layer tells of a protected request.
    pub report: Option<Report>,
    /// From the request's head to the answer's.
    pub total: Duration,
    /// How long the upstream took, where it was asked.
    pub upstream: Option<Duration>,
}

/// What one worker answers requests with, until another generation takes its seat.
pub struct Gateway {
    /// Tells generations apart.
    number: u64,
    listener: ListenerSpec,
    router: Arc<Router>,
    stacks: Vec<Stack>,
    via: Via,
    observer: Arc<dyn Observer>,
    docs_url: Option<Arc<str>>,
}

/// A route's services, from the outside in.
struct Stack {
    /// Enforces the policy around the upstream.
    service: Idempotency<Forward>,
    /// Fields that a client must not take out on the way.
    guarded: Vec<HeaderName>,
    /// Whether the scope has parts of the path.
    needs_path_params: bool,
}

/// A client's connection as its requests see it.
pub(super) struct Connection {
    seat: Arc<Seat>,
    /// As the generation saw it that the connection began with.
    peer: Peer,
    born: u64,
    activity: Arc<Activity>,
    last_host: Mutex<Option<Arc<EffectiveHost>>>,
    /// What becomes of the socket when HTTP ends on it.
    switch: Mutex<Option<Switch>>,
}

impl Gateway {
    pub(super) fn new(
        generation: &Generation,
        layers: &[IdempotencyLayer],
        forwards: Vec<Forward>,
        via: Via,
        number: u64,
    ) -> Gateway {
        let Generation { listener, routes, router, observer, layers: _ } = generation;
        let stacks = routes.iter().zip(layers).zip(forwards);
        let stacks = stacks.map(|((route, layer), forward)| Stack::new(&route.policy, layer, forward)).collect();
        let docs_url = routes.first().and_then(|route| route.policy.docs_url.clone());
        let (listener, router, observer) = (listener.clone(), router.clone(), observer.clone());
        Gateway { number, listener, router, stacks, via, observer, docs_url }
    }

    pub(super) fn listener(&self) -> &ListenerSpec {
        &self.listener
    }
}

impl Stack {
    fn new(policy: &Policy, layer: &IdempotencyLayer, forward: Forward) -> Stack {
        Stack {
            service: tower_layer::Layer::layer(layer, forward),
            guarded: if policy.mode == Mode::Off { Vec::new() } else { guarded(policy) },
            needs_path_params: policy.scope.iter().any(|source| matches!(source, ScopeSource::Path(_))),
        }
    }
}

/// The fields that a policy takes key and scope from.
fn guarded(policy: &Policy) -> Vec<HeaderName> {
    let keys = policy.key_from.iter().filter_map(|source| match source {
        KeySource::Header(name) => Some(name.clone()),
        KeySource::Query(_) | KeySource::Json(_) => None,
    });
    let scopes = policy.scope.iter().flat_map(|source| match source {
        ScopeSource::Credentials => vec![AUTHORIZATION, HeaderName::from_static("x-api-key"), COOKIE],
        ScopeSource::Header(name) => vec![name.clone()],
        ScopeSource::Cookie(_) => vec![COOKIE],
        ScopeSource::Host
        | ScopeSource::Path(_)
        | ScopeSource::Query(_)
        | ScopeSource::ClientCert
        | ScopeSource::Custom { .. }
        | ScopeSource::Anonymous => Vec::new(),
    });
    keys.chain(scopes).collect()
}

/// What is known of a request when its head has been looked at.
enum Way {
    /// To this route.
    Route(usize),
    /// Answered here (RFC 9110 section 9.3.7).
    OptionsHere,
}

impl Connection {
    /// A connection that begins now.
    pub(super) fn new(
        seat: Arc<Seat>,
        address: PeerAddress,
        scheme: Scheme,
        client_cert: Option<ClientCert>,
        activity: Arc<Activity>,
    ) -> Connection {
        let gateway = seat.load_full();
        let peer = Peer::new(address, &gateway.listener.trusted_proxies, scheme).with_client_cert(client_cert);
        Connection { seat, peer, born: gateway.number, activity, last_host: Mutex::default(), switch: Mutex::default() }
    }

    /// The peer as a generation sees it.
    fn peer_of(&self, gateway: &Gateway) -> Cow<'_, Peer> {
        match gateway.number == self.born {
            true => Cow::Borrowed(&self.peer),
            false => Cow::Owned(self.peer.clone().judged_by(&gateway.listener.trusted_proxies)),
        }
    }

    /// The socket has answered by itself.
    pub(super) fn socket_refused(&self, status: StatusCode, code: &'static str) {
        self.seat.load().observer.refused(&self.peer, status, code);
    }

    /// What is to be done with the socket now that HTTP has ended on it, where a request asked for another protocol.
    pub(super) fn take_switch(&self) -> Option<Switch> {
        self.switch().take()
    }

    fn switch(&self) -> MutexGuard<'_, Option<Switch>> {
        // Nothing panics while it is held.
        self.switch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request.
    pub(super) async fn answer(
        self: Arc<Connection>,
        mut request: Request<Incoming>,
    ) -> Result<Response<ReplyBody>, Infallible> {
        let began = Instant::now();
        let number = self.activity.request_begins();
        // The request has this generation to its end.
        let gateway = self.seat.load_full();
        let mut active = Active { connection: self.clone(), gateway, route: None, number, is_answered: false };
        if request.extensions().get::<OnUpgrade>().is_some() {
            *self.switch() = Some(Switch::new(hyper::upgrade::on(&mut request)));
        }
        let gateway = &*active.gateway;
        let (mut parts, incoming) = request.into_parts();
        let (method, target, version) = (parts.method.clone(), parts.uri.clone(), parts.version);
        if let Some(holder) = &self.peer.client_cert {
            parts.extensions.insert(holder.clone());
        }
        let body = ClientBody::new(incoming, version, self.activity.clone(), gateway.listener.body_timeout);
        let way = self.way(gateway, &mut parts);
        let mut response = match way {
            Ok(Way::Route(route)) => {
                gateway.observer.began(route);
                active.route = Some(route);
                // A clone is ready when it is made: neither the layer nor the forwarder waits in `poll_ready`.
                let mut service = gateway.stacks[route].service.clone();
                let Ok(response) = service.call(Request::from_parts(parts, body)).await;
                response
            }
            Ok(Way::OptionsHere) => {
                drop(body);
                let mut response = Response::new(ResponseBody::from(Bytes::new()));
                *response.status_mut() = StatusCode::NO_CONTENT;
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(ALLOWED));
                response
            }
            Err(refusal) => {
                drop(body);
                refusal.into_response(gateway.docs_url.as_deref()).map(ResponseBody::from)
            }
        };
        let extensions = std::mem::take(response.extensions_mut());
        let report = extensions.get::<Report>().copied();
        let refused = extensions.get::<Refused>().map(|refused| refused.code);
        gateway.observer.answered(&Exchange {
            peer: &self.peer,
            method: &method,
            target: &target,
            route: active.route,
            status: response.status(),
            outcome: report.map(|report| report.outcome).or(refused).unwrap_or("passed"),
            report,
            total: began.elapsed(),
            upstream: match extensions.get::<UpstreamTime>() {
                Some(time) => Some(time.0),
                None => response.body().passed_through().and_then(UpstreamBody::took),
            },
        });
        if let (Some(switched), Some(switch)) = (extensions.get::<Switched>(), &mut *self.switch()) {
            self.activity.becomes_tunnel();
            switch.joins(switched);
        }
        if method == Method::HEAD && refused.is_some() {
            // An answer to HEAD has no body (RFC 9110 section 9.3.2; H20), and hyper lets it pass over HTTP/2.
            let length = response.body().size_hint().exact().unwrap_or_default();
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
            *response.body_mut() = ResponseBody::from(Bytes::new());
        }
        if version <= http::Version::HTTP_11 && self.activity.ends_with_answer() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        active.is_answered = true;
        self.activity.request_is_answered();
        let is_watched = version == http::Version::HTTP_2;
        if is_watched && !response.body().is_end_stream() {
            self.activity.answer_is_held(number);
        }
        Ok(response.map(|body| ReplyBody { body, active, is_watched }))
    }

    /// The host of a request. A client mostly asks for the same one again, which was checked before.
    fn host(&self, parts: &Parts, peer: &Peer) -> Result<Option<Arc<EffectiveHost>>, Refusal> {
        let mut lines = parts.headers.get_all(HOST).iter();
        let asked = match (lines.next(), lines.next(), parts.uri.authority()) {
            (Some(value), None, None) => Some(value),
            _ => None,
        };
        // Nothing panics while it is held.
        let mut last = self.last_host.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(value), Some(host)) = (asked, &*last)
            && host.value == value
        {
            return Ok(Some(host.clone()));
        }
        let host = effective_host(parts, peer)?.map(Arc::new);
        last.clone_from(&host);
        Ok(host)
    }

    /// Looks at a request's head, finds its route, and makes its fields into those for the upstream.
    fn way(&self, gateway: &Gateway, parts: &mut Parts) -> Result<Way, Refusal> {
        let peer = self.peer_of(gateway);
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            return Err(Refusal::MethodNotAllowed(ALLOWED));
        }
        let steers = steers(&parts.headers);
        if steers {
            check_coding(&parts.headers)?;
        }
        if parts.method == Method::OPTIONS && ends_here(parts, &peer)? {
            return Ok(Way::OptionsHere);
        }
        let host = self.host(parts, &peer)?;
        let host = host.as_deref();
        let name = host.map(|host| host.name.as_str());
        let path = parts.uri.path();
        if !path.starts_with('/') {
            return Err(Refusal::BadRequest("The request's target is not a path.".into()));
        }
        let route = gateway.router.find(name, path, &parts.method).map_err(|error| match error {
            NoRoute::NotFound => Refusal::NoRoute,
            NoRoute::Ambiguous => {
                Refusal::BadRequest("The path leads to one route as written and to another one as resolved.".into())
            }
        })?;
        let stack = &gateway.stacks[route];
        if steers {
            check_nominated(&parts.headers, &stack.guarded)?;
        }
        if stack.needs_path_params
            && let Some(params) = gateway.router.params_of(route, name, path)
        {
            parts.extensions.insert(params);
        }
        if steers && takes_trailers(&parts.headers) {
            parts.extensions.insert(TakesTrailers);
        }
        prepare_request(&mut parts.headers, parts.version, &peer, host, &gateway.via)?;
        set_target(parts, host);
        Ok(Way::Route(route))
    }
}

/// Whether an OPTIONS is for this proxy itself, and one hop less where it is not (RFC 9110 section 7.6.2).
fn ends_here(parts: &mut Parts, peer: &Peer) -> Result<bool, Refusal> {
    if parts.uri.path() == "*" {
        effective_host(parts, peer)?;
        return Ok(true);
    }
    if !parts.headers.contains_key(MAX_FORWARDS) {
        return Ok(false);
    }
    match max_forwards(&parts.headers) {
        Some(0) => {
            effective_host(parts, peer)?;
            Ok(true)
        }
        Some(hops) => {
            parts.headers.insert(MAX_FORWARDS, (hops - 1).into());
            Ok(false)
        }
        None => Err(Refusal::BadRequest("Max-Forwards is not a number.".into())),
    }
}

/// How many hops are left; one number of digits, of which no more than 32 bits count.
fn max_forwards(headers: &HeaderMap) -> Option<u32> {
    let mut lines = headers.get_all(MAX_FORWARDS).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let digits = line.to_str().ok()?.trim();
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    // What is too large for a number is many.
    is_number.then(|| digits.parse().unwrap_or(u32::MAX))
}

/// The origin form, with the host in `Host` (RFC 9112 section 3.2.1).
fn set_target(parts: &mut Parts, host: Option<&EffectiveHost>) {
    if parts.uri.authority().is_some() {
        let target = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(target);
        // `http://host#fragment` has a target that is empty, and would be written so.
        if parts.uri.path().is_empty() {
            parts.uri = Uri::from_static("/");
        }
        if let Some(host) = host {
            parts.headers.insert(HOST, host.value.clone());
        }
    }
}
