//! A connection's socket, which counts what was handed on: to the kernel, or to TLS, which may keep it for a moment.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::task::AtomicWaker;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::{Duration, Instant, sleep};

use super::stream::Stream;
use crate::failpoint;

/// How much a fail point lets through of a message that is to be cut.
const CUT_BYTES: usize = 10;

/// The socket as hyper's connection has it.
pub(super) struct Socket {
    shared: Arc<Shared>,
}

/// What the pool sees of a connection's socket.
#[derive(Clone)]
pub struct Traffic {
    shared: Arc<Shared>,
}

struct Shared {
    stream: Stream,
    opened: Instant,
    written_bytes: AtomicU64,
    /// Whether a response has come.
    has_answered: AtomicBool,
    /// Whether the next byte may only be written to a connection that still stands.
    looks_first: AtomicBool,
    /// Nanoseconds after `opened`.
    last_write: AtomicU64,
    /// Since when a part of an answer waits for the client to take it, likewise; 0 when none does.
    held_since: AtomicU64,
    /// Whether hyper has let go of the connection.
    is_over: AtomicBool,
    /// Who wants to know of bytes that came, and of the end.
    listener: AtomicWaker,
}

impl Socket {
    pub(super) fn new(stream: Stream) -> Socket {
        let opened = Instant::now();
        let shared = Shared {
            stream,
            opened,
            written_bytes: AtomicU64::new(0),
            has_answered: AtomicBool::new(false),
            looks_first: AtomicBool::new(false),
            last_write: AtomicU64::new(0),
            held_since: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            listener: AtomicWaker::new(),
        };
        Socket { shared: Arc::new(shared) }
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic { shared: self.shared.clone() }
    }
}

impl Traffic {
    /// How many bytes of the protocol above TLS were handed on so far. As long as it stands still, none has left.
    pub fn written_bytes(&self) -> u64 {
        self.shared.written_bytes.load(Ordering::Acquire)
    }

    /// When bytes were last handed on.
    pub fn last_write(&self) -> Instant {
        self.shared.opened + Duration::from_nanos(self.shared.last_write.load(Ordering::Acquire))
    }

    /// A part of an answer was handed on, and nobody has asked for the next one yet.
    pub fn answer_is_held(&self) {
        self.shared.held_since.store(self.shared.since_opened().max(1), Ordering::Release);
    }

    /// The next part of an answer was asked for, or there is none.
    pub fn answer_is_taken(&self) {
        self.shared.held_since.store(0, Ordering::Release);
    }

    /// Ends when a part of an answer has been held for so long.
    pub(super) async fn stalls(&self, limit: Duration) {
        loop {
            let left = match self.shared.held_since.load(Ordering::Acquire) {
                0 => limit,
                since => match (Duration::from_nanos(since) + limit).checked_sub(self.shared.opened.elapsed()) {
                    Some(left) => left,
                    None => return,
                },
            };
            sleep(left.max(Duration::from_millis(1))).await;
        }
    }

    /// Wakes this task when bytes have come, and when the connection has ended. One task at a time.
    pub(super) fn listen(&self, cx: &Context<'_>) {
        self.shared.listener.register(cx.waker());
    }

    /// Ready when hyper has let go of the connection. Listens like [`Traffic::listen`].
    pub(super) fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        self.listen(cx);
        if self.shared.is_over.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ends the connection, whatever is under way on it: nothing more leaves, not even what is queued.
    pub(super) fn cut(&self) {
        self.shared.stream.cut();
    }

    /// Whether the other side has closed an idle connection. TLS tells only when it is read.
    pub(super) fn has_ended(&self) -> bool {
        self.shared.stream.has_ended()
    }

    /// A response has come.
    pub fn answered(&self) {
        self.shared.has_answered.store(true, Ordering::Release);
    }

    /// The server's word that it does not take our certificate, or wants one, if that is how the connection ended.
    ///
    /// TLS 1.3 tells us so only after our side of the handshake, when requests may be under way. Until the server has
    /// validated that handshake it takes nothing of a request (RFC 8446 section 4.4.4), so that nothing was executed.
    pub fn refusal_of_us(&self) -> Option<rustls::Error> {
        let has_answered = self.shared.has_answered.load(Ordering::Acquire);
        self.shared.stream.refusal_of_us().filter(|_| !has_answered)
    }

    /// Whether an idle connection still stands and has got nothing that nobody asked for.
    pub fn is_silent(&self) -> bool {
        self.shared.stream.is_silent()
    }

    /// Puts that look off until the next byte is written, which fails if the connection is not silent then. The task
    /// that writes may have its turn a good while later.
    pub(super) fn will_be_looked_at(&self) -> bool {
        self.shared.looks_first.store(true, Ordering::Release);
        true
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.listener.wake();
    }
}

impl Shared {
    fn look(&self) -> io::Result<()> {
        match !self.looks_first.load(Ordering::Acquire) || self.stream.is_silent() {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::NotConnected, "the connection ended while it was idle")),
        }
    }

    fn wrote(&self, bytes: usize) {
        self.looks_first.store(false, Ordering::Release);
        self.written_bytes.fetch_add(bytes as u64, Ordering::AcqRel);
        self.last_write.store(self.since_opened(), Ordering::Release);
        if bytes > 0 {
            failpoint::reach("request-part-sent");
        }
    }

    fn since_opened(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Read for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let stream = &self.shared.stream;
        if failpoint::is_armed("request-sent") {
            ready!(stream.poll_read_ready(cx))?;
            if !stream.is_silent() {
                failpoint::reach("request-sent");
            }
        }
        let room = if failpoint::is_armed("response-part-read") { CUT_BYTES } else { usize::MAX };
        ready!(stream.poll_read(cx, &mut buf, room))?;
        failpoint::reach("response-part-read");
        self.shared.listener.wake();
        Poll::Ready(Ok(()))
    }
}

impl Write for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let cut = if failpoint::is_armed("request-part-sent") { CUT_BYTES.min(buf.len()) } else { buf.len() };
        self.shared.look()?;
        self.shared.stream.poll_write(cx, &buf[..cut], |bytes| self.shared.wrote(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if failpoint::is_armed("request-part-sent") {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        self.shared.look()?;
        self.shared.stream.poll_write_vectored(cx, bufs, |bytes| self.shared.wrote(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.stream.poll_flush(cx, |bytes| self.shared.wrote(bytes))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.stream.poll_shutdown(cx)
    }
}
