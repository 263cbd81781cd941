//! The listeners and the logs.

use super::diagnostic::{Diagnostic, Findings, Span};
use super::file::{AdminFile, File, ListenerFile, LogFile, TlsFile};
use super::load::Overrides;
use super::secret::{Lookups, reveal};
use super::section::{Given, Section};
use super::sources::{listen_address, socket_address};
use super::{AdminConfig, LogConfig, file_listener};
use crate::proxy::listener::ListenerSpec;
use crate::proxy::tls::{Part, TlsSpec};

/// Reads an address from a flag or the environment.
fn override_address<T>(
    flag: &str,
    text: &Option<String>,
    parse: impl FnOnce(&str, &str) -> Result<T, Diagnostic>,
    findings: &mut Findings,
) -> Option<T> {
    parse(flag, text.as_deref()?).map_err(|wrong| findings.push(wrong)).ok()
}

/// The data listener.
pub(super) fn listener(
    given: Option<&Given<ListenerFile>>,
    overrides: &Overrides,
    lookups: &Lookups<'_>,
    findings: &mut Findings,
) -> ListenerSpec {
    let file = given.map(|given| given.value.clone()).unwrap_or_default();
    let mut spec = file_listener();
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
    if let Some(folder) = &file.spool_dir {
        spec.spool_dir = Some(folder.value.clone().into());
    }
    if let Some(size) = &file.max_spooled {
        spec.max_spooled_bytes = size.value.0;
    }
    spec.tls = file.tls.as_ref().and_then(|given| tls(given, lookups, findings));
    let address = override_address("--listen or ONCEPROXY_LISTEN", &overrides.listen, listen_address, findings);
    if let Some(address) = address.or(file.address.map(|address| address.value)) {
        spec.address = address;
    }
    spec
}

/// The listener's certificates, which have to be there and fit together.
fn tls(given: &Given<TlsFile>, lookups: &Lookups<'_>, findings: &mut Findings) -> Option<TlsSpec> {
    let file = &given.value;
    for name in ["cert", "key"].into_iter().filter(|name| !file.has(name)) {
        let wrong = Diagnostic::error(format!("`tls` has no `{name}`")).at(given.span());
        findings.push(wrong.help(r#"tls = { cert = "cert.pem", key = "key.pem" }"#));
    }
    if let (Some(auth), false) = (&file.client_auth, file.has("client_ca")) {
        let wrong = Diagnostic::error("`client_auth` says who has to have a certificate, but there is no `client_ca`");
        findings.push(wrong.at(auth.span()).help("name the file with the authority that signs them"));
    }
    if !file.is_sound() {
        return None;
    }
    let (cert, key) = (file.cert.as_ref()?, file.key.as_ref()?);
    let spec = TlsSpec {
        cert: cert.value.clone().into(),
        key: key.value.clone().into(),
        client_ca: file.client_ca.as_ref().map(|path| path.value.clone().into()),
        client_auth: file.client_auth.as_ref().map(|auth| auth.value).unwrap_or_default(),
    };
    if let Err(error) = spec.check(lookups.file) {
        let (name, place) = match error.part {
            Part::Cert => ("cert", Some(cert)),
            Part::Key => ("key", Some(key)),
            Part::ClientCa => ("client_ca", file.client_ca.as_ref()),
        };
        findings.push(Diagnostic::error(format!("`{name}`: {error}")).at(place.map(Given::span)));
    }
    Some(spec)
}

/// The admin listener, if there is to be one.
pub(super) fn admin(
    given: Option<&Given<AdminFile>>,
    overrides: &Overrides,
    lookups: &Lookups<'_>,
    findings: &mut Findings,
) -> Option<AdminConfig> {
    if given.is_none() && overrides.admin.is_none() {
        return None;
    }
    let mut admin = AdminConfig::default();
    let address = override_address("--admin or ONCEPROXY_ADMIN", &overrides.admin, socket_address, findings);
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

/// The logs.
pub(super) fn log(given: Option<&Given<LogFile>>, overrides: &Overrides, findings: &mut Findings) -> LogConfig {
    let file = given.map(|given| given.value.clone()).unwrap_or_default();
    let mut log = LogConfig::default();
    let place = file.level.as_ref().filter(|_| overrides.log.is_none()).map(Given::span);
    if let Some(level) = overrides.log.clone().or(file.level.map(|level| level.value)) {
        let name = if overrides.log.is_some() { "ONCEPROXY_LOG" } else { "level" };
        if let Err(wrong) = check_level(name, &level) {
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

fn check_level(name: &str, level: &str) -> Result<(), Diagnostic> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let wrong = || Diagnostic::error(format!("`{name}` is {level:?}, which is neither a level nor a filter"));
    tracing_subscriber::EnvFilter::try_new(level).map_err(|_| wrong())?;
    // A filter takes a bare word for a module, so that a misspelt level would turn the logs off in silence.
    let bare = level
        .split(',')
        .map(str::trim)
        .find(|part| !part.contains(['=', ':', '[']) && !LEVELS.iter().any(|known| part.eq_ignore_ascii_case(known)));
    bare.map_or(Ok(()), |part| Err(wrong().suggest(part, LEVELS)))
}

/// The admin listener is never the data port.
pub(super) fn check_addresses(
    file: &File,
    listener: &ListenerSpec,
    admin: Option<&AdminConfig>,
    overrides: &Overrides,
    findings: &mut Findings,
) {
    let Some(admin) = admin else { return };
    let (Some(data), admin) = (listener.address.socket(), admin.address) else { return };
    let same_host = data.ip() == admin.ip() || data.ip().is_unspecified() || admin.ip().is_unspecified();
    if data.port() == 0 || data.port() != admin.port() || !same_host {
        return;
    }
    let place = file.admin.as_ref().filter(|_| overrides.admin.is_none());
    let place = place.and_then(|given| given.value.address.as_ref()).map(Given::span);
    let other = listener_place(file, overrides);
    let wrong = Diagnostic::error(format!("the admin listener has the data listener's port, {}", data.port()));
    findings.push(match place {
        Some(place) => wrong.at(place).and(other, "the data listener"),
        None => wrong.at(other),
    });
}

/// Where the data listener's address is given, if it comes from the file.
pub(super) fn listener_place(file: &File, overrides: &Overrides) -> Option<Span> {
    let listener = file.listener.as_ref().filter(|_| overrides.listen.is_none())?;
    listener.value.address.as_ref().map(Given::span)
}
