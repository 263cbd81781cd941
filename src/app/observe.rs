//! Turns what the proxy tells into metrics and access lines.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::proxy::gateway::{Exchange, Observer};
use crate::proxy::headers::Peer;
use crate::proxy::router::RouteSpec;
use crate::telemetry::logs::{Access, log_refused};
use crate::telemetry::metrics::{Metrics, RouteMetrics};

/// The eyes of one generation. A route's metrics are found by its name: they go on where another one left them.
pub(super) struct Telemetry {
    routes: Vec<Observed>,
    /// Requests that no route matches.
    none: Observed,
    access: bool,
}

struct Observed {
    name: Arc<str>,
    metrics: RouteMetrics,
}

impl Telemetry {
    pub(super) fn new(routes: &[RouteSpec], metrics: &Metrics, access: bool) -> Telemetry {
        let observed = |name: Arc<str>| Observed { metrics: metrics.route(&name), name };
        let routes = routes.iter().map(|route| observed(route.policy.terms.route.clone())).collect();
        Telemetry { routes, none: observed("-".into()), access }
    }

    /// What would have become of a request of a route.
    pub(super) fn would(&self, route: usize, would: &'static str) {
        self.routes[route].metrics.observed(would);
    }
}

impl Observer for Telemetry {
    fn began(&self, route: usize) {
        self.routes[route].metrics.begin();
    }

    fn answered(&self, exchange: &Exchange<'_>) {
        let observed = exchange.route.map_or(&self.none, |route| &self.routes[route]);
        observed.metrics.answered(exchange.outcome, exchange.total, exchange.upstream);
        if exchange.report.is_some_and(|report| report.waited) {
            observed.metrics.waited();
        }
        if self.access {
            let access = Access {
                peer: exchange.peer.address,
                method: exchange.method,
                target: exchange.target,
                status: exchange.status,
                route: &observed.name,
                outcome: exchange.outcome,
                record: exchange.report.and_then(|report| report.record),
                total: exchange.total,
                upstream: exchange.upstream,
                store: exchange.report.map_or(Duration::ZERO, |report| report.store_time),
            };
            access.log();
        }
    }

    fn refused(&self, peer: &Peer, status: StatusCode, code: &'static str) {
        self.none.metrics.refused(code);
        if self.access {
            log_refused(peer.address, status, code);
        }
    }

    fn ended(&self, route: usize) {
        self.routes[route].metrics.end();
    }
}
