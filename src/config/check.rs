//! From the mirror to a configuration that can work.

use std::sync::Arc;

use super::diagnostic::{Diagnostic, Findings, Span};
use super::file::{File, PolicyFile};
use super::load::Overrides;
use super::routes::{self, Built, Referred};
use super::secret::Lookups;
use super::section::{Given, Section};
use super::servers::{admin, check_addresses, listener, log};
use super::store::store;
use super::upstreams::{UPSTREAM, UpstreamUrl, upstreams};
use super::values::show_size;
use super::{Config, overlap, warnings};
use crate::http::policy::{Mode, ScopeSource};
use crate::http::spool::{BESIDE_FILE_BYTES, IN_MEMORY_BYTES};
use crate::proxy::listener::ListenerSpec;
use crate::proxy::router::{RouteSpec, Router};
use crate::proxy::upstream::UpstreamSpec;

/// Checks a file as a whole. Nothing comes back when it cannot work; the findings say why.
pub(super) fn config(
    file: &File,
    overrides: &Overrides,
    lookups: &Lookups<'_>,
    findings: &mut Findings,
) -> Option<Config> {
    if !file.has("version") {
        findings
            .push(Diagnostic::error("the file does not say which format it has").help("begin it with `version = 1`"));
    }
    let listener = listener(file.listener.as_ref(), overrides, lookups, findings);
    let admin = admin(file.admin.as_ref(), overrides, lookups, findings);
    let log = log(file.log.as_ref(), overrides, findings);
    let store = store(file, overrides, lookups, findings);
    let upstreams = all_upstreams(file, overrides, lookups, findings);
    let no_defaults = PolicyFile::default();
    let referred = Referred {
        upstreams: &upstreams,
        upstream_files: file.upstreams.as_ref().map(|given| &given.value),
        defaults: file.defaults.as_ref().map_or(&no_defaults, |given| &given.value),
        docs_url: file.docs_url.as_ref().map(|url| Arc::from(url.value.0.as_str())),
    };
    let given = file.routes.as_ref().map(|given| given.value.as_slice()).unwrap_or_default();
    if given.is_empty() && (file.routes.is_some() || !file.has("routes")) {
        let wrong = Diagnostic::error("the file has no routes: every request would get a 404");
        findings.push(wrong.help("add [[routes]] with `name`, `path` and `upstream`"));
    }
    let routes = routes::routes(given, &referred, findings);
    overlap::collisions(&routes, findings);
    check_buffers(file, &listener, &routes, findings);
    check_client_cert(file, &listener, &routes, findings);
    overlap::gaps(&routes, findings);
    warnings::routes(&routes, findings);
    if let Some(store) = &store {
        warnings::store(file, store, &listener, overrides, findings);
    }
    warnings::secrets(file, findings);
    check_addresses(file, &listener, admin.as_ref(), overrides, findings);
    if findings.has_errors() {
        return None;
    }
    let routes: Vec<RouteSpec> = routes.into_iter().map(|route| route.spec).collect();
    // The router has the last word: what passes here must not fail at start.
    if let Err((index, error)) = Router::new(&routes) {
        let place = given.get(index).map(|route| route.origin.span.clone());
        findings.push(Diagnostic::error(format!("this route cannot be added: {error}")).at(place));
        return None;
    }
    Some(Config {
        listener,
        admin,
        log,
        store: store?,
        upstreams: upstreams.into_iter().filter_map(|(_, _, spec)| spec).collect(),
        routes,
    })
}

/// The upstreams of the file, or the one of the command line.
fn all_upstreams(
    file: &File,
    overrides: &Overrides,
    lookups: &Lookups<'_>,
    findings: &mut Findings,
) -> Vec<(String, Span, Option<Arc<UpstreamSpec>>)> {
    let mut all = upstreams(file.upstreams.as_ref(), lookups, findings);
    match (&overrides.upstream, all.first()) {
        (Some(_), Some((_, place, _))) => {
            let wrong = Diagnostic::error("`--upstream` beside a file that defines upstreams says two things at once");
            findings.push(wrong.at(place.clone()).help("leave the flag out, or the file's upstreams"));
        }
        (Some(url), None) => {
            let flag = "--upstream";
            let spec = UpstreamUrl::parse(flag, url).and_then(|url| url.by_itself(flag, UPSTREAM));
            let spec = spec.map_err(|wrong| findings.push(wrong)).ok();
            all.push((UPSTREAM.to_owned(), 0..0, spec.map(Arc::new)));
        }
        (None, None) if !file.has("upstreams") => {
            let wrong = Diagnostic::error("the file has no upstreams: requests have nowhere to go");
            findings.push(wrong.help(r#"add [upstreams.NAME] with url = "http://127.0.0.1:9000""#));
        }
        (None, _) => {}
    }
    all
}

/// One request and its answer have to fit into the buffers, and a large body into the folder for them, or every
/// protected request of that size is refused.
fn check_buffers(file: &File, listener: &ListenerSpec, routes: &[Built<'_>], findings: &mut Findings) {
    let limit = file.listener.as_ref().and_then(|given| given.value.max_buffered.as_ref()).map(Given::span);
    let spooled = file.listener.as_ref().and_then(|given| given.value.max_spooled.as_ref()).map(Given::span);
    for route in routes.iter().filter(|route| route.spec.policy.mode != Mode::Off) {
        let policy = &route.spec.policy;
        let is_spooled = !policy.needs_whole_body() && policy.max_request_body > IN_MEMORY_BYTES;
        let in_memory = if is_spooled { BESIDE_FILE_BYTES } else { policy.max_request_body };
        let needed = in_memory.saturating_add(policy.max_response_body);
        if is_spooled && policy.max_request_body as u64 > listener.max_spooled_bytes {
            let size = route.policy.max_request_body.as_ref().map(Given::span);
            let (found, needed) = (show_size(listener.max_spooled_bytes), show_size(policy.max_request_body as u64));
            let wrong = Diagnostic::error(format!("`max_spooled` is {found}, but one request may take {needed}"));
            let wrong = wrong.help("raise max_spooled, or lower max_request_body");
            findings.push(match spooled.clone() {
                Some(spooled) => wrong.at(spooled).and(size, "a body may be so large"),
                None => wrong.at(size),
            });
        }
        if needed <= listener.max_buffered_bytes {
            continue;
        }
        let request = route.policy.max_request_body.as_ref().map(|size| (in_memory, size.span()));
        let response = route.policy.max_response_body.as_ref().map(|size| (policy.max_response_body, size.span()));
        let size = request.into_iter().chain(response).max_by_key(|(bytes, _)| *bytes).map(|(_, span)| span);
        let wrong = format!(
            "`max_buffered` is {}, but one request and its response may take {}",
            show_size(listener.max_buffered_bytes as u64),
            show_size(needed as u64)
        );
        let wrong =
            Diagnostic::error(wrong).help("raise max_buffered, or lower max_request_body and max_response_body");
        findings.push(match limit.clone() {
            Some(limit) => wrong.at(limit).and(size, "a body may be so large"),
            None => wrong.at(size),
        });
    }
}

/// A scope of certificates needs somebody who verifies them.
fn check_client_cert(file: &File, listener: &ListenerSpec, routes: &[Built<'_>], findings: &mut Findings) {
    if listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) {
        return;
    }
    let tls = file.listener.as_ref().and_then(|given| given.value.tls.as_ref());
    // What is wrong with it is told elsewhere.
    if tls.is_some_and(|given| given.value.has("client_ca")) {
        return;
    }
    for route in routes.iter().filter(|route| route.spec.policy.mode != Mode::Off) {
        let sources = route.policy.scope.as_ref().map(|scope| scope.value.0.as_slice()).unwrap_or_default();
        let source = sources.iter().find(|source| matches!(source.value, ScopeSource::ClientCert));
        if let Some(source) = source {
            let wrong =
                "the scope takes the client's certificate, but the listener has no `client_ca` that verifies it";
            let wrong = Diagnostic::error(wrong).at(source.span()).and(tls.map(Given::span), "the listener's TLS");
            findings.push(wrong.help(r#"add client_ca = "clients.pem" to the listener's `tls`"#));
        }
    }
}
