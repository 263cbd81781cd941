//! A layer around a handler that counts its executions.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use onceproxy::http::body::{RequestBody, ResponseBody};
use onceproxy::ledger::store::Filter;
use onceproxy::stores::memory::MemoryStore;
use onceproxy::{Idempotency, IdempotencyLayer, Ledger, Policy, Record, Store};
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceExt, service_fn};

pub type BoxError = Box<dyn Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
pub type Asked = Request<RequestBody<Body>>;
pub type Handler = BoxCloneService<Asked, Response<Body>, Failed>;

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The error of a handler.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handler failed")]
pub struct Failed;

/// A layer around a counting handler, over a store in memory.
pub struct Stand {
    pub store: MemoryStore,
    pub ledger: Ledger,
    pub service: Idempotency<Handler>,
    executions: Arc<AtomicUsize>,
}

/// What a client gets, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Stand {
    pub fn new<F, A>(policy: Policy, handler: F) -> Stand
    where
        F: Fn(Asked) -> A + Clone + Send + 'static,
        A: Future<Output = Result<Response<Body>, Failed>> + Send + 'static,
    {
        let store = MemoryStore::new();
        Stand::with(store.clone(), Ledger::new(store), |layer| layer.policy(policy), handler)
    }

    /// With a ledger of the test's own, which keeps its records in `store` in the end.
    pub fn with<F, A>(
        store: MemoryStore,
        ledger: Ledger,
        set: impl FnOnce(IdempotencyLayer) -> IdempotencyLayer,
        handler: F,
    ) -> Stand
    where
        F: Fn(Asked) -> A + Clone + Send + 'static,
        A: Future<Output = Result<Response<Body>, Failed>> + Send + 'static,
    {
        let executions = Arc::new(AtomicUsize::new(0));
        let counted = executions.clone();
        let handler = BoxCloneService::new(service_fn(move |request| {
            counted.fetch_add(1, Ordering::SeqCst);
            handler(request)
        }));
        let service = set(IdempotencyLayer::new(ledger.clone())).layer(handler);
        Stand { store, ledger, service, executions }
    }

    /// Sends a request of which the handler answers or the layer refuses.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        self.try_send(request).await.expect("the handler does not fail")
    }

    pub async fn try_send(&self, request: Request<Body>) -> Result<Answer, Failed> {
        let response = self.begin(request).await?;
        let answer = tokio::time::timeout(PATIENCE, Answer::read(response)).await;
        Ok(answer.expect("a body that ends in time").expect("a whole body"))
    }

    /// Sends a request and reads the answer's head only.
    pub async fn begin(&self, request: Request<Body>) -> Result<Response<ResponseBody<Body>>, Failed> {
        let response = tokio::time::timeout(PATIENCE, self.service.clone().oneshot(request)).await;
        response.expect("an answer in time")
    }

    pub fn executions(&self) -> usize {
        self.executions.load(Ordering::SeqCst)
    }

    /// The only record of the store.
    pub async fn record(&self) -> Record {
        let mut records = self.records().await;
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    }

    pub async fn records(&self) -> Vec<Record> {
        let page = self.store.list(Filter { state: None, limit: 1000 }, None).await.expect("a page");
        page.entries.into_iter().map(|(_, entry)| entry.record).collect()
    }
}

impl Answer {
    /// Reads a response to its end.
    pub async fn read<B>(response: Response<B>) -> Result<Answer, BoxError>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let (head, body) = response.into_parts();
        let collected = body.collect().await.map_err(Into::into)?;
        let trailers = collected.trailers().cloned();
        Ok(Answer { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
    }

    /// The only value of a field; empty where there is none.
    pub fn field(&self, name: &str) -> &str {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next().map_or("", |value| value.to_str().expect("a text"));
        assert_eq!(values.next(), None, "{name} stands there once");
        value
    }

    pub fn status_field(&self) -> &str {
        self.field("idempotency-status")
    }

    /// The problem document.
    pub fn problem(&self) -> serde_json::Value {
        assert_eq!(self.field("content-type"), "application/problem+json");
        let problem: serde_json::Value = serde_json::from_slice(&self.body).expect("a problem document");
        assert_eq!(problem["status"], self.status.as_u16());
        let code = problem["code"].as_str().expect("a code");
        assert_eq!(problem["type"], format!("urn:onceproxy:problem:{code}"));
        assert!(problem["title"].is_string() && problem["detail"].is_string());
        problem
    }

    /// Asserts that it is a refusal of this kind, with what every refusal has to have.
    #[track_caller]
    pub fn is_refusal(&self, status: u16, code: &str, effect: Effect) {
        assert_eq!(self.problem()["code"], code);
        assert_eq!(self.status.as_u16(), status);
        assert_eq!(self.status_field(), "");
        assert_eq!(self.field("idempotency-replayed"), "");
        let outcome = match effect {
            Effect::None => "not-executed",
            Effect::Perhaps => "",
        };
        assert_eq!(self.field("idempotency-outcome"), outcome);
    }

    #[track_caller]
    pub fn is_executed(&self) {
        assert_eq!(self.status_field(), "executed", "{}: {:?}", self.status, self.body);
        assert_eq!(self.field("idempotency-replayed"), "");
    }

    #[track_caller]
    pub fn is_replayed(&self) {
        assert_eq!(self.status_field(), "replayed", "{}: {:?}", self.status, self.body);
        assert_eq!(self.field("idempotency-replayed"), "true");
    }
}

/// Whether anything may have run when a refusal is given.
#[derive(Debug, Clone, Copy)]
pub enum Effect {
    None,
    Perhaps,
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of these frames that ends after them.
pub fn frames(frames: Vec<Result<Frame<Bytes>, BoxError>>) -> Body {
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// A body that begins with this chunk and never ends.
pub fn endless(first: &'static [u8]) -> Body {
    use futures_util::StreamExt;
    let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(first)))]);
    StreamBody::new(first.chain(futures_util::stream::pending())).boxed_unsync()
}

/// A charge under a key.
pub fn charge(key: &str, body: &'static str) -> Request<Body> {
    Request::post("/charges").header("idempotency-key", key).body(full(body)).expect("a request")
}

/// A charge under a key, with one more field.
pub fn charge_with(key: &str, name: &'static str, value: &str) -> Request<Body> {
    let request = Request::post("/charges").header("idempotency-key", key).header(name, value);
    request.body(full("100")).expect("a request")
}

/// A handler that answers 201 with a number of its own for each execution.
pub fn counting() -> impl Fn(Asked) -> std::future::Ready<Result<Response<Body>, Failed>> + Clone + Send + 'static {
    let number = Arc::new(AtomicUsize::new(0));
    move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst) + 1;
        std::future::ready(Ok(created(format!("charge {number}"))))
    }
}

pub fn created(body: impl Into<Bytes>) -> Response<Body> {
    Response::builder().status(StatusCode::CREATED).body(full(body)).expect("a response")
}

/// A handler that always gives this response.
pub fn always(
    make: impl Fn() -> http::response::Builder + Clone + Send + 'static,
) -> impl Fn(Asked) -> std::future::Ready<Result<Response<Body>, Failed>> + Clone + Send + 'static {
    move |_| std::future::ready(Ok(make().body(full("answer")).expect("a response")))
}

/// Calls a service as a server does: ready first.
pub async fn call<S, B>(service: &mut S, request: Request<Body>) -> Answer
where
    S: Service<Request<Body>, Response = Response<ResponseBody<B>>>,
    S::Error: std::fmt::Debug,
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let response = service.ready().await.expect("ready").call(request).await.expect("an answer");
    Answer::read(response).await.expect("a whole body")
}
