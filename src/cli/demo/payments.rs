//! The demo API: charges money, and knows nothing of keys. `POST /payments` charges, `GET /payments` tells.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cli::output;

/// The largest body, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Of so many answers one is lost.
const LOST_EVERY: usize = 5;
/// The first payment whose answer is lost; before it there is one that goes well.
pub(super) const FIRST_LOST: usize = 2;

/// Which answers arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answers {
    /// All.
    All,
    /// All but one in [`LOST_EVERY`].
    SomeLost,
}

/// The API and its charges: amounts, the first is `ch_1`.
pub(super) struct Payments {
    answers: Answers,
    charges: Mutex<Vec<u64>>,
}

/// The answer is lost: the connection ends without it.
#[derive(Debug, thiserror::Error)]
#[error("the answer is lost")]
struct Lost;

/// Serves until the process ends.
pub(super) async fn serve(payments: Arc<Payments>, listener: TcpListener) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: they come back.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let payments = payments.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let payments = payments.clone();
                async move { payments.answer(request).await }
            });
            let http = http1::Builder::new();
            // An error is a lost answer, or a proxy that went away.
            let _ = http.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

impl Payments {
    pub(super) fn new(answers: Answers) -> Payments {
        Payments { answers, charges: Mutex::default() }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Lost> {
        let (parts, body) = request.into_parts();
        let (status, document) = match (&parts.method, parts.uri.path()) {
            (&Method::GET, "/payments") => (StatusCode::OK, self.list()),
            (&Method::POST, "/payments") => match amount_of(body).await {
                Some(amount) => (StatusCode::CREATED, self.charge(amount)?),
                None => (StatusCode::BAD_REQUEST, json!({ "error": "send {\"amount\": 500}" })),
            },
            _ => (StatusCode::NOT_FOUND, json!({ "error": "there is /payments, to GET and to POST to" })),
        };
        Ok(respond(status, &document))
    }

    fn list(&self) -> Value {
        let charges = self.charges.lock().unwrap_or_else(PoisonError::into_inner);
        let all = charges.iter().enumerate().map(|(index, amount)| charge(index + 1, *amount));
        json!({ "count": charges.len(), "charges": all.collect::<Vec<_>>() })
    }

    /// Charges, and tells it, unless the answer is lost.
    fn charge(&self, amount: u64) -> Result<Value, Lost> {
        let number = {
            let mut charges = self.charges.lock().unwrap_or_else(PoisonError::into_inner);
            charges.push(amount);
            charges.len()
        };
        let is_lost = is_lost(self.answers, number);
        let end = if is_lost { ", and the answer is lost" } else { "" };
        output::say(&format!("the API has charged {amount} (ch_{number}){end}"));
        match is_lost {
            true => Err(Lost),
            false => Ok(charge(number, amount)),
        }
    }
}

fn is_lost(answers: Answers, number: usize) -> bool {
    match answers {
        Answers::All => false,
        Answers::SomeLost => number % LOST_EVERY == FIRST_LOST,
    }
}

/// A charge as the API tells it.
pub(super) fn charge(number: usize, amount: u64) -> Value {
    json!({ "id": format!("ch_{number}"), "amount": amount })
}

async fn amount_of(body: Incoming) -> Option<u64> {
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await.ok()?.to_bytes();
    serde_json::from_slice::<Value>(&body).ok()?["amount"].as_u64().filter(|amount| *amount > 0)
}

fn respond(status: StatusCode, document: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{document}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_answers_is_lost_and_the_first_is_not() {
        let lost: Vec<usize> = (1..=12).filter(|number| is_lost(Answers::SomeLost, *number)).collect();
        assert_eq!(lost, [2, 7, 12]);
        assert!(!(1..=12).any(|number| is_lost(Answers::All, number)));
    }
}
