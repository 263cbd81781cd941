//! Policies: the route's settings over `[defaults]` over the code's defaults, and whether they fit together.

use std::sync::Arc;
use std::time::Duration;

use super::diagnostic::{Diagnostic, Findings, Span};
use super::file::{BodyKind, Concurrent, FingerprintFile, PolicyFile};
use super::section::{Given, Section};
use super::values::{Count, show_duration, show_size};
use crate::http::policy::{
    BodyForm, FingerprintPart, FingerprintRule, KeySource, Methods, Mode, Policy, ScopeSource, StatusSet,
};
use crate::proxy::upstream::UpstreamSpec;

/// How long a duplicate waits, where it does, unless the file says how long.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest body that is read as JSON.
const MAX_JSON_BODY: usize = 8 << 20;

/// What a route says beside its policy.
pub(super) struct Surroundings<'a> {
    /// The route's name.
    pub name: &'a str,
    /// Where it stands.
    pub place: Span,
    /// Its path.
    pub path: &'a Given<String>,
    /// Its methods.
    pub methods: Methods,
    /// Its upstream.
    pub upstream: &'a UpstreamSpec,
    /// Where the upstream's response timeout is given, if it is.
    pub response_timeout: Option<Span>,
    /// Where problem types point to.
    pub docs_url: Option<Arc<str>>,
}

/// Makes a policy of what a file says.
pub(super) fn policy(file: &PolicyFile, around: &Surroundings<'_>, findings: &mut Findings) -> Policy {
    let mut policy = Policy { methods: around.methods.clone(), docs_url: around.docs_url.clone(), ..Policy::default() };
    policy.namespace = match &file.namespace {
        Some(namespace) => Arc::from(namespace.value.as_str()),
        None => around.upstream.name.clone(),
    };
    set(&mut policy.mode, &file.mode);
    set(&mut policy.key, &file.key);
    set(&mut policy.key_syntax, &file.key_syntax);
    set(&mut policy.store_down, &file.store_down);
    set(&mut policy.terms.on_unknown, &file.unknown_outcome);
    set_with(&mut policy.key_max_length, &file.key_max_length, |count| count.0 as usize);
    set_with(&mut policy.max_request_body, &file.max_request_body, |size| size.0 as usize);
    set_with(&mut policy.max_response_body, &file.max_response_body, |size| size.0 as usize);
    set_with(&mut policy.key_from, &file.key_from, |sources| values(&sources.0));
    set_with(&mut policy.scope, &file.scope, |sources| values(&sources.0));
    set_with(&mut policy.replay_drop_headers, &file.replay_drop_headers, |names| values(names));
    set_with(&mut policy.release_status, &file.release_status, |statuses| status_set(statuses));
    set_with(&mut policy.unknown_status, &file.unknown_status, |statuses| status_set(statuses));
    if let Some(given) = &file.fingerprint {
        policy.fingerprint = fingerprint(&given.value, findings);
    }
    policy.terms.route = Arc::from(around.name);
    policy.terms.retry_grace = around.upstream.response_timeout;
    set_with(&mut policy.terms.retry_grace, &file.retry_grace, |time| time.0);
    set_with(&mut policy.terms.lease, &file.lease, |time| time.0);
    set_with(&mut policy.terms.retention, &file.retention, |time| time.0);
    if file.concurrent.as_ref().is_some_and(|given| given.value == Concurrent::Wait) {
        policy.terms.wait = Some(file.wait_timeout.as_ref().map_or(WAIT_TIMEOUT, |given| given.value.0));
    }
    if file.is_sound() && policy.mode != Mode::Off {
        check_retention(file, &policy, around, findings);
        check_path_scope(file, &policy, around, findings);
        check_json(file, &policy, findings);
    }
    if file.is_sound() {
        check_statuses(file, &policy, findings);
    }
    policy
}

/// What a setting that is given makes of a default.
fn set<T: Copy>(target: &mut T, given: &Option<Given<T>>) {
    set_with(target, given, |value| *value);
}

fn set_with<T, G>(target: &mut T, given: &Option<Given<G>>, make: impl FnOnce(&G) -> T) {
    if let Some(given) = given {
        *target = make(&given.value);
    }
}

fn values<T: Clone>(elements: &[Given<T>]) -> Vec<T> {
    elements.iter().map(|element| element.value.clone()).collect()
}

fn status_set<const MIN: u64, const MAX: u64>(statuses: &[Given<Count<MIN, MAX>>]) -> StatusSet {
    StatusSet::new(statuses.iter().map(|status| status.value.0 as u16))
}

fn fingerprint(file: &FingerprintFile, findings: &mut Findings) -> FingerprintRule {
    let mut rule = FingerprintRule::default();
    set_with(&mut rule.parts, &file.parts, |parts| values(&parts.0));
    let omit = file.omit.as_ref().map(|omit| values(&omit.value)).unwrap_or_default();
    let body = file.body.as_ref();
    if body.is_some_and(|body| body.value == BodyKind::Json) {
        rule.body = BodyForm::Json { omit };
    } else if let Some(given) = file.omit.as_ref().filter(|given| !given.value.is_empty()) {
        let wrong = Diagnostic::error("`omit` names places in JSON, but the body counts byte for byte");
        findings.push(wrong.at(given.span()).and(body.map(Given::span), "here").help(r#"add body = "json""#));
    }
    if let (Some(body), Some(parts)) = (body, &file.parts)
        && !rule.parts.contains(&FingerprintPart::Body)
    {
        let wrong = Diagnostic::error("`body` says how the body counts, but `parts` leaves the body out");
        findings.push(wrong.at(body.span()).and(parts.span(), "no \"body\" in here"));
    }
    rule
}

/// A record has to outlive its lease by far, and a retry that may come after the grace and a slow upstream.
fn check_retention(file: &PolicyFile, policy: &Policy, around: &Surroundings<'_>, findings: &mut Findings) {
    let terms = &policy.terms;
    let four_leases = terms.lease.saturating_mul(4);
    let slow_retry = terms.lease + terms.retry_grace + around.upstream.response_timeout;
    let message = if terms.retention < four_leases {
        let (lease, four) = (show_duration(terms.lease), show_duration(four_leases));
        format!(
            "the retention of {} is shorter than four leases (4 × {lease} = {four})",
            show_duration(terms.retention)
        )
    } else if terms.retention < slow_retry {
        format!(
            "the retention of {} is shorter than lease + retry_grace + response_timeout ({} + {} + {})",
            show_duration(terms.retention),
            show_duration(terms.lease),
            show_duration(terms.retry_grace),
            show_duration(around.upstream.response_timeout),
        )
    } else {
        return;
    };
    let grace = file.retry_grace.as_ref().map(|given| (given.span(), "retry_grace"));
    let response = around.response_timeout.clone().map(|span| (span, "response_timeout"));
    let mut places = file
        .retention
        .as_ref()
        .map(|given| (given.span(), "retention"))
        .into_iter()
        .chain(file.lease.as_ref().map(|given| (given.span(), "lease")))
        .chain(grace.filter(|_| terms.retention >= four_leases))
        .chain(response.filter(|_| terms.retention >= four_leases));
    let first = places.next();
    let wrong = Diagnostic::error(message).at(first.map_or(around.place.clone(), |(span, _)| span));
    let help = "a record that goes before the claim on it is over forgets that the request was executed";
    findings.push(
        match places.next() {
            Some((span, what)) => wrong.and(span, format!("the {what} is here")),
            None => wrong,
        }
        .help(help),
    );
}

/// A status cannot mean both that nothing was done and that nobody knows.
fn check_statuses(file: &PolicyFile, policy: &Policy, findings: &mut Findings) {
    let unknown: Vec<u16> = policy.unknown_status.iter().collect();
    for status in policy.release_status.iter().filter(|status| unknown.contains(status)) {
        let place = |list: &Option<Given<Vec<Given<Count<200, 599>>>>>| {
            let statuses = &list.as_ref()?.value;
            statuses.iter().find(|given| given.value.0 == u64::from(status)).map(Given::span)
        };
        let (release, unknown) = (place(&file.release_status), place(&file.unknown_status));
        let wrong = Diagnostic::error(format!("status {status} is in `release_status` and in `unknown_status`"))
            .help("release: the upstream did not act, the key is free; unknown: nobody knows whether it acted");
        findings.push(match release {
            Some(release) => wrong.at(release).and(unknown, "and here"),
            None => wrong.at(unknown),
        });
    }
}

/// A body that is read as JSON is in memory as a whole.
fn check_json(file: &PolicyFile, policy: &Policy, findings: &mut Findings) {
    let Some(size) = file.max_request_body.as_ref().filter(|_| policy.max_request_body > MAX_JSON_BODY) else { return };
    let fingerprint = file.fingerprint.as_ref().and_then(|given| given.value.body.as_ref());
    let fingerprint = fingerprint.filter(|body| body.value == BodyKind::Json).map(Given::span);
    let sources = file.key_from.iter().flat_map(|given| &given.value.0);
    let key = sources.filter(|source| matches!(source.value, KeySource::Json(_))).map(Given::span).next();
    for reader in [fingerprint, key].into_iter().flatten() {
        let (found, max) = (show_size(policy.max_request_body as u64), show_size(MAX_JSON_BODY as u64));
        let wrong = format!("`max_request_body` is {found}, but a body that is read as JSON has at most {max}");
        findings.push(
            Diagnostic::error(wrong).at(size.span()).and(Some(reader), "read as JSON here").help(
                "it has to be in memory as a whole: lower the limit, or give the large ones a route of their own",
            ),
        );
    }
}

/// A scope's path parameter has to be in the route's path.
fn check_path_scope(file: &PolicyFile, policy: &Policy, around: &Surroundings<'_>, findings: &mut Findings) {
    let Some(given) = &file.scope else { return };
    for (source, element) in policy.scope.iter().zip(&given.value.0) {
        let ScopeSource::Path(parameter) = source else { continue };
        let parameters = super::patterns::parameters(&around.path.value);
        if !parameters.contains(&parameter.as_str()) {
            let wrong = format!("the scope takes `{parameter}` from the path, but the path has no such parameter");
            let wrong = Diagnostic::error(wrong).at(element.span()).and(around.path.span(), "the path");
            findings.push(wrong.suggest(parameter, parameters));
        }
    }
}
