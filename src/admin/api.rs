//! The records API.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::info;

use super::problem::Problem;
use super::{Admin, view};
use crate::http::keyed::record_id;
use crate::http::replay::Recording;
use crate::key::Key;
use crate::ledger::claim::Outcome;
use crate::ledger::operate::{Decided, Decision};
use crate::ledger::store::Filter;
use crate::record::State;
use crate::scope::RecordId;

const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// The longest name and reason of a change, in bytes.
const MAX_TEXT: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lookup {
    route: String,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    headers: serde_json::Map<String, Value>,
    path: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    attempt: u32,
    by: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settle {
    attempt: u32,
    by: String,
    reason: String,
    status: u16,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    body_base64: Option<String>,
}

/// Which records a list shows. An unknown outcome is one that was written as such, and one whose owner died.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    All,
    One(State),
}

impl Admin {
    /// A page of records. The cursor of a list of unknowns tells which of the two kinds it is at.
    pub(super) async fn list(&self, query: &str) -> Result<Value, Problem> {
        let mut wanted = Wanted::All;
        let mut limit = DEFAULT_PAGE;
        let mut cursor = None;
        for (name, value) in
            query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        {
            match name {
                "state" => wanted = Wanted::One(parse_state(value)?),
                "limit" => {
                    limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=MAX_PAGE).contains(limit))
                        .ok_or_else(|| Problem::BadRequest(format!("limit is a number from 1 to {MAX_PAGE}.")))?;
                }
                "cursor" => cursor = Some(percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned()),
                _ => return Err(Problem::BadRequest("The parameters are state, limit and cursor.".into())),
            }
        }
        let (dead_leases, store_cursor) = match (wanted, cursor.as_deref().and_then(|cursor| cursor.split_once('.'))) {
            _ if cursor.is_none() => (false, None),
            (Wanted::One(State::Unknown), Some(("lease", rest))) => (true, Some(rest).filter(|rest| !rest.is_empty())),
            (_, Some(("page", rest))) => (false, Some(rest)),
            _ => return Err(Problem::BadRequest("The cursor is not one of this list.".into())),
        };
        let stored = match wanted {
            Wanted::All => None,
            Wanted::One(State::Unknown) if dead_leases => Some(State::InFlight),
            Wanted::One(state) => Some(state),
        };
        let page = self.ledger.store().list(Filter { state: stored, limit }, store_cursor).await?;
        let records: Vec<Value> = page
            .entries
            .iter()
            .filter(|(_, entry)| match wanted {
                Wanted::All => true,
                Wanted::One(state) => view::state(entry) == state,
            })
            .map(|(id, entry)| view::record(id, entry))
            .collect();
        let next = match (page.next, wanted) {
            (Some(next), _) if dead_leases => Some(format!("lease.{next}")),
            (Some(next), _) => Some(format!("page.{next}")),
            (None, Wanted::One(State::Unknown)) if !dead_leases => Some("lease.".to_owned()),
            (None, _) => None,
        };
        Ok(json!({ "records": records, "next": next, "unreadable": page.unreadable }))
    }

    pub(super) async fn show(&self, id: &RecordId) -> Result<Value, Problem> {
        let entry = self.ledger.store().load(id).await?.ok_or(Problem::NotFound)?;
        Ok(view::record(id, &entry))
    }

    /// Finds the record of what a client sent.
    pub(super) async fn lookup(&self, body: &[u8]) -> Result<Value, Problem> {
        let lookup: Lookup = parse(body)?;
        let desk = self.desk.now();
        let route = desk.routes.iter().find(|route| route.name == lookup.route).ok_or_else(|| {
            let names: Vec<&str> = desk.routes.iter().map(|route| route.name.as_str()).collect();
            Problem::BadRequest(format!("There is no route {:?}; the routes are {}.", lookup.route, names.join(", ")))
        })?;
        let uri: Uri = lookup
            .path
            .parse()
            .ok()
            .filter(|uri: &Uri| uri.path().starts_with('/'))
            .ok_or_else(|| Problem::BadRequest("path is a path and its query.".into()))?;
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.headers = request_headers(&lookup)?;
        if let Some(params) = (route.params)(uri.path()) {
            parts.extensions.insert(params);
        }
        parts.uri = uri;
        let key = Key::parse_as(lookup.key.as_bytes(), route.policy.key_syntax, route.policy.key_max_length)
            .map_err(|error| Problem::BadRequest(format!("The key was not accepted: {error}.")))?;
        let id = record_id(&route.policy, &parts, &key).map_err(|refusal| {
            Problem::BadRequest(format!("The look-up needs more of the request: {}.", refusal.code()))
        })?;
        self.show(&id).await
    }

    pub(super) async fn release(&self, id: &RecordId, body: &[u8]) -> Result<Value, Problem> {
        let Release { attempt, by, reason } = parse(body)?;
        self.decide(id, attempt, Decision::Release, "release", &by, &reason).await
    }

    pub(super) async fn settle(&self, id: &RecordId, body: &[u8]) -> Result<Value, Problem> {
        let settle: Settle = parse(body)?;
        let outcome = outcome(&settle)?;
        self.decide(id, settle.attempt, Decision::Settle(outcome), "settle", &settle.by, &settle.reason).await
    }

    async fn decide(
        &self,
        id: &RecordId,
        attempt: u32,
        decision: Decision,
        action: &'static str,
        by: &str,
        reason: &str,
    ) -> Result<Value, Problem> {
        for (name, text) in [("by", by), ("reason", reason)] {
            if text.trim().is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
                return Err(Problem::BadRequest(format!("{name} is a line of 1 to {MAX_TEXT} bytes.")));
            }
        }
        match self.ledger.decide(id, attempt, decision, &format!("{action} by {by}: {reason}")).await? {
            Decided::Done(record) => {
                info!(target: "onceproxy::audit", action, record = %id.prefix(), attempt, by, reason, "an operator decided");
                let entry = crate::ledger::store::Entry {
                    version: crate::record::Version::from_bytes([0; 16]),
                    record,
                    age: std::time::Duration::ZERO,
                };
                Ok(view::record(id, &entry))
            }
            Decided::NotFound => Err(Problem::NotFound),
            Decided::Refused(entry) => Err(Problem::Conflict(view::record(id, &entry))),
        }
    }
}

fn parse_state(text: &str) -> Result<State, Problem> {
    State::ALL
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| Problem::BadRequest("state is in-flight, unknown, completed or released.".into()))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::BadRequest(format!("The body is not what this call takes: {error}.")))
}

fn request_headers(lookup: &Lookup) -> Result<HeaderMap, Problem> {
    let bad = |name: &str| Problem::BadRequest(format!("{name:?} is not a header with a text or a list of texts."));
    let mut headers = HeaderMap::new();
    if let Some(host) = &lookup.host {
        headers.insert(http::header::HOST, HeaderValue::try_from(host).map_err(|_| bad("host"))?);
    }
    for (name, value) in &lookup.headers {
        let field = HeaderName::try_from(name).map_err(|_| bad(name))?;
        let values = match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let text = value.as_str().and_then(|text| HeaderValue::try_from(text).ok()).ok_or_else(|| bad(name))?;
            headers.append(field.clone(), text);
        }
    }
    Ok(headers)
}

/// The outcome that an operator gives instead of the upstream.
fn outcome(settle: &Settle) -> Result<Outcome, Problem> {
    let status = StatusCode::from_u16(settle.status)
        .ok()
        .filter(|status| (200..=599).contains(&status.as_u16()))
        .ok_or_else(|| Problem::BadRequest("status is a final status, from 200 to 599.".into()))?;
    let body = match (&settle.body, &settle.body_base64) {
        (Some(_), Some(_)) => return Err(Problem::BadRequest("Send body or body_base64, not both.".into())),
        (Some(text), None) => Bytes::from(text.clone()),
        (None, Some(text)) => BASE64_STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(|_| Problem::BadRequest("body_base64 is not base64.".into()))?,
        (None, None) => Bytes::new(),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &settle.headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            return Err(Problem::BadRequest(format!("{name:?} is not a header.")));
        };
        headers.append(name, value);
    }
    Ok(Recording::settled(status, headers, body))
}
