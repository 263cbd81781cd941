//! What a connection is doing, as its socket and its requests tell each other.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use http::StatusCode;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::proxy::listener::places::Pressure;

/// How many more requests a client may give up than it waits for. An execution goes on without its client: one that
/// opens streams and resets them would leave behind as many as it likes.
pub(super) const MAX_GIVEN_UP: usize = 256;

/// How many times as long as allowed an answer may wait for the client while others go on.
const LONG_STALL: u32 = 4;
/// How often within that limit is looked whether others still go on.
const LOOKS_AT_STALL: u32 = 8;

/// Shared by a connection's socket and requests.
pub struct Activity {
    opened: Instant,
    /// Whether it has one of the listener's places.
    has_place: AtomicBool,
    /// Requests under way.
    requests: AtomicUsize,
    /// Requests so far.
    begun: AtomicUsize,
    /// When the last request ended, in nanoseconds after `opened`.
    last_end: AtomicU64,
    /// Until when the socket's sleep lasts, likewise.
    awake_at: AtomicU64,
    /// Who reads the socket.
    reader: Mutex<Option<Waker>>,
    has_unread_body: AtomicBool,
    /// Whether trailers may still come behind a request's body.
    may_have_trailers: AtomicBool,
    /// Whether somebody else needs the place.
    is_asked_to_leave: AtomicBool,
    pressure: Arc<Pressure>,
    is_tunnel: AtomicBool,
    /// Of HTTP/2's answers: since when a part waits to be sent, by the answer's number.
    held: Mutex<HashMap<usize, Instant>>,
    /// How many more requests were given up than answered.
    given_up: AtomicUsize,
    /// Rung when they are many and become more.
    many_given_up: Notify,
    /// What the socket answered by itself.
    refused: OnceLock<(StatusCode, &'static str)>,
}

impl Activity {
    pub(in crate::proxy) fn new(pressure: Arc<Pressure>) -> Activity {
        Activity {
            opened: Instant::now(),
            has_place: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            last_end: AtomicU64::new(0),
            awake_at: AtomicU64::new(u64::MAX),
            reader: Mutex::default(),
            has_unread_body: AtomicBool::new(false),
            may_have_trailers: AtomicBool::new(false),
            is_asked_to_leave: AtomicBool::new(false),
            pressure,
            is_tunnel: AtomicBool::new(false),
            held: Mutex::default(),
            given_up: AtomicUsize::new(0),
            many_given_up: Notify::new(),
            refused: OnceLock::new(),
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Acquire) > 0
    }

    /// It has one of the listener's places from now on, and is without a request.
    pub(in crate::proxy) fn takes_place(&self) {
        self.last_end.store(self.since(Instant::now()), Ordering::Release);
        self.has_place.store(true, Ordering::SeqCst);
        self.pressure.ease();
    }

    /// Since when it has been without a complete request head; `None` when a request is under way, when it was asked to
    /// leave before, or when it has no place yet.
    pub(in crate::proxy) fn waits_since(&self) -> Option<Instant> {
        // In one order with the end of a request and its look at the pressure: one of the two sees the other.
        let is_free = self.requests.load(Ordering::SeqCst) == 0 && !self.is_asked_to_leave.load(Ordering::Acquire);
        (is_free && self.has_place.load(Ordering::SeqCst)).then(|| self.last_end())
    }

    /// Somebody else needs the place. A connection that has a request under way by now stays.
    pub(in crate::proxy) fn ask_to_leave(&self) {
        self.is_asked_to_leave.store(true, Ordering::Release);
        if let Some(reader) = &*self.reader.lock().unwrap_or_else(PoisonError::into_inner) {
            reader.wake_by_ref();
        }
    }

    /// Whether to leave now. To ask while a request is under way takes the wish back.
    pub(in crate::proxy) fn is_asked_to_leave(&self) -> bool {
        if !self.is_asked_to_leave.load(Ordering::Acquire) {
            return false;
        }
        let is_busy = self.is_busy();
        if is_busy {
            self.is_asked_to_leave.store(false, Ordering::Release);
        }
        !is_busy
    }

    /// Ready when the connection is asked to leave, for as long as hyper does not read its socket.
    pub(super) fn poll_asked_to_leave(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.wakes(cx.waker());
        match self.is_asked_to_leave() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// How many requests there were so far.
    pub(in crate::proxy) fn begun(&self) -> usize {
        self.begun.load(Ordering::Acquire)
    }

    /// When the last request ended; before the first one, when the connection got its place.
    pub(super) fn last_end(&self) -> Instant {
        self.opened + Duration::from_nanos(self.last_end.load(Ordering::Acquire))
    }

    /// The socket's sleep lasts until then; the reader is woken when a request ends after it.
    pub(super) fn sleeps_until(&self, deadline: Instant, reader: &Waker) {
        self.awake_at.store(self.since(deadline), Ordering::Release);
        self.wakes(reader);
    }

    /// This is who is woken.
    fn wakes(&self, reader: &Waker) {
        let mut kept = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(reader)) {
            *kept = Some(reader.clone());
        }
    }

    /// A request begins; its number.
    pub(in crate::proxy) fn request_begins(&self) -> usize {
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.begun.fetch_add(1, Ordering::AcqRel)
    }

    pub(in crate::proxy) fn request_ends(&self) {
        let now = self.since(Instant::now());
        self.last_end.store(now, Ordering::Release);
        if self.requests.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.pressure.ease();
        }
        // The sleep ended while nobody had a use for it: without a nudge nothing would begin the idle time.
        if self.awake_at.load(Ordering::Acquire) <= now
            && let Some(reader) = &*self.reader.lock().unwrap_or_else(PoisonError::into_inner)
        {
            reader.wake_by_ref();
        }
    }

    /// The client waited for an answer's head.
    pub(in crate::proxy) fn request_is_answered(&self) {
        if self.given_up.load(Ordering::Relaxed) > 0 {
            let fewer = |count: usize| count.checked_sub(1);
            let _ = self.given_up.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
        }
    }

    /// The client did not wait.
    pub(in crate::proxy) fn request_is_given_up(&self) {
        if self.given_up.fetch_add(1, Ordering::Relaxed) >= MAX_GIVEN_UP {
            self.many_given_up.notify_waiters();
        }
    }

    /// Ends when the client has given up more requests than so many, which are [`MAX_GIVEN_UP`] or more.
    pub(super) async fn gives_up_more_than(&self, count: usize) {
        loop {
            let mut rung = std::pin::pin!(self.many_given_up.notified());
            rung.as_mut().enable();
            if self.given_up.load(Ordering::Relaxed) > count {
                return;
            }
            rung.await;
        }
    }

    /// The socket has answered what was no request.
    pub(super) fn socket_refuses(&self, status: StatusCode, code: &'static str) {
        // Each is the last answer of its connection.
        let _ = self.refused.set((status, code));
    }

    /// The status and the problem's code that the socket answered with.
    pub(super) fn socket_refused(&self) -> Option<(StatusCode, &'static str)> {
        self.refused.get().copied()
    }

    /// HTTP ends on the connection, and with it the clocks that it has there.
    pub(in crate::proxy) fn becomes_tunnel(&self) {
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.is_tunnel.store(true, Ordering::Release);
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.is_tunnel.load(Ordering::Acquire)
    }

    /// A part of an answer was handed on, and nobody has asked for the next one yet.
    pub(in crate::proxy) fn answer_is_held(&self, number: usize) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Instant::now());
    }

    /// The next part of an answer was asked for, or there is none.
    pub(in crate::proxy) fn answer_is_taken(&self, number: usize) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// Ends when the client has let a part of an answer wait for so long: over HTTP/2 it may shut the window of one
    /// answer, and the socket tells nothing.
    pub(super) async fn stalls(&self, limit: Duration) {
        loop {
            let oldest = self.held.lock().unwrap_or_else(PoisonError::into_inner).values().min().copied();
            let end = oldest.unwrap_or_else(Instant::now) + limit;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }

    /// Ends when the client has let all answers that are under way wait for so long; those that it takes are given some
    /// more time beside one that waits.
    pub(super) async fn stalls_alone(&self, limit: Duration) {
        loop {
            self.stalls(limit).await;
            let now = Instant::now();
            let (stalled, oldest) = {
                let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                let stalled = held.values().filter(|since| **since + limit <= now);
                (stalled.clone().count(), stalled.min().copied())
            };
            let is_long = oldest.is_some_and(|since| since + limit * LONG_STALL <= now);
            if is_long || (stalled > 0 && stalled >= self.requests.load(Ordering::Acquire)) {
                return;
            }
            sleep(limit / LOOKS_AT_STALL).await;
        }
    }

    fn since(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.opened).as_nanos()).unwrap_or(u64::MAX)
    }

    /// A request's body was given up before its end: what is left of it comes in and nobody reads it.
    pub(super) fn body_left_unread(&self) {
        self.has_unread_body.store(true, Ordering::Release);
    }

    /// Over HTTP/1: a request's chunks come in, or have come to their end.
    pub(super) fn may_have_trailers(&self, may: bool) {
        self.may_have_trailers.store(may, Ordering::Release);
    }

    /// Whether what comes next on an HTTP/1 connection cannot be told to be a request.
    pub(in crate::proxy) fn ends_with_answer(&self) -> bool {
        self.has_unread_body() || self.may_have_trailers.load(Ordering::Acquire)
    }

    pub(super) fn has_unread_body(&self) -> bool {
        self.has_unread_body.load(Ordering::Acquire)
    }
}
