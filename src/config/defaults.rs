//! The defaults as a file would write them, read from the types that hold them.

use super::file::{BodyKind, Concurrent};
use super::policies::WAIT_TIMEOUT;
use super::upstreams::UpstreamUrl;
use super::values::{Choice, show_duration, show_size};
use super::{AdminConfig, LogConfig, StoreConfig, file_listener};
use crate::http::policy::{BodyForm, FingerprintRule, KeySource, Methods, Policy};
use crate::proxy::tls::ClientAuth;
use crate::stores::url::StoreUrl;

/// The defaults of a section, by the name of the setting that holds it; settings without one are missing.
pub fn of(section: &str) -> Vec<(&'static str, String)> {
    match section {
        "listener" => listener(),
        "tls" => vec![("client_auth", quoted(ClientAuth::default().word()))],
        "admin" => vec![("address", quoted(AdminConfig::default().address))],
        "log" => log(),
        "store" => store(),
        "upstreams" => upstream(),
        "defaults" | "policy" => policy(),
        "fingerprint" => fingerprint(&Policy::default().fingerprint),
        "routes" => vec![("methods", methods(&Methods::default()))],
        _ => Vec::new(),
    }
}

/// Writes methods as a file would have them.
pub(super) fn methods(methods: &Methods) -> String {
    match methods {
        Methods::Only(methods) => list(methods),
        Methods::AllUnsafe => list(["*"]),
    }
}

fn listener() -> Vec<(&'static str, String)> {
    let spec = file_listener();
    vec![
        ("address", quoted(spec.address)),
        ("header_timeout", quoted(show_duration(spec.header_timeout))),
        ("body_timeout", quoted(show_duration(spec.body_timeout))),
        ("idle_timeout", quoted(show_duration(spec.idle_timeout))),
        ("shutdown_grace", quoted(show_duration(spec.shutdown_grace))),
        ("max_connections", spec.max_connections.to_string()),
        ("max_buffered", quoted(show_size(spec.max_buffered_bytes as u64))),
        ("max_spooled", quoted(show_size(spec.max_spooled_bytes))),
        ("trusted_proxies", list(&spec.trusted_proxies)),
    ]
}

fn log() -> Vec<(&'static str, String)> {
    let log = LogConfig::default();
    vec![("level", quoted(&log.level)), ("format", quoted(log.format.word())), ("access", log.access.to_string())]
}

fn store() -> Vec<(&'static str, String)> {
    let options = StoreConfig::new(StoreUrl::Memory).options;
    vec![
        ("prefix", quoted(&options.prefix)),
        ("command_timeout", quoted(show_duration(options.command_timeout))),
        ("durability", quoted("primary")),
        ("unsafe_allow_eviction", options.allow_eviction.to_string()),
    ]
}

fn upstream() -> Vec<(&'static str, String)> {
    let spec = UpstreamUrl::default().spec("", None);
    vec![
        ("connect_timeout", quoted(show_duration(spec.connect_timeout))),
        ("response_timeout", quoted(show_duration(spec.response_timeout))),
        ("idle_timeout", quoted(show_duration(spec.idle_timeout))),
        ("max_connections", spec.max_connections.to_string()),
        ("preserve_host", spec.preserve_host.to_string()),
    ]
}

fn policy() -> Vec<(&'static str, String)> {
    let policy = Policy::default();
    let terms = &policy.terms;
    let concurrent = if terms.wait.is_some() { Concurrent::Wait } else { Concurrent::Reject };
    let parts = fingerprint(&policy.fingerprint).into_iter().map(|(name, value)| format!("{name} = {value}"));
    vec![
        ("mode", quoted(policy.mode.word())),
        ("key", quoted(policy.key.word())),
        ("key_from", list(policy.key_from.iter().map(key_source))),
        ("key_syntax", quoted(policy.key_syntax.word())),
        ("key_max_length", policy.key_max_length.to_string()),
        ("scope", list(&policy.scope)),
        ("fingerprint", format!("{{ {} }}", parts.collect::<Vec<_>>().join(", "))),
        ("lease", quoted(show_duration(terms.lease))),
        ("retention", quoted(show_duration(terms.retention))),
        ("concurrent", quoted(concurrent.word())),
        ("wait_timeout", quoted(show_duration(WAIT_TIMEOUT))),
        ("unknown_outcome", quoted(terms.on_unknown.word())),
        ("store_down", quoted(policy.store_down.word())),
        ("release_status", format!("[{}]", joined(policy.release_status.iter()))),
        ("unknown_status", format!("[{}]", joined(policy.unknown_status.iter()))),
        ("max_request_body", quoted(show_size(policy.max_request_body as u64))),
        ("max_response_body", quoted(show_size(policy.max_response_body as u64))),
        ("replay_drop_headers", list(&policy.replay_drop_headers)),
    ]
}

fn fingerprint(rule: &FingerprintRule) -> Vec<(&'static str, String)> {
    let body = match rule.body {
        BodyForm::Bytes => BodyKind::Bytes,
        BodyForm::Json { .. } => BodyKind::Json,
    };
    vec![("parts", list(rule.parts.iter().map(|part| part.word()))), ("body", quoted(body.word()))]
}

fn key_source(source: &KeySource) -> String {
    match source {
        KeySource::Header(name) => format!("header:{name}"),
        KeySource::Query(name) => format!("query:{name}"),
        // A pointer keeps no text; no default has one.
        KeySource::Json(_) => "json:".to_owned(),
    }
}

fn quoted(value: impl ToString) -> String {
    format!("{:?}", value.to_string())
}

fn list<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    format!("[{}]", joined(values.into_iter().map(quoted)))
}

fn joined<T: ToString>(values: impl Iterator<Item = T>) -> String {
    values.map(|value| value.to_string()).collect::<Vec<_>>().join(", ")
}
