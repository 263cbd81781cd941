//! Refusals: the only maker of error responses.
//!
//! Each is an `application/problem+json` document (RFC 9457).

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, LINK, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value};

use super::attempt::{IDEMPOTENCY_OUTCOME, NOT_EXECUTED};
use crate::key::KeyError;

/// How long a client is told to stay away when the store is, or when there is too much to do.
pub const BACK_OFF: Duration = Duration::from_secs(1);

/// Why a request gets no answer from the service behind.
///
/// ```
/// use onceproxy::http::refusal::Refusal;
///
/// let response = Refusal::KeyMissing.into_response(None);
/// assert_eq!(response.status(), 400);
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// assert_eq!(response.headers()["idempotency-outcome"], "not-executed");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The route wants a key.
    KeyMissing,
    /// The key is not one.
    KeyInvalid(KeyError),
    /// The key's header stands there more than once.
    KeyRepeated,
    /// The request lacks what the scope is made of; the text names the source.
    ScopeMissing(String),
    /// The key was used for another request.
    KeyReused,
    /// The first is still running; the whole seconds that are left.
    InFlight(Duration),
    /// Nobody knows whether it was executed.
    OutcomeUnknown,
    /// This attempt did not execute, but an earlier one may have.
    StillUnknown,
    /// It was executed, the answer was too large to keep.
    ResponseNotStored {
        /// The answer's status.
        status: u16,
        /// The answer's Location.
        location: Option<String>,
    },
    /// The upstream was not reached.
    UpstreamNotReached,
    /// The claim was lost before anything was sent.
    ClaimLost,
    /// The connection broke after something was sent.
    UpstreamLost,
    /// No answer in time after something was sent.
    UpstreamTimeout,
    /// The store is away or refuses.
    StoreUnavailable,
    /// The record in the store cannot be read.
    RecordUnreadable,
    /// The body is over the limit, in bytes.
    BodyTooLarge(u64),
    /// Head or body came too slowly.
    RequestTimeout,
    /// Too much buffered or in flight.
    Overloaded,
    /// Too much buffered for a recorded answer to be given now.
    ReplayDelayed,
    /// No route matches.
    NoRoute,
    /// Not acceptable as HTTP; the text says why.
    BadRequest(Cow<'static, str>),
    /// The head is larger than is read.
    HeadTooLarge,
    /// This method is not for this proxy; the ones that are.
    MethodNotAllowed(&'static str),
    /// An extension of HTTP that is not implemented here; the text says which.
    NotImplemented(Cow<'static, str>),
    /// The request came through this proxy before.
    Loop,
}

/// A refusal's mark in the extensions of its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The code in the problem document.
    pub code: &'static str,
}

/// Whether anything was executed, or may be running, when a refusal is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Nothing ran, and nothing is running under the key.
    None,
    /// Something ran, runs, or may have.
    Perhaps,
}

impl Refusal {
    /// The code in the problem document.
    pub fn code(&self) -> &'static str {
        self.facts().1
    }

    /// The response's status.
    pub fn status(&self) -> StatusCode {
        self.facts().0
    }

    /// Status, code, title, effect: one line for each kind.
    fn facts(&self) -> (StatusCode, &'static str, &'static str, Effect) {
        use Effect::{None, Perhaps};
        match self {
            Refusal::KeyMissing => (StatusCode::BAD_REQUEST, "key-missing", "Idempotency-Key is missing", None),
            Refusal::KeyInvalid(_) | Refusal::KeyRepeated => {
                (StatusCode::BAD_REQUEST, "key-invalid", "Idempotency-Key is invalid", None)
            }
            Refusal::ScopeMissing(_) => {
                (StatusCode::BAD_REQUEST, "scope-missing", "The request does not say whose key it is", None)
            }
            Refusal::KeyReused => {
                (StatusCode::UNPROCESSABLE_ENTITY, "key-reused", "Idempotency-Key is already used", Perhaps)
            }
            Refusal::InFlight(_) => {
                (StatusCode::CONFLICT, "in-flight", "A request with this key is being processed", Perhaps)
            }
            Refusal::OutcomeUnknown | Refusal::StillUnknown => {
                (StatusCode::CONFLICT, "outcome-unknown", "The outcome of this key is unknown", Perhaps)
            }
            Refusal::ResponseNotStored { .. } => {
                (StatusCode::CONFLICT, "response-not-stored", "Done, but the answer was not kept", Perhaps)
            }
            Refusal::UpstreamNotReached => {
                (StatusCode::BAD_GATEWAY, NOT_EXECUTED, "The upstream was not reached", None)
            }
            Refusal::ClaimLost => {
                (StatusCode::SERVICE_UNAVAILABLE, NOT_EXECUTED, "The request was not sent in time", None)
            }
            Refusal::UpstreamLost => {
                (StatusCode::BAD_GATEWAY, "upstream-lost", "The upstream's answer was lost", Perhaps)
            }
            Refusal::UpstreamTimeout => {
                (StatusCode::GATEWAY_TIMEOUT, "upstream-timeout", "The upstream did not answer in time", Perhaps)
            }
            Refusal::StoreUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", "The idempotency store is unavailable", None)
            }
            Refusal::RecordUnreadable => {
                (StatusCode::SERVICE_UNAVAILABLE, "record-unreadable", "The record of this key is unreadable", Perhaps)
            }
            Refusal::BodyTooLarge(_) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The request body is too large", None)
            }
            Refusal::RequestTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "request-timeout", "The request came too slowly", None)
            }
            Refusal::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Too much to do", None),
            Refusal::ReplayDelayed => (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Too much to do", Perhaps),
            Refusal::NoRoute => (StatusCode::NOT_FOUND, "no-route", "No route matches", None),
            Refusal::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad-request", "The request is not acceptable", None),
            Refusal::HeadTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "bad-request", "The request is not acceptable", None)
            }
            Refusal::MethodNotAllowed(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not allowed", None)
            }
            Refusal::NotImplemented(_) => (StatusCode::NOT_IMPLEMENTED, "not-implemented", "Not implemented", None),
            Refusal::Loop => (StatusCode::LOOP_DETECTED, "loop", "The request runs in a circle", None),
        }
    }

    fn detail(&self) -> Cow<'static, str> {
        match self {
            Refusal::KeyMissing => "This operation needs an Idempotency-Key; send one and repeat it on retries.".into(),
            Refusal::KeyInvalid(error) => format!("The key was not accepted: {error}.").into(),
            Refusal::KeyRepeated => "Send one key, in one place, once.".into(),
            Refusal::ScopeMissing(source) => {
                format!("The request carries no {source}, which tells whose key it is.").into()
            }
            Refusal::KeyReused => {
                "This key was used for a request that differs from this one; use a fresh key for a new operation."
                    .into()
            }
            Refusal::InFlight(_) => {
                "The first request with this key has not been answered yet; repeat this one later.".into()
            }
            Refusal::OutcomeUnknown => "Whether the first request with this key took effect is not known. It is not \
                executed again; find out before you use a fresh key."
                .into(),
            Refusal::StillUnknown => "Whether an earlier attempt with this key took effect is not known; this one was \
                not executed. The same request may be sent again later."
                .into(),
            Refusal::ResponseNotStored { .. } => {
                "The request with this key took effect; its answer was too large to be kept.".into()
            }
            Refusal::UpstreamNotReached => "Nothing was executed; the same request may be sent again.".into(),
            Refusal::ClaimLost => {
                "The right to execute ran out before anything was sent; the same request may be sent again.".into()
            }
            Refusal::UpstreamLost => {
                "After the request was sent no whole answer came that can be read; whether it took effect is not known.".into()
            }
            Refusal::UpstreamTimeout => {
                "The request was sent and not answered in time; whether it took effect is not known.".into()
            }
            Refusal::StoreUnavailable => "Nothing was executed; the same request may be sent again later.".into(),
            Refusal::RecordUnreadable => "The key has a record that cannot be read, so that nobody knows what became of it; nothing was executed now.".into(),
            Refusal::BodyTooLarge(limit) => format!("This operation takes a body of at most {limit} bytes.").into(),
            Refusal::RequestTimeout => "The request did not arrive in the time that is given to it.".into(),
            Refusal::Overloaded => "Nothing was executed; the same request may be sent again later.".into(),
            Refusal::ReplayDelayed => {
                "The answer to this key is recorded; the same request may be sent again later.".into()
            }
            Refusal::NoRoute => "No route of this proxy matches the request.".into(),
            Refusal::BadRequest(text) | Refusal::NotImplemented(text) => text.clone(),
            Refusal::HeadTooLarge => "The request's target or fields are larger than this proxy reads.".into(),
            Refusal::MethodNotAllowed(_) => "This proxy does not take this method.".into(),
            Refusal::Loop => "The request has passed through this proxy before.".into(),
        }
    }

    /// Says whether nothing ran and nothing is running under the key.
    pub fn is_not_executed(&self) -> bool {
        self.facts().3 == Effect::None
    }

    /// Writes the response. With `docs_url`, problem types and a `Link` point there.
    pub fn into_response(self, docs_url: Option<&str>) -> Response<Bytes> {
        let (status, code, title, effect) = self.facts();
        let kind = match docs_url {
            Some(base) => format!("{base}{code}"),
            None => format!("urn:onceproxy:problem:{code}"),
        };
        let link = docs_url.and_then(|_| HeaderValue::try_from(format!("<{kind}>; rel=\"describedby\"")).ok());
        let mut problem = Map::new();
        problem.insert("type".into(), kind.into());
        problem.insert("title".into(), title.into());
        problem.insert("status".into(), status.as_u16().into());
        problem.insert("detail".into(), self.detail().into());
        problem.insert("code".into(), code.into());
        if let Refusal::ResponseNotStored { status, location } = &self {
            problem.insert("original_status".into(), (*status).into());
            if let Some(location) = location {
                problem.insert("location".into(), location.as_str().into());
            }
        }
        let mut response = Response::new(Bytes::from(Value::Object(problem).to_string()));
        *response.status_mut() = status;
        response.extensions_mut().insert(Refused { code });
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(link) = link {
            headers.insert(LINK, link);
        }
        if effect == Effect::None {
            headers.insert(IDEMPOTENCY_OUTCOME, HeaderValue::from_static(NOT_EXECUTED));
        }
        match &self {
            Refusal::InFlight(left) => {
                headers.insert(RETRY_AFTER, whole_seconds(*left).into());
            }
            Refusal::StoreUnavailable | Refusal::Overloaded | Refusal::ReplayDelayed => {
                headers.insert(RETRY_AFTER, whole_seconds(BACK_OFF).into());
            }
            Refusal::MethodNotAllowed(allowed) => {
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
            }
            _ => {}
        }
        response
    }
}

/// Rounds up to whole seconds, at least one (RFC 9110 section 10.2.3 knows no fractions).
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX)
}
