//! Observe: everything is forwarded, and it is told what would have become of it.

use std::sync::{Arc, Mutex};

use http::{Request, Response};
use onceproxy::http::observe::Observation;
use onceproxy::http::policy::{Mode, ScopeSource};
use onceproxy::{Attempt, Ledger, Policy};
use tokio::sync::mpsc;

use crate::layer::faulty::{Fault, FaultyStore};
use crate::layer::stand::{Answer, Body, PATIENCE, Stand, charge, created, endless, full};

/// A stand that observes, and what it tells.
struct Observed {
    stand: Stand,
    told: mpsc::UnboundedReceiver<Observation>,
    statuses: Arc<Mutex<Vec<u16>>>,
}

/// The handler gives 201, or the statuses that the test puts in, last first.
fn observed(policy: Policy, fault: Fault) -> Observed {
    let (tell, told) = mpsc::unbounded_channel();
    let store = FaultyStore::new(fault);
    let statuses = Arc::new(Mutex::new(Vec::new()));
    let to_give = statuses.clone();
    let stand = Stand::with(
        store.inner.clone(),
        Ledger::new(store),
        |layer| {
            let policy = Policy { mode: Mode::Observe, ..policy }.route("pay");
            layer.policy(policy).on_observed(move |observation| drop(tell.send(observation.clone())))
        },
        move |request| {
            let status = to_give.lock().expect("no panics").pop().unwrap_or(201);
            async move {
                assert!(request.extensions().get::<Attempt>().is_none());
                let body = http_body_util::BodyExt::collect(request.into_body()).await.expect("a body").to_bytes();
                let mut response = created(body);
                *response.status_mut() = status.try_into().expect("a status");
                Ok(response)
            }
        },
    );
    Observed { stand, told, statuses }
}

impl Observed {
    /// Sends a request that is forwarded, and says what would have become of it.
    async fn would(&mut self, request: Request<Body>) -> (&'static str, Answer) {
        let executions = self.stand.executions();
        let answer = self.stand.send(request).await;
        assert_eq!(self.stand.executions(), executions + 1, "everything is forwarded");
        assert_eq!((answer.status_field(), answer.field("idempotency-replayed")), ("observed", ""));
        let observation = tokio::time::timeout(PATIENCE, self.told.recv()).await.expect("it is told").expect("it is");
        assert_eq!(&*observation.route, "pay");
        (observation.would, answer)
    }
}

#[tokio::test]
async fn everything_is_forwarded_and_nothing_is_answered_from_the_record() {
    let mut observed = observed(Policy::required(), Fault::Well);
    assert_eq!(observed.would(charge("k", "100")).await.0, "executed");
    let (would, answer) = observed.would(charge("k", "100")).await;
    assert_eq!((would, answer.status.as_u16(), &*answer.body), ("replayed", 201, &b"100"[..]));
    assert_eq!(observed.would(charge("k", "900")).await.0, "key-reused");
    assert_eq!(observed.would(charge("a,b", "100")).await.0, "key-invalid");
    assert_eq!(observed.would(Request::post("/").body(full("100")).expect("a request")).await.0, "key-missing");
}

#[tokio::test]
async fn statuses_mean_what_they_would_mean() {
    let mut observed = observed(Policy::required(), Fault::Well);
    observed.statuses.lock().expect("no panics").extend([504, 429]);
    assert_eq!(observed.would(charge("k", "100")).await.0, "released");
    assert_eq!(observed.would(charge("k", "100")).await.0, "unknown");
    assert_eq!(observed.would(charge("k", "100")).await.0, "outcome-unknown");
}

#[tokio::test]
async fn refusals_of_body_and_scope_are_told_and_the_body_goes_on_whole() {
    let policy = Policy { max_request_body: 4, ..Policy::required() };
    let mut large = observed(policy, Fault::Well);
    let (would, answer) = large.would(charge("k", "12345")).await;
    assert_eq!((would, &*answer.body), ("body-too-large", &b"12345"[..]));
    let source = ScopeSource::Header("x-account".parse().expect("a name"));
    let mut homeless = observed(Policy::required().scope([source]), Fault::Well);
    let (would, answer) = homeless.would(charge("k", "100")).await;
    assert_eq!((would, &*answer.body), ("scope-missing", &b"100"[..]));
}

#[tokio::test]
async fn a_request_that_would_be_refused_is_not_collected() {
    let stand =
        Stand::new(Policy { mode: Mode::Observe, ..Policy::required() }, |_| async { Ok(Response::new(full(""))) });
    let endless = Request::post("/").header("idempotency-key", "a,b").body(endless(b"1")).expect("a request");
    assert_eq!(stand.send(endless).await.status_field(), "observed");
}

#[tokio::test]
async fn a_failing_store_is_counted_only() {
    for fault in [Fault::Away, Fault::Damaged] {
        let mut observed = observed(Policy::required(), fault);
        assert_eq!(observed.would(charge("k", "100")).await.0, "store-unavailable");
    }
}

#[tokio::test]
async fn unkeyed_requests_pass_unobserved() {
    let mut observed = observed(Policy::optional(), Fault::Well);
    let answer = observed.stand.send(Request::post("/").body(full("100")).expect("a request")).await;
    assert_eq!(answer.status_field(), "");
    assert!(observed.told.try_recv().is_err());
}

#[tokio::test]
async fn what_was_observed_is_not_there_when_it_is_enforced() {
    let mut observed = observed(Policy::required(), Fault::Well);
    assert_eq!(observed.would(charge("k", "100")).await.0, "executed");
    let enforced = Stand::with(
        observed.stand.store.clone(),
        observed.stand.ledger.clone(),
        |layer| layer.policy(Policy::required().route("pay")),
        |_| async { Ok(created("enforced")) },
    );
    let answer = enforced.send(charge("k", "100")).await;
    answer.is_executed();
    assert_eq!(answer.body, "enforced");
    // Nor the other way round.
    assert_eq!(observed.would(charge("k", "100")).await.0, "replayed");
    assert_eq!(observed.stand.records().await.len(), 2);
}
