//! An axum application in which a charge takes effect once.
//!
//! Each route has a policy of its own. Whose key it is comes from the login, so that two accounts may use the same key;
//! and the handler sees under which attempt it runs.
//!
//! ```sh
//! cargo run --example axum
//! curl -i -H 'authorization: Bearer alice-token' -H 'idempotency-key: 42' -d 100 http://127.0.0.1:3000/charges
//! curl -i -H 'authorization: Bearer alice-token' -H 'idempotency-key: 42' -d 100 http://127.0.0.1:3000/charges
//! ```
//!
//! The second answer is the first one, with `Idempotency-Replayed: true`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use onceproxy::stores::memory::MemoryStore;
use onceproxy::{Attempt, IdempotencyLayer, Ledger, Policy};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on {}", listener.local_addr()?);
    serve(listener).await
}

/// Serves the application on a listener.
pub async fn serve(listener: TcpListener) -> std::io::Result<()> {
    // One process: a store in memory will do. Several share a `RedisStore`.
    let ledger = Ledger::new(MemoryStore::new());
    axum::serve(listener, app(ledger)).await
}

fn app(ledger: Ledger) -> Router {
    let charges = Policy::required().namespace("charges").scope_from("account", account).wait(Duration::from_secs(5));
    let notes = Policy::optional().namespace("notes").scope_from("account", account);
    Router::new()
        .route("/charges", post(charge).layer(IdempotencyLayer::new(ledger.clone()).policy(charges)))
        .route("/charges", get(list))
        .route("/notes", post(note).layer(IdempotencyLayer::new(ledger).policy(notes)))
        // Outside of the layers: they find the account that it leaves.
        .layer(from_fn(log_in))
        .with_state(Book::default())
}

/// The account that [`log_in`] found.
#[derive(Clone)]
struct Account(&'static str);

/// Whose key it is.
fn account(parts: &Parts) -> Option<Vec<u8>> {
    parts.extensions.get::<Account>().map(|account| account.0.as_bytes().to_vec())
}

async fn log_in(mut request: Request, next: Next) -> Response {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let account = match token {
        Some("Bearer alice-token") => Account("alice"),
        Some("Bearer bob-token") => Account("bob"),
        _ => return StatusCode::UNAUTHORIZED.into_response(),
    };
    request.extensions_mut().insert(account);
    next.run(request).await
}

/// What was charged: the effect that must not happen twice.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<Vec<String>>>);

impl Book {
    fn add(&self, line: String) -> String {
        let mut lines = self.0.lock().expect("nobody panics while holding it");
        lines.push(line.clone());
        format!("{}: {line}", lines.len())
    }
}

async fn charge(
    State(book): State<Book>,
    Extension(account): Extension<Account>,
    Extension(attempt): Extension<Attempt>,
    amount: String,
) -> Response {
    if amount.parse::<u32>().is_err() {
        return (StatusCode::BAD_REQUEST, "an amount is a number").into_response();
    }
    // What is behind the handler gets the number: it can turn an older attempt away.
    let line = format!("{amount} of {} in attempt {}", account.0, attempt.number());
    (StatusCode::CREATED, book.add(line)).into_response()
}

async fn note(State(book): State<Book>, text: String) -> String {
    book.add(text)
}

async fn list(State(book): State<Book>) -> String {
    book.0.lock().expect("nobody panics while holding it").join("\n")
}
