//! Upstreams: their URLs, their limits, and what they are unless the file says otherwise.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::certificates::CertAndKey;
use super::diagnostic::{Diagnostic, Findings, Span};
use super::file::UpstreamFile;
use super::lists::Named;
use super::secret::Lookups;
use super::section::{Given, Section};
use super::sources::is_host;
use super::values::text_setting;
use crate::proxy::upstream::tls::{ClientTls, Identity, Roots, TlsError};
use crate::proxy::upstream::{Transport, UpstreamSpec};

/// The name of the upstream that a command line gives.
pub const UPSTREAM: &str = "upstream";

/// The longest path of a socket, in bytes: what the kernel has room for.
const SOCKET_PATH_BYTES: usize = 107;

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamUrl {
    /// Behind a host and a port.
    Network {
        /// Whether TLS is spoken there.
        scheme: Scheme,
        /// A name, or an address without brackets.
        host: String,
        /// The port.
        port: u16,
        /// Host and port as they were written.
        authority: String,
    },
    /// Behind the socket at this path.
    Unix(String),
}

/// What is spoken behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Bare HTTP/1.1.
    Http,
    /// Bare HTTP/2.
    H2c,
    /// HTTP over TLS.
    Https,
}

text_setting!(UpstreamUrl, { "type": "string", "pattern": "^((https?|h2c)://|unix:/)" }, UpstreamUrl::parse);

impl UpstreamUrl {
    /// Parses an upstream's URL.
    pub(super) fn parse(name: &str, text: &str) -> Result<UpstreamUrl, Diagnostic> {
        // What stands before `@` may be a password, so that a text with one is never shown.
        let shown = if text.contains('@') { "this URL" } else { text };
        let wrong = |what: &str| Diagnostic::error(format!("`{name}`: {shown} {what}"));
        let form = "an upstream's URL is http://HOST, http://HOST:PORT, https:// or h2c:// likewise, or unix:/PATH";
        let (scheme, rest) = match text.split_once(':') {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("h2c", rest)) => (Scheme::H2c, rest),
            Some(("unix", path)) => {
                return socket_path(path).map(UpstreamUrl::Unix).map_err(|what| wrong(what).help(form));
            }
            _ => return Err(wrong("is not an http URL").help(form)),
        };
        let rest = rest.strip_prefix("//").ok_or_else(|| wrong("is not a URL").help(form))?;
        if rest.contains('@') {
            return Err(wrong("holds a user, which is not passed on").help(form));
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(wrong("has a path, but paths are passed on as they come").help(form));
        }
        let (host, port) = match authority.rfind(':').filter(|colon| !authority[*colon..].ends_with(']')) {
            None => (authority, scheme.port()),
            Some(colon) => {
                let digits =
                    Some(&authority[colon + 1..]).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                let port = digits.and_then(|digits| digits.parse().ok()).filter(|port| *port != 0);
                (&authority[..colon], port.ok_or_else(|| wrong("has no valid port").help(form))?)
            }
        };
        if !is_host(host) {
            return Err(wrong("has no valid host").help(form));
        }
        let host = host.trim_matches(['[', ']']);
        Ok(UpstreamUrl::Network { scheme, host: host.to_owned(), port, authority: authority.to_owned() })
    }

    /// The upstream that a command line gives: an https one is trusted as the system's roots say.
    pub(super) fn by_itself(&self, flag: &str, name: &str) -> Result<UpstreamSpec, Diagnostic> {
        let tls = match self {
            UpstreamUrl::Network { scheme: Scheme::Https, host, .. } => {
                let tls = ClientTls::new(host, Roots::System, None);
                Some(tls.map_err(|error| Diagnostic::error(format!("`{flag}`: an https upstream {error}")))?)
            }
            UpstreamUrl::Network { .. } | UpstreamUrl::Unix(_) => None,
        };
        Ok(self.spec(name, tls))
    }

    /// An upstream with the limits that hold unless something else is said.
    pub(super) fn spec(&self, name: &str, tls: Option<ClientTls>) -> UpstreamSpec {
        let (transport, host, port, authority) = match self {
            UpstreamUrl::Network { scheme, host, port, authority } => {
                let transport = match (tls, scheme) {
                    (Some(tls), _) => Transport::Tls(Arc::new(tls)),
                    (None, Scheme::H2c) => Transport::H2c,
                    (None, Scheme::Http | Scheme::Https) => Transport::Tcp,
                };
                (transport, host.as_str(), *port, authority.as_str())
            }
            UpstreamUrl::Unix(path) => (Transport::Unix(Path::new(path).into()), "localhost", 0, "localhost"),
        };
        UpstreamSpec {
            name: Arc::from(name),
            transport,
            host: Arc::from(host),
            port,
            authority: Arc::from(authority),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(4),
            max_connections: 256,
            preserve_host: true,
        }
    }
}

impl Scheme {
    fn port(self) -> u16 {
        match self {
            Scheme::Http | Scheme::H2c => 80,
            Scheme::Https => 443,
        }
    }
}

/// Accepts a path that a socket can have, wherever the program was started.
fn socket_path(path: &str) -> Result<String, &'static str> {
    match () {
        () if !path.starts_with('/') || path.ends_with('/') => Err("has no absolute path of a socket"),
        () if path.contains('\0') => Err("has a path with a zero byte"),
        () if path.len() > SOCKET_PATH_BYTES => Err("has a path that is too long: a socket's has up to 107 bytes"),
        () => Ok(path.to_owned()),
    }
}

impl Default for UpstreamUrl {
    fn default() -> UpstreamUrl {
        UpstreamUrl::Network {
            scheme: Scheme::Http,
            host: "127.0.0.1".to_owned(),
            port: 80,
            authority: "127.0.0.1".to_owned(),
        }
    }
}

/// Makes the upstreams of a file, each with its name's place; one that cannot be used is there without a spec, so that
/// routes to it are not called lost.
pub(super) fn upstreams(
    given: Option<&Given<Named<UpstreamFile>>>,
    lookups: &Lookups<'_>,
    findings: &mut Findings,
) -> Vec<(String, Span, Option<Arc<UpstreamSpec>>)> {
    let entries = given.map(|given| given.value.0.as_slice()).unwrap_or_default();
    entries.iter().map(|(name, given)| (name.clone(), given.span(), upstream(name, given, lookups, findings))).collect()
}

fn upstream(
    name: &str,
    given: &Given<UpstreamFile>,
    lookups: &Lookups<'_>,
    findings: &mut Findings,
) -> Option<Arc<UpstreamSpec>> {
    let file = &given.value;
    if !file.has("url") {
        findings.push(Diagnostic::error(format!("upstream `{name}` has no `url`")).at(given.span()));
    }
    let url = file.url.as_ref()?;
    let tls = match &url.value {
        UpstreamUrl::Network { scheme: Scheme::Https, host, .. } => Some(tls(host, url, file, lookups, findings)?),
        UpstreamUrl::Network { scheme: Scheme::Http | Scheme::H2c, .. } | UpstreamUrl::Unix(_) => {
            refuse_certificates(url, file, findings);
            None
        }
    };
    let mut spec = url.value.spec(name, tls);
    let times = [
        (&file.connect_timeout, &mut spec.connect_timeout),
        (&file.response_timeout, &mut spec.response_timeout),
        (&file.idle_timeout, &mut spec.idle_timeout),
    ];
    for (given, time) in times {
        if let Some(given) = given {
            *time = given.value.0;
        }
    }
    if let Some(count) = &file.max_connections {
        spec.max_connections = count.value.0 as usize;
    }
    if let Some(preserve) = &file.preserve_host {
        spec.preserve_host = preserve.value;
    }
    file.is_sound().then(|| Arc::new(spec))
}

/// What only an https upstream has is an error beside another.
fn refuse_certificates(url: &Given<UpstreamUrl>, file: &UpstreamFile, findings: &mut Findings) {
    let ca = file.ca.as_ref().map(|given| ("ca", given.span()));
    let cert = file.client_cert.as_ref().map(|given| ("client_cert", given.span()));
    for (name, place) in ca.into_iter().chain(cert) {
        let wrong = format!("`{name}` is for https upstreams, and this is none");
        findings.push(Diagnostic::error(wrong).at(place).and(url.span(), "no TLS is spoken here"));
    }
}

/// Sets TLS up for an https upstream; the files are read here.
fn tls(
    host: &str,
    url: &Given<UpstreamUrl>,
    file: &UpstreamFile,
    lookups: &Lookups<'_>,
    findings: &mut Findings,
) -> Option<ClientTls> {
    let mut read = |name: &str, path: &Given<String>| {
        let text = (lookups.file)(Path::new(&path.value));
        let wrong = |error| format!("`{name}`: {} cannot be read: {error}", path.value);
        text.map_err(|error| findings.push(Diagnostic::error(wrong(error)).at(path.span()))).ok()
    };
    let ca = file.ca.as_ref().map(|path| read("ca", path));
    let identity = file.client_cert.as_ref().map(|given| {
        let CertAndKey { cert, key } = &given.value;
        let texts = (read("cert", cert), read("key", key));
        texts.0.zip(texts.1)
    });
    if matches!(ca, Some(None)) || matches!(identity, Some(None)) || !file.is_sound() {
        return None;
    }
    let (ca, identity) = (ca.flatten(), identity.flatten());
    let roots = ca.as_deref().map_or(Roots::System, Roots::Only);
    let identity = identity.as_ref().map(|(cert, key)| Identity { cert, key });
    let wrong = match ClientTls::new(host, roots, identity) {
        Ok(tls) => return Some(tls),
        Err(error) => error,
    };
    let files = file.client_cert.as_ref().map(|given| &given.value);
    let at_fault = match &wrong {
        TlsError::Host | TlsError::System(_) => None,
        TlsError::Ca(_) => file.ca.as_ref().map(|path| ("ca", path)),
        TlsError::Cert(_) => files.map(|files| ("cert", &files.cert)),
        TlsError::Key(_) => files.map(|files| ("key", &files.key)),
    };
    let finding = match at_fault {
        Some((name, path)) => Diagnostic::error(format!("`{name}`: {} {wrong}", path.value)).at(path.span()),
        None => Diagnostic::error(format!("`url`: an https upstream {wrong}")).at(url.span()),
    };
    findings.push(match wrong {
        TlsError::System(_) => finding.help(r#"name the authority whose certificates are believed: ca = "FILE""#),
        TlsError::Host | TlsError::Ca(_) | TlsError::Cert(_) | TlsError::Key(_) => finding,
    });
    None
}
