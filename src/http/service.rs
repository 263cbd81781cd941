//! The service: decides whether the policy covers a request, and hands it on.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::attempt::{Attempt, IDEMPOTENCY_ATTEMPT, IDEMPOTENCY_REPLAYED, IDEMPOTENCY_STATUS};
use super::body::{RequestBody, ResponseBody};
use super::execute::Execution;
use super::keyed::{KeyPlace, key_in_head};
use super::layer::Settings;
use super::observe;
use super::policy::{KeyRule, Mode};
use super::refusal::Refusal;
use super::reply::{self, without_ours};

type BoxError = Box<dyn Error + Send + Sync>;
type Held<R, E> = Pin<Box<dyn Future<Output = Result<Response<ResponseBody<R>>, E>> + Send>>;

/// A service under which a key takes effect once. Made by [`IdempotencyLayer`](super::layer::IdempotencyLayer).
///
/// Errors of the inner service stay what they are; every refusal of this layer is a response. So does a panic of the
/// inner service: it goes on in whoever polls this one, with the outcome recorded as unknown.
///
/// ```
/// use std::convert::Infallible;
///
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use onceproxy::stores::memory::MemoryStore;
/// use onceproxy::{IdempotencyLayer, Ledger};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pay = service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("paid")))));
/// let service = IdempotencyLayer::new(Ledger::new(MemoryStore::new())).layer(pay);
/// let request = || {
///     let request = Request::post("/payments").header("idempotency-key", "k");
///     request.body(Full::new(Bytes::from("100"))).expect("a request")
/// };
/// let Ok(first) = service.clone().oneshot(request()).await;
/// let Ok(second) = service.oneshot(request()).await;
/// assert_eq!(first.headers()["idempotency-status"], "executed");
/// assert_eq!(second.headers()["idempotency-replayed"], "true");
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Idempotency<S> {
    inner: S,
    settings: Arc<Settings>,
}

pin_project! {
    /// The future of [`Idempotency`].
    #[project = Projected]
    pub struct ResponseFuture<F, R, E> {
        #[pin]
        way: Way<F, R, E>,
    }
}

pin_project! {
    #[project = ProjectedWay]
    enum Way<F, R, E> {
        /// Not protected.
        Passed { #[pin] future: F },
        /// Protected by a layer further out.
        Inside { #[pin] future: F },
        Held { future: Held<R, E> },
        Refused { response: Option<Response<Bytes>> },
    }
}

impl<S> Idempotency<S> {
    pub(super) fn new(inner: S, settings: Arc<Settings>) -> Idempotency<S> {
        Idempotency { inner, settings }
    }
}

impl<S, B, R> Service<Request<B>> for Idempotency<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError> + Send,
    R: Body<Data = Bytes> + Send + Unpin + 'static,
    R::Error: Into<BoxError> + Send,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // A layer further out holds the claim: this one would find the key taken by its own request.
        if request.extensions().get::<Attempt>().is_some() {
            return ResponseFuture { way: Way::Inside { future: self.inner.call(request.map(RequestBody::passed)) } };
        }
        remove_ours(request.headers_mut());
        let policy = &self.settings.policy;
        if policy.mode == Mode::Off || !policy.methods.protect(request.method()) {
            return self.pass(request);
        }
        let (parts, body) = request.into_parts();
        let place = match (key_in_head(policy, &parts), policy.key) {
            (Ok(KeyPlace::Nowhere), KeyRule::Optional) => return self.pass(Request::from_parts(parts, body)),
            (Ok(KeyPlace::Nowhere), KeyRule::Required) => Err(Refusal::KeyMissing),
            (place, _) => place,
        };
        let future: Held<R, S::Error> = match (policy.mode, place) {
            (Mode::Observe, place) => {
                let inner = self.take_ready();
                Box::pin(observe::observe(self.settings.clone(), inner, parts, body, place))
            }
            (_, Ok(place)) => {
                let inner = self.take_ready();
                Box::pin(Execution::new(self.settings.clone(), inner).hold(parts, body, place))
            }
            (_, Err(refusal)) => return self.refuse(refusal),
        };
        ResponseFuture { way: Way::Held { future } }
    }
}

/// Takes the fields out of a request that only this layer may set.
fn remove_ours(headers: &mut HeaderMap) {
    // Most messages have none of them: one pass over the names is cheaper than to ask for each.
    let is_ours = |name: &str| matches!(name.strip_prefix("idempotency-"), Some("replayed" | "status" | "attempt"));
    if !headers.keys().any(|name| is_ours(name.as_str())) {
        return;
    }
    for name in [IDEMPOTENCY_REPLAYED, IDEMPOTENCY_STATUS, IDEMPOTENCY_ATTEMPT] {
        headers.remove(name);
    }
}

impl<S: Clone> Idempotency<S> {
    /// Takes the service that `poll_ready` made ready and leaves a clone in its place, which has to become ready anew.
    fn take_ready(&mut self) -> S {
        let clone = self.inner.clone();
        std::mem::replace(&mut self.inner, clone)
    }

    fn pass<B, R>(&mut self, request: Request<B>) -> ResponseFuture<S::Future, R, S::Error>
    where
        S: Service<Request<RequestBody<B>>, Response = Response<R>>,
        B: Body,
        B::Error: Into<BoxError>,
    {
        ResponseFuture { way: Way::Passed { future: self.inner.call(request.map(RequestBody::passed)) } }
    }

    fn refuse<F, R, E>(&self, refusal: Refusal) -> ResponseFuture<F, R, E> {
        let response = reply::refuse(refusal, &self.settings.policy, None);
        ResponseFuture { way: Way::Refused { response: Some(response) } }
    }
}

impl<F, R, E> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().way.project() {
            ProjectedWay::Passed { future } => future.poll(cx).map_ok(without_ours),
            ProjectedWay::Inside { future } => future.poll(cx).map_ok(|response| response.map(ResponseBody::passed)),
            ProjectedWay::Held { future } => future.as_mut().poll(cx),
            ProjectedWay::Refused { response } => {
                let response = response.take().expect("a future is not polled after it is ready");
                Poll::Ready(Ok(response.map(ResponseBody::from)))
            }
        }
    }
}
