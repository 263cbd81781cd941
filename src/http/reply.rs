//! Responses that the layer makes or lets pass, beside recorded ones.

use std::time::Duration;

use bytes::Bytes;
use http::Response;

use super::answer::remove_ours;
use super::body::{ClientBodyError, ResponseBody};
use super::collect::Excess;
use super::execute::BoxError;
use super::policy::Policy;
use super::refusal::{Refusal, Refused};
use super::report::Report;

/// Makes the response to a refusal, with a report for logs and metrics.
pub(super) fn refuse(refusal: Refusal, policy: &Policy, report: Option<Report>) -> Response<Bytes> {
    let outcome = refusal.code();
    let mut response = refusal.into_response(policy.docs_url.as_deref());
    let report = report.unwrap_or(Report { outcome, record: None, waited: false, store_time: Duration::ZERO });
    response.extensions_mut().insert(Report { outcome, ..report });
    response
}

/// A response that goes on as it comes, but without the fields that only this layer may set. A refusal of ours keeps
/// them.
pub(super) fn without_ours<R>(mut response: Response<R>) -> Response<ResponseBody<R>> {
    if response.extensions().get::<Refused>().is_none() {
        remove_ours(response.headers_mut());
    }
    response.map(ResponseBody::passed)
}

/// The refusal for a request body that cannot be held.
pub(super) fn refusal_for_excess(excess: Excess, limit: usize) -> Refusal {
    match excess {
        Excess::Limit => Refusal::BodyTooLarge(limit as u64),
        Excess::Room => Refusal::Overloaded,
    }
}

/// The refusal for a request body that broke.
pub(super) fn refusal_for_broken(error: BoxError) -> Refusal {
    match error.downcast_ref::<ClientBodyError>() {
        Some(ClientBodyError::TooSlow) => Refusal::RequestTimeout,
        _ => Refusal::BadRequest("The request body is not what its framing promised.".into()),
    }
}
