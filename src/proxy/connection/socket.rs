//! A client's socket: it keeps the clocks of heads and of idle time, and lingers at the end.
//!
//! hyper has one clock for both, and closes right after its last byte: an answer to a request whose body nobody reads
//! would be lost to the reset that the unread bytes cause.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::activity::Activity;
use super::stream::ClientStream;
use crate::failpoint;
use crate::http::refusal::Refusal;
use crate::proxy::listener::ListenerSpec;

/// How much of an unread body is thrown away before the connection is closed, and for how long.
const LINGER_BYTES: usize = 256 << 10;
const LINGER: Duration = Duration::from_secs(2);
/// How much of an answer a fail point lets through.
const CUT_BYTES: usize = 10;

/// How long a connection may take for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks {
    pub(super) head: Duration,
    pub(super) idle: Duration,
    /// Without taking a byte of an answer.
    pub(super) write: Duration,
}

impl Clocks {
    pub(super) fn of(spec: &ListenerSpec) -> Clocks {
        Clocks { head: spec.header_timeout, idle: spec.idle_timeout, write: spec.body_timeout }
    }
}

/// Which protocol runs over the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    /// Its frames between requests are no request's head.
    Http2,
}

/// What the clock runs for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A request's head has begun, or the first one is expected.
    Head,
    /// A request is under way: no clock here.
    Busy,
    /// Between two requests.
    Idle,
}

pub(super) struct ClientSocket {
    stream: ClientStream,
    /// What was read before hyper was there.
    front: Bytes,
    activity: Arc<Activity>,
    protocol: Protocol,
    clocks: Clocks,
    phase: Phase,
    deadline: Instant,
    sleep: Pin<Box<Sleep>>,
    /// Whether the sleep was polled: until then it wakes nobody.
    is_armed: bool,
    /// How many requests had begun when the phase was last looked at.
    seen_requests: usize,
    /// Runs while the client takes nothing of what is written.
    blocked: Option<Pin<Box<Sleep>>>,
    closing: Closing,
}

enum Closing {
    No,
    /// Our side is closed; so many bytes may still be thrown away, until then.
    Lingering(usize, Instant),
}

impl ClientSocket {
    /// A socket on which a head is expected until `deadline`.
    pub(super) fn new(
        stream: ClientStream,
        front: Bytes,
        activity: Arc<Activity>,
        protocol: Protocol,
        clocks: Clocks,
        deadline: Instant,
    ) -> ClientSocket {
        let phase = match protocol {
            Protocol::Http1 => Phase::Head,
            Protocol::Http2 => Phase::Idle,
        };
        ClientSocket {
            stream,
            front,
            activity,
            protocol,
            clocks,
            phase,
            deadline,
            sleep: Box::pin(sleep_until(deadline)),
            is_armed: false,
            seen_requests: 0,
            blocked: None,
            closing: Closing::No,
        }
    }

    fn look_at_phase(&mut self) {
        if self.activity.is_busy() {
            self.phase = Phase::Busy;
            return;
        }
        // One that was answered at once has begun and ended since the last look.
        let begun = self.activity.begun();
        if self.phase == Phase::Busy || begun != self.seen_requests {
            self.phase = Phase::Idle;
            self.deadline = self.activity.last_end() + self.clocks.idle;
        }
        self.seen_requests = begun;
    }

    fn bytes_came(&mut self) {
        // Frames without a request do not prolong anything.
        if let (Phase::Idle, Protocol::Http1) = (self.phase, self.protocol) {
            self.phase = Phase::Head;
            self.deadline = Instant::now() + self.clocks.head;
        }
    }

    /// Ready when the clock of the present phase has run out. The sleep is moved only when it ends too early.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.phase == Phase::Busy {
            if !self.is_armed {
                let _ = self.sleep.as_mut().poll(cx);
                self.is_armed = true;
            }
            let mut awake_at = self.sleep.deadline();
            if self.clocks.idle < self.clocks.head {
                // The sleep may last longer than the idle time: a request that ends has to begin it then.
                let now = Instant::now();
                awake_at = if awake_at > now + self.clocks.idle { now } else { awake_at };
            }
            self.activity.sleeps_until(awake_at, cx.waker());
            return Poll::Pending;
        }
        if self.sleep.deadline() > self.deadline {
            self.sleep.as_mut().reset(self.deadline);
        }
        self.activity.sleeps_until(self.sleep.deadline(), cx.waker());
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if Instant::now() >= self.deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.deadline);
            self.activity.sleeps_until(self.deadline, cx.waker());
        }
    }

    /// Passes a write on, or ends it when the client has taken nothing for too long.
    fn clocked<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        if self.activity.is_tunnel() {
            return Poll::Pending;
        }
        let limit = self.clocks.write;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(blocked.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of its answer")))
    }

    /// Writes a refusal beside hyper, which is about to close.
    fn write_refusal(&mut self, cx: &mut Context<'_>, refusal: Refusal) {
        self.activity.socket_refuses(refusal.status(), refusal.code());
        // Nothing was written on this connection since the last answer: the kernel has room, or nobody listens.
        let _ = self.stream.poll_write(cx, &refusal_bytes(refusal));
    }

    /// Ends a connection on which a head is expected: without hyper, which would be silent.
    fn give_up(&mut self, cx: &mut Context<'_>, refusal: Refusal, reason: &'static str) -> io::Error {
        self.write_refusal(cx, refusal);
        let _ = self.stream.poll_close_our_side(cx);
        io::Error::new(io::ErrorKind::TimedOut, reason)
    }

    /// Puts a problem in the place of hyper's own answer to a head that it cannot parse, which has no body. Whatever
    /// else goes through here has other fields in front.
    fn replace_bare_answer(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> bool {
        let is_bare = |status: &str| {
            let rest = bytes.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.strip_prefix(status.as_bytes()));
            rest.is_some_and(|rest| rest.starts_with(b"\r\nconnection: close\r\ncontent-length: 0\r\ndate: "))
        };
        if self.activity.is_busy() {
            return false;
        }
        if is_bare("400 Bad Request") {
            self.write_refusal(cx, Refusal::BadRequest("The request is not well-formed HTTP.".into()));
        } else if is_bare("431 Request Header Fields Too Large") || is_bare("414 URI Too Long") {
            self.write_refusal(cx, Refusal::HeadTooLarge);
        } else {
            return false;
        }
        self.activity.body_left_unread();
        true
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Closing::Lingering(left, until) = &mut self.closing else { return Poll::Ready(()) };
        if self.sleep.deadline() != *until {
            self.sleep.as_mut().reset(*until);
        }
        let socket = self.stream.socket();
        let mut scrap = [0; 8192];
        while *left > 0
            && self.sleep.as_mut().poll(cx).is_pending()
            && self.activity.poll_asked_to_leave(cx).is_pending()
        {
            if ready!(socket.poll_readable(cx)).is_err() {
                break;
            }
            match socket.try_read(&mut scrap) {
                Ok(0) => break,
                Ok(bytes) => *left = left.saturating_sub(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        Poll::Ready(())
    }
}

/// A refusal as HTTP/1.1 that ends the connection.
pub(super) fn refusal_bytes(refusal: Refusal) -> Vec<u8> {
    let response = refusal.into_response(None);
    let mut text = format!("HTTP/1.1 {}\r\nconnection: close\r\n", response.status());
    for (name, value) in response.headers() {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
    }
    text.push_str(&format!("content-length: {}\r\n\r\n", response.body().len()));
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(response.body());
    bytes
}

impl Read for ClientSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.front.is_empty() {
            let length = this.front.len().min(buf.remaining());
            buf.put_slice(&this.front[..length]);
            this.front.advance(length);
            if this.front.is_empty() {
                // Its memory goes with it.
                this.front = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        this.look_at_phase();
        match this.stream.poll_read(cx, &mut buf) {
            Poll::Ready(Ok(bytes)) => {
                if bytes > 0 {
                    this.bytes_came();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let is_overdue = this.poll_overdue(cx).is_ready();
                match this.phase {
                    // Asked after the waker was left: who asks wakes.
                    _ if !is_overdue && !this.activity.is_asked_to_leave() => Poll::Pending,
                    Phase::Head if is_overdue => {
                        let slow = "the request's head came too slowly";
                        Poll::Ready(Err(this.give_up(cx, Refusal::RequestTimeout, slow)))
                    }
                    Phase::Head => {
                        let full = "a connection without a request makes room for another one";
                        Poll::Ready(Err(this.give_up(cx, Refusal::Overloaded, full)))
                    }
                    // As if the client had closed.
                    Phase::Idle | Phase::Busy => Poll::Ready(Ok(())),
                }
            }
        }
    }
}

impl Write for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.replace_bare_answer(cx, buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        let cut = if failpoint::is_armed("replying") { CUT_BYTES.min(buf.len()) } else { buf.len() };
        let written = self.stream.poll_write(cx, &buf[..cut]);
        let written = ready!(self.clocked(cx, written));
        failpoint::reach("replying");
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        if self.replace_bare_answer(cx, first) {
            return Poll::Ready(Ok(first.len()));
        }
        if failpoint::is_armed("replying") {
            return self.poll_write(cx, first);
        }
        let written = self.stream.poll_write_vectored(cx, bufs);
        self.clocked(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS holds some of what was written.
        let flushed = self.stream.poll_flush(cx);
        if self.blocked.is_none() && flushed.is_ready() {
            return flushed;
        }
        self.clocked(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Closing::No = this.closing {
            // TLS may hold the end of an answer, which has the time of an answer. Whether it went: there is no more to say.
            let closed = this.stream.poll_close_our_side(cx);
            let _ = ready!(this.clocked(cx, closed));
            let left = if this.activity.has_unread_body() { LINGER_BYTES } else { 0 };
            this.closing = Closing::Lingering(left, Instant::now() + LINGER);
        }
        this.poll_linger(cx).map(Ok)
    }
}
