//! Requests that the policy does not cover, and the fields that only the layer may set.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt;
use onceproxy::http::policy::Mode;
use onceproxy::{Attempt, IdempotencyLayer, Ledger, Policy};
use tower::{Layer, ServiceExt};

use crate::layer::stand::{Answer, Asked, Body, Effect, Stand, charge, counting, created, endless, full};
use crate::layer::wire::next_chunk;

/// The bytes that go through.
static FIRST: &[u8] = b"first";

fn unprotected() -> Vec<(Policy, Request<Body>)> {
    let get = Request::get("/").header("idempotency-key", "k");
    let keyed = Request::post("/").header("idempotency-key", "k");
    vec![
        (Policy::optional(), Request::post("/").body(endless(FIRST)).expect("a request")),
        (Policy::required(), get.body(endless(FIRST)).expect("a request")),
        (Policy { mode: Mode::Off, ..Policy::required() }, keyed.body(endless(FIRST)).expect("a request")),
        (
            Policy { mode: Mode::Observe, ..Policy::optional() },
            Request::post("/").body(endless(FIRST)).expect("a request"),
        ),
    ]
}

/// There is no runtime here: a spawn, a timer or a wait would panic or stay pending.
#[test]
fn unprotected_requests_pass_without_a_spawn_a_wait_or_a_copy() {
    for (policy, request) in unprotected() {
        let stand = Stand::new(policy, |request| async move {
            let chunk = next_chunk(&mut request.into_body()).await;
            assert_eq!(chunk.as_ptr(), FIRST.as_ptr(), "the bytes themselves, not a copy");
            Ok(Response::new(full(chunk)))
        });
        let mut answer = pin!(stand.service.clone().oneshot(request));
        let Poll::Ready(response) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("the layer waits for something");
        };
        assert!(!response.expect("an answer").headers().contains_key("idempotency-status"));
        assert_eq!(stand.executions(), 1);
    }
}

#[tokio::test]
async fn endless_answers_pass_as_they_come() {
    for (policy, request) in unprotected() {
        let stand = Stand::new(policy, |_| async { Ok(Response::new(endless(b"event"))) });
        let mut body = stand.begin(request).await.expect("an answer").into_body();
        assert_eq!(next_chunk(&mut body).await, "event");
        assert!(!body.is_end_stream());
    }
}

#[tokio::test]
async fn what_passes_is_not_recorded() {
    let stand = Stand::new(Policy::optional(), counting());
    for executions in [1, 2] {
        let answer = stand.send(Request::post("/").body(full("100")).expect("a request")).await;
        assert_eq!(answer.body, format!("charge {executions}"));
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("idempotency-")));
    }
    assert!(stand.records().await.is_empty());
}

#[tokio::test]
async fn a_clients_copies_of_our_fields_never_reach_the_service() {
    let ours = ["idempotency-replayed", "idempotency-status", "idempotency-attempt"];
    let ways = [
        (Policy::optional(), "k", None),
        (Policy::optional(), "", None),
        (Policy { mode: Mode::Off, ..Policy::optional() }, "k", None),
        (Policy { mode: Mode::Observe, ..Policy::optional() }, "k", None),
        (Policy::optional(), "k", Some("1")),
    ];
    for (policy, key, attempt) in ways {
        let enforced = policy.mode == Mode::Enforce && !key.is_empty();
        let stand = Stand::new(policy, move |request| async move {
            assert!(!request.headers().contains_key("idempotency-replayed"));
            assert!(!request.headers().contains_key("idempotency-status"));
            let seen: Vec<_> = request.headers().get_all("idempotency-attempt").iter().collect();
            assert_eq!(seen, if enforced { vec!["1"] } else { vec![] });
            // This one is for the service to read.
            assert!(request.headers().contains_key("idempotency-outcome"));
            Ok(created(""))
        });
        let mut request = Request::post("/").header("idempotency-outcome", "x");
        for name in ours {
            request = request.header(name, attempt.unwrap_or("7")).header(name, "8");
        }
        if !key.is_empty() {
            request = request.header("idempotency-key", key);
        }
        stand.send(request.body(full("")).expect("a request")).await;
        assert_eq!(stand.executions(), 1);
    }
}

#[tokio::test]
async fn a_services_copies_of_our_fields_never_reach_the_client() {
    let ways = [
        (Policy::optional(), "", ""),
        (Policy::optional(), "k", "released"),
        (Policy { mode: Mode::Off, ..Policy::optional() }, "k", ""),
        (Policy { mode: Mode::Observe, ..Policy::optional() }, "k", "observed"),
        (Policy { max_response_body: 1, ..Policy::optional() }, "k", "released"),
    ];
    for (policy, key, status) in ways {
        let stand = Stand::new(policy, |_| async {
            let response = Response::builder().header("idempotency-replayed", "true");
            let response = response.header("idempotency-status", "replayed").header("idempotency-status", "twice");
            Ok(response.header("idempotency-outcome", "not-executed").body(full("body")).expect("a response"))
        });
        let request = Request::post("/");
        let request = if key.is_empty() { request } else { request.header("idempotency-key", key) };
        let answer = stand.send(request.body(full("")).expect("a request")).await;
        assert_eq!(answer.status_field(), status);
        assert_eq!((answer.field("idempotency-replayed"), answer.field("idempotency-outcome")), ("", ""));
        assert_eq!(answer.body, "body");
    }
}

#[tokio::test]
async fn a_refusal_of_an_inner_stack_keeps_its_outcome() {
    let refuse = |_| async {
        let response = onceproxy::http::refusal::Refusal::UpstreamNotReached.into_response(None);
        Ok(response.map(full))
    };
    let stand = Stand::new(Policy::optional(), refuse);
    let answer = stand.send(Request::post("/").body(full("")).expect("a request")).await;
    answer.is_refusal(502, "not-executed", Effect::None);
}

#[tokio::test]
async fn of_two_layers_around_a_service_the_outer_one_claims() {
    let inner = Stand::new(Policy::required(), |request| async move {
        assert_eq!(request.extensions().get::<Attempt>().expect("an attempt").number(), 1);
        assert_eq!(request.headers()["idempotency-attempt"], "1");
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        Ok(match &*body {
            b"no" => Response::builder().header("idempotency-outcome", "not-executed").body(full("no")),
            _ => Response::builder().status(201).body(full("yes")),
        }
        .expect("a response"))
    });
    let unpacked = inner.service.clone().map_request(|request: Asked| request.map(BodyExt::boxed_unsync));
    let outer = IdempotencyLayer::new(inner.ledger.clone()).policy(Policy::optional()).layer(unpacked);
    let send = async |request| {
        let response = outer.clone().oneshot(request).await.expect("an answer");
        Answer::read(response).await.expect("a body")
    };
    send(charge("k", "100")).await.is_executed();
    send(charge("k", "100")).await.is_replayed();
    assert_eq!(inner.executions(), 1);
    // The handler's word reaches the layer that holds the claim.
    assert_eq!(send(charge("other", "no")).await.status_field(), "released");
    // What the outer one lets pass is still the inner one's to refuse.
    let unkeyed = Request::post("/").body(full("")).expect("a request");
    send(unkeyed).await.is_refusal(400, "key-missing", Effect::None);
}

#[tokio::test]
async fn the_body_for_the_service_can_be_had_once_more() {
    let stand = Stand::new(Policy::optional(), |request| async move {
        let protected = request.extensions().get::<Attempt>().is_some();
        let body = request.into_body();
        let copy = body.try_clone();
        assert_eq!(copy.is_some(), protected, "only what was read can be given again");
        let mut bytes = body.collect().await.expect("a body").to_bytes().to_vec();
        if let Some(copy) = copy {
            bytes.extend(copy.collect().await.expect("a body").to_bytes());
        }
        Ok(created(bytes))
    });
    assert_eq!(stand.send(charge("k", "100")).await.body, "100100");
    assert_eq!(stand.send(Request::post("/").body(full("100")).expect("a request")).await.body, "100");
}

#[test]
fn a_layer_can_be_made_outside_of_a_runtime() {
    let layer = IdempotencyLayer::new(Ledger::new(onceproxy::stores::memory::MemoryStore::new()));
    drop(layer.layer(tower::service_fn(|_: ()| async { Ok::<_, ()>(()) })));
}
