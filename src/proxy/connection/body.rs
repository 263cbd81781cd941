//! A request's body as the client sends it, with its time limits.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::activity::Activity;
use crate::http::body::ClientBodyError;

/// The slowest rate after the first time limit has passed, in bytes per second.
const MIN_RATE: u64 = 1024;

/// A request's body. Fails with [`ClientBodyError`].
pub struct ClientBody {
    incoming: Incoming,
    activity: Arc<Activity>,
    limit: Duration,
    /// How many bytes there are to be, where the client said so.
    announced_bytes: Option<u64>,
    version: Version,
    received_bytes: u64,
    /// How long was waited for the client so far; time in which nobody asked for more does not count.
    waited: Duration,
    wait_began: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    has_ended: bool,
}

impl ClientBody {
    pub(in crate::proxy) fn new(
        incoming: Incoming,
        version: Version,
        activity: Arc<Activity>,
        limit: Duration,
    ) -> ClientBody {
        let has_ended = incoming.is_end_stream();
        let announced_bytes = incoming.size_hint().exact();
        if version <= Version::HTTP_11 && !has_ended && announced_bytes.is_none() {
            activity.may_have_trailers(true);
        }
        ClientBody {
            announced_bytes,
            version,
            incoming,
            activity,
            limit,
            received_bytes: 0,
            waited: Duration::ZERO,
            wait_began: None,
            sleep: None,
            has_ended,
        }
    }

    fn wait_ended(&mut self) {
        if let Some(began) = self.wait_began.take() {
            self.waited += began.elapsed();
        }
    }

    /// Whether less came than the slowest rate allows.
    fn is_below_rate(&self) -> bool {
        let beyond = self.waited.saturating_sub(self.limit).as_secs();
        self.received_bytes < beyond.saturating_mul(MIN_RATE)
    }

    /// Whether the body ended before its end: hyper takes a stream that was reset without an error for a whole one.
    fn is_cut(&self) -> bool {
        let is_reset = self.version == Version::HTTP_2 && !self.incoming.is_end_stream();
        is_reset || self.announced_bytes.is_some_and(|announced| self.received_bytes < announced)
    }

    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        if self.wait_began.is_none() {
            let now = Instant::now();
            self.wait_began = Some(now);
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(now + self.limit),
                None => self.sleep = Some(Box::pin(sleep_until(now + self.limit))),
            }
        }
        self.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.wait_ended();
                this.received_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                // Nothing comes behind trailers.
                this.has_ended = this.incoming.is_end_stream() || frame.is_trailers();
                if frame.is_trailers() && this.version <= Version::HTTP_11 {
                    // hyper takes a bare line feed among them for a part of a field: where they ended for somebody
                    // before this proxy is not known, nor what comes next on this connection.
                    this.activity.body_left_unread();
                }
                match this.is_below_rate() && !this.has_ended {
                    true => Poll::Ready(Some(Err(ClientBodyError::TooSlow))),
                    false => Poll::Ready(Some(Ok(frame))),
                }
            }
            Poll::Ready(Some(Err(error))) => {
                this.has_ended = true;
                // What else the client sends is no request, and its answer must not be lost to it.
                this.activity.body_left_unread();
                let gone = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
                Poll::Ready(Some(Err(match gone {
                    true => ClientBodyError::Gone,
                    false => ClientBodyError::Broken(error.to_string()),
                })))
            }
            Poll::Ready(None) => {
                this.has_ended = true;
                if this.announced_bytes.is_none() {
                    this.activity.may_have_trailers(false);
                }
                Poll::Ready(if this.is_cut() { Some(Err(ClientBodyError::Gone)) } else { None })
            }
            Poll::Pending if this.is_overdue(cx) => Poll::Ready(Some(Err(ClientBodyError::TooSlow))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        if !self.has_ended {
            self.activity.body_left_unread();
        }
    }
}
