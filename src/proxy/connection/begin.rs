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
/// A head with more fields is waited for by hyper, too.
const FRONT_FIELDS: usize = 64;
/// What a TLS handshake begins with (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
/// How much of a request in clear text is thrown away where TLS is expected, and for how long.
const STRAY_BYTES: u64 = 64 << 10;
const STRAY: Duration = Duration::from_secs(1);

/// A client that has shown what it speaks, and has sent the first head if it speaks HTTP/1.
pub(super) struct Begun {
    pub(super) stream: ClientStream,
    pub(super) protocol: Protocol,
    /// What was read until then.
    pub(super) front: Bytes,
    /// Whose certificate it showed, if any; it has been verified.
    pub(super) client_cert: Option<ClientCert>,
}

/// Waits until the client has begun; `None` when it closes before, or is silent until `patience` ends. One that has sent
/// a part of a head by then, or has agreed on a protocol, has begun, too: somebody has to tell it why it goes.
///
/// A client that is slow with its head, or with its handshake, has none of hyper's buffers yet.
pub(super) async fn begin(
    socket: Socket,
    tls: Option<&ServerTls>,
    patience: Pin<&mut impl Future<Output = ()>>,
) -> io::Result<Option<Begun>> {
    match tls {
        None => begin_plain(socket, patience).await,
        // Boxed: other connections would carry the room for it.
        Some(tls) => Box::pin(begin_tls(socket, tls, patience)).await,
    }
}

async fn begin_plain(mut socket: Socket, patience: Pin<&mut impl Future<Output = ()>>) -> io::Result<Option<Begun>> {
    let Some((protocol, front)) = read_front(&mut socket, None, patience).await? else { return Ok(None) };
    socket.without_delay();
    Ok(Some(Begun { stream: ClientStream::Plain(socket), protocol, front, client_cert: None }))
}

async fn begin_tls(
    mut socket: Socket,
    tls: &ServerTls,
    mut patience: Pin<&mut impl Future<Output = ()>>,
) -> io::Result<Option<Begun>> {
    let handshake = async {
        // Nothing is kept for a connection that is silent.
        match first_byte(&socket).await? {
            None => return Ok(None),
            Some(HANDSHAKE) => {}
            Some(byte) => {
                if byte.is_ascii_uppercase() {
                    turn_away(&mut socket).await?;
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
    let begun = match agreed {
        Some(Protocol::Http2) => Some((Protocol::Http2, Bytes::new())),
        agreed => read_front(&mut *stream, agreed, patience).await?,
    };
    let stream = ClientStream::Tls(stream);
    Ok(begun.map(|(protocol, front)| Begun { stream, protocol, front, client_cert }))
}

/// Reads what a client begins with, unless nothing comes.
async fn read_front(
    stream: &mut (impl AsyncRead + Unpin),
    agreed: Option<Protocol>,
    patience: Pin<&mut impl Future<Output = ()>>,
) -> io::Result<Option<(Protocol, Bytes)>> {
    let mut front = BytesMut::new();
    let protocol = tokio::select! {
        biased;
        told = read_until_told(stream, agreed, &mut front) => told?,
        () = patience => agreed.or((!front.is_empty()).then_some(Protocol::Http1)),
    };
    Ok(protocol.map(|protocol| (protocol, front.freeze())))
}

async fn read_until_told(
    stream: &mut (impl AsyncRead + Unpin),
    agreed: Option<Protocol>,
    front: &mut BytesMut,
) -> io::Result<Option<Protocol>> {
    loop {
        // Read into the stack: what waits for the rest has no room beside it.
        let count = poll_fn(|cx| {
            let mut room = [MaybeUninit::uninit(); FRONT_BYTES];
            let mut room = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut room))?;
            front.extend_from_slice(room.filled());
            io::Result::Ok(room.filled().len()).into()
        });
        if count.await? == 0 {
            return Ok(None);
        }
        let protocol = agreed.or_else(|| told_by(front));
        if protocol.is_some_and(|protocol| protocol == Protocol::Http2 || !may_become_head(front)) {
            return Ok(protocol);
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

/// Whether this is a part of an HTTP/1 head that needs no more than a few bytes: not yet whole, and not yet wrong.
fn may_become_head(front: &[u8]) -> bool {
    let mut fields = [httparse::EMPTY_HEADER; FRONT_FIELDS];
    front.len() < FRONT_BYTES
        && httparse::Request::new(&mut fields).parse(front).is_ok_and(|parsed| parsed.is_partial())
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
async fn turn_away(socket: &mut Socket) -> io::Result<()> {
    let refusal = Refusal::BadRequest("This port speaks TLS: ask for https.".into());
    socket.write_all(&refusal_bytes(refusal)).await?;
    socket.shutdown().await?;
    let _ = timeout(STRAY, tokio::io::copy(&mut socket.take(STRAY_BYTES), &mut tokio::io::sink())).await;
    Ok(())
}
