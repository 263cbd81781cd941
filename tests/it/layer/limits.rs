//! Bodies that are too large, and buffers that are used up.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use onceproxy::http::budget::Budget;
use onceproxy::stores::memory::MemoryStore;
use onceproxy::{Ledger, Policy, State};

use crate::layer::stand::{Effect, Stand, always, charge, counting, endless, frames, full};
use crate::layer::wire::next_chunk;

fn small_request() -> Policy {
    Policy { max_request_body: 4, ..Policy::required() }
}

fn small_response() -> Policy {
    Policy { max_response_body: 4, ..Policy::required() }
}

fn chunks(parts: &[&'static str]) -> crate::layer::stand::Body {
    frames(parts.iter().map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes())))).collect())
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_anything_happens() {
    let stand = Stand::new(small_request(), counting());
    let keyed = || Request::post("/").header("idempotency-key", "k");
    // Announced, in pieces, and without an end.
    for body in [full("12345"), chunks(&["123", "45"]), endless(b"12345")] {
        let answer = stand.send(keyed().body(body).expect("a request")).await;
        answer.is_refusal(413, "body-too-large", Effect::None);
    }
    assert_eq!(stand.executions(), 0);
    assert!(stand.records().await.is_empty());
    stand.send(keyed().body(chunks(&["12", "34"])).expect("a request")).await.is_executed();
}

#[tokio::test]
async fn the_limit_is_for_protected_requests_only() {
    let stand = Stand::new(Policy { max_request_body: 4, ..Policy::optional() }, counting());
    let answer = stand.send(Request::post("/").body(full("12345")).expect("a request")).await;
    assert_eq!(answer.status.as_u16(), 201);
}

#[tokio::test]
async fn a_broken_body_is_refused_before_anything_happens() {
    use onceproxy::http::body::ClientBodyError;

    let stand = Stand::new(Policy::required(), counting());
    let broken = |error: crate::layer::stand::BoxError| {
        let body = frames(vec![Ok(Frame::data(Bytes::from_static(b"1"))), Err(error)]);
        Request::post("/").header("idempotency-key", "k").body(body).expect("a request")
    };
    let answer = stand.send(broken("cut".into())).await;
    answer.is_refusal(400, "bad-request", Effect::None);
    let answer = stand.send(broken(ClientBodyError::TooSlow.into())).await;
    answer.is_refusal(408, "request-timeout", Effect::None);
    assert_eq!(stand.executions(), 0);
    assert!(stand.records().await.is_empty());
}

#[tokio::test]
async fn an_answer_over_the_limit_is_streamed_whole_and_recorded_as_not_stored() {
    let stand = Stand::new(small_response(), |_| async {
        let response = Response::builder().status(201).header("location", "/charges/1").header("set-cookie", "a=b");
        Ok(response.body(chunks(&["123", "45", "", "6789"])).expect("a response"))
    });
    let first = stand.send(charge("k", "100")).await;
    first.is_executed();
    assert_eq!((first.status.as_u16(), &*first.body), (201, &b"123456789"[..]));
    assert_eq!((first.field("location"), first.field("set-cookie")), ("/charges/1", "a=b"));
    let again = stand.send(charge("k", "100")).await;
    again.is_refusal(409, "response-not-stored", Effect::Perhaps);
    assert_eq!(again.problem()["original_status"], 201);
    assert_eq!(again.problem()["location"], "/charges/1");
    assert_eq!(again.field("retry-after"), "");
    stand.send(charge("k", "900")).await.is_refusal(422, "key-reused", Effect::Perhaps);
    assert_eq!(stand.executions(), 1);
}

#[tokio::test]
async fn an_answer_of_exactly_the_limit_is_stored() {
    let stand = Stand::new(small_response(), |_| async { Ok(Response::new(chunks(&["12", "34"]))) });
    stand.send(charge("k", "100")).await.is_executed();
    assert_eq!(stand.send(charge("k", "100")).await.body, "1234");
}

#[tokio::test]
async fn without_a_location_none_is_told() {
    let stand = Stand::new(small_response(), always(Response::builder));
    stand.send(charge("k", "100")).await.is_executed();
    let problem = stand.send(charge("k", "100")).await.problem();
    assert_eq!((&problem["original_status"], problem.get("location")), (&200.into(), None));
}

#[tokio::test]
async fn events_are_streamed_and_recorded_as_not_stored_before_the_first() {
    for kind in ["text/event-stream", "Text/Event-Stream; charset=utf-8"] {
        let stand = Stand::new(Policy::required(), move |_| async move {
            Ok(Response::builder().header("content-type", kind).body(endless(b"data: 1\n\n")).expect("a response"))
        });
        let response = stand.begin(charge("k", "100")).await.expect("an answer");
        assert_eq!(response.headers()["idempotency-status"], "executed");
        // Recorded already, although nobody has read a byte.
        assert_eq!(stand.record().await.state, State::Completed);
        let mut body = response.into_body();
        assert_eq!(next_chunk(&mut body).await, "data: 1\n\n");
        drop(body);
        stand.send(charge("k", "100")).await.is_refusal(409, "response-not-stored", Effect::Perhaps);
    }
}

#[tokio::test]
async fn a_large_answer_that_breaks_off_is_seen_to_break_off() {
    let stand = Stand::new(small_response(), |_| async {
        Ok(Response::new(frames(vec![Ok(Frame::data(Bytes::from_static(b"12345"))), Err("cut".into())])))
    });
    let response = stand.begin(charge("k", "100")).await.expect("an answer");
    assert_eq!(response.headers()["idempotency-status"], "executed");
    response.into_body().collect().await.expect_err("the cut is passed on");
    stand.send(charge("k", "100")).await.is_refusal(409, "response-not-stored", Effect::Perhaps);
}

#[tokio::test]
async fn a_used_up_budget_is_overload_and_comes_back() {
    let budget = Budget::new(10_000);
    let store = MemoryStore::new();
    let stand = Stand::with(
        store.clone(),
        Ledger::new(store),
        |layer| layer.policy(Policy::required()).budget(budget.clone()),
        |_| async { Ok(Response::new(full("ok"))) },
    );
    let held = budget.reserve(9_998).expect("there is room");
    let answer = stand.send(charge("k", "12345")).await;
    answer.is_refusal(503, "overloaded", Effect::None);
    assert_eq!(answer.field("retry-after"), "1");
    assert_eq!(stand.executions(), 0);
    assert!(stand.records().await.is_empty());
    drop(held);
    stand.send(charge("k", "12345")).await.is_executed();
    stand.send(charge("k", "12345")).await.is_replayed();
    assert!(budget.reserve(10_000).is_some(), "everything was given back");
}

#[tokio::test]
async fn a_replay_waits_for_room_and_does_not_say_that_nothing_ran() {
    let budget = Budget::new(20_000);
    let store = MemoryStore::new();
    let stand = Stand::with(
        store.clone(),
        Ledger::new(store),
        |layer| layer.policy(Policy::required()).budget(budget.clone()),
        |_| async { Ok(Response::new(full("x".repeat(6000)))) },
    );
    stand.send(charge("k", "1")).await.is_executed();
    let held = budget.reserve(15_000).expect("there is room");
    let answer = stand.send(charge("k", "1")).await;
    answer.is_refusal(503, "overloaded", Effect::Perhaps);
    assert_eq!(answer.field("retry-after"), "1");
    drop(held);
    stand.send(charge("k", "1")).await.is_replayed();
}

#[tokio::test]
async fn an_answer_beyond_the_budget_is_recorded_all_the_same() {
    let budget = Budget::new(20_000);
    let store = MemoryStore::new();
    let (in_service, others) = (budget.clone(), Arc::new(Mutex::new(None)));
    let taken = others.clone();
    let stand = Stand::with(
        store.clone(),
        Ledger::new(store),
        |layer| layer.policy(Policy::required()).budget(budget.clone()),
        move |_| {
            // Others take all the room while this one is at work.
            *taken.lock().expect("nobody panics") = in_service.reserve(15_000);
            async { Ok(Response::new(full("x".repeat(6000)))) }
        },
    );
    let answer = stand.send(charge("k", "100")).await;
    answer.is_executed();
    assert_eq!(answer.body, "x".repeat(6000));
    assert!(others.lock().expect("nobody panics").take().is_some());
    stand.send(charge("k", "100")).await.is_replayed();
    assert!(budget.reserve(20_000).is_some(), "everything was given back");
}
