//! Requests that are under way when the time of the process is over.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use onceproxy::http::drain::Drain;
use onceproxy::stores::conformance::faulty::{Call, FaultyStore};
use onceproxy::stores::memory::MemoryStore;
use onceproxy::{Ledger, Policy};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::layer::stand::{Answer, Asked, BoxError, Effect, Failed, PATIENCE, Stand, charge, counting};

/// A layer that is tied to the end of a process, over a store that counts its calls.
fn tied<F, A>(policy: Policy, handler: F) -> (Stand, Drain, Arc<FaultyStore>)
where
    F: Fn(Asked) -> A + Clone + Send + 'static,
    A: Future<Output = Result<http::Response<crate::layer::stand::Body>, Failed>> + Send + 'static,
{
    let (drain, store) = (Drain::new(), MemoryStore::new());
    let counted = Arc::new(FaultyStore::new(Arc::new(store.clone())));
    let ledger = Ledger::over(counted.clone());
    let stand = Stand::with(store, ledger, |layer| layer.policy(policy).drain(drain.clone()), handler);
    (stand, drain, counted)
}

/// Lets everything go on until this is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {what}"));
}

#[tokio::test]
async fn a_body_that_ends_after_the_time_is_over_reserves_no_key() {
    let (stand, drain, store) = tied(Policy::required(), counting());
    let (end, ended) = oneshot::channel::<()>();
    let last = stream::once(async {
        ended.await.expect("the test ends it");
        Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"100")))
    });
    let request = Request::post("/charges").header("idempotency-key", "k");
    let request = request.body(StreamBody::new(last).boxed_unsync()).expect("a request");
    let sent = tokio::spawn(stand.service.clone().oneshot(request));
    drain.time_is_over();
    end.send(()).expect("the body is read");
    let response = timeout(PATIENCE, sent).await.expect("an answer in time").expect("no panic");
    let answer = Answer::read(response.expect("an answer")).await.expect("a body");
    answer.is_refusal(503, "not-executed", Effect::None);
    assert_eq!((stand.executions(), store.calls(Call::Create)), (0, 0));
    assert_eq!(drain.running(), 0);
}

#[tokio::test]
async fn a_key_that_is_freed_when_the_time_is_over_is_not_taken_by_who_waited() {
    let (stand, drain, store) = tied(Policy::required().wait(PATIENCE), |_| std::future::pending());
    let first = tokio::spawn(stand.service.clone().oneshot(charge("k", "100")));
    until("execution", || stand.executions() == 1).await;
    let second = tokio::spawn(stand.service.clone().oneshot(charge("k", "100")));
    // A first look, and one from its place in the line.
    until("waiting", || store.calls(Call::Create) == 3).await;
    drain.time_is_over();
    let answer = async |sent: tokio::task::JoinHandle<_>| {
        let response: Result<_, Failed> = timeout(PATIENCE, sent).await.expect("in time").expect("no panic");
        Answer::read(response.expect("an answer")).await.expect("a body")
    };
    let (first, second) = (answer(first).await, answer(second).await);
    assert_eq!((first.status.as_u16(), first.status_field()), (503, "not-executed"));
    second.is_refusal(409, "in-flight", Effect::Perhaps);
    timeout(PATIENCE, drain.idle()).await.expect("nothing is under way");
    assert_eq!(stand.executions(), 1);
    assert!(stand.records().await.is_empty());
}
