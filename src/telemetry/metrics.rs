//! Metrics for Prometheus. Names begin with `onceproxy_`; labels are the route and a closed set of values, never a key.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::timed::StoreMetrics;
use crate::ledger::Alarms;

const METADATA: Metadata<'static> = Metadata::new("onceproxy", Level::INFO, None);
/// Borders of the durations' buckets, in seconds.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A reload that changed something.
pub const RELOAD_APPLIED: &str = "applied";
/// A reload that found everything as it was.
pub const RELOAD_UNCHANGED: &str = "unchanged";
/// A reload that was refused: the file is wrong, or what it changes has to wait for a restart.
pub const RELOAD_REJECTED: &str = "rejected";

/// All metrics of one process. Clones share everything.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

/// The metrics of one route.
pub struct RouteMetrics {
    metrics: Metrics,
    route: String,
    outcomes: RwLock<Vec<(&'static str, Counter)>>,
    observed: RwLock<Vec<(&'static str, Counter)>>,
    waited: Counter,
    in_flight: Gauge,
    duration: Histogram,
    upstream_duration: Histogram,
}

impl Metrics {
    /// Makes the registry.
    ///
    /// # Errors
    /// The exporter's, which the fixed settings here do not cause.
    pub fn new() -> Result<Metrics, BuildError> {
        let recorder = PrometheusBuilder::new().set_buckets(BUCKETS)?.build_recorder();
        let metrics = Metrics { handle: recorder.handle(), recorder: Arc::new(recorder) };
        metrics.describe();
        metrics.counter("onceproxy_leases_lost_total", Vec::new()).absolute(0);
        metrics.counter("onceproxy_records_recreated_total", Vec::new()).absolute(0);
        metrics.counter("onceproxy_unrecorded_total", Vec::new()).absolute(0);
        for result in [RELOAD_APPLIED, RELOAD_UNCHANGED, RELOAD_REJECTED] {
            metrics.reloads(result).absolute(0);
        }
        metrics.gauge("onceproxy_build_info", vec![Label::new("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        Ok(metrics)
    }

    fn describe(&self) {
        let counters = [
            ("onceproxy_requests_total", "Requests by route and outcome."),
            ("onceproxy_waited_total", "Duplicates that waited for the first request."),
            ("onceproxy_observed_total", "Observed requests by what would have become of them."),
            ("onceproxy_leases_lost_total", "Claims that others took while their owner was at work."),
            ("onceproxy_records_recreated_total", "Records of running claims that had vanished from the store."),
            ("onceproxy_unrecorded_total", "Outcomes that were not recorded in time."),
            ("onceproxy_config_reloads_total", "Reloads of the configuration by result."),
        ];
        for (name, text) in counters {
            self.recorder.describe_counter(KeyName::from_const_str(name), None, text.into());
        }
        let durations = [
            ("onceproxy_request_duration_seconds", "From a request's head to its answer's."),
            ("onceproxy_upstream_duration_seconds", "From the forwarding to the head of the upstream's answer."),
            ("onceproxy_store_duration_seconds", "Calls of the store by operation."),
        ];
        for (name, text) in durations {
            self.recorder.describe_histogram(KeyName::from_const_str(name), Some(Unit::Seconds), text.into());
        }
        self.recorder.describe_gauge(
            KeyName::from_const_str("onceproxy_in_flight"),
            None,
            "Requests under way by route.".into(),
        );
        self.recorder.describe_gauge(
            KeyName::from_const_str("onceproxy_build_info"),
            None,
            "The running release.".into(),
        );
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.recorder.register_histogram(&Key::from_parts(name, labels), &METADATA)
    }

    /// The metrics of a route.
    pub fn route(&self, route: &str) -> RouteMetrics {
        let labels = || vec![Label::new("route", route.to_owned())];
        RouteMetrics {
            metrics: self.clone(),
            route: route.to_owned(),
            outcomes: RwLock::default(),
            observed: RwLock::default(),
            waited: self.counter("onceproxy_waited_total", labels()),
            in_flight: self.gauge("onceproxy_in_flight", labels()),
            duration: self.histogram("onceproxy_request_duration_seconds", labels()),
            upstream_duration: self.histogram("onceproxy_upstream_duration_seconds", labels()),
        }
    }

    /// Where the durations of the store's calls go.
    pub fn store(&self) -> StoreMetrics {
        let of = |op| self.histogram("onceproxy_store_duration_seconds", vec![Label::new("op", op)]);
        StoreMetrics { create: of("create"), replace: of("replace"), remove: of("remove"), load: of("load") }
    }

    /// Takes the ledger's counts over.
    pub fn tell_alarms(&self, alarms: Alarms) {
        self.counter("onceproxy_leases_lost_total", Vec::new()).absolute(alarms.leases_lost);
        self.counter("onceproxy_records_recreated_total", Vec::new()).absolute(alarms.recreated);
        self.counter("onceproxy_unrecorded_total", Vec::new()).absolute(alarms.unrecorded);
    }

    /// Counts a reload by its result, one of [`RELOAD_APPLIED`], [`RELOAD_UNCHANGED`] and [`RELOAD_REJECTED`].
    pub fn reloaded(&self, result: &'static str) {
        self.reloads(result).increment(1);
    }

    fn reloads(&self, result: &'static str) -> Counter {
        self.counter("onceproxy_config_reloads_total", vec![Label::new("result", result)])
    }

    /// The exposition text.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Sorts recorded durations into their buckets; to be called every few seconds, so that they do not pile up.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl RouteMetrics {
    /// Counts a request that has its answer.
    pub fn answered(&self, outcome: &'static str, total: Duration, upstream: Option<Duration>) {
        self.count(&self.outcomes, "onceproxy_requests_total", "outcome", outcome);
        self.duration.record(total);
        if let Some(upstream) = upstream {
            self.upstream_duration.record(upstream);
        }
    }

    /// Counts what was no request, and was answered.
    pub fn refused(&self, code: &'static str) {
        self.count(&self.outcomes, "onceproxy_requests_total", "outcome", code);
    }

    /// Counts a duplicate that waited.
    pub fn waited(&self) {
        self.waited.increment(1);
    }

    /// Counts an observed request.
    pub fn observed(&self, would: &'static str) {
        self.count(&self.observed, "onceproxy_observed_total", "would", would);
    }

    /// A request begins.
    pub fn begin(&self) {
        self.in_flight.increment(1);
    }

    /// A request has ended.
    pub fn end(&self) {
        self.in_flight.decrement(1);
    }

    /// Counts a value of a closed set. A label's value has `_` where a code has `-`.
    fn count(
        &self,
        counters: &RwLock<Vec<(&'static str, Counter)>>,
        name: &'static str,
        label: &'static str,
        value: &'static str,
    ) {
        let known = counters.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter)) = known.iter().find(|(known, _)| *known == value) {
            return counter.increment(1);
        }
        drop(known);
        let labels = vec![Label::new("route", self.route.clone()), Label::new(label, value.replace('-', "_"))];
        let counter = self.metrics.counter(name, labels);
        counter.increment(1);
        // Two at once may both add it: both are the same counter.
        counters.write().unwrap_or_else(PoisonError::into_inner).push((value, counter));
    }
}
