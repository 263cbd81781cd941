//! The beginning of a connection: the TLS handshake, and what the client speaks.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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
/// How much is read to tell the protocol.
const FRONT_BYTES: usize = 4096;
/// What a TLS handshake begins with (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
/// How much of a request in clear text is thrown away where TLS is expected, and for how long.
const STRAY_BYTES: u64 = 64 << 10;
const STRAY: Duration = Duration::from_secs(1);

/// A client that has shown what it speaks.
pub(super) struct Begun {
    pub(super) stream: ClientStream,
    pub(super) protocol: Protocol,
    /// What was read to tell the protocol.
    pub(super) front: Bytes,
    /// Whose certificate it showed, if any; it has been verified.
    pub(super) client_cert: Option<ClientCert>,
}

/// Waits until it is clear what the client speaks; `None` when it closes before.
pub(super) async fn begin(socket: Socket, tls: Option<&ServerTls>) -> io::Result<Option<Begun>> {
    match tls {
        None => begin_plain(socket).await,
        // Boxed: other connections would carry the room for it.
        Some(tls) => Box::pin(begin_tls(socket, tls)).await,
    }
}

async fn begin_plain(socket: Socket) -> io::Result<Option<Begun>> {
    let mut front = BytesMut::new();
    loop {
        // Nothing is kept for a connection that is silent.
        socket.readable().await?;
        front.reserve(FRONT_BYTES);
        match socket.try_read_buf(&mut front) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        if let Some(protocol) = told_by(&front) {
            let stream = ClientStream::Plain(socket);
            return Ok(Some(Begun { stream, protocol, front: front.freeze(), client_cert: None }));
        }
    }
}

async fn begin_tls(mut socket: Socket, tls: &ServerTls) -> io::Result<Option<Begun>> {
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
    let mut stream = Box::new(TlsAcceptor::from(tls.config()).accept(socket).await?);
    let session = stream.get_ref().1;
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let holder = certificate.and_then(|certificate| holder(certificate));
    let client_cert = holder.map(|holder| ClientCert(Bytes::copy_from_slice(holder)));
    let mut front = BytesMut::new();
    let protocol = match session.alpn_protocol() {
        Some(HTTP2) => Protocol::Http2,
        Some(_) => Protocol::Http1,
        None => loop {
            if stream.read_buf(&mut front).await? == 0 {
                return Ok(None);
            }
            if let Some(protocol) = told_by(&front) {
                break protocol;
            }
        },
    };
    Ok(Some(Begun { stream: ClientStream::Tls(stream), protocol, front: front.freeze(), client_cert }))
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
