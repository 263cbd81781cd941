//! Texts with a meaning of their own: where a key or a scope's part comes from, pointers, headers, methods, addresses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use http::{HeaderName, Method};
use ipnet::IpNet;

use super::diagnostic::{Diagnostic, closest};
use super::values::text_setting;
use crate::fingerprint::json::Pointer;
use crate::http::policy::{KeySource, ScopeSource};
use crate::proxy::listener::address::{Address, TrustedPeer, UNIX};

/// A word of `methods`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MethodWord {
    /// Every method that is not safe.
    Any,
    /// This one.
    One(Method),
}

/// Where problem types point to: an absolute URL that ends with a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocsUrl(pub String);

/// The names that a scope can be made of, for messages.
const SCOPES: [&str; 8] =
    ["host", "credentials", "header:NAME", "cookie:NAME", "path:PARAMETER", "query:NAME", "client-cert", "anonymous"];

const SCOPE_KINDS: [&str; 8] = ["host", "credentials", "header", "cookie", "path", "query", "client-cert", "anonymous"];

/// The longest path of a socket that every system takes, in bytes.
const MAX_SOCKET_PATH: usize = 103;

const KEY_KINDS: [&str; 3] = ["header", "query", "json"];

text_setting!(String, { "type": "string", "minLength": 1 }, |name, text| match text.trim() {
    "" => Err(Diagnostic::error(format!("`{name}` is empty"))),
    _ => Ok(text.to_owned()),
});

text_setting!(SocketAddr, { "type": "string" }, socket_address);

text_setting!(Address, { "type": "string" }, listen_address);

text_setting!(TrustedPeer, { "type": "string" }, |name, text| {
    if text == TrustedPeer::Unix.to_string() {
        return Ok(TrustedPeer::Unix);
    }
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.map(TrustedPeer::Network).ok_or_else(|| {
        Diagnostic::error(format!("`{name}` has {text:?}, which is neither an address nor a network"))
            .help(r#"networks look like "10.0.0.0/8" or "fd00::/8"; "unix" is whoever comes through a socket's path"#)
    })
});

text_setting!(DocsUrl, { "type": "string", "format": "uri" }, |name, text| {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let good = !host.is_empty() && !host.starts_with('/') && text.parse::<http::Uri>().is_ok();
    match good && !text.contains(['?', '#', '<', '>', '"']) {
        true => Ok(DocsUrl(format!("{}/", text.trim_end_matches('/')))),
        false => Err(Diagnostic::error(format!("`{name}` is {text:?}, which is not an http or https URL"))
            .help("a problem's code is put behind it, so it has no query and no fragment")),
    }
});

text_setting!(HeaderName, { "type": "string" }, header);

text_setting!(Pointer, { "type": "string", "pattern": "^/" }, pointer);

text_setting!(MethodWord, { "type": "string", "minLength": 1 }, method);

text_setting!(ScopeSource, { "type": "string", "pattern":
    "^(host|credentials|client-cert|anonymous|(header|cookie|path|query):.+)$" }, scope);

text_setting!(KeySource, { "type": "string", "pattern": "^((header|query):.+|json:/.*)$" }, |name, text| {
    key_source(name, text)
});

/// Parses an address with a port.
pub(super) fn socket_address(name: &str, text: &str) -> Result<SocketAddr, Diagnostic> {
    text.parse().map_err(|_| {
        let wrong = Diagnostic::error(format!("`{name}` is {text:?}, which is not an address and a port"));
        match text.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()) {
            Some(port) => wrong.help(format!(r#"for every interface: "0.0.0.0:{port}""#)),
            None => wrong.help(r#"addresses look like "127.0.0.1:8080" or "[::1]:8080""#),
        }
    })
}

/// Parses where to listen: an address with a port, or the path of a socket.
pub(super) fn listen_address(name: &str, text: &str) -> Result<Address, Diagnostic> {
    let Some(path) = text.strip_prefix(UNIX) else { return socket_address(name, text).map(Address::Socket) };
    let wrong = |what: &str| Err(Diagnostic::error(format!("`{name}` is {text:?}, {what}")));
    match () {
        () if !path.starts_with('/') || path.ends_with('/') => {
            wrong("but a socket has a whole path, such as unix:/run/onceproxy/once.sock")
        }
        () if path.len() > MAX_SOCKET_PATH => {
            wrong(&format!("but the path of a socket has at most {MAX_SOCKET_PATH} bytes"))
        }
        () => Ok(Address::Unix(PathBuf::from(path))),
    }
}

fn header(name: &str, text: &str) -> Result<HeaderName, Diagnostic> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| Diagnostic::error(format!("`{name}` has {text:?}, which is not a header's name")))
}

fn pointer(name: &str, text: &str) -> Result<Pointer, Diagnostic> {
    Pointer::parse(text).ok_or_else(|| {
        let wrong = Diagnostic::error(format!("`{name}` has {text:?}, which is not a JSON pointer"));
        match text.starts_with('/') {
            true => wrong.help("`~` is written `~0`, and `/` inside a name `~1`"),
            false => wrong.help(format!("a pointer begins with `/`: \"/{text}\"")),
        }
    })
}

fn method(name: &str, text: &str) -> Result<MethodWord, Diagnostic> {
    if text == "*" {
        return Ok(MethodWord::Any);
    }
    let wrong = |what: &str| Diagnostic::error(format!("`{name}` has {text:?}, {what}"));
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| wrong("which is not a method"))?;
    let upper = text.to_ascii_uppercase();
    const STANDARD: [&str; 5] = ["POST", "PUT", "PATCH", "DELETE", "CONNECT"];
    match () {
        () if method.is_safe() => {
            Err(wrong("but safe methods are never protected").help("GET, HEAD, OPTIONS and TRACE always pass"))
        }
        () if method == Method::CONNECT => Err(wrong("but CONNECT is never forwarded")),
        () if text != upper && (STANDARD.contains(&upper.as_str()) || ["GET", "HEAD"].contains(&upper.as_str())) => {
            Err(wrong("but methods are case-sensitive").help(format!("did you mean {upper:?}?")))
        }
        () => Ok(MethodWord::One(method)),
    }
}

fn scope(name: &str, text: &str) -> Result<ScopeSource, Diagnostic> {
    let (kind, argument) = text.split_once(':').map_or((text, None), |(kind, argument)| (kind, Some(argument)));
    match (kind, argument) {
        ("host", None) => Ok(ScopeSource::Host),
        ("credentials", None) => Ok(ScopeSource::Credentials),
        ("client-cert", None) => Ok(ScopeSource::ClientCert),
        ("anonymous", None) => Ok(ScopeSource::Anonymous),
        ("header", Some(header_name)) => Ok(ScopeSource::Header(header(name, header_name)?)),
        ("cookie", Some(cookie)) if is_token(cookie) => Ok(ScopeSource::Cookie(cookie.to_owned())),
        ("path", Some(parameter)) if !parameter.is_empty() => Ok(ScopeSource::Path(parameter.to_owned())),
        ("query", Some(parameter)) if !parameter.is_empty() => Ok(ScopeSource::Query(parameter.to_owned())),
        ("jwt", Some(_)) => Err(Diagnostic::error(format!(
            "the scope source {text:?} is not built yet: this release has {}",
            SCOPES.join(", ")
        ))),
        _ => Err(unknown_source(name, text, &SCOPE_KINDS, &SCOPES.join(", "))),
    }
}

fn key_source(name: &str, text: &str) -> Result<KeySource, Diagnostic> {
    match text.split_once(':') {
        Some(("header", header_name)) => Ok(KeySource::Header(header(name, header_name)?)),
        Some(("query", parameter)) if !parameter.is_empty() => Ok(KeySource::Query(parameter.to_owned())),
        Some(("json", place)) => {
            let place = pointer(name, place)?;
            Ok(KeySource::Json(place))
        }
        _ => Err(unknown_source(name, text, &KEY_KINDS, "header:NAME, query:NAME, json:/POINTER")),
    }
}

fn unknown_source(name: &str, text: &str, kinds: &[&str], forms: &str) -> Diagnostic {
    let wrong = Diagnostic::error(format!("`{name}` has {text:?}, which is no source: it is one of {forms}"));
    let (kind, argument) = text.split_once(':').map_or((text, ""), |(kind, argument)| (kind, argument));
    match closest(kind, kinds) {
        Some(meant) if meant != kind && argument.is_empty() => wrong.help(format!("did you mean {meant:?}?")),
        Some(meant) if meant != kind => wrong.help(format!("did you mean \"{meant}:{argument}\"?")),
        _ => wrong,
    }
}

/// Says whether a text is a host as it stands in a URL: a name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !text.is_empty() && !text.starts_with('.') && text.bytes().all(good)
}

/// RFC 9110 section 5.6.2; what a cookie's name is made of.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
