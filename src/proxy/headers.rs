//! What a gateway does to fields: hop-by-hop ones go, the way a message took is written down.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::uri::Authority;

use crate::http::attempt::ClientCert;
use crate::http::refusal::Refusal;
use crate::http::upgrade;
use crate::proxy::listener::address::{PeerAddress, TrustedPeer};

/// How long a connection may lie idle.
pub const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Who sent a request, as far as the connection tells.
#[derive(Clone)]
pub struct Peer {
    /// The other end of the connection.
    pub address: PeerAddress,
    /// Whether it may say for whom it speaks.
    pub trusted: bool,
    /// How it speaks.
    pub scheme: Scheme,
    /// Whose certificate it has shown; it has been verified.
    pub client_cert: Option<ClientCert>,
    /// A peer that came through a socket in the file system has no address.
    forwarded_for: Option<HeaderValue>,
}

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In clear text.
    Http,
    /// Through TLS.
    Https,
}

/// Our name in `Via`, chosen when the process starts, so that two proxies in a row can be told apart.
#[derive(Clone)]
pub struct Via {
    pseudonym: String,
    http1: HeaderValue,
    http2: HeaderValue,
}

/// The host that a request is for, as `Host` and `:authority` say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveHost {
    /// As received, with the port if there is one.
    pub value: HeaderValue,
    /// In lower case, without the port and a trailing dot.
    pub name: String,
    /// The element of `Forwarded` that tells of this host and of the connection's peer.
    forwarded: HeaderValue,
}

impl Peer {
    /// A peer, which is trusted when one of these is it.
    pub fn new(address: PeerAddress, trusted: &[TrustedPeer], scheme: Scheme) -> Peer {
        let forwarded_for = match address {
            PeerAddress::Socket(address) => {
                let ip = address.ip().to_canonical().to_string();
                Some(HeaderValue::try_from(ip).expect("an address is made of field characters"))
            }
            PeerAddress::Unix => None,
        };
        Peer { address, trusted: false, scheme, client_cert: None, forwarded_for }.judged_by(trusted)
    }

    /// The same peer, which is trusted when one of these is it.
    #[must_use]
    pub fn judged_by(self, trusted: &[TrustedPeer]) -> Peer {
        Peer { trusted: trusted.iter().any(|peer| peer.is(self.address)), ..self }
    }

    /// Says whose certificate it has shown.
    #[must_use]
    pub fn with_client_cert(mut self, client_cert: Option<ClientCert>) -> Peer {
        self.client_cert = client_cert;
        self
    }
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

impl Via {
    /// Our name with random digits behind it.
    pub fn random() -> Via {
        let digits = crate::record::Version::random();
        Via::named(&format!("onceproxy-{digits:?}"))
    }

    fn named(pseudonym: &str) -> Via {
        let value = |version: &str| {
            HeaderValue::try_from(format!("{version} {pseudonym}")).expect("the name is made of field characters")
        };
        Via { pseudonym: pseudonym.to_owned(), http1: value("1.1"), http2: value("2") }
    }

    /// Says whether a request came through here before (RFC 9110 section 7.6.3).
    fn has_seen(&self, headers: &HeaderMap) -> bool {
        headers.get_all(VIA).iter().any(|line| {
            line.as_bytes()
                .split(|&byte| byte == b',')
                .any(|hop| hop.trim_ascii().split(u8::is_ascii_whitespace).nth(1) == Some(self.pseudonym.as_bytes()))
        })
    }
}

/// The field names that `Connection` nominates (RFC 9110 section 7.6.1).
fn nominated(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
}

/// Refuses a `Connection` that would switch off what this proxy or a route relies on (H3).
pub fn check_nominated(headers: &HeaderMap, guarded: &[HeaderName]) -> Result<(), Refusal> {
    if !headers.contains_key(CONNECTION) {
        return Ok(());
    }
    let is_guarded = |name: &[u8]| {
        [&HOST, &CONTENT_LENGTH]
            .into_iter()
            .chain(guarded)
            .any(|field| field.as_str().as_bytes().eq_ignore_ascii_case(name))
    };
    match nominated(headers).any(is_guarded) {
        true => Err(Refusal::BadRequest("Connection names a field that cannot be taken out on the way.".into())),
        false => Ok(()),
    }
}

/// Takes out what belongs to one connection only: what `Connection` nominates, and the fields that do without it (H1,
/// H2, H36).
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have none of them: one pass over the names is cheaper than to ask for each.
    if !headers.keys().any(|name| is_hop_by_hop(name.as_str())) {
        return;
    }
    let names: Vec<HeaderName> = nominated(headers).filter_map(|name| HeaderName::from_bytes(name).ok()).collect();
    for name in names {
        headers.remove(name);
    }
    for name in [&CONNECTION, &KEEP_ALIVE, &PROXY_CONNECTION, &TE, &TRANSFER_ENCODING, &UPGRADE, &HTTP2_SETTINGS] {
        headers.remove(name);
    }
}

/// Whether a client takes trailers (RFC 9110 section 10.1.4).
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(|line| {
        line.as_bytes().split(|&byte| byte == b',').any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade" | "http2-settings"
    )
}

/// Whether fields of a request are about its way, not its end. Most requests have none: one pass over the names is
/// cheaper than to ask for each.
pub fn steers(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        is_hop_by_hop(name) || matches!(name, "expect" | "via")
    })
}

/// Makes a client's fields into those for the upstream. A wish for another protocol is sent anew (H26).
pub fn prepare_request(
    headers: &mut HeaderMap,
    version: http::Version,
    peer: &Peer,
    host: Option<&EffectiveHost>,
    via: &Via,
) -> Result<(), Refusal> {
    if steers(headers) {
        if via.has_seen(headers) {
            return Err(Refusal::Loop);
        }
        let protocols = upgrade::asked(version, headers);
        remove_hop_by_hop(headers);
        if let Some(protocols) = protocols {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, protocols);
        }
        // The client's wait for a 100 ends here; the upstream's is not ours to begin.
        headers.remove(EXPECT);
    }
    join_cookies(headers);
    headers.append(VIA, if version == http::Version::HTTP_2 { via.http2.clone() } else { via.http1.clone() });
    write_forwarded(headers, peer, host);
    Ok(())
}

/// One `Cookie` line (RFC 9113 section 8.2.3; H29).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if lines.next().is_none() || lines.next().is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// `X-Forwarded-*` and `Forwarded` (RFC 7239; H5): what a trusted peer says is kept and gets its own address behind
/// it, what others say is replaced.
fn write_forwarded(headers: &mut HeaderMap, peer: &Peer, host: Option<&EffectiveHost>) {
    let element = match host {
        Some(host) => host.forwarded.clone(),
        None => forwarded_element(peer, None),
    };
    let proto = HeaderValue::from_static(peer.scheme.as_str());
    if peer.trusted {
        if let Some(address) = &peer.forwarded_for {
            append_to_list(headers, X_FORWARDED_FOR, address);
        }
        append_to_list(headers, FORWARDED, &element);
        if !headers.contains_key(X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, proto);
        }
        if let (false, Some(host)) = (headers.contains_key(X_FORWARDED_HOST), host) {
            headers.insert(X_FORWARDED_HOST, host.value.clone());
        }
        return;
    }
    match &peer.forwarded_for {
        Some(address) => drop(headers.insert(X_FORWARDED_FOR, address.clone())),
        None => drop(headers.remove(X_FORWARDED_FOR)),
    }
    headers.insert(X_FORWARDED_PROTO, proto);
    headers.insert(FORWARDED, element);
    match host {
        Some(host) => drop(headers.insert(X_FORWARDED_HOST, host.value.clone())),
        None => drop(headers.remove(X_FORWARDED_HOST)),
    }
}

fn forwarded_element(peer: &Peer, host: Option<&str>) -> HeaderValue {
    let mut text = match peer.address {
        PeerAddress::Socket(address) => match address.ip().to_canonical() {
            IpAddr::V4(ip) => format!("for={ip}"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\""),
        },
        PeerAddress::Unix => "for=unknown".to_owned(),
    };
    if let Some(host) = host {
        text.push_str(";host=\"");
        text.push_str(host);
        text.push('"');
    }
    text.push_str(";proto=");
    text.push_str(peer.scheme.as_str());
    HeaderValue::try_from(text).expect("addresses and a checked host are made of field characters")
}

/// Puts an element behind a list, in one line.
fn append_to_list(headers: &mut HeaderMap, name: HeaderName, element: &HeaderValue) {
    let mut lines: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
    lines.push(element.as_bytes());
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b", "[..])) {
        headers.insert(name, joined);
    }
}

/// Refuses a transfer coding other than chunked, once (RFC 9112 section 6.1; H16).
pub fn check_coding(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal::NotImplemented("The only transfer coding here is chunked, once.".into())),
    }
}

/// Finds the host of a request, and refuses what RFC 9112 section 3.2 and RFC 9113 section 8.3.1 refuse (H9 to H11).
pub fn effective_host(parts: &http::request::Parts, peer: &Peer) -> Result<Option<EffectiveHost>, Refusal> {
    let bad = |text: &'static str| Refusal::BadRequest(text.into());
    let mut lines = parts.headers.get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(bad("The request has more than one Host."));
    }
    let host = line.map(|line| checked_host(line, peer)).transpose()?;
    let Some(authority) = parts.uri.authority() else {
        return match (host, parts.version) {
            (Some(host), _) => Ok(Some(host)),
            (None, http::Version::HTTP_09 | http::Version::HTTP_10) => Ok(None),
            (None, _) => Err(bad("The request has no Host.")),
        };
    };
    let value = HeaderValue::try_from(authority.as_str()).map_err(|_| bad("The target's host is not one."))?;
    let target = checked_host(&value, peer)?;
    match (parts.version, host) {
        (http::Version::HTTP_2, Some(host)) if !host.value.as_bytes().eq_ignore_ascii_case(target.value.as_bytes()) => {
            Err(bad("Host and :authority differ."))
        }
        // Also where the target tells the host (RFC 9112 section 3.2).
        (http::Version::HTTP_11, None) => Err(bad("The request has no Host.")),
        // The absolute form's host wins (RFC 9112 section 3.2.2).
        _ => Ok(Some(target)),
    }
}

fn checked_host(value: &HeaderValue, peer: &Peer) -> Result<EffectiveHost, Refusal> {
    let bad = || Refusal::BadRequest("The request's Host is not a host.".into());
    let authority = Authority::try_from(value.as_bytes()).map_err(|_| bad())?;
    let name = authority.host();
    let port = &authority.as_str()[name.len()..];
    let port_is_good = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => digits.is_empty() || digits.parse::<u16>().is_ok(),
    };
    // A quote or backslash would end the string in `Forwarded`.
    let characters_are_good = !value.as_bytes().iter().any(|byte| matches!(byte, b'@' | b'"' | b'\\' | b','));
    if name.is_empty() || !port_is_good || !characters_are_good {
        return Err(bad());
    }
    let forwarded = forwarded_element(peer, Some(authority.as_str()));
    // The root's dot names the same host.
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    Ok(EffectiveHost { value: value.clone(), name, forwarded })
}

#[cfg(test)]
mod tests;
