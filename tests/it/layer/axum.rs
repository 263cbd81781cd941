//! The layer in an axum application.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::routing::post;
use http::Request;
use onceproxy::stores::memory::MemoryStore;
use onceproxy::{Attempt, IdempotencyLayer, Ledger, Policy};
use tower::{Layer, Service, ServiceExt};

use crate::layer::stand::{Answer, Body, Effect, charge, full};

async fn pay(State(count): State<Arc<AtomicUsize>>, attempt: Option<Extension<Attempt>>, body: String) -> String {
    let number = count.fetch_add(1, Ordering::SeqCst) + 1;
    format!("{number} {body} {}", attempt.map_or(0, |attempt| attempt.number()))
}

async fn send(app: &Router, request: Request<Body>) -> Answer {
    let Ok(response) = app.clone().oneshot(request).await;
    Answer::read(response).await.expect("a body")
}

#[tokio::test]
async fn routes_have_policies_of_their_own() {
    let ledger = Ledger::new(MemoryStore::new());
    let required = IdempotencyLayer::new(ledger.clone()).policy(Policy::required());
    let optional = IdempotencyLayer::new(ledger).policy(Policy::optional());
    let app = Router::new()
        .route("/charges", post(pay).layer(required))
        .route("/notes", post(pay).layer(optional))
        .route("/open", post(pay))
        .with_state(Arc::default());
    let first = send(&app, charge("k", "100")).await;
    first.is_executed();
    assert_eq!(first.body, "1 100 1");
    let again = send(&app, charge("k", "100")).await;
    again.is_replayed();
    assert_eq!(again.body, "1 100 1");
    let unkeyed = |path: &'static str| Request::post(path).body(full("a")).expect("a request");
    send(&app, unkeyed("/charges")).await.is_refusal(400, "key-missing", Effect::None);
    assert_eq!(send(&app, unkeyed("/notes")).await.body, "2 a 0");
    assert_eq!(send(&app, unkeyed("/open")).await.body, "3 a 0");
}

#[tokio::test]
async fn a_layer_around_the_whole_application_and_one_around_a_route_get_along() {
    let ledger = Ledger::new(MemoryStore::new());
    let layer = |policy| IdempotencyLayer::new(ledger.clone()).policy(policy);
    let app = Router::new()
        .route("/charges", post(pay).layer(layer(Policy::required())))
        .layer(layer(Policy::optional()))
        .with_state(Arc::default());
    send(&app, charge("k", "100")).await.is_executed();
    send(&app, charge("k", "100")).await.is_replayed();
    let unkeyed = Request::post("/charges").body(full("a")).expect("a request");
    send(&app, unkeyed).await.is_refusal(400, "key-missing", Effect::None);
}

#[tokio::test]
async fn an_extractors_refusal_is_an_answer_like_any_other() {
    async fn number(axum::Json(number): axum::Json<u32>) -> String {
        number.to_string()
    }
    let layer = IdempotencyLayer::new(Ledger::new(MemoryStore::new())).policy(Policy::required());
    let app = Router::new().route("/charges", post(number).layer(layer));
    let first = send(&app, charge("k", "100")).await;
    first.is_executed();
    assert_eq!(first.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    send(&app, charge("k", "100")).await.is_replayed();
}

/// Compiles only while the layer leaves the error type alone.
#[tokio::test]
async fn what_cannot_fail_still_cannot() {
    fn cannot_fail<S: Service<Request<Body>, Error = Infallible>>(service: S) -> S {
        service
    }
    let router: Router = Router::new().route("/charges", post(|| async { "paid" }));
    let layer = IdempotencyLayer::new(Ledger::new(MemoryStore::new())).policy(Policy::required());
    let Ok(response) = cannot_fail(layer.layer(router)).oneshot(charge("k", "100")).await;
    assert_eq!(response.status(), StatusCode::OK);
}
