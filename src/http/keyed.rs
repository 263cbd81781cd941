//! From a request and a policy to key, scope and fingerprint, or to a refusal.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode;

use super::attempt::{ClientCert, PathParams};
use super::policy::{BodyForm, FingerprintPart, FingerprintRule, KeySource, Policy, ScopeSource};
use super::refusal::Refusal;
use super::upgrade;
use crate::fingerprint::json::{self, NotJson, Pointer, Scalar};
use crate::fingerprint::{Fingerprint, FingerprintBuilder};
use crate::key::{Key, KeyError};
use crate::scope::Scope;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Where the key of a request is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyPlace {
    /// Here it is.
    Found(Key),
    /// The head has none; the body may.
    Body,
    /// There is none.
    Nowhere,
}

/// Whether a request's body has to be in memory as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WholeBody {
    /// It is read as JSON.
    Needed,
    /// Byte after byte will do.
    NotNeeded,
}

/// Looks for the key in the head; the first source that is present counts.
pub(super) fn key_in_head(policy: &Policy, parts: &Parts) -> Result<KeyPlace, Refusal> {
    for source in &policy.key_from {
        let key = match source {
            KeySource::Header(name) => key_in_header(policy, &parts.headers, name)?,
            KeySource::Query(name) => key_in_query(policy, parts.uri.query().unwrap_or_default(), name)?,
            // Whatever comes after it in the list waits for the body too.
            KeySource::Json(_) => return Ok(KeyPlace::Body),
        };
        if let Some(key) = key {
            stays_http(parts)?;
            return Ok(KeyPlace::Found(key));
        }
    }
    Ok(KeyPlace::Nowhere)
}

/// Looks for the key in the places that [`key_in_head`] left open, with the body at hand.
pub(super) fn key_with_body(policy: &Policy, parts: &Parts, body: &[u8]) -> Result<Option<Key>, Refusal> {
    let from_body = policy.key_from.iter().skip_while(|source| !matches!(source, KeySource::Json(_)));
    for source in from_body {
        let key = match source {
            KeySource::Header(name) => key_in_header(policy, &parts.headers, name)?,
            KeySource::Query(name) => key_in_query(policy, parts.uri.query().unwrap_or_default(), name)?,
            KeySource::Json(pointer) => key_in_json(policy, &parts.headers, body, pointer)?,
        };
        if key.is_some() {
            stays_http(parts)?;
            return Ok(key);
        }
    }
    Ok(None)
}

/// Refuses a key on a request that asks for another protocol: what is spoken then cannot be recorded (H26).
fn stays_http(parts: &Parts) -> Result<(), Refusal> {
    match upgrade::asked(parts.version, &parts.headers) {
        Some(_) => Err(Refusal::BadRequest("A request with a key cannot switch to another protocol.".into())),
        None => Ok(()),
    }
}

fn key_in_header(policy: &Policy, headers: &HeaderMap, name: &HeaderName) -> Result<Option<Key>, Refusal> {
    let mut lines = headers.get_all(name).iter();
    let Some(value) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Refusal::KeyRepeated);
    }
    Key::parse_as(value.as_bytes(), policy.key_syntax, policy.key_max_length).map(Some).map_err(Refusal::KeyInvalid)
}

fn key_in_query(policy: &Policy, query: &str, name: &str) -> Result<Option<Key>, Refusal> {
    let mut values = query_values(query, name);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::KeyRepeated);
    }
    // What is no text is no ASCII either; the replacement character makes the key a bad one.
    literal(policy, &String::from_utf8_lossy(&value)).map(Some)
}

fn key_in_json(policy: &Policy, headers: &HeaderMap, body: &[u8], pointer: &Pointer) -> Result<Option<Key>, Refusal> {
    let found = match pointer.scalar(body) {
        Ok(found) => found,
        // Whether it has a key, and which, the service may see otherwise: never past the protection.
        Err(NotJson) if may_be_taken_for_json(headers, body) => return Err(Refusal::KeyInvalid(KeyError::NotJson)),
        Err(NotJson) => None,
    };
    match found {
        Some(Scalar::String(text)) => literal(policy, &text).map(Some),
        // An integer as written; `1.0` and `1e3` have too many spellings to be a name.
        Some(Scalar::Number(text)) if text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) => {
            literal(policy, &text).map(Some)
        }
        Some(Scalar::Number(_) | Scalar::Other) => Err(Refusal::KeyInvalid(KeyError::BadCharacter)),
        None => Ok(None),
    }
}

/// Whether a service may read what is not quite JSON as JSON: it begins so, or is said to be JSON (`application/json`,
/// `application/merge-patch+json`, and the like), or is compressed and nothing says what it is.
fn may_be_taken_for_json(headers: &HeaderMap, body: &[u8]) -> bool {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let mut kinds = headers.get_all(CONTENT_TYPE).iter().peekable();
    let is_hidden = kinds.peek().is_none() && headers.contains_key(CONTENT_ENCODING);
    let says_json = kinds.any(|kind| kind.as_bytes().to_ascii_lowercase().windows(4).any(|word| word == b"json"));
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body).trim_ascii_start();
    !body.is_empty() && (is_hidden || says_json || matches!(text.first(), Some(b'{' | b'[')))
}

fn literal(policy: &Policy, text: &str) -> Result<Key, Refusal> {
    Key::literal(text, policy.key_syntax, policy.key_max_length).map_err(Refusal::KeyInvalid)
}

/// The decoded values of a query parameter, in order.
fn query_values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = Vec<u8>> + 'a {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(move |(found, _)| decode(found) == name.as_bytes())
        .map(|(_, value)| decode(value))
}

/// Undoes the form encoding: `+` is a space, `%41` is `A`.
fn decode(text: &str) -> Vec<u8> {
    let text: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    percent_decode(text.as_bytes()).collect()
}

/// The record of a key that came with such a request.
#[cfg(feature = "proxy")]
pub(crate) fn record_id(policy: &Policy, parts: &Parts, key: &Key) -> Result<crate::scope::RecordId, Refusal> {
    let scope = scope(policy, parts)?;
    let scope = if policy.mode == super::policy::Mode::Observe { observed(scope) } else { scope };
    Ok(crate::scope::RecordId::new(&scope, key))
}

/// The scope that observed requests are written under: no enforced one ever meets them.
pub(super) fn observed(scope: Scope) -> Scope {
    scope.with("mode", b"observe")
}

/// Makes the scope of a request. Where a named source comes several times, all of it counts: which of them the service
/// takes is not known here.
pub(super) fn scope(policy: &Policy, parts: &Parts) -> Result<Scope, Refusal> {
    let mut scope = Scope::new(&policy.namespace);
    for source in &policy.scope {
        scope = match source {
            ScopeSource::Host => match effective_host(parts) {
                Some(host) => scope.with("host", normal_host(host).as_bytes()),
                None => scope.without("host"),
            },
            ScopeSource::Credentials => [AUTHORIZATION, X_API_KEY, COOKIE].into_iter().fold(scope, |scope, name| {
                match (parts.headers.contains_key(&name), name == COOKIE) {
                    (false, _) => scope.without(name.as_str()),
                    (true, false) => with_all(scope, name.as_str(), header_lines(parts, &name)),
                    // HTTP/2 may cut it into crumbs (RFC 9113 section 8.2.3): the same cookies, the same caller.
                    (true, true) => {
                        let crumbs: Vec<&[u8]> = header_lines(parts, &name).collect();
                        scope.with(name.as_str(), &crumbs.join(b"; ".as_slice()))
                    }
                }
            }),
            ScopeSource::Header(name) => {
                named(scope, source, header_lines(parts, name).peekable(), || format!("{name} header"))?
            }
            ScopeSource::Cookie(name) => {
                named(scope, source, cookies(parts, name).peekable(), || format!("{name} cookie"))?
            }
            ScopeSource::Query(name) => {
                let values = query_values(parts.uri.query().unwrap_or_default(), name);
                named(scope, source, values.peekable(), || format!("query parameter {name}"))?
            }
            ScopeSource::Path(name) => {
                let params = parts.extensions.get::<PathParams>().map(|params| params.0.as_slice()).unwrap_or_default();
                let values = params.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_bytes());
                named(scope, source, values.peekable(), || format!("path parameter {name}"))?
            }
            ScopeSource::ClientCert => {
                let holder = parts.extensions.get::<ClientCert>().map(|holder| &holder.0);
                named(scope, source, holder.into_iter().peekable(), || "client certificate".to_owned())?
            }
            ScopeSource::Custom { name, find } => {
                named(scope, source, find(parts).into_iter().peekable(), || name.to_string())?
            }
            ScopeSource::Anonymous => scope,
        };
    }
    Ok(scope)
}

fn named<V: AsRef<[u8]>>(
    scope: Scope,
    source: &ScopeSource,
    mut values: std::iter::Peekable<impl Iterator<Item = V>>,
    name: impl FnOnce() -> String,
) -> Result<Scope, Refusal> {
    if values.peek().is_none() {
        return Err(Refusal::ScopeMissing(name()));
    }
    Ok(with_all(scope, &source.to_string(), values))
}

fn with_all<V: AsRef<[u8]>>(scope: Scope, name: &str, values: impl Iterator<Item = V>) -> Scope {
    values.fold(scope, |scope, value| scope.with(name, value.as_ref()))
}

fn header_lines<'a>(parts: &'a Parts, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
    parts.headers.get_all(name).iter().map(|value| value.as_bytes())
}

fn cookies<'a>(parts: &'a Parts, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    header_lines(parts, &COOKIE)
        .flat_map(|line| line.split(|&byte| byte == b';'))
        .map(|pair| pair.trim_ascii())
        .filter_map(move |pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// The host that the request is for: of the target where it has one (RFC 9112 section 3.2.2), else the Host field.
fn effective_host(parts: &Parts) -> Option<&str> {
    parts
        .uri
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| parts.headers.get(HOST).and_then(|host| host.to_str().ok()))
}

/// One spelling for each host: lower case, without the root's dot and the default port (RFC 9110 section 4.2.3); which
/// of the two it is, only who ends TLS knows.
fn normal_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, port),
        _ => (&*host, ""),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    match port {
        "" | "80" | "443" => name.to_owned(),
        port => format!("{name}:{port}"),
    }
}

/// Collects a request's fingerprint while its body comes in.
pub(super) struct Printer<'a> {
    rule: &'a FingerprintRule,
    builder: FingerprintBuilder,
    body: BodyCounts,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyCounts {
    /// Chunk by chunk as it comes.
    AsItComes,
    /// When all of it is there.
    Whole,
    No,
}

impl<'a> Printer<'a> {
    pub(super) fn new(rule: &'a FingerprintRule, parts: &Parts) -> Printer<'a> {
        let mut builder = FingerprintBuilder::new();
        for part in &rule.parts {
            match part {
                FingerprintPart::Method => builder.part("method", parts.method.as_str().as_bytes()),
                FingerprintPart::Path => builder.part("path", parts.uri.path().as_bytes()),
                FingerprintPart::Query => {
                    if let Some(query) = parts.uri.query() {
                        builder.part("query", query.as_bytes());
                    }
                }
                FingerprintPart::ContentType => {
                    header_lines(parts, &CONTENT_TYPE).for_each(|line| builder.part("content-type", line));
                }
                FingerprintPart::Body => {}
            }
        }
        let body = match (rule.parts.contains(&FingerprintPart::Body), &rule.body) {
            (false, _) => BodyCounts::No,
            (true, BodyForm::Bytes) => BodyCounts::AsItComes,
            (true, BodyForm::Json { .. }) => BodyCounts::Whole,
        };
        Printer { rule, builder, body }
    }

    /// Whether the body has to be in memory, when the key is in this place.
    pub(super) fn whole_body(&self, place: &KeyPlace) -> WholeBody {
        match (place, self.body) {
            (KeyPlace::Body, _) | (_, BodyCounts::Whole) => WholeBody::Needed,
            (KeyPlace::Found(_) | KeyPlace::Nowhere, BodyCounts::AsItComes | BodyCounts::No) => WholeBody::NotNeeded,
        }
    }

    /// Takes the next chunk of the body.
    pub(super) fn chunk(&mut self, chunk: &[u8]) {
        if self.body == BodyCounts::AsItComes {
            self.builder.body(chunk);
        }
    }

    /// Closes the fingerprint; with all chunks of the body, where that has to be in memory.
    pub(super) fn finish(mut self, chunks: &[Bytes]) -> Fingerprint {
        if let (BodyCounts::Whole, BodyForm::Json { omit }) = (self.body, &self.rule.body) {
            let body = joined(chunks);
            match json::canonical(&body, omit) {
                Some(canonical) => {
                    self.builder.part("form", b"json");
                    self.builder.body(&canonical);
                }
                None => self.builder.body(&body),
            }
        }
        self.builder.finish()
    }
}

/// The chunks in one piece, copied only when there are several.
pub(super) fn joined(chunks: &[Bytes]) -> Bytes {
    match chunks {
        [] => Bytes::new(),
        [one] => one.clone(),
        several => Bytes::from(several.concat()),
    }
}
