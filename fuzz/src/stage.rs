//! The layer over a store in memory, before an upstream that counts.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use onceproxy::http::body::RequestBody;
use onceproxy::http::report::Report;
use onceproxy::stores::memory::MemoryStore;
use onceproxy::{Attempt, Idempotency, IdempotencyLayer, Ledger, Policy, RecordId};
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, Service, ServiceExt};

/// The request field that chooses the upstream's status.
const ASKED_STATUS: &str = "x-answer";
/// The request field that holds a field of the upstream's answer.
const ASKED_FIELD: &str = "x-answer-field";
/// Marks an answer of the upstream, recorded or not.
pub(crate) const UPSTREAM: &str = "x-upstream";

/// A layer and what it stands on; fresh for each input.
pub(crate) struct Stage {
    runtime: Runtime,
    pub(crate) ledger: Ledger,
    service: Idempotency<Upstream>,
    executed: Executed,
}

type Executed = Arc<Mutex<HashMap<RecordId, u32>>>;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) record: Option<RecordId>,
}

impl Stage {
    pub(crate) fn new(policy: Arc<Policy>) -> Stage {
        let ledger = Ledger::new(MemoryStore::new());
        let executed = Executed::default();
        let service =
            IdempotencyLayer::new(ledger.clone()).policy(policy).layer(Upstream { executed: executed.clone() });
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        Stage { runtime, ledger, service, executed }
    }

    /// Sends a request through the layer.
    pub(crate) fn send(&self, parts: &Parts, body: &Bytes) -> Reply {
        let request = Request::from_parts(parts.clone(), Full::new(body.clone()));
        let service = self.service.clone();
        self.runtime.block_on(async move {
            let Ok(response) = service.oneshot(request).await;
            let (parts, body) = response.into_parts();
            let Ok(body) = body.collect().await;
            let record = parts.extensions.get::<Report>().and_then(|report| report.record);
            Reply { status: parts.status, headers: parts.headers, body: body.to_bytes(), record }
        })
    }

    /// How often the upstream executed under this record.
    pub(crate) fn executions(&self, record: &RecordId) -> u32 {
        self.executed.lock().expect("nobody panics in here").get(record).copied().unwrap_or_default()
    }

    /// Does something with the ledger's store.
    pub(crate) fn wait_for<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }
}

impl Reply {
    pub(crate) fn field(&self, name: &str) -> &[u8] {
        self.headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default()
    }

    /// Asserts that this is an answer of the upstream, or a refusal as every client can read it.
    pub(crate) fn assert_is_one(&self) {
        if self.headers.contains_key(UPSTREAM) {
            return;
        }
        assert_eq!(self.field("content-type"), b"application/problem+json", "{self:?}");
        let problem: serde_json::Value = serde_json::from_slice(&self.body).expect("a problem is JSON");
        assert_eq!(problem["status"], self.status.as_u16(), "{self:?}");
        for name in ["type", "title", "detail", "code"] {
            assert!(problem[name].as_str().is_some_and(|text| !text.is_empty()), "{name}: {self:?}");
        }
        assert!(self.status.is_client_error() || self.status.is_server_error(), "{self:?}");
    }
}

/// Answers as it is asked to, and counts what it executes under a claim.
#[derive(Clone)]
struct Upstream {
    executed: Executed,
}

impl<B: http_body::Body> Service<Request<RequestBody<B>>> for Upstream {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody<B>>) -> Self::Future {
        if let Some(attempt) = request.extensions().get::<Attempt>() {
            assert!(attempt.may_start(), "nothing has been done yet that could take the claim away");
            *self.executed.lock().expect("nobody panics in here").entry(*attempt.record_id()).or_default() += 1;
        }
        let fields = request.headers();
        let mut response = Response::new(Full::new(Bytes::from_static(b"done!")));
        *response.status_mut() = asked_status(fields).unwrap_or(StatusCode::CREATED);
        for (name, value) in fields.get_all(ASKED_FIELD).iter().filter_map(asked_field) {
            response.headers_mut().append(name, value);
        }
        response.headers_mut().insert(UPSTREAM, HeaderValue::from_static("1"));
        ready(Ok(response))
    }
}

fn asked_status(fields: &HeaderMap) -> Option<StatusCode> {
    let status = StatusCode::from_bytes(fields.get(ASKED_STATUS)?.as_bytes()).ok()?;
    (!status.is_informational()).then_some(status)
}

fn asked_field(line: &HeaderValue) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.as_bytes().iter().position(|&byte| byte == b':')?;
    let name = HeaderName::from_bytes(&line.as_bytes()[..colon]).ok()?;
    let value = HeaderValue::from_bytes(line.as_bytes()[colon + 1..].trim_ascii()).ok()?;
    // A cut connection would be one to the other side.
    (name != http::header::CONNECTION).then_some((name, value))
}
