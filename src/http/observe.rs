//! Observe: forward everything, write under a namespace of its own, and tell what would have become of each request.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use tokio::sync::oneshot;
use tower_service::Service;
use tracing::debug;

use super::attempt::IDEMPOTENCY_STATUS;
use super::body::{RequestBody, ResponseBody};
use super::collect::{Collected, Stopped, collect};
use super::execute::{refuse, without_ours};
use super::keyed::{KeyPlace, Printer, joined, key_with_body, observed, scope};
use super::layer::Settings;
use super::policy::KeyRule;
use super::refusal::Refusal;
use super::report::Report;
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::ledger::Begun;
use crate::ledger::claim::Outcome;
use crate::ledger::terms::Terms;
use crate::scope::RecordId;

type BoxError = Box<dyn Error + Send + Sync>;

/// What would have become of an observed request.
#[derive(Debug, Clone)]
pub struct Observation {
    /// The route's name.
    pub route: Arc<str>,
    /// An `Idempotency-Status` value or a problem's code; `store-unavailable` also when the store failed.
    pub would: &'static str,
}

/// Forwards a request of an observed route. A request without a key, where none is needed, is not observed.
pub(super) async fn observe<S, B, R>(
    settings: Settings,
    mut inner: S,
    parts: Parts,
    body: B,
    place: Result<KeyPlace, Refusal>,
) -> Result<Response<ResponseBody<R>>, S::Error>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let policy = settings.policy.clone();
    let place = match (place, policy.key) {
        (Ok(KeyPlace::Nowhere), KeyRule::Optional) => {
            return inner.call(Request::from_parts(parts, RequestBody::passed(body))).await.map(without_ours);
        }
        (Ok(KeyPlace::Nowhere), KeyRule::Required) => Err(Refusal::KeyMissing),
        (place, _) => place,
    };
    let mut printer = Printer::new(&policy.fingerprint, &parts);
    let read = collect(body, policy.max_request_body, &settings.budget, |chunk| printer.chunk(chunk)).await;
    let (watched, body) = match read {
        Ok(collected) => {
            let watched = place.and_then(|place| watched(&settings, &parts, place, &collected, printer));
            (watched, RequestBody::kept(collected.into()))
        }
        Err(Stopped::TooMuch(_, rewound)) => {
            (Err(Refusal::BodyTooLarge(policy.max_request_body as u64)), RequestBody::rewound(rewound))
        }
        // What broke on the way here cannot be forwarded; nothing was sent.
        Err(Stopped::Failed(_)) => {
            let refusal = Refusal::BadRequest("The request body is not what its framing promised.".into());
            return Ok(refuse(refusal, &policy, None).map(ResponseBody::from));
        }
    };
    let mut record = None;
    let mut end = None;
    match watched {
        Ok(None) => return inner.call(Request::from_parts(parts, body)).await.map(without_ours),
        Ok(Some((id, fingerprint))) => {
            record = Some(id);
            let (told, ended) = oneshot::channel();
            end = Some(told);
            tokio::spawn(watch(settings.clone(), id, fingerprint, ended));
        }
        Err(refusal) => settings.tell(refusal.code()),
    }
    let mut response = without_ours(inner.call(Request::from_parts(parts, body)).await?);
    if let Some(end) = end {
        // Nobody listens when the key was not won.
        let _ = end.send(response.status().as_u16());
    }
    response.headers_mut().insert(IDEMPOTENCY_STATUS, HeaderValue::from_static("observed"));
    let report = Report { outcome: "observed", record, waited: false, store_time: std::time::Duration::ZERO };
    response.extensions_mut().insert(report);
    Ok(response)
}

/// The record and fingerprint of an observed request; none when it carries no key and needs none.
fn watched(
    settings: &Settings,
    parts: &Parts,
    place: KeyPlace,
    collected: &Collected,
    printer: Printer<'_>,
) -> Result<Option<(RecordId, Fingerprint)>, Refusal> {
    let policy = &settings.policy;
    let key: Option<Key> = match place {
        KeyPlace::Found(key) => Some(key),
        KeyPlace::Body | KeyPlace::Nowhere => key_with_body(policy, parts, &joined(&collected.chunks))?,
    };
    let key = match (key, policy.key) {
        (Some(key), _) => key,
        (None, KeyRule::Required) => return Err(Refusal::KeyMissing),
        (None, KeyRule::Optional) => return Ok(None),
    };
    let scope = observed(scope(policy, parts)?);
    Ok(Some((RecordId::new(&scope, &key), printer.finish(&collected.chunks))))
}

/// Keeps the record of an observed request beside its forwarding, which does not wait for it.
async fn watch(settings: Settings, id: RecordId, fingerprint: Fingerprint, ended: oneshot::Receiver<u16>) {
    let terms = Terms { wait: None, ..settings.policy.terms.clone() };
    let claim = match settings.ledger.begin(&id, fingerprint, &terms).await {
        Ok(Begun::Execute(claim)) => claim,
        Ok(Begun::Replay(_)) => return settings.tell("replayed"),
        Ok(Begun::InFlight { .. }) => return settings.tell("in-flight"),
        Ok(Begun::Mismatch) => return settings.tell("key-reused"),
        Ok(Begun::Unknown { .. }) => return settings.tell("outcome-unknown"),
        Err(error) => {
            debug!(route = %terms.route, %error, "the store does not answer an observed request");
            return settings.tell("store-unavailable");
        }
    };
    settings.tell("executed");
    let ended = match ended.await {
        Ok(status) => claim.complete(Outcome { bytes: Bytes::new(), status, remark: "observed" }).await,
        Err(_) => claim.unknown("failed").await,
    };
    if let Err(error) = ended {
        debug!(route = %terms.route, %error, "the end of an observed request was not recorded");
    }
}

impl Settings {
    fn tell(&self, would: &'static str) {
        if let Some(observer) = &self.observer {
            observer(&Observation { route: self.policy.terms.route.clone(), would });
        }
    }
}
