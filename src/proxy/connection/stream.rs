//! A client's bytes: of a socket, in clear text or through TLS.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::proxy::listener::Socket;
use crate::proxy::read;

/// What a client's requests come through.
pub(super) enum ClientStream {
    Plain(Socket),
    /// Boxed: other connections would carry the room for it.
    Tls(Box<TlsStream<Socket>>),
}

impl ClientStream {
    /// Reads what is there, and says how many bytes; none at the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBufCursor<'_>) -> Poll<io::Result<usize>> {
        match self {
            ClientStream::Plain(Socket::Tcp(stream)) => read::poll_read(stream, cx, buf, usize::MAX),
            ClientStream::Plain(Socket::Unix(stream)) => read::poll_read(stream, cx, buf, usize::MAX),
            ClientStream::Tls(stream) => match read_into(Pin::new(&mut **stream), cx, buf) {
                // Who just hangs up cuts nothing off: requests say how long they are.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
                read => read,
            },
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            ClientStream::Plain(Socket::Tcp(stream)) => Pin::new(stream).poll_write(cx, buf),
            ClientStream::Plain(Socket::Unix(stream)) => Pin::new(stream).poll_write(cx, buf),
            ClientStream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            ClientStream::Plain(Socket::Tcp(stream)) => Pin::new(stream).poll_write_vectored(cx, bufs),
            ClientStream::Plain(Socket::Unix(stream)) => Pin::new(stream).poll_write_vectored(cx, bufs),
            ClientStream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    /// Sends what was written and is held here.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            ClientStream::Plain(_) => Poll::Ready(Ok(())),
            ClientStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Says that nothing more comes from this side. What the client still sends can be read from the socket.
    pub(super) fn poll_close_our_side(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            ClientStream::Plain(socket) => Poll::Ready(socket.shutdown()),
            // Its close_notify, and then the same.
            ClientStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    /// The socket below.
    pub(super) fn socket(&self) -> &Socket {
        match self {
            ClientStream::Plain(socket) => socket,
            ClientStream::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl Socket {
    /// Waits until there is something to read.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.readable().await,
            Socket::Unix(stream) => stream.readable().await,
        }
    }

    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(stream) => stream.poll_read_ready(cx),
            Socket::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    pub(super) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_read(buf),
            Socket::Unix(stream) => stream.try_read(buf),
        }
    }

    /// The first byte that is there, which stays; `None` at the end.
    pub(super) fn try_peek(&self) -> io::Result<Option<u8>> {
        let mut byte = [MaybeUninit::uninit()];
        let count = match self {
            Socket::Tcp(stream) => stream.try_io(Interest::READABLE, || SockRef::from(stream).peek(&mut byte)),
            Socket::Unix(stream) => stream.try_io(Interest::READABLE, || SockRef::from(stream).peek(&mut byte)),
        }?;
        // SAFETY: the kernel has written the byte that it counts.
        #[expect(unsafe_code, reason = "a peek has no other kind of buffer")]
        let first = (count > 0).then(|| unsafe { byte[0].assume_init() });
        Ok(first)
    }

    /// Small answers leave at once.
    pub(super) fn without_delay(&self) {
        if let Socket::Tcp(stream) = self {
            let _ = stream.set_nodelay(true);
        }
    }

    pub(super) fn shutdown(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Socket::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        }
    }
}

/// For what TLS does with it.
impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown())
    }
}

/// Reads into hyper's buffer.
fn read_into(
    stream: Pin<&mut impl AsyncRead>,
    cx: &mut Context<'_>,
    buf: &mut ReadBufCursor<'_>,
) -> Poll<io::Result<usize>> {
    // SAFETY: nothing that is initialized becomes uninitialized: a `ReadBuf` does not do that.
    #[expect(unsafe_code, reason = "hyper's buffers are not initialized, and filling them first would cost")]
    let mut free = ReadBuf::uninit(unsafe { buf.as_mut() });
    ready!(stream.poll_read(cx, &mut free))?;
    let bytes = free.filled().len();
    // SAFETY: so many bytes are filled.
    #[expect(unsafe_code, reason = "hyper has no safe way to say how much was read")]
    unsafe {
        buf.advance(bytes);
    }
    Poll::Ready(Ok(bytes))
}
