//! The admin API's refusals, as problem documents (RFC 9457).

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::ledger::store::StoreError;

/// Why a call of the admin API is refused.
#[derive(Debug)]
pub(super) enum Problem {
    /// No token, or a wrong one.
    Unauthorized,
    /// Changes need a token.
    ChangesNeedToken,
    /// There is no such page or record.
    NotFound,
    /// The page has other methods.
    MethodNotAllowed(&'static str),
    /// The body or the query is not what this call takes.
    BadRequest(String),
    /// The body is too large.
    TooLarge,
    /// The body did not come in time.
    TooSlow,
    /// The record is at another attempt, or is not to be decided about; the present state.
    Conflict(Value),
    /// The store failed.
    Store(StoreError),
    /// The new configuration is wrong; the report.
    WrongConfiguration(String),
    /// The new configuration has to wait for a restart; why.
    NeedsRestart(String),
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        Problem::Store(error)
    }
}

impl Problem {
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let (status, code, detail) = match &self {
            Problem::Unauthorized => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "Send the admin token: Authorization: Bearer TOKEN.".into())
            }
            Problem::ChangesNeedToken => (
                StatusCode::FORBIDDEN,
                "changes-need-token",
                "No admin token is configured, so nothing can be changed here.".into(),
            ),
            Problem::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is no such page or record.".into()),
            Problem::MethodNotAllowed(allowed) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", format!("This page takes {allowed}."))
            }
            Problem::BadRequest(detail) => (StatusCode::BAD_REQUEST, "bad-request", detail.clone()),
            Problem::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large.".into()),
            Problem::TooSlow => {
                (StatusCode::REQUEST_TIMEOUT, "request-timeout", "The body did not come in time.".into())
            }
            Problem::Conflict(_) => (
                StatusCode::CONFLICT,
                "conflict",
                "Only an unknown outcome or a dead lease can be decided about, at the attempt it is at.".into(),
            ),
            Problem::Store(StoreError::Corrupt | StoreError::UnknownFormat(_)) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "record-unreadable",
                "The record cannot be read; its bytes were left as they are.".into(),
            ),
            Problem::Store(error) => (StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", error.to_string()),
            Problem::WrongConfiguration(report) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "configuration-wrong", report.clone())
            }
            Problem::NeedsRestart(reason) => (StatusCode::CONFLICT, "restart-needed", reason.clone()),
        };
        let mut problem = json!({
            "type": format!("urn:onceproxy:problem:{code}"),
            "title": status.canonical_reason().unwrap_or(code),
            "status": status.as_u16(),
            "detail": detail,
            "code": code,
        });
        if let Problem::Conflict(record) = &self {
            problem["record"] = record.clone();
        }
        let mut response = Response::new(Full::from(problem.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self {
            Problem::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Problem::MethodNotAllowed(allowed) => {
                headers.insert(ALLOW, HeaderValue::from_static(allowed));
            }
            _ => {}
        }
        response
    }
}
