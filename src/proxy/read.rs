//! Sockets of the kernel, read into hyper's buffers and written from them without a copy in between.

use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// A stream socket without a protocol of its own: what is written are the bytes that leave.
pub(super) trait Plain: AsFd {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn try_io<R>(&self, interest: Interest, io: impl FnOnce() -> io::Result<R>) -> io::Result<R>;
}

macro_rules! plain {
    ($socket:ty) => {
        impl Plain for $socket {
            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }

            fn try_io<R>(&self, interest: Interest, io: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
                self.try_io(interest, io)
            }
        }
    };
}

plain!(TcpStream);
plain!(UnixStream);

/// Reads what is there, at most `room` bytes, and says how many.
pub(super) fn poll_read(
    stream: &impl Plain,
    cx: &mut Context<'_>,
    buf: &mut ReadBufCursor<'_>,
    room: usize,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        // SAFETY: the kernel writes into these bytes and nobody reads them before it has.
        #[expect(unsafe_code, reason = "hyper's buffers are not initialized, and filling them first would cost")]
        let free = unsafe { buf.as_mut() };
        let room = room.min(free.len());
        match stream.try_io(Interest::READABLE, || SockRef::from(stream).recv(&mut free[..room])) {
            Ok(bytes) => {
                // SAFETY: the kernel has written so many bytes.
                #[expect(unsafe_code, reason = "hyper has no safe way to say how much was read")]
                unsafe {
                    buf.advance(bytes);
                }
                if (1..room).contains(&bytes) {
                    // That was all for now: the next look waits for the kernel's word and asks in vain no more.
                    let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                }
                return Poll::Ready(Ok(bytes));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Writes as soon as the kernel takes something.
pub(super) fn poll_write<S: Plain>(
    stream: &S,
    cx: &mut Context<'_>,
    mut write: impl FnMut(&S) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match write(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}
