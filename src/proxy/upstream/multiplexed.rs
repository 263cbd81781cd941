//! HTTP/2 connections, which many exchanges share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use hyper::client::conn::http2::SendRequest;
use tokio::time::{Duration, Instant};

use super::socket::Traffic;

/// Streams at once on a connection of ours, whatever more the server allows.
pub(super) const MAX_STREAMS: usize = 100;

/// A connection in the pool.
pub(super) struct Multiplexed<B> {
    sender: SendRequest<B>,
    traffic: Traffic,
    opened: Instant,
    streams: Arc<Streams>,
}

/// How many exchanges a connection carries, and may carry.
pub(super) struct Streams {
    open: AtomicUsize,
    /// What the server allows, as far as the connection's task has told; none before its first word.
    allowed: AtomicUsize,
    /// Who waits for the last exchange to end.
    waits_for_last: AtomicWaker,
    /// Takes no more exchanges.
    is_retired: AtomicBool,
}

/// One exchange's part of a connection.
pub(super) struct Stream<B> {
    pub(super) sender: SendRequest<B>,
    streams: Arc<Streams>,
}

impl<B> Multiplexed<B> {
    pub(super) fn new(sender: SendRequest<B>, traffic: Traffic, streams: Arc<Streams>) -> Multiplexed<B> {
        Multiplexed { sender, traffic, opened: Instant::now(), streams }
    }

    /// One more exchange, where there is room. Called under the pool's lock only.
    pub(super) fn share(&self, opened_after: Option<Instant>) -> Option<(Stream<B>, Traffic)> {
        let is_new_enough = opened_after.is_none_or(|after| self.opened > after);
        let has_ended = self.is_over() || (self.is_idle() && self.traffic.has_ended());
        if !is_new_enough || has_ended || !self.streams.has_room() {
            return None;
        }
        self.streams.open.fetch_add(1, Ordering::AcqRel);
        Some((Stream { sender: self.sender.clone(), streams: self.streams.clone() }, self.traffic.clone()))
    }

    /// Whether it takes no more exchanges. It ends with the last one that it has.
    pub(super) fn is_over(&self) -> bool {
        !self.sender.is_ready() || self.streams.is_retired.load(Ordering::Acquire)
    }

    /// Whether no exchange needs it.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.open.load(Ordering::Acquire) == 0
    }

    /// Whether nothing was asked of it for so long.
    pub(super) fn has_been_idle(&self, limit: Duration) -> bool {
        self.is_idle() && self.traffic.last_write() + limit <= Instant::now()
    }
}

impl Streams {
    pub(super) fn new() -> Arc<Streams> {
        Arc::new(Streams {
            open: AtomicUsize::new(0),
            allowed: AtomicUsize::new(0),
            waits_for_last: AtomicWaker::new(),
            is_retired: AtomicBool::new(false),
        })
    }

    /// The server allows so many; says whether it has spoken.
    pub(super) fn allow(&self, streams: usize) -> bool {
        self.allowed.store(streams.min(MAX_STREAMS), Ordering::Release);
        streams > 0
    }

    /// Ready when no exchange is left.
    pub(super) fn poll_none_open(&self, cx: &Context<'_>) -> Poll<()> {
        self.waits_for_last.register(cx.waker());
        if self.open.load(Ordering::Acquire) == 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether some exchanges are beyond what the server allows: they are queued, and have not begun.
    fn are_queued(&self) -> bool {
        self.open.load(Ordering::Acquire) > self.allowed.load(Ordering::Acquire)
    }

    fn has_room(&self) -> bool {
        self.open.load(Ordering::Acquire) < self.allowed.load(Ordering::Acquire)
    }
}

impl<B> Stream<B> {
    /// The connection takes no more exchanges: it does not answer. `true` when exchanges are queued on it, which could
    /// still begin after everybody has given them up.
    pub(super) fn retire(&self) -> bool {
        self.streams.is_retired.store(true, Ordering::Release);
        self.streams.are_queued()
    }
}

impl<B> Drop for Stream<B> {
    fn drop(&mut self) {
        self.streams.open.fetch_sub(1, Ordering::AcqRel);
        self.streams.waits_for_last.wake();
    }
}
