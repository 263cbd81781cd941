//! A plain hyper server in which a charge takes effect once.
//!
//! The layer goes around any tower service; hyper calls it through a function. The handler knows better than its status
//! when it has done nothing, and says so: the key is free again.
//!
//! ```sh
//! cargo run --example hyper
//! curl -i -H 'idempotency-key: 42' -d 100 http://127.0.0.1:3000/
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use onceproxy::http::body::RequestBody;
use onceproxy::stores::memory::MemoryStore;
use onceproxy::{Disposition, IdempotencyLayer, Ledger, Policy};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on {}", listener.local_addr()?);
    serve(listener).await
}

/// Serves the application on a listener.
pub async fn serve(listener: TcpListener) -> std::io::Result<()> {
    let charges = Arc::new(AtomicU32::new(0));
    let handler = tower::service_fn(move |request| charge(charges.clone(), request));
    let layer = IdempotencyLayer::new(Ledger::new(MemoryStore::new())).policy(Policy::required());
    let service = layer.layer(handler);
    loop {
        let (socket, _) = listener.accept().await?;
        let service = service.clone();
        // `oneshot` asks the clone whether it is ready before it calls it.
        let answer = service_fn(move |request: Request<Incoming>| service.clone().oneshot(request));
        tokio::spawn(async move {
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}

async fn charge(
    charges: Arc<AtomicU32>,
    request: Request<RequestBody<Incoming>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    // The body of a protected request is here already.
    let Ok(body) = request.into_body().collect().await else {
        return Ok(answer(StatusCode::BAD_REQUEST, "the body broke off"));
    };
    if body.to_bytes().is_empty() {
        let mut nothing_done = answer(StatusCode::CONFLICT, "the till is closed");
        nothing_done.extensions_mut().insert(Disposition::NotExecuted);
        return Ok(nothing_done);
    }
    let number = charges.fetch_add(1, Ordering::SeqCst) + 1;
    Ok(answer(StatusCode::CREATED, &format!("charge {number}")))
}

fn answer(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}
