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
