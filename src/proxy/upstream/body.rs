//! The two bodies of an exchange with an upstream: the request's on its way there, the response's on its way back.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::lease::Lease;
use crate::http::attempt::Hold;
use crate::http::body::{ClientBodyError, RequestBody};
use crate::proxy::BoxError;
use crate::proxy::connection::body::ClientBody;

/// How far a request's body has gone.
#[derive(Clone)]
pub(in crate::proxy) struct Progress(Arc<Steps>);

struct Steps {
    began: Instant,
    state: AtomicU8,
    /// When the state last changed, in nanoseconds after `began`.
    moved: AtomicU64,
    fault: OnceLock<ClientBodyError>,
}

const MOVING: u8 = 0;
const WAITING: u8 = 1;
const ENDED: u8 = 2;

impl Progress {
    fn new() -> Progress {
        Progress(Arc::new(Steps {
            began: Instant::now(),
            state: AtomicU8::new(MOVING),
            moved: AtomicU64::new(0),
            fault: OnceLock::new(),
        }))
    }

    fn is(&self, state: u8) {
        let nanos = u64::try_from(self.0.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.moved.store(nanos, Ordering::Release);
        self.0.state.store(state, Ordering::Release);
    }

    /// Whether the next chunk has to come from the client first.
    pub(in crate::proxy) fn waits_for_client(&self) -> bool {
        self.0.state.load(Ordering::Acquire) == WAITING
    }

    /// When a chunk was last asked for.
    pub(in crate::proxy) fn last_move(&self) -> Instant {
        self.0.began + Duration::from_nanos(self.0.moved.load(Ordering::Acquire))
    }

    /// Why the client did not bring its body to its end.
    pub(in crate::proxy) fn clients_fault(&self) -> Option<&ClientBodyError> {
        self.0.fault.get()
    }
}

/// A request's body on its way to the upstream.
pub struct Sent {
    /// Boxed: a request passes through many hands.
    body: Box<RequestBody<ClientBody>>,
    progress: Progress,
}

impl Sent {
    pub(in crate::proxy) fn new(body: RequestBody<ClientBody>) -> Sent {
        Sent { body: Box::new(body), progress: Progress::new() }
    }

    pub(in crate::proxy) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    pub(in crate::proxy) fn try_clone(&self) -> Option<Sent> {
        self.body.try_clone().map(Sent::new)
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut *self.body).poll_frame(cx);
        self.progress.is(match &polled {
            Poll::Pending if self.body.waits_for_client() => WAITING,
            Poll::Pending | Poll::Ready(Some(Ok(_))) => MOVING,
            Poll::Ready(None | Some(Err(_))) => ENDED,
        });
        if let Poll::Ready(Some(Err(error))) = &polled
            && let Some(fault) = error.downcast_ref::<ClientBodyError>()
        {
            // A body that has failed is not asked again.
            let _ = self.progress.0.fault.set(fault.clone());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How long a response's body may take.
#[derive(Debug)]
pub(in crate::proxy) struct Patience {
    /// Between two chunks.
    pub(in crate::proxy) between_chunks: Duration,
    /// All of it, for as long as it is held.
    pub(in crate::proxy) held: Option<(Instant, Hold)>,
}

/// A response's body as the upstream sends it, or a refusal's.
pub struct UpstreamBody {
    kind: Kind,
    /// How long the upstream took for the head; none when it was not asked.
    took: Option<Duration>,
}

enum Kind {
    Refusal(Option<Bytes>),
    Stream(Box<Stream>),
}

struct Stream {
    incoming: Incoming,
    /// Given back when the body has ended well.
    lease: Option<Lease<Sent>>,
    idle_for: Duration,
    patience: Patience,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whether the sleep counts from the present wait.
    is_armed: bool,
}

impl UpstreamBody {
    pub(in crate::proxy) fn refusal(bytes: Bytes) -> UpstreamBody {
        UpstreamBody { kind: Kind::Refusal(Some(bytes).filter(|bytes| !bytes.is_empty())), took: None }
    }

    /// The end of a head that has no body.
    pub(in crate::proxy) fn empty(took: Duration) -> UpstreamBody {
        UpstreamBody { kind: Kind::Refusal(None), took: Some(took) }
    }

    pub(in crate::proxy) fn new(
        incoming: Incoming,
        lease: Lease<Sent>,
        idle_for: Duration,
        patience: Patience,
        took: Duration,
    ) -> UpstreamBody {
        let mut stream = Stream { incoming, lease: Some(lease), idle_for, patience, sleep: None, is_armed: false };
        match &stream.lease {
            Some(lease) if !stream.incoming.is_end_stream() => lease.answer_is_held(),
            _ => stream.give_back(),
        }
        UpstreamBody { kind: Kind::Stream(Box::new(stream)), took: Some(took) }
    }
}

impl UpstreamBody {
    /// How long the upstream took for the head; none when it was not asked.
    pub(in crate::proxy) fn took(&self) -> Option<Duration> {
        self.took
    }
}

impl Stream {
    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.answer_is_taken();
            lease.give_back(self.idle_for);
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(lease) = &self.lease {
                    lease.answer_is_held();
                }
                self.is_armed = false;
                if self.incoming.is_end_stream() {
                    self.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.lease = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                self.give_back();
                Poll::Ready(None)
            }
            Poll::Pending if self.is_overdue(cx) => {
                self.lease = None;
                let error = io::Error::new(io::ErrorKind::TimedOut, "the upstream's answer came too slowly");
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Pending => {
                if let Some(lease) = &self.lease {
                    lease.answer_is_taken();
                }
                Poll::Pending
            }
        }
    }

    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.is_armed {
            let deadline = match &self.patience.held {
                Some((deadline, hold)) if hold.is_on() => *deadline,
                _ => Instant::now() + self.patience.between_chunks,
            };
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(deadline),
                None => self.sleep = Some(Box::pin(sleep_until(deadline))),
            }
            self.is_armed = true;
        }
        self.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Refusal(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Stream(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Refusal(bytes) => bytes.is_none(),
            Kind::Stream(stream) => stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Refusal(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Stream(stream) => stream.incoming.size_hint(),
        }
    }
}
