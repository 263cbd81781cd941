//! Observe: forward everything, write under a namespace of its own, and tell what would have become of each request.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use tokio::sync::oneshot;
use tower_service::Service;
use tracing::debug;

use super::answer::{Word, word};
use super::attempt::IDEMPOTENCY_STATUS;
use super::body::{RequestBody, ResponseBody};
use super::collect::{Stopped, collect};
use super::keyed::{KeyPlace, Printer, joined, key_with_body, observed, scope};
use super::layer::Settings;
use super::policy::KeyRule;
use super::refusal::Refusal;
use super::reply::{refusal_for_broken, refusal_for_excess, refuse, without_ours};
use super::report::Report;
use crate::fingerprint::Fingerprint;
use crate::ledger::Begun;
use crate::ledger::claim::{Outcome, Released};
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

/// What is known of an observed request before it is forwarded.
enum Seen {
    /// It carries a key.
    Keyed(RecordId, Fingerprint),
    /// It carries none, and needs none.
    Unkeyed,
    /// It would have been refused.
    Refused(Refusal),
}

/// Forwards a request of an observed route. A request without a key, where none is needed, is not observed.
pub(super) async fn observe<S, B, R>(
    settings: Arc<Settings>,
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
    let (seen, body) = match look(&settings, &parts, body, place).await {
        Ok(looked) => looked,
        // What broke on the way here cannot be forwarded; nothing was sent.
        Err(refusal) => return Ok(refuse(refusal, &settings.policy, None).map(ResponseBody::from)),
    };
    let mut record = None;
    let mut end = None;
    match seen {
        Seen::Unkeyed => return inner.call(Request::from_parts(parts, body)).await.map(without_ours),
        Seen::Keyed(id, fingerprint) => {
            record = Some(id);
            let (told, ended) = oneshot::channel();
            end = Some(told);
            tokio::spawn(watch(settings.clone(), id, fingerprint, ended));
        }
        Seen::Refused(refusal) => settings.tell(refusal.code()),
    }
    let response = inner.call(Request::from_parts(parts, body)).await?;
    if let Some(end) = end {
        // Nobody listens when the key was not won.
        let _ = end.send((word(&settings.policy, &response), response.status().as_u16()));
    }
    let mut response = without_ours(response);
    response.headers_mut().insert(IDEMPOTENCY_STATUS, HeaderValue::from_static("observed"));
    let report = Report { outcome: "observed", record, waited: false, store_time: Duration::ZERO };
    response.extensions_mut().insert(report);
    Ok(response)
}

/// Looks at a request as an enforcing layer would, and gives its body back whole.
async fn look<B>(
    settings: &Settings,
    parts: &Parts,
    body: B,
    place: Result<KeyPlace, Refusal>,
) -> Result<(Seen, RequestBody<B>), Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let policy = &settings.policy;
    let scope = scope(policy, parts);
    let (place, scope) = match (place, scope) {
        (Err(refusal), _) | (Ok(KeyPlace::Found(_)), Err(refusal)) => {
            return Ok((Seen::Refused(refusal), RequestBody::passed(body)));
        }
        (Ok(place), scope) => (place, scope),
    };
    let mut printer = Printer::new(&policy.fingerprint, parts);
    let room = settings.room_for_request(printer.whole_body(&place));
    let read = collect(body, room, |chunk| printer.chunk(chunk)).await;
    let collected = match read {
        Ok(collected) => collected,
        Err(Stopped::TooMuch(excess, rewound)) => {
            let refusal = refusal_for_excess(excess, policy.max_request_body);
            return Ok((Seen::Refused(refusal), RequestBody::rewound(rewound)));
        }
        Err(Stopped::Failed(error)) => return Err(refusal_for_broken(error.into())),
    };
    let key = match place {
        KeyPlace::Found(key) => Ok(Some(key)),
        KeyPlace::Body => key_with_body(policy, parts, &joined(&collected.chunks)),
        KeyPlace::Nowhere => Ok(None),
    };
    let seen = match (key, policy.key, scope) {
        (Err(refusal), ..) | (Ok(Some(_)), _, Err(refusal)) => Seen::Refused(refusal),
        (Ok(Some(key)), _, Ok(scope)) => {
            let id = RecordId::new(&observed(scope), &key);
            Seen::Keyed(id, printer.finish(&collected.chunks))
        }
        (Ok(None), KeyRule::Required, _) => Seen::Refused(Refusal::KeyMissing),
        (Ok(None), KeyRule::Optional, _) => Seen::Unkeyed,
    };
    Ok((seen, RequestBody::read(collected.into())))
}

/// Keeps the record of an observed request beside its forwarding, which does not wait for it.
async fn watch(settings: Arc<Settings>, id: RecordId, fingerprint: Fingerprint, ended: oneshot::Receiver<(Word, u16)>) {
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
    let (would, ended) = match ended.await {
        Ok((Word::Executed, status)) => {
            let outcome = Outcome { bytes: Bytes::new(), status, remark: "observed", fallback: None };
            ("executed", claim.complete(outcome).await.map(drop))
        }
        Ok((Word::NotExecuted(would), _)) => match claim.release().await {
            Ok(Released::Free) => (would, Ok(())),
            Ok(Released::Unknown | Released::Taken) => ("unknown", Ok(())),
            Err(error) => (would, Err(error)),
        },
        Ok((Word::Unknown(reason), _)) => ("unknown", claim.unknown(&reason).await.map(drop)),
        Err(_) => ("unknown", claim.unknown("failed").await.map(drop)),
    };
    settings.tell(would);
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
