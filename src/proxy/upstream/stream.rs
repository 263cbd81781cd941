//! What a connection's bytes go over: TCP, a Unix socket, or TLS over TCP.

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use rustls::ProtocolVersion;
use socket2::SockRef;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::tls;
use crate::proxy::read;

/// How many pieces of TLS that are not for us (tickets, new keys) an idle connection may have got.
const IDLE_PIECES: usize = 16;

/// A stream to an upstream.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// The connection's task and whoever takes the connection look at it, never for long.
    Tls(Box<Mutex<Secured>>),
}

/// TLS over TCP.
pub(super) struct Secured {
    stream: TlsStream<Raw>,
    /// A write has failed. What it left behind in the session must not leave later: it counts as never sent.
    is_broken: bool,
    /// The server's word that it does not take our certificate.
    refusal: Option<rustls::Error>,
}

/// The TCP connection below TLS, which knows whether something has left.
pub(super) struct Raw {
    stream: TcpStream,
    sent_bytes: u64,
}

impl Stream {
    pub(super) fn tls(stream: TlsStream<Raw>) -> Stream {
        Stream::Tls(Box::new(Mutex::new(Secured { stream, is_broken: false, refusal: None })))
    }

    /// Whether the other side chose HTTP/2 in the TLS handshake.
    pub(super) fn has_chosen_http2(&self) -> bool {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => false,
            Stream::Tls(secured) => lock(secured).stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2),
        }
    }

    /// The server's word that it does not take our certificate, or wants one, if that is how the connection ended.
    pub(super) fn refusal_of_us(&self) -> Option<rustls::Error> {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => None,
            Stream::Tls(secured) => lock(secured).refusal.clone(),
        }
    }

    /// Whether an idle connection still stands and has got nothing. The kernel is asked: the end may have come and not
    /// been read yet. Bytes that nobody asked for end it too.
    pub(super) fn is_silent(&self) -> bool {
        match self {
            Stream::Tcp(stream) => is_empty(SockRef::from(stream)),
            Stream::Unix(stream) => is_empty(SockRef::from(stream)),
            Stream::Tls(secured) => lock(secured).is_silent(),
        }
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
            Stream::Unix(stream) => stream.poll_read_ready(cx),
            Stream::Tls(secured) => lock(secured).stream.get_ref().0.stream.poll_read_ready(cx),
        }
    }

    /// Reads what is there, at most `room` bytes, and says how many.
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBufCursor<'_>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => read::poll_read(stream, cx, buf, room),
            Stream::Unix(stream) => read::poll_read(stream, cx, buf, room),
            Stream::Tls(secured) => lock(secured).poll_read(cx, buf, room),
        }
    }

    /// Writes from one buffer. `wrote` hears of every byte that may be on its way.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        wrote: impl FnOnce(usize),
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => heard(read::poll_write(stream, cx, |stream| stream.try_write(bytes)), wrote),
            Stream::Unix(stream) => heard(read::poll_write(stream, cx, |stream| stream.try_write(bytes)), wrote),
            Stream::Tls(secured) => lock(secured).poll_write(cx, &[IoSlice::new(bytes)], wrote),
        }
    }

    /// Writes from several buffers, like [`Stream::poll_write`].
    pub(super) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        wrote: impl FnOnce(usize),
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => heard(read::poll_write(stream, cx, |stream| stream.try_write_vectored(bufs)), wrote),
            Stream::Unix(stream) => {
                heard(read::poll_write(stream, cx, |stream| stream.try_write_vectored(bufs)), wrote)
            }
            Stream::Tls(secured) => lock(secured).poll_write(cx, bufs, wrote),
        }
    }

    /// Hands the kernel what TLS has kept; `wrote` hears that something left.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>, wrote: impl FnOnce(usize)) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => Poll::Ready(Ok(())),
            Stream::Tls(secured) => lock(secured).poll_flush(cx, wrote),
        }
    }

    /// Ends the connection at once, both ways.
    pub(super) fn cut(&self) {
        // One that has ended already is as good.
        let _ = match self {
            Stream::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Both),
            Stream::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Both),
            Stream::Tls(secured) => SockRef::from(&lock(secured).stream.get_ref().0.stream).shutdown(Shutdown::Both),
        };
    }

    /// Whether the other side has closed, as far as that shows without reading.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Stream::Tcp(stream) => is_at_end(SockRef::from(stream)),
            Stream::Unix(stream) => is_at_end(SockRef::from(stream)),
            Stream::Tls(_) => false,
        }
    }

    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => Poll::Ready(shut_down(SockRef::from(stream))),
            Stream::Unix(stream) => Poll::Ready(shut_down(SockRef::from(stream))),
            Stream::Tls(secured) => lock(secured).poll_shutdown(cx),
        }
    }
}

fn lock(secured: &Mutex<Secured>) -> MutexGuard<'_, Secured> {
    // A panic inside rustls leaves a session that fails at its next use, if at all.
    secured.lock().unwrap_or_else(PoisonError::into_inner)
}

fn heard(written: Poll<io::Result<usize>>, wrote: impl FnOnce(usize)) -> Poll<io::Result<usize>> {
    if let Poll::Ready(Ok(bytes)) = &written {
        wrote(*bytes);
    }
    written
}

fn is_empty(socket: SockRef<'_>) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    matches!(socket.peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn is_at_end(socket: SockRef<'_>) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    match socket.peek(&mut byte) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

fn shut_down(socket: SockRef<'_>) -> io::Result<()> {
    match socket.shutdown(Shutdown::Write) {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
        _ => Ok(()),
    }
}

impl Secured {
    /// Takes in what has come for TLS itself, which does not end a connection: tickets and new keys lie there unread
    /// whenever the connection's task has not run since. The end, and bytes for us, do.
    fn is_silent(&mut self) -> bool {
        let (raw, session) = self.stream.get_mut();
        for _ in 0..IDLE_PIECES {
            match session.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
                Ok(_) | Err(_) => return false,
            }
            // Past tokio, which would answer from what it knew; and no task's wish to be woken is touched.
            match session.read_tls(&mut Now(SockRef::from(&raw.stream))) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return !self.is_broken,
                Err(_) => return false,
            }
        }
        false
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBufCursor<'_>, room: usize) -> Poll<io::Result<usize>> {
        self.check()?;
        let mut stream = Pin::new(&mut self.stream);
        let plain = match ready!(stream.as_mut().poll_fill_buf(cx)) {
            Ok(plain) => plain,
            Err(error) => {
                // Before TLS 1.3 it would be about a handshake that a request has led to.
                let is_tls13 = self.stream.get_ref().1.protocol_version() == Some(ProtocolVersion::TLSv1_3);
                self.refusal = tls::refusal_of_us(&error).filter(|_| is_tls13);
                return Poll::Ready(Err(error));
            }
        };
        let bytes = plain.len().min(room).min(buf.remaining());
        buf.put_slice(&plain[..bytes]);
        stream.consume(bytes);
        Poll::Ready(Ok(bytes))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        wrote: impl FnOnce(usize),
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let sent_bytes = self.sent_bytes();
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        match &written {
            // Taken by the session, which may keep it for now: that is as good as sent.
            Poll::Ready(Ok(bytes)) => wrote(*bytes),
            // The session takes first and sends then, so that an error may come after a part has left.
            Poll::Ready(Err(_)) => {
                self.is_broken = true;
                if self.sent_bytes() != sent_bytes {
                    wrote(1);
                }
            }
            Poll::Pending => {}
        }
        written
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, wrote: impl FnOnce(usize)) -> Poll<io::Result<()>> {
        self.check()?;
        let sent_bytes = self.sent_bytes();
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.is_broken |= matches!(flushed, Poll::Ready(Err(_)));
        if self.sent_bytes() != sent_bytes {
            wrote(0);
        }
        flushed
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_broken {
            return Poll::Ready(shut_down(SockRef::from(&self.stream.get_ref().0.stream)));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn check(&self) -> io::Result<()> {
        if self.is_broken { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    fn sent_bytes(&self) -> u64 {
        self.stream.get_ref().0.sent_bytes
    }
}

/// What the kernel has at this moment.
struct Now<'a>(SockRef<'a>);

impl Read for Now<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buf)
    }
}

impl Raw {
    pub(super) fn new(stream: TcpStream) -> Raw {
        Raw { stream, sent_bytes: 0 }
    }

    fn sent(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        heard(written, |bytes| self.sent_bytes += bytes as u64)
    }
}

impl AsyncRead for Raw {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Raw {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.sent(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
