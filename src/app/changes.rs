//! What a new configuration changes, and what it must not.

use std::sync::Arc;

use secrecy::ExposeSecret;

use crate::config::{AdminConfig, Config, StoreConfig};
use crate::http::policy::{Mode, Policy};
use crate::proxy::listener::ListenerSpec;
use crate::proxy::router::RouteSpec;
use crate::proxy::upstream::UpstreamSpec;

/// A new configuration, beside the one that is in force.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// They are the same.
    Same,
    /// These settings hold for as long as the process lives.
    NeedsRestart(Vec<String>),
    /// It may take over.
    Changed(Changes),
}

/// What is different.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changes {
    /// The settings, as the file names them.
    pub(super) settings: Vec<String>,
    /// Routes that lose sight of their records.
    pub(super) estranged: Vec<Estranged>,
}

/// A route whose earlier records are not found any more, or do not match.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Estranged {
    pub(super) route: Arc<str>,
    pub(super) setting: &'static str,
    pub(super) effect: &'static str,
}

/// Compares two configurations.
pub(super) fn compare(old: &Config, new: &Config) -> Comparison {
    let fixed = fixed(old, new);
    if !fixed.is_empty() {
        return Comparison::NeedsRestart(fixed);
    }
    let mut settings = Vec::new();
    differing(&mut settings, "listener", &listener(&old.listener, &new.listener));
    differing(&mut settings, "admin", &[("token", token(&old.admin) != token(&new.admin))]);
    let (log, new_log) = (&old.log, &new.log);
    differing(&mut settings, "log", &[("level", log.level != new_log.level), ("access", log.access != new_log.access)]);
    if docs_url(&old.routes) != docs_url(&new.routes) {
        settings.push("docs_url".to_owned());
    }
    upstreams(&mut settings, &old.upstreams, &new.upstreams);
    routes(&mut settings, &old.routes, &new.routes);
    match settings.is_empty() {
        true => Comparison::Same,
        false => Comparison::Changed(Changes { settings, estranged: estranged(&old.routes, &new.routes) }),
    }
}

/// The settings that need a restart.
fn fixed(old: &Config, new: &Config) -> Vec<String> {
    let mut fixed = Vec::new();
    let listener = [
        ("address", old.listener.address != new.listener.address),
        ("tls", old.listener.tls.is_some() != new.listener.tls.is_some()),
    ];
    differing(&mut fixed, "listener", &listener);
    match (&old.admin, &new.admin) {
        (Some(old), Some(new)) => differing(&mut fixed, "admin", &[("address", old.address != new.address)]),
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => fixed.push("admin".to_owned()),
    }
    differing(&mut fixed, "log", &[("format", old.log.format != new.log.format)]);
    let StoreConfig { url, options } = &old.store;
    let other = &new.store.options;
    let store = [
        ("url", *url != new.store.url),
        ("prefix", options.prefix != other.prefix),
        ("command_timeout", options.command_timeout != other.command_timeout),
        ("unsafe_allow_eviction", options.allow_eviction != other.allow_eviction),
    ];
    let before = fixed.len();
    differing(&mut fixed, "store", &store);
    if fixed.len() == before && options != other {
        fixed.push("store".to_owned());
    }
    fixed
}

fn differing(settings: &mut Vec<String>, section: &str, fields: &[(&str, bool)]) {
    let differing = fields.iter().filter(|(_, differs)| *differs);
    settings.extend(differing.map(|(name, _)| format!("{section}.{name}")));
}

/// As [`differing`], for two things that differ in some way.
fn described(settings: &mut Vec<String>, section: &str, fields: &[(&str, bool)]) {
    let before = settings.len();
    differing(settings, section, fields);
    if settings.len() == before {
        settings.push(section.to_owned());
    }
}

fn listener(old: &ListenerSpec, new: &ListenerSpec) -> [(&'static str, bool); 10] {
    [
        ("tls", old.tls != new.tls),
        ("header_timeout", old.header_timeout != new.header_timeout),
        ("body_timeout", old.body_timeout != new.body_timeout),
        ("idle_timeout", old.idle_timeout != new.idle_timeout),
        ("shutdown_grace", old.shutdown_grace != new.shutdown_grace),
        ("max_connections", old.max_connections != new.max_connections),
        ("max_buffered", old.max_buffered_bytes != new.max_buffered_bytes),
        ("spool_dir", old.spool_dir != new.spool_dir),
        ("max_spooled", old.max_spooled_bytes != new.max_spooled_bytes),
        ("trusted_proxies", old.trusted_proxies != new.trusted_proxies),
    ]
}

fn token(admin: &Option<AdminConfig>) -> Option<&str> {
    admin.as_ref()?.token.as_ref().map(|token| token.expose_secret())
}

fn docs_url(routes: &[RouteSpec]) -> Option<&str> {
    routes.first()?.policy.docs_url.as_deref()
}

fn upstreams(settings: &mut Vec<String>, old: &[Arc<UpstreamSpec>], new: &[Arc<UpstreamSpec>]) {
    let named = |name: &str| old.iter().find(|upstream| &*upstream.name == name);
    for upstream in new {
        let section = format!("upstreams.{}", upstream.name);
        match named(&upstream.name) {
            None => settings.push(format!("{section} (added)")),
            Some(before) if before == upstream => {}
            Some(before) => {
                let is_elsewhere = before.url() != upstream.url();
                let fields = [
                    ("url", is_elsewhere),
                    ("ca or client_cert", !is_elsewhere && before.transport != upstream.transport),
                    ("connect_timeout", before.connect_timeout != upstream.connect_timeout),
                    ("response_timeout", before.response_timeout != upstream.response_timeout),
                    ("idle_timeout", before.idle_timeout != upstream.idle_timeout),
                    ("max_connections", before.max_connections != upstream.max_connections),
                    ("preserve_host", before.preserve_host != upstream.preserve_host),
                ];
                described(settings, &section, &fields);
            }
        }
    }
    let gone = old.iter().filter(|before| !new.iter().any(|upstream| upstream.name == before.name));
    settings.extend(gone.map(|upstream| format!("upstreams.{} (removed)", upstream.name)));
}

fn name(route: &RouteSpec) -> &Arc<str> {
    &route.policy.terms.route
}

fn routes(settings: &mut Vec<String>, old: &[RouteSpec], new: &[RouteSpec]) {
    let before_count = settings.len();
    for route in new {
        let section = format!("routes.{}", name(route));
        let Some(before) = old.iter().find(|before| name(before) == name(route)) else {
            settings.push(format!("{section} (added)"));
            continue;
        };
        let fields = [
            ("path", before.path != route.path),
            ("host", before.host != route.host),
            ("methods", before.policy.methods != route.policy.methods),
            ("upstream", before.upstream.name != route.upstream.name),
        ];
        differing(settings, &section, &fields);
        policy(settings, &section, &before.policy, &route.policy);
    }
    let gone = old.iter().filter(|before| !new.iter().any(|route| name(route) == name(before)));
    settings.extend(gone.map(|route| format!("routes.{} (removed)", name(route))));
    if settings.len() == before_count && !old.iter().map(name).eq(new.iter().map(name)) {
        settings.push("routes (order)".to_owned());
    }
}

fn policy(settings: &mut Vec<String>, section: &str, old: &Policy, new: &Policy) {
    // What is told elsewhere.
    let rest = Policy { methods: new.methods.clone(), docs_url: new.docs_url.clone(), ..old.clone() };
    if rest == *new {
        return;
    }
    let (terms, new_terms) = (&old.terms, &new.terms);
    let fields = [
        ("mode", old.mode != new.mode),
        ("key", old.key != new.key),
        ("namespace", old.namespace != new.namespace),
        ("key_from", old.key_from != new.key_from),
        ("key_syntax", old.key_syntax != new.key_syntax),
        ("key_max_length", old.key_max_length != new.key_max_length),
        ("scope", old.scope != new.scope),
        ("fingerprint", old.fingerprint != new.fingerprint),
        ("lease", terms.lease != new_terms.lease),
        ("retention", terms.retention != new_terms.retention),
        ("concurrent", terms.wait.is_some() != new_terms.wait.is_some()),
        ("wait_timeout", terms.wait.zip(new_terms.wait).is_some_and(|(old, new)| old != new)),
        ("unknown_outcome", terms.on_unknown != new_terms.on_unknown),
        ("retry_grace", terms.retry_grace != new_terms.retry_grace),
        ("store_down", old.store_down != new.store_down),
        ("release_status", old.release_status != new.release_status),
        ("unknown_status", old.unknown_status != new.unknown_status),
        ("max_request_body", old.max_request_body != new.max_request_body),
        ("max_response_body", old.max_response_body != new.max_response_body),
        ("replay_drop_headers", old.replay_drop_headers != new.replay_drop_headers),
    ];
    described(settings, &format!("{section}.policy"), &fields);
}

/// Finds the routes that had records before and lose sight of them. A renamed route is known by its host and path.
fn estranged(old: &[RouteSpec], new: &[RouteSpec]) -> Vec<Estranged> {
    let mut estranged = Vec::new();
    for route in new.iter().filter(|route| route.policy.mode == Mode::Enforce) {
        let named = old.iter().find(|before| name(before) == name(route));
        let placed = || old.iter().find(|before| before.host == route.host && before.path == route.path);
        let Some(before) = named.or_else(placed).filter(|before| before.policy.mode == Mode::Enforce) else { continue };
        let effects = [
            ("namespace", before.policy.namespace != route.policy.namespace, "unreachable: their keys can run again"),
            ("scope", before.policy.scope != route.policy.scope, "unreachable: their keys can run again"),
            (
                "fingerprint",
                before.policy.fingerprint != route.policy.fingerprint,
                "of another fingerprint: duplicates of their requests get 422 key-reused",
            ),
        ];
        for (setting, _, effect) in effects.into_iter().filter(|(_, differs, _)| *differs) {
            estranged.push(Estranged { route: name(route).clone(), setting, effect });
        }
    }
    estranged
}
