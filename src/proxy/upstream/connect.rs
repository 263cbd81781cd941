//! New connections: name, TCP and TLS within one time limit, then the protocol.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http1::SendRequest;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep, timeout_at};
use tracing::{debug, warn};

use super::addresses::Addresses;
use super::multiplexed::{MAX_STREAMS, Multiplexed, Streams};
use super::pool::Place;
use super::race::{Lost, race};
use super::socket::{Socket, Traffic};
use super::stream::Stream;
use super::{Transport, UpstreamSpec};
use crate::proxy::BoxError;

/// How much of an answer may be on its way that nobody has asked for yet. A connection has room for that of all its
/// streams, so that none has to wait for another's client.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const MAX_HEADER_LIST_BYTES: u32 = 64 << 10;
/// What a connection reads ahead, and how much it lets pile up of what it writes; a head is no larger.
const BUFFER_BYTES: usize = 64 << 10;
/// How many fields an answer may have.
const MAX_FIELDS: usize = 256;

/// Why there is no connection. Whatever the reason: nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name does not resolve.
    #[error("the name {0} does not resolve: {1}")]
    Name(String, #[source] io::Error),
    /// Nobody takes the connection.
    #[error("{0} does not take a connection: {1}")]
    Refused(SocketAddr, #[source] io::Error),
    /// Nobody takes a connection at this path.
    #[error("the socket {path} does not take a connection: {1}", path = .0.display())]
    Socket(PathBuf, #[source] io::Error),
    /// The other side cannot prove who it is, or speaks no TLS that we do.
    #[error("no TLS with {0}: {1}")]
    Tls(SocketAddr, #[source] io::Error),
    /// Not within the time limit.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// The other side does not speak HTTP/2, or closed before it did.
    #[error("the connection ended before a word of HTTP/2")]
    NoHttp2,
    /// hyper did not take the socket.
    #[error("the connection ended at once: {0}")]
    Handshake(#[source] hyper::Error),
}

/// A new connection.
pub(super) enum Connected<B> {
    Http1(SendRequest<B>, Traffic),
    Http2(Multiplexed<B>),
}

/// Connects to an upstream. The place is held until the connection has ended.
pub(super) async fn connect<B>(
    spec: &UpstreamSpec,
    addresses: &Addresses,
    place: Place<B>,
) -> Result<Connected<B>, ConnectError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let deadline = Instant::now() + spec.connect_timeout;
    let stream = open(spec, addresses).await?;
    let speaks_http2 = match &spec.transport {
        Transport::Tcp | Transport::Unix(_) => false,
        Transport::H2c => true,
        Transport::Tls(_) => stream.has_chosen_http2(),
    };
    match speaks_http2 {
        false => begin_http1(Socket::new(stream), spec.response_timeout, place).await,
        true => {
            let begun = timeout_at(deadline, begin_http2(Socket::new(stream), spec.response_timeout, place));
            begun.await.map_err(|_| ConnectError::Timeout(spec.connect_timeout))?
        }
    }
}

/// Reaches for an upstream and lets it go again.
///
/// # Errors
/// Why it cannot be reached.
pub(crate) async fn try_out(spec: &UpstreamSpec) -> Result<(), ConnectError> {
    open(spec, &Addresses::default()).await.map(drop)
}

async fn begin_http1<B>(socket: Socket, stall_limit: Duration, place: Place<B>) -> Result<Connected<B>, ConnectError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let traffic = socket.traffic();
    let handshake = http1::Builder::new().max_buf_size(BUFFER_BYTES).max_headers(MAX_FIELDS).handshake(socket);
    let (sender, connection) = handshake.await.map_err(ConnectError::Handshake)?;
    let watched = traffic.clone();
    tokio::spawn(async move {
        tokio::select! {
            ended = connection.with_upgrades() => if let Err(error) = ended {
                debug!(%error, "an upstream connection ended early");
            },
            () = watched.stalls(stall_limit) => warn!("a client took nothing of its answer; the upstream's connection is closed"),
        }
        drop(place);
    });
    Ok(Connected::Http1(sender, traffic))
}

/// Begins HTTP/2, and waits for the server's first word: only then is it known how much it takes at once.
async fn begin_http2<B>(socket: Socket, end_limit: Duration, place: Place<B>) -> Result<Connected<B>, ConnectError>
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
        .initial_max_send_streams(0)
        .handshake(socket)
        .await
        .map_err(ConnectError::Handshake)?;
    let streams = Streams::new();
    let (watched, told) = (traffic.clone(), streams.clone());
    let (speaks, has_spoken) = oneshot::channel();
    let mut speaks = Some(speaks);
    let mut connection = Box::pin(connection);
    tokio::spawn(async move {
        let ended = poll_fn(|cx| {
            // What the server says is read by another task of hyper's.
            watched.listen(cx);
            let polled = connection.as_mut().poll(cx);
            if told.allow(connection.current_max_send_streams())
                && let Some(speaks) = speaks.take()
            {
                // Nobody waits any more: it took too long.
                let _ = speaks.send(());
            }
            polled
        });
        if let Err(error) = ended.await {
            debug!(%error, "an upstream connection ended early");
        }
        drop((connection, speaks));
        // It takes no more exchanges. Those that it has go on; an upload that nobody reads would do so for ever.
        tokio::select! {
            () = poll_fn(|cx| watched.poll_over(cx)) => {}
            () = async {
                poll_fn(|cx| told.poll_none_open(cx)).await;
                sleep(end_limit).await;
            } => watched.cut(),
        }
        drop(place);
    });
    has_spoken.await.map_err(|_| ConnectError::NoHttp2)?;
    Ok(Connected::Http2(Multiplexed::new(sender, traffic, streams)))
}

/// Opens a stream, within the upstream's time limit.
async fn open(spec: &UpstreamSpec, addresses: &Addresses) -> Result<Stream, ConnectError> {
    let deadline = Instant::now() + spec.connect_timeout;
    let late = |_| ConnectError::Timeout(spec.connect_timeout);
    match &spec.transport {
        Transport::Tcp | Transport::H2c => Ok(Stream::Tcp(dial(spec, addresses, deadline).await?.1)),
        Transport::Tls(tls) => {
            let (address, stream) = dial(spec, addresses, deadline).await?;
            let secured = timeout_at(deadline, tls.secure(stream)).await.map_err(late);
            let secured = secured.and_then(|secured| secured.map_err(|error| ConnectError::Tls(address, error)));
            if secured.is_err() {
                addresses.failed(address);
            }
            Ok(Stream::tls(secured?))
        }
        Transport::Unix(path) => {
            let connected = timeout_at(deadline, UnixStream::connect(path)).await.map_err(late)?;
            connected.map(Stream::Unix).map_err(|error| ConnectError::Socket(path.to_path_buf(), error))
        }
    }
}

/// Connects to the name's addresses.
async fn dial(
    spec: &UpstreamSpec,
    addresses: &Addresses,
    deadline: Instant,
) -> Result<(SocketAddr, TcpStream), ConnectError> {
    let found = match spec.host.parse() {
        Ok(ip) => vec![SocketAddr::new(ip, spec.port)],
        Err(_) => {
            let found = timeout_at(deadline, lookup_host((&*spec.host, spec.port)));
            let found = found.await.map_err(|_| ConnectError::Timeout(spec.connect_timeout))?;
            found.map_err(|error| ConnectError::Name(spec.host.to_string(), error))?.collect()
        }
    };
    dial_one_of(&found, addresses, deadline).await.map_err(|lost| match lost {
        Lost::Nobody => ConnectError::Name(spec.host.to_string(), io::Error::other("it has no address")),
        Lost::Refused(address, error) => ConnectError::Refused(address, error),
        Lost::Timeout => ConnectError::Timeout(spec.connect_timeout),
    })
}

async fn dial_one_of(
    found: &[SocketAddr],
    addresses: &Addresses,
    deadline: Instant,
) -> Result<(SocketAddr, TcpStream), Lost> {
    let order = addresses.plan(found);
    let (address, stream) = race(&order, deadline, TcpStream::connect, |address| addresses.failed(address)).await?;
    addresses.answered(address);
    // Small requests go out at once.
    let _ = stream.set_nodelay(true);
    Ok((address, stream))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::{Domain, Socket, Type};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        (listener, address)
    }

    async fn dial_to(found: &[SocketAddr], addresses: &Addresses) -> SocketAddr {
        let dialled = dial_one_of(found, addresses, Instant::now() + LIMIT).await;
        dialled.expect("one of them answers").0
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_are_used_in_turn() {
        let ((_one, first), (_two, second)) = (listener(), listener());
        let (found, addresses) = ([first, second], Addresses::default());
        for _ in 0..3 {
            assert_eq!(dial_to(&found, &addresses).await, first);
            assert_eq!(dial_to(&found, &addresses).await, second);
        }
    }

    #[tokio::test]
    async fn a_dead_address_of_two_costs_no_connection() {
        let ((_open, live), (closed, dead)) = (listener(), listener());
        drop(closed);
        let (found, addresses) = ([dead, live], Addresses::default());
        for _ in 0..10 {
            assert_eq!(dial_to(&found, &addresses).await, live);
        }
        assert_eq!(addresses.plan(&found), [live, dead]);
    }

    #[tokio::test]
    async fn an_address_that_swallows_packets_is_asked_once() {
        // A queue that is full: the kernel drops whatever knocks.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        socket.listen(0).expect("a listener");
        let hole = socket.local_addr().expect("its address").as_socket().expect("an IP address");
        let _in_the_queue = std::net::TcpStream::connect(hole).expect("the first one has room");
        let (_open, live) = listener();
        let (found, addresses) = ([hole, live], Addresses::default());
        let began = Instant::now();
        assert_eq!(dial_to(&found, &addresses).await, live);
        let first = began.elapsed();
        assert!(first < LIMIT / 4, "the other address had its share of the time: {first:?}");
        for _ in 0..10 {
            assert_eq!(dial_to(&found, &addresses).await, live);
        }
        assert_eq!(addresses.plan(&found), [live, hole]);
    }
}
