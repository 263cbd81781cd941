//! A protected request, from its body to the recorded answer.
//!
//! The body is read on the client's time. From the reserve on, everything runs in a task of its own: a client that
//! hangs up neither strands a claim nor loses an outcome.

mod settle;

use std::error::Error;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use tokio::task::JoinHandle;
use tower_service::Service;
use tracing::{Instrument, debug, warn};

use super::answer;
use super::attempt::{Attempt, Gate, IDEMPOTENCY_ATTEMPT, IDEMPOTENCY_STATUS, NOT_EXECUTED};
use super::body::{ReadBody, RequestBody, ResponseBody};
use super::budget::Reserved;
use super::collect::{Stopped, collect};
use super::drain::{Drain, Running};
use super::keyed::{KeyPlace, Printer, joined, key_with_body, scope};
use super::layer::Settings;
use super::policy::{KeyRule, Policy, StoreDown};
use super::refusal::{Refusal, Refused};
use super::replay;
use super::reply::{refusal_for_broken, refusal_for_excess, refuse, without_ours};
use super::report::Report;
use crate::failpoint;
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::ledger::Begun;
use crate::ledger::claim::{Claim, NotRecorded, Recorded};
use crate::ledger::store::StoreError;
use crate::scope::RecordId;

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// One protected request and the service that is to answer it.
pub(super) struct Execution<S> {
    settings: Arc<Settings>,
    inner: S,
    report: Report,
}

/// A request whose key, record and fingerprint are known.
struct Keyed {
    parts: Parts,
    body: ReadBody,
    key: Key,
    id: RecordId,
    fingerprint: Fingerprint,
    /// The room in the budget of everything but the body.
    held: Reserved,
}

/// What an execution takes beside its fields and its body, about.
const EXECUTION_BYTES: usize = 4096;

/// What an execution takes beside its body. It goes on without its client, so that clients alone do not bound how many
/// there are.
fn size_of_execution(parts: &Parts) -> usize {
    let fields: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    EXECUTION_BYTES + parts.uri.path_and_query().map_or(0, |target| target.as_str().len()) + fields
}

impl<S> Execution<S> {
    pub(super) fn new(settings: Arc<Settings>, inner: S) -> Execution<S> {
        let report = Report { outcome: "", record: None, waited: false, store_time: Duration::ZERO };
        Execution { settings, inner, report }
    }

    fn refuse<R>(&mut self, refusal: Refusal) -> Response<ResponseBody<R>> {
        refuse(refusal, &self.settings.policy, Some(self.report)).map(ResponseBody::from)
    }

    /// Puts what became of the request into its response.
    fn report<R>(&mut self, outcome: &'static str, mut response: Response<R>) -> Response<R> {
        self.report.outcome = outcome;
        response.extensions_mut().insert(self.report);
        response
    }

    fn with_status<R>(&mut self, status: &'static str, mut response: Response<R>) -> Response<R> {
        // A refusal's code is no status of the key, but for the one that is both.
        let is_refused = response.extensions().get::<Refused>().is_some_and(|refused| refused.code == status);
        if !is_refused || status == NOT_EXECUTED {
            response.headers_mut().insert(IDEMPOTENCY_STATUS, HeaderValue::from_static(status));
        }
        self.report(status, response)
    }
}

impl<S> Execution<S> {
    /// Reads the body, then executes, replays or refuses.
    pub(super) async fn hold<B, R>(
        mut self,
        parts: Parts,
        body: B,
        place: KeyPlace,
    ) -> Result<Response<ResponseBody<R>>, S::Error>
    where
        S: Service<Request<RequestBody<B>>, Response = Response<R>> + Send + 'static,
        S::Future: Send,
        S::Error: Send + 'static,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
        R: Body<Data = Bytes> + Send + Unpin + 'static,
        R::Error: Into<BoxError>,
    {
        let policy = self.settings.policy.clone();
        let scope = match (scope(&policy, &parts), &place) {
            (Err(refusal), KeyPlace::Found(_)) => return Ok(self.refuse(refusal)),
            // Without a key nobody asks whose it is.
            (scope, _) => scope,
        };
        let Some(held) = self.settings.budget.reserve(size_of_execution(&parts)) else {
            return Ok(self.refuse(Refusal::Overloaded));
        };
        failpoint::reach("body-reading");
        let mut printer = Printer::new(&policy.fingerprint, &parts);
        let room = self.settings.room_for_request(printer.whole_body(&place));
        let read = collect(body, room, |chunk| printer.chunk(chunk)).await;
        let collected = match read {
            Ok(collected) => collected,
            Err(Stopped::TooMuch(excess, _)) => {
                return Ok(self.refuse(refusal_for_excess(excess, policy.max_request_body)));
            }
            Err(Stopped::Failed(error)) => return Ok(self.refuse(refusal_for_broken(error.into()))),
        };
        let key = match place {
            KeyPlace::Found(key) => Ok(Some(key)),
            KeyPlace::Body => key_with_body(&policy, &parts, &joined(&collected.chunks)),
            KeyPlace::Nowhere => Ok(None),
        };
        let key = match (key, policy.key) {
            (Ok(Some(key)), _) => key,
            (Err(refusal), _) => return Ok(self.refuse(refusal)),
            (Ok(None), KeyRule::Required) => return Ok(self.refuse(Refusal::KeyMissing)),
            (Ok(None), KeyRule::Optional) => {
                let request = Request::from_parts(parts, RequestBody::read(collected.into()));
                return self.inner.call(request).await.map(without_ours);
            }
        };
        let scope = match scope {
            Ok(scope) => scope,
            Err(refusal) => return Ok(self.refuse(refusal)),
        };
        let id = RecordId::new(&scope, &key);
        let fingerprint = printer.finish(&collected.chunks);
        self.report.record = Some(id);
        let keyed = Box::new(Keyed { parts, body: collected.into(), key, id, fingerprint, held });
        // Counted before it is asked: either the end of the process waits for this one, or this one knows of the end.
        let running = self.settings.drain.as_ref().map(Drain::begin);
        if self.settings.drain.as_ref().is_some_and(Drain::is_over) {
            return Ok(self.refuse(Refusal::ClaimLost));
        }
        match self.detach(keyed, running).await {
            Ok(response) => response,
            // The service panicked; whoever called it shall see that.
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_) => unreachable!("nobody aborts the task, and its runtime runs this one too"),
        }
    }

    /// Begins the execution in a task of its own. Not `async`: the caller's future would have room for the task's.
    fn detach<B, R>(
        self,
        keyed: Box<Keyed>,
        running: Option<Running>,
    ) -> JoinHandle<Result<Response<ResponseBody<R>>, S::Error>>
    where
        S: Service<Request<RequestBody<B>>, Response = Response<R>> + Send + 'static,
        S::Future: Send,
        S::Error: Send + 'static,
        B: Body + Send + 'static,
        B::Error: Into<BoxError>,
        R: Body<Data = Bytes> + Send + Unpin + 'static,
        R::Error: Into<BoxError>,
    {
        // Boxed: a task is moved several times before it has its place.
        let execution = Box::pin(async move {
            let response = self.execute(keyed).await;
            drop(running);
            response
        });
        // What the service logs belongs to the request's span, as it would without this layer.
        tokio::spawn(execution.in_current_span())
    }

    async fn execute<B, R>(mut self, keyed: Box<Keyed>) -> Result<Response<ResponseBody<R>>, S::Error>
    where
        S: Service<Request<RequestBody<B>>, Response = Response<R>> + Send + 'static,
        S::Future: Send,
        B: Body,
        B::Error: Into<BoxError>,
        R: Body<Data = Bytes> + Send + Unpin + 'static,
        R::Error: Into<BoxError>,
    {
        let policy = self.settings.policy.clone();
        match self.begin(&keyed).await {
            // Boxed: a duplicate does without the room for an execution.
            Ok(Begun::Execute(claim)) => Box::pin(self.own(claim, keyed)).await,
            Ok(begun) => Ok(self.answer_duplicate(begun)),
            Err(StoreError::Corrupt | StoreError::UnknownFormat(_)) => Ok(self.refuse(Refusal::RecordUnreadable)),
            Err(error) if policy.store_down == StoreDown::Bypass => {
                warn!(route = %policy.terms.route, %error, "the store does not answer: forwarded unprotected");
                let response = self.inner.call(Request::from_parts(keyed.parts, RequestBody::read(keyed.body))).await?;
                Ok(self.with_status("bypassed", without_ours(response)))
            }
            Err(error) => {
                debug!(route = %policy.terms.route, %error, "the store does not answer");
                Ok(self.refuse(Refusal::StoreUnavailable))
            }
        }
    }

    async fn begin(&mut self, keyed: &Keyed) -> Result<Begun, StoreError> {
        let Settings { ledger, policy, .. } = &*self.settings;
        let terms = &policy.terms;
        let began = Instant::now();
        let mut begun = ledger.begin_at_once(&keyed.id, keyed.fingerprint, terms).await;
        self.report.store_time += began.elapsed();
        if let (Ok(Begun::InFlight { retry_after }), Some(wait)) = (&begun, terms.wait) {
            self.report.waited = true;
            // Boxed: few wait, and the others would carry the room for it.
            let waiting = Box::pin(ledger.begin_waiting(&keyed.id, keyed.fingerprint, terms, wait, *retry_after));
            let busy = Ok(Begun::InFlight { retry_after: *retry_after });
            begun = tokio::select! {
                biased;
                // What ends then frees keys, which nobody here is to take.
                () = over(self.settings.drain.as_ref()) => busy,
                begun = waiting => begun,
            };
        }
        begun
    }

    /// Answers one who does not execute.
    fn answer_duplicate<R>(&mut self, begun: Begun) -> Response<ResponseBody<R>> {
        let refusal = match begun {
            Begun::Replay(outcome) => {
                match (self.settings.budget.reserve(outcome.len()), replay::Recorded::decode(outcome)) {
                    (Some(reserved), Some(replay::Recorded::Whole(mut recording))) => {
                        recording.mark_replayed();
                        return self.with_status("replayed", recording.deliver(Some(reserved)));
                    }
                    (None, Some(replay::Recorded::Whole(_))) => Refusal::ReplayDelayed,
                    (_, Some(replay::Recorded::NotStored { status, location })) => {
                        Refusal::ResponseNotStored { status: status.as_u16(), location }
                    }
                    (_, None) => Refusal::RecordUnreadable,
                }
            }
            Begun::InFlight { retry_after } => Refusal::InFlight(retry_after),
            Begun::Mismatch => Refusal::KeyReused,
            Begun::Unknown { .. } => Refusal::OutcomeUnknown,
            Begun::Execute(_) => unreachable!("an execution is no duplicate"),
        };
        self.refuse(refusal)
    }

    /// Executes under the claim and records what comes of it.
    async fn own<B, R>(mut self, claim: Claim, keyed: Box<Keyed>) -> Result<Response<ResponseBody<R>>, S::Error>
    where
        S: Service<Request<RequestBody<B>>, Response = Response<R>> + Send + 'static,
        S::Future: Send,
        B: Body,
        B::Error: Into<BoxError>,
        R: Body<Data = Bytes> + Send + Unpin + 'static,
        R::Error: Into<BoxError>,
    {
        failpoint::reach("reserved");
        let Keyed { mut parts, body, key, id, fingerprint, held: _held } = *keyed;
        let number = claim.attempt();
        let (claim_holds, drain) = (claim.watch(), self.settings.drain.clone());
        // Once the time is over nothing begins: what ends then makes room for what waited.
        let holds = move || claim_holds() && !drain.as_ref().is_some_and(Drain::is_over);
        let gate = Arc::new(Gate { holds: Box::new(holds), passed: AtomicBool::new(false) });
        parts.headers.insert(IDEMPOTENCY_ATTEMPT, number.into());
        parts.extensions.insert(Attempt { key, id, number, gate: gate.clone() });
        let request = Request::from_parts(parts, RequestBody::read(body));
        let settings = self.settings.clone();
        let work = async {
            let response = self.inner.call(request).await?;
            Ok(answer::capture(response, &settings.policy, &settings.budget).await)
        };
        let answer = tokio::select! {
            biased;
            answer = AssertUnwindSafe(work).catch_unwind() => answer,
            () = over(settings.drain.as_ref()) => {
                return Ok(match gate.passed.load(Ordering::Acquire) {
                    true => {
                        note(&settings.policy, claim.unknown("drained").await);
                        let response = self.refuse(Refusal::UpstreamLost);
                        self.with_status("unknown", response)
                    }
                    false => {
                        let response = self.refuse(Refusal::ClaimLost);
                        self.give_back(claim, NOT_EXECUTED, response, &id, fingerprint).await
                    }
                });
            }
        };
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                note(&settings.policy, claim.unknown("failed").await);
                return Err(error);
            }
            Err(panic) => {
                note(&settings.policy, claim.unknown("failed").await);
                resume_unwind(panic);
            }
        };
        Ok(self.settle(claim, answer, &id, fingerprint).await)
    }
}

/// Waits until there is no more time.
async fn over(drain: Option<&Drain>) {
    match drain {
        Some(drain) => drain.over().await,
        None => std::future::pending().await,
    }
}

fn note(policy: &Policy, result: Result<Recorded, NotRecorded>) {
    if let Err(error) = result {
        warn!(route = %policy.terms.route, %error, "the end of an execution was not recorded");
    }
}
