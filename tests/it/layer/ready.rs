//! A service is called only after it said that it is ready.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use onceproxy::http::policy::{Mode, StoreDown};
use onceproxy::{IdempotencyLayer, Ledger, Policy};
use tower::{Layer, Service};

use crate::layer::faulty::{Fault, FaultyStore};
use crate::layer::stand::{Asked, Body, Failed, call, charge, created, full};

/// A service that insists on being asked first; a clone of it has to be asked anew.
struct Strict {
    is_ready: bool,
    calls: Arc<AtomicUsize>,
}

impl Clone for Strict {
    fn clone(&self) -> Strict {
        Strict { is_ready: false, calls: self.calls.clone() }
    }
}

impl Service<Asked> for Strict {
    type Response = Response<Body>;
    type Error = Failed;
    type Future = Ready<Result<Response<Body>, Failed>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Asked) -> Self::Future {
        assert!(self.is_ready, "called without being asked");
        self.is_ready = false;
        self.calls.fetch_add(1, Ordering::SeqCst);
        ready(Ok(created("")))
    }
}

#[tokio::test]
async fn each_call_goes_to_a_service_that_is_ready() {
    let unkeyed = || Request::post("/").body(full("")).expect("a request");
    let off = Policy { mode: Mode::Off, ..Policy::optional() };
    let observe = Policy { mode: Mode::Observe, ..Policy::optional() };
    let bypass = Policy { store_down: StoreDown::Bypass, ..Policy::optional() };
    for (policy, fault, calls) in [
        (Policy::optional(), Fault::Well, 4),
        (off, Fault::Well, 5),
        (observe, Fault::Well, 5),
        (bypass, Fault::Away, 5),
    ] {
        let strict = Strict { is_ready: false, calls: Arc::default() };
        let counted = strict.calls.clone();
        let mut service = IdempotencyLayer::new(Ledger::new(FaultyStore::new(fault))).policy(policy).layer(strict);
        call(&mut service, charge("k", "100")).await;
        call(&mut service, unkeyed()).await;
        call(&mut service, charge("k", "100")).await;
        call(&mut service, charge("other", "100")).await;
        call(&mut service, unkeyed()).await;
        assert_eq!(counted.load(Ordering::SeqCst), calls);
    }
}

/// A service that never becomes ready.
#[derive(Clone)]
struct Busy;

impl Service<Asked> for Busy {
    type Response = Response<Body>;
    type Error = Failed;
    type Future = Ready<Result<Response<Body>, Failed>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Pending
    }

    fn call(&mut self, _: Asked) -> Self::Future {
        unreachable!("it never said that it is ready")
    }
}

#[test]
fn a_service_that_is_not_ready_holds_the_layer_back() {
    let mut layered = IdempotencyLayer::new(Ledger::new(FaultyStore::new(Fault::Well))).layer(Busy);
    let poll = Service::<Request<Body>>::poll_ready(&mut layered, &mut Context::from_waker(Waker::noop()));
    assert!(poll.is_pending());
}
