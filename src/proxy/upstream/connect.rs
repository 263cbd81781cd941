//! New connections: name, TCP, and hyper's handshake, within one time limit.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http1::SendRequest;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::multiplexed::{MAX_STREAMS, Multiplexed, Streams};
use super::pool::Place;
use super::socket::{Socket, Traffic};
use super::{UpstreamSpec, UpstreamVersion};
use crate::proxy::BoxError;

/// How much of an answer may be on its way that nobody has asked for yet. A connection has room for that of all its
/// streams, so that none has to wait for another's client.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const MAX_HEADER_LIST_BYTES: u32 = 64 << 10;

/// Why there is no connection. Whatever the reason: nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name does not resolve.
    #[error("the name {0} does not resolve: {1}")]
    Name(String, #[source] io::Error),
    /// Nobody takes the connection.
    #[error("{0} does not take a connection: {1}")]
    Refused(SocketAddr, #[source] io::Error),
    /// Not within the time limit.
    #[error("no connection within {0:?}")]
    Timeout(std::time::Duration),
    /// hyper did not take the socket.
    #[error("the connection ended at once: {0}")]
    Handshake(#[source] hyper::Error),
}

/// A new connection.
pub(super) enum Connected<B> {
    Http1(SendRequest<B>, Traffic),
    Http2(Multiplexed<B>),
}

/// Connects to the first address that answers. Begins with another one each time, so that all of them get some.
/// The place is held until the connection has ended.
pub(super) async fn connect<B>(
    spec: &UpstreamSpec,
    turn: &AtomicUsize,
    place: Place<B>,
) -> Result<Connected<B>, ConnectError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let stream = timeout(spec.connect_timeout, dial(spec, turn))
        .await
        .map_err(|_| ConnectError::Timeout(spec.connect_timeout))??;
    // Small requests go out at once.
    let _ = stream.set_nodelay(true);
    let socket = Socket::new(stream);
    match spec.version {
        UpstreamVersion::Http1 => begin_http1(spec, socket, place).await,
        UpstreamVersion::Http2 => begin_http2(socket, place).await,
    }
}

async fn begin_http1<B>(spec: &UpstreamSpec, socket: Socket, place: Place<B>) -> Result<Connected<B>, ConnectError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let traffic = socket.traffic();
    let (sender, connection) = http1::Builder::new().handshake(socket).await.map_err(ConnectError::Handshake)?;
    let (watched, stall_limit) = (traffic.clone(), spec.response_timeout);
    tokio::spawn(async move {
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                debug!(%error, "an upstream connection ended early");
            },
            () = watched.stalls(stall_limit) => warn!("a client took nothing of its answer; the upstream's connection is closed"),
        }
        drop(place);
    });
    Ok(Connected::Http1(sender, traffic))
}

async fn begin_http2<B>(socket: Socket, place: Place<B>) -> Result<Connected<B>, ConnectError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let traffic = socket.traffic();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(STREAM_WINDOW_BYTES * MAX_STREAMS as u32)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .handshake(socket)
        .await
        .map_err(ConnectError::Handshake)?;
    let streams = Streams::new();
    let allowed = streams.clone();
    let mut connection = Box::pin(connection);
    tokio::spawn(async move {
        let ended = poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            allowed.allow(connection.current_max_send_streams(), cx.waker());
            polled
        });
        if let Err(error) = ended.await {
            debug!(%error, "an upstream connection ended early");
        }
        drop(place);
    });
    Ok(Connected::Http2(Multiplexed::new(sender, traffic, streams)))
}

async fn dial(spec: &UpstreamSpec, turn: &AtomicUsize) -> Result<TcpStream, ConnectError> {
    let addresses: Vec<SocketAddr> = match spec.host.parse() {
        Ok(ip) => vec![SocketAddr::new(ip, spec.port)],
        Err(_) => {
            let failed = |error| ConnectError::Name(spec.host.to_string(), error);
            lookup_host((&*spec.host, spec.port)).await.map_err(failed)?.collect()
        }
    };
    let first = turn.fetch_add(1, Ordering::Relaxed);
    let mut last = ConnectError::Name(spec.host.to_string(), io::Error::other("it has no address"));
    for n in 0..addresses.len() {
        let address = addresses[first.wrapping_add(n) % addresses.len()];
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = ConnectError::Refused(address, error),
        }
    }
    Err(last)
}
