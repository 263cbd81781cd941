//! From the mirror to a configuration that can work.

use std::net::SocketAddr;
use std::sync::Arc;

use secrecy::ExposeSecret;

use super::diagnostic::{Diagnostic, Findings, Span};
use super::file::{AdminFile, File, ListenerFile, LogFile, PolicyFile};
use super::load::Overrides;
use super::routes::{self, Built, Referred};
use super::secret::{Lookups, Secret, reveal};
use super::section::{Given, Section};
use super::sources::socket_address;
use super::upstreams::{UPSTREAM, UpstreamUrl, upstreams};
use super::values::show_size;
use super::{AdminConfig, Config, LogConfig, StoreConfig, overlap, warnings};
use crate::http::policy::Mode;
use crate::proxy::listener::ListenerSpec;
use crate::proxy::upstream::UpstreamSpec;
use crate::stores::url::StoreUrl;

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
    let listener = listener(file.listener.as_ref(), overrides, findings);
    let admin = admin(file.admin.as_ref(), overrides, lookups, findings);
    let log = log(file.log.as_ref(), overrides, findings);
    let store = store(file, overrides, lookups, findings);
    let upstreams = all_upstreams(file, overrides, findings);
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
    overlap::gaps(&routes, findings);
    warnings::routes(&routes, findings);
    if let Some(store) = &store {
        warnings::store(file, store, &listener, findings);
    }
    warnings::secrets(file, findings);
    check_addresses(file, &listener, admin.as_ref(), findings);
    if findings.has_errors() {
        return None;
    }
    Some(Config {
        listener,
        admin,
        log,
        store: store?,
        upstreams: upstreams.into_iter().filter_map(|(_, _, spec)| spec).collect(),
        routes: routes.into_iter().map(|route| route.spec).collect(),
    })
}

/// Reads an address from a flag or the environment.
fn override_address(flag: &str, text: &Option<String>, findings: &mut Findings) -> Option<SocketAddr> {
    socket_address(flag, text.as_deref()?).map_err(|wrong| findings.push(wrong)).ok()
}

fn listener(given: Option<&Given<ListenerFile>>, overrides: &Overrides, findings: &mut Findings) -> ListenerSpec {
    let file = given.map(|given| given.value.clone()).unwrap_or_default();
    let mut spec = super::file_listener();
    if let Some(networks) = &file.trusted_proxies {
        spec.trusted_proxies = networks.value.iter().map(|network| network.value).collect();
    }
    let times = [
        (&file.header_timeout, &mut spec.header_timeout),
        (&file.body_timeout, &mut spec.body_timeout),
        (&file.idle_timeout, &mut spec.idle_timeout),
        (&file.shutdown_grace, &mut spec.shutdown_grace),
    ];
    for (given, time) in times {
        if let Some(given) = given {
            *time = given.value.0;
        }
    }
    if let Some(count) = &file.max_connections {
        spec.max_connections = count.value.0 as usize;
    }
    if let Some(size) = &file.max_buffered {
        spec.max_buffered_bytes = size.value.0 as usize;
    }
    let address = override_address("--listen", &overrides.listen, findings);
    if let Some(address) = address.or(file.address.map(|address| address.value)) {
        spec.address = address;
    }
    spec
}

fn admin(
    given: Option<&Given<AdminFile>>,
    overrides: &Overrides,
    lookups: &Lookups<'_>,
    findings: &mut Findings,
) -> Option<AdminConfig> {
    if given.is_none() && overrides.admin.is_none() {
        return None;
    }
    let mut admin = AdminConfig::default();
    let address = override_address("--admin", &overrides.admin, findings);
    let written = given.and_then(|given| given.value.address.as_ref());
    if let Some(address) = address.or(written.map(|address| address.value)) {
        admin.address = address;
    }
    let token = given.and_then(|given| given.value.token.as_ref());
    admin.token =
        overrides.admin_token.clone().or_else(|| token.and_then(|token| reveal(token, "token", lookups, findings)));
    let has_token = overrides.admin_token.is_some() || given.is_some_and(|given| given.value.has("token"));
    if !admin.address.ip().is_loopback() && !has_token {
        let wrong = format!("the admin address {} can be reached from outside, and there is no token", admin.address);
        let place = written.filter(|_| overrides.admin.is_none()).map(Given::span);
        findings.push(Diagnostic::error(wrong).at(place).help(r#"add token = { env = "ONCEPROXY_ADMIN_TOKEN" }"#));
    }
    Some(admin)
}

fn log(given: Option<&Given<LogFile>>, overrides: &Overrides, findings: &mut Findings) -> LogConfig {
    let file = given.map(|given| given.value.clone()).unwrap_or_default();
    let mut log = LogConfig::default();
    let place = file.level.as_ref().filter(|_| overrides.log.is_none()).map(Given::span);
    if let Some(level) = overrides.log.clone().or(file.level.map(|level| level.value)) {
        if let Err(wrong) = check_level(&level) {
            findings.push(wrong.at(place));
        }
        log.level = level;
    }
    if let Some(format) = file.format {
        log.format = format.value;
    }
    if let Some(access) = file.access {
        log.access = access.value;
    }
    log
}

fn check_level(level: &str) -> Result<(), Diagnostic> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let wrong = || Diagnostic::error(format!("`level` is {level:?}, which is neither a level nor a filter"));
    tracing_subscriber::EnvFilter::try_new(level).map_err(|_| wrong())?;
    // A filter takes a bare word for a module, so that a misspelt level would turn the logs off in silence.
    let bare = level
        .split(',')
        .map(str::trim)
        .find(|part| !part.contains(['=', ':', '[']) && !LEVELS.iter().any(|known| part.eq_ignore_ascii_case(known)));
    bare.map_or(Ok(()), |part| Err(wrong().suggest(part, LEVELS)))
}

fn store(file: &File, overrides: &Overrides, lookups: &Lookups<'_>, findings: &mut Findings) -> Option<StoreConfig> {
    let given = file.store.as_ref();
    let url = given.and_then(|given| given.value.url.as_ref());
    let (url, place) = match (&overrides.store, url) {
        (Some(url), _) => (url.clone(), None),
        (None, Some(url)) => (reveal(url, "url", lookups, findings)?.expose_secret().to_owned(), Some(url.span())),
        (None, None) => {
            if !file.has("store") {
                let wrong = Diagnostic::error("the file has no [store]: there is nowhere to keep records");
                findings.push(wrong.help(r#"add [store] with a url such as "redis://127.0.0.1:6379/0""#));
            } else if let Some(given) = given.filter(|given| !given.value.has("url")) {
                findings.push(Diagnostic::error("[store] has no `url`").at(given.span()));
            }
            return None;
        }
    };
    let url = StoreUrl::parse(&url)
        .map_err(|error| {
            let name = if place.is_some() { "`url`" } else { "`--store`" };
            findings.push(Diagnostic::error(format!("{name}: {error}")).at(place));
        })
        .ok()?;
    let mut config = StoreConfig::new(url);
    let Some(given) = given else { return Some(config) };
    if let Some(prefix) = &given.value.prefix {
        check_prefix(prefix, &config.url, findings);
        config.options.prefix.clone_from(&prefix.value);
    }
    if let Some(timeout) = &given.value.command_timeout {
        config.options.command_timeout = timeout.value.0;
    }
    if let Some(allow) = &given.value.unsafe_allow_eviction {
        config.options.allow_eviction = allow.value;
    }
    Some(config)
}

fn check_prefix(prefix: &Given<String>, url: &StoreUrl, findings: &mut Findings) {
    let (more, words) = match url {
        StoreUrl::Sqlite(_) | StoreUrl::Memory => (&b"_"[..], "letters, digits or `_`"),
        StoreUrl::Redis(_) => (&b"_-.:"[..], "letters, digits, `_`, `-`, `.` or `:`"),
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
    if prefix.value.len() > 64 || !prefix.value.bytes().all(good) {
        let wrong = format!("`prefix` is {:?}, but it has to be 1 to 64 {words}", prefix.value);
        findings.push(Diagnostic::error(wrong).at(prefix.span()));
    }
}

/// The upstreams of the file, or the one of the command line.
fn all_upstreams(
    file: &File,
    overrides: &Overrides,
    findings: &mut Findings,
) -> Vec<(String, Span, Option<Arc<UpstreamSpec>>)> {
    let mut all = upstreams(file.upstreams.as_ref(), findings);
    match (&overrides.upstream, all.first()) {
        (Some(_), Some((_, place, _))) => {
            let wrong = Diagnostic::error("`--upstream` beside a file that defines upstreams says two things at once");
            findings.push(wrong.at(place.clone()).help("leave the flag out, or the file's upstreams"));
        }
        (Some(url), None) => {
            let parsed = UpstreamUrl::parse("--upstream", url).map_err(|wrong| findings.push(wrong)).ok();
            all.push((UPSTREAM.to_owned(), 0..0, parsed.map(|url| Arc::new(url.spec(UPSTREAM)))));
        }
        (None, None) if !file.has("upstreams") => {
            let wrong = Diagnostic::error("the file has no upstreams: requests have nowhere to go");
            findings.push(wrong.help(r#"add [upstreams.NAME] with url = "http://127.0.0.1:9000""#));
        }
        (None, _) => {}
    }
    all
}

/// One request and its answer have to fit into the buffers, or every protected request is refused.
fn check_buffers(file: &File, listener: &ListenerSpec, routes: &[Built<'_>], findings: &mut Findings) {
    let limit = file.listener.as_ref().and_then(|given| given.value.max_buffered.as_ref()).map(Given::span);
    for route in routes.iter().filter(|route| route.spec.policy.mode != Mode::Off) {
        let policy = &route.spec.policy;
        let needed = policy.max_request_body.saturating_add(policy.max_response_body);
        if needed <= listener.max_buffered_bytes {
            continue;
        }
        let sizes = [&route.policy.max_request_body, &route.policy.max_response_body];
        let size = sizes.into_iter().flatten().max_by_key(|size| size.value.0).map(Given::span);
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

/// The admin listener is never the data port.
fn check_addresses(file: &File, listener: &ListenerSpec, admin: Option<&AdminConfig>, findings: &mut Findings) {
    let Some(admin) = admin else { return };
    let (data, admin) = (listener.address, admin.address);
    let same_host = data.ip() == admin.ip() || data.ip().is_unspecified() || admin.ip().is_unspecified();
    if data.port() == 0 || data.port() != admin.port() || !same_host {
        return;
    }
    let place = file.admin.as_ref().and_then(|given| given.value.address.as_ref()).map(Given::span);
    let other = file.listener.as_ref().and_then(|given| given.value.address.as_ref()).map(Given::span);
    let wrong = Diagnostic::error(format!("the admin listener has the data listener's port, {}", data.port()));
    findings.push(match place {
        Some(place) => wrong.at(place).and(other, "the data listener"),
        None => wrong.at(other),
    });
}

/// Whether a secret stands in the file, readable for everybody who may read it.
pub(super) fn is_written(secret: &Secret) -> bool {
    matches!(secret, Secret::Written(_))
}
