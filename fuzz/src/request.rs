//! A request's way behind the HTTP library: fields, host, route, key, scope, fingerprint, execution, replay.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method};
use onceproxy::config::load::{Overrides, load};
use onceproxy::config::secret::Lookups;
use onceproxy::http::policy::{IDEMPOTENCY_KEY, Mode, Policy};
use onceproxy::http::refusal::Refusal;
use onceproxy::proxy::headers::{Peer, Scheme, Via, check_coding, check_nominated, effective_host, prepare_request};
use onceproxy::proxy::listener::address::TrustedPeer;
use onceproxy::proxy::router::{NoRoute, RouteSpec, Router};

use super::readings;
use super::sent;
use super::stage::{Reply, Stage};

/// Routes of every kind.
const ROUTES: &str = include_str!("routes.toml");
/// What ends at this proxy, whether `Connection` names it or not.
const ENDS_HERE: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "http2-settings"];

static PROXY: LazyLock<Proxy> = LazyLock::new(Proxy::new);

/// Takes the bytes for a request's text.
pub fn check(data: &[u8]) {
    let Some((parts, body)) = sent::read(data) else { return };
    // What a trusted peer sends only has to be survived.
    let _ = PROXY.way(&mut parts.clone(), &PROXY.trusted);
    let mut forwarded = parts.clone();
    match PROXY.way(&mut forwarded, &PROXY.stranger) {
        Ok(route) => {
            assert_forwardable(&parts.headers, &forwarded.headers);
            answered_once(&PROXY.routes[route].policy, &forwarded, &body);
        }
        Err(refusal) => {
            let response = refusal.into_response(Some("https://docs.example/"));
            let (head, body) = response.into_parts();
            Reply { status: head.status, headers: head.headers, body, record: None }.assert_is_one();
        }
    }
}

/// What a proxy decides with before it reads a body.
struct Proxy {
    routes: Vec<RouteSpec>,
    router: Router,
    stranger: Peer,
    trusted: Peer,
    via: Via,
}

impl Proxy {
    fn new() -> Proxy {
        let nothing = Lookups { environment: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        let report = load(ROUTES, "routes.toml", &Overrides::default(), &nothing);
        let routes = report.config.unwrap_or_else(|| panic!("{:?}", report.diagnostics)).routes;
        let address = SocketAddr::from(([192, 0, 2, 7], 4711));
        let network = TrustedPeer::Network("192.0.2.0/24".parse().expect("a network"));
        Proxy {
            router: Router::new(&routes).unwrap_or_else(|(route, error)| panic!("route {route}: {error}")),
            routes,
            stranger: Peer::new(address.into(), &[], Scheme::Http),
            trusted: Peer::new(address.into(), &[network], Scheme::Http),
            via: Via::random(),
        }
    }

    /// The route of a request, whose fields become those for the upstream.
    fn way(&self, parts: &mut Parts, peer: &Peer) -> Result<usize, Refusal> {
        check_coding(&parts.headers)?;
        let host = effective_host(parts, peer)?;
        let name = host.as_ref().map(|host| host.name.as_str());
        let path = parts.uri.path();
        if !path.starts_with('/') {
            return Err(Refusal::BadRequest("The request's target is not a path.".into()));
        }
        let route = self.router.find(name, path, &parts.method).map_err(|error| match error {
            NoRoute::NotFound => Refusal::NoRoute,
            NoRoute::Ambiguous => Refusal::BadRequest("The path is ambiguous.".into()),
        })?;
        self.assert_no_way_around(route, name, path, &parts.method);
        check_nominated(&parts.headers, &[IDEMPOTENCY_KEY])?;
        if let Some(params) = self.router.params_of(route, name, path) {
            parts.extensions.insert(params);
        }
        prepare_request(&mut parts.headers, parts.version, peer, host.as_ref(), &self.via)?;
        Ok(route)
    }

    /// However the upstream reads the path, it does not come to what another route protects.
    fn assert_no_way_around(&self, route: usize, host: Option<&str>, path: &str, method: &Method) {
        // What the router would read on is left out: nobody decodes twice.
        for read in readings::of(path).into_iter().filter(|read| !read.contains('%') && !read.contains("//")) {
            let Ok(found) = self.router.find(host, &read, method) else { continue };
            let policy = &self.routes[found].policy;
            let is_protected = policy.mode != Mode::Off && policy.methods.protect(method);
            assert!(
                found == route || !is_protected,
                "{path} goes to {}, and is read as {read}, which {} protects",
                self.routes[route].policy.terms.route,
                policy.terms.route
            );
        }
    }
}

/// Nothing of the client's connection goes on, and nobody else speaks in the name of this proxy.
fn assert_forwardable(received: &HeaderMap, forwarded: &HeaderMap) {
    for name in ENDS_HERE {
        assert!(!forwarded.contains_key(name), "{name} goes on");
    }
    for name in ["x-forwarded-for", "x-forwarded-proto", "forwarded"] {
        assert_eq!(forwarded.get_all(name).iter().count(), 1, "{name}");
    }
    assert_eq!(forwarded["x-forwarded-for"], "192.0.2.7");
    assert!(forwarded.get_all("x-forwarded-host").iter().count() <= 1);
    assert!(forwarded.get_all("cookie").iter().count() <= 1);
    let via = forwarded.get_all("via").iter().next_back().expect("the way is written down");
    assert!(via.as_bytes().windows(9).any(|word| word == b"onceproxy"), "{via:?}");
    let keys = |headers: &HeaderMap| headers.get_all(IDEMPOTENCY_KEY).iter().cloned().collect::<Vec<_>>();
    assert_eq!(keys(received), keys(forwarded));
}

/// The same request twice, then another one under its key: each has an answer, and there is one execution.
fn answered_once(policy: &Arc<Policy>, parts: &Parts, body: &Bytes) {
    let stage = Stage::new(policy.clone());
    let first = stage.send(parts, body);
    let second = stage.send(parts, body);
    let other = stage.send(parts, &Bytes::from([body, &b"x"[..]].concat()));
    [&first, &second, &other].into_iter().for_each(Reply::assert_is_one);
    let Some(record) = first.record.filter(|_| policy.mode == Mode::Enforce) else { return };
    let executions = stage.executions(&record);
    match first.field("idempotency-status") {
        b"released" => assert_eq!(second.field("idempotency-status"), b"released", "{second:?}"),
        b"executed" => {
            assert_eq!(executions, 1, "{first:?} {second:?} {other:?}");
            assert_second(&first, &second);
        }
        status => {
            assert_eq!((status, executions), (&b"unknown"[..], 1), "{first:?} {second:?} {other:?}");
            assert_eq!(second.status, 409, "{second:?}");
        }
    }
}

/// A replay is the first answer; one that was not kept is told.
fn assert_second(first: &Reply, second: &Reply) {
    if second.field("idempotency-status") != b"replayed" {
        let problem = String::from_utf8_lossy(&second.body);
        assert!(second.status == 409 && problem.contains("response-not-stored"), "{second:?}");
        return;
    }
    assert_eq!((second.status, &second.body), (first.status, &first.body));
    for (name, value) in &second.headers {
        let is_ours = name.as_str().starts_with("idempotency-") || name == "cache-control";
        assert!(is_ours || first.headers.get_all(name).iter().any(|sent| sent == value), "{name} is new: {first:?}");
    }
}
