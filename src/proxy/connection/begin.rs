//! The beginning of a connection: the TLS handshake, and what the client speaks.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::ready;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsAcceptor;

use super::activity::Activity;
use super::socket::{Protocol, refusal_bytes};
use super::stream::ClientStream;
use crate::http::attempt::ClientCert;
use crate::http::refusal::Refusal;
use crate::proxy::listener::Socket;
use crate::proxy::tls::{HTTP2, ServerTls, holder};

/// What a client that speaks HTTP/2 without asking begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much of a head is waited for with no more memory than it takes; what is longer is waited for by hyper.
const FRONT_BYTES: usize = 4096;
/// A head with more fields is refused by hyper.
const FRONT_FIELDS: usize = 100;
/// What a TLS handshake begins with (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
/// How much of a request in clear text is thrown away where TLS is expected, and for how long.
const STRAY_BYTES: u64 = 64 << 10;
const STRAY: Duration = Duration::from_secs(1);

/// A client that has shown what it speaks. Over HTTP/1 its first head is there, is too long to be waited for here, cannot
/// become one, or did not come in time; over TLS there may be none at all.
pub(super) struct Begun {
    pub(super) stream: ClientStream,
    pub(super) protocol: Protocol,
    /// What was read until then.
    pub(super) front: Bytes,
    /// Whose certificate it showed, if any; it has been verified.
    pub(super) client_cert: Option<ClientCert>,
}

/// Waits until the client has begun; `None` when it closes, or when `patience` ends, before it has shown what it speaks. One
/// that has sent a part of a head by then has begun, and so has one that is through with its TLS handshake: it is told why
/// it goes.
///
/// A client that is slow with its head, or with its handshake, has none of hyper's buffers yet.
pub(super) async fn begin(
    socket: Socket,
    tls: Option<&ServerTls>,
    activity: &Activity,
    patience: Pin<&mut impl Future<Output = ()>>,
) -> io::Result<Option<Begun>> {
    match tls {
        None => begin_plain(socket, patience).await,
        // Boxed: other connections would carry the room for it.
        Some(tls) => Box::pin(begin_tls(socket, tls, activity, patience)).await,
    }
}

async fn begin_plain(mut socket: Socket, patience: Pin<&mut impl Future<Output = ()>>) -> io::Result<Option<Begun>> {
    let (Some(protocol), front) = read_front(&mut socket, None, patience).await? else { return Ok(None) };
    socket.without_delay();
    Ok(Some(Begun { stream: ClientStream::Plain(socket), protocol, front, client_cert: None }))
}

async fn begin_tls(
    mut socket: Socket,
    tls: &ServerTls,
    activity: &Activity,
    mut patience: Pin<&mut impl Future<Output = ()>>,
) -> io::Result<Option<Begun>> {
    let handshake = async {
        // Nothing is kept for a connection that is silent.
        match first_byte(&socket).await? {
            None => return Ok(None),
            Some(HANDSHAKE) => {}
            Some(byte) => {
                if byte.is_ascii_uppercase() {
                    turn_away(&mut socket, activity).await?;
                }
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak TLS"));
            }
        }
        socket.without_delay();
        TlsAcceptor::from(tls.config()).accept(socket).await.map(Some)
    };
    let accepted = tokio::select! {
        accepted = handshake => accepted?,
        () = &mut patience => None,
    };
    let Some(stream) = accepted else { return Ok(None) };
    let mut stream = Box::new(stream);
    let session = stream.get_ref().1;
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let holder = certificate.and_then(|certificate| holder(certificate));
    let client_cert = holder.map(|holder| ClientCert(Bytes::copy_from_slice(holder)));
    let agreed = session.alpn_protocol().map(|name| match name {
        HTTP2 => Protocol::Http2,
        _ => Protocol::Http1,
    });
    let (protocol, front) = match agreed {
        Some(Protocol::Http2) => (agreed, Bytes::new()),
        _ => read_front(&mut *stream, agreed, patience).await?,
    };
    // Who says nothing more has its close_notify from hyper's end.
    let protocol = protocol.unwrap_or(Protocol::Http1);
    Ok(Some(Begun { stream: ClientStream::Tls(stream), protocol, front, client_cert }))
}

/// Reads what a client begins with, for as long as `patience` lasts; the protocol is `None` when that shows none.
async fn read_front(
    stream: &mut (impl AsyncRead + Unpin),
    agreed: Option<Protocol>,
    patience: Pin<&mut impl Future<Output = ()>>,
) -> io::Result<(Option<Protocol>, Bytes)> {
    let mut front = BytesMut::new();
    let protocol = tokio::select! {
        biased;
        told = read_until_told(stream, agreed, &mut front) => told?,
        () = patience => agreed.or_else(|| told_by(&front)),
    };
    Ok((protocol, front.freeze()))
}

async fn read_until_told(
    stream: &mut (impl AsyncRead + Unpin),
    agreed: Option<Protocol>,
    front: &mut BytesMut,
) -> io::Result<Option<Protocol>> {
    loop {
        let before = front.len();
        // Read into the stack: what waits for the rest has no room beside it.
        let read = poll_fn(|cx| {
            let mut room = [MaybeUninit::uninit(); FRONT_BYTES];
            let mut room = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut room))?;
            front.extend_from_slice(room.filled());
            io::Result::Ok(room.filled().len()).into()
        });
        match read.await {
            // TLS calls it so when a client just hangs up.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
            Ok(0) => return Ok(None),
            Ok(_) => {}
        }
        match agreed.or_else(|| told_by(front)) {
            Some(Protocol::Http1) if may_become_head(front, before) => {}
            None => {}
            told => return Ok(told),
        }
    }
}

/// The protocol of a client that has sent this much; `None` when it may be either.
fn told_by(front: &[u8]) -> Option<Protocol> {
    let compared = front.len().min(PREFACE.len());
    match front[..compared] == PREFACE[..compared] {
        false => Some(Protocol::Http1),
        true if compared == PREFACE.len() => Some(Protocol::Http2),
        true => None,
    }
}

/// Whether this is a part of an HTTP/1 head that needs no more than a few bytes: not yet whole, and not yet wrong. Behind
/// the very beginning, of which so many bytes were there `before`, only a line's end is worth another look.
fn may_become_head(front: &[u8], before: usize) -> bool {
    if front.len() >= FRONT_BYTES {
        return false;
    }
    if before >= PREFACE.len() && !front[before..].contains(&b'\n') {
        return true;
    }
    let mut fields = [httparse::EMPTY_HEADER; FRONT_FIELDS];
    httparse::Request::new(&mut fields).parse(front).is_ok_and(|parsed| parsed.is_partial())
}

async fn first_byte(socket: &Socket) -> io::Result<Option<u8>> {
    loop {
        socket.readable().await?;
        match socket.try_peek() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            peeked => return peeked,
        }
    }
}

/// Answers a request in clear text; what is left of it is thrown away, so that the answer is not lost to a reset.
async fn turn_away(socket: &mut Socket, activity: &Activity) -> io::Result<()> {
    let refusal = Refusal::BadRequest("This port speaks TLS: ask for https.".into());
    activity.socket_refuses(refusal.status(), refusal.code());
    socket.write_all(&refusal_bytes(refusal)).await?;
    socket.shutdown().await?;
    let _ = timeout(STRAY, tokio::io::copy(&mut socket.take(STRAY_BYTES), &mut tokio::io::sink())).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::pending;
    use std::pin::pin;
    use std::task::{Context, Poll};

    use super::*;

    /// Each read gets one of these.
    struct Pieces(VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            room.put_slice(&self.0.pop_front().unwrap_or_default());
            Poll::Ready(Ok(()))
        }
    }

    /// What the pieces tell, and how many were read for it.
    async fn told(pieces: &[&[u8]], agreed: Option<Protocol>) -> (Option<Protocol>, usize) {
        let mut stream = Pieces(pieces.iter().map(|piece| piece.to_vec()).collect());
        let (protocol, front) =
            read_front(&mut stream, agreed, pin!(pending())).await.expect("there is nothing that fails");
        let read = pieces.len() - stream.0.len();
        assert_eq!(front, pieces[..read].concat(), "nothing is lost");
        (protocol, read)
    }

    #[tokio::test]
    async fn a_head_is_waited_for_until_it_is_whole_and_no_longer() {
        let http1 = |read| (Some(Protocol::Http1), read);
        let head = b"POST / HTTP/1.1\r\nhost: a\r\n\r\n";
        let bytes: Vec<&[u8]> = head.chunks(1).collect();
        for agreed in [None, Some(Protocol::Http1)] {
            assert_eq!(told(&bytes, agreed).await, http1(head.len()));
            assert_eq!(told(&[head, b"x"], agreed).await, http1(1));
        }
        // Bare line feeds, as hyper takes them; empty lines in front; a body behind.
        assert_eq!(told(&[b"GET / HTTP/1.1\nhost: a\n", b"\n", b"x"], None).await, http1(2));
        assert_eq!(told(&[b"\r\n", b"GET / HTTP/1.1\r\n\r", b"\n"], None).await, http1(3));
        assert_eq!(told(&[b"POST / HTTP/1.1\r\nhost: a\r", b"\n\r\nabc", b"d"], None).await, http1(2));
    }

    #[tokio::test]
    async fn what_is_wrong_or_long_is_not_waited_for() {
        let http1 = |read| (Some(Protocol::Http1), read);
        assert_eq!(told(&[b"GET / HT", b"TP/9.9\r\n", b"x"], None).await, http1(2));
        assert_eq!(told(&[b"GET / HTTP/1.1\r\nhost: a\r\n", b"x", b" y: z\r\n", b"x"], None).await, http1(3));
        assert_eq!(told(&[b"PRI * HTTP/2.0\r\n\r\n", b"XX", b"x"], None).await, http1(2));
        let long = "v".repeat(FRONT_BYTES / 2);
        let start = b"GET / HTTP/1.1\r\nx: ";
        assert_eq!(told(&[start, long.as_bytes(), long.as_bytes(), b"x"], None).await, http1(3));
        let many = "a:b\r\n".repeat(FRONT_FIELDS + 1);
        assert_eq!(told(&[b"GET / HTTP/1.1\r\n", many.as_bytes(), b"x"], None).await, http1(2));
    }

    #[tokio::test]
    async fn the_preface_is_http2_in_whatever_pieces_it_comes() {
        let bytes: Vec<&[u8]> = PREFACE.chunks(1).collect();
        assert_eq!(told(&bytes, None).await, (Some(Protocol::Http2), PREFACE.len()));
        // It ends before it is whole; the end is read, too.
        let (protocol, _) = told(&[&PREFACE[..9], b""], None).await;
        assert_eq!(protocol, None);
    }

    #[tokio::test]
    async fn what_came_is_kept_when_patience_ends() {
        let (mut client, mut stream) = tokio::io::duplex(64);
        for (sent, agreed, expected) in [
            (&b"P"[..], None, None),
            (b"OST", None, Some(Protocol::Http1)),
            (b"P", Some(Protocol::Http1), Some(Protocol::Http1)),
            (b"", Some(Protocol::Http1), Some(Protocol::Http1)),
            (b"", None, None),
        ] {
            client.write_all(sent).await.expect("there is room");
            let (protocol, front) = read_front(&mut stream, agreed, pin!(async {})).await.expect("nothing fails");
            assert_eq!((protocol, &front[..]), (expected, sent));
        }
    }
}
