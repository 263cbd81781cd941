//! Upstreams: their URLs, their limits, and what they are unless the file says otherwise.

use std::sync::Arc;
use std::time::Duration;

use super::diagnostic::{Diagnostic, Findings, Span};
use super::file::UpstreamFile;
use super::lists::Named;
use super::section::{Given, Section};
use super::sources::is_host;
use super::values::text_setting;
use crate::proxy::upstream::{UpstreamSpec, UpstreamVersion};

/// The name of the upstream that a command line gives.
pub const UPSTREAM: &str = "upstream";

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrl {
    host: String,
    port: u16,
    authority: String,
    version: UpstreamVersion,
}

text_setting!(UpstreamUrl, { "type": "string", "pattern": "^(http|h2c)://" }, UpstreamUrl::parse);

impl UpstreamUrl {
    /// Parses an upstream's URL.
    pub(super) fn parse(name: &str, text: &str) -> Result<UpstreamUrl, Diagnostic> {
        // What stands before `@` may be a password, so that a text with one is never shown.
        let shown = if text.contains('@') { "this URL" } else { text };
        let wrong = |what: &str| Diagnostic::error(format!("`{name}`: {shown} {what}"));
        let form = "an upstream's URL is http://HOST, http://HOST:PORT, or h2c:// for HTTP/2 without TLS";
        let (version, rest) = match text.split_once(':') {
            Some(("http", rest)) => (UpstreamVersion::Http1, rest),
            Some(("h2c", rest)) => (UpstreamVersion::Http2, rest),
            Some((scheme @ ("https" | "unix"), _)) => {
                return Err(wrong(&format!("is not built yet: this release has no {scheme} upstreams, only http")));
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
            None => (authority, 80),
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
        Ok(UpstreamUrl { host: host.to_owned(), port, authority: authority.to_owned(), version })
    }

    /// An upstream with the limits that hold unless something else is said.
    pub(super) fn spec(&self, name: &str) -> UpstreamSpec {
        UpstreamSpec {
            name: Arc::from(name),
            host: Arc::from(self.host.as_str()),
            port: self.port,
            authority: Arc::from(self.authority.as_str()),
            version: self.version,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(4),
            max_connections: 256,
            preserve_host: true,
        }
    }
}

impl Default for UpstreamUrl {
    fn default() -> UpstreamUrl {
        UpstreamUrl {
            host: "127.0.0.1".to_owned(),
            port: 80,
            authority: "127.0.0.1".to_owned(),
            version: UpstreamVersion::Http1,
        }
    }
}

/// Makes the upstreams of a file, each with its name's place; one that cannot be used is there without a spec, so that
/// routes to it are not called lost.
pub(super) fn upstreams(
    given: Option<&Given<Named<UpstreamFile>>>,
    findings: &mut Findings,
) -> Vec<(String, Span, Option<Arc<UpstreamSpec>>)> {
    let entries = given.map(|given| given.value.0.as_slice()).unwrap_or_default();
    entries.iter().map(|(name, given)| (name.clone(), given.span(), upstream(name, given, findings))).collect()
}

fn upstream(name: &str, given: &Given<UpstreamFile>, findings: &mut Findings) -> Option<Arc<UpstreamSpec>> {
    let file = &given.value;
    if !file.has("url") {
        findings.push(Diagnostic::error(format!("upstream `{name}` has no `url`")).at(given.span()));
    }
    let mut spec = file.url.as_ref()?.value.spec(name);
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
