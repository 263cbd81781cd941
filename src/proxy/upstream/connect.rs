//! New connections: name, TCP, and hyper's handshake, within one time limit.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::UpstreamSpec;
use super::pool::Place;
use super::socket::{Socket, Traffic};
use crate::proxy::BoxError;

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
pub(super) struct Connected<B> {
    pub(super) sender: SendRequest<B>,
    pub(super) traffic: Traffic,
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
    let traffic = socket.traffic();
    let (sender, connection) = http1::Builder::new().handshake(socket).await.map_err(ConnectError::Handshake)?;
    let (watched, stall_limit) = (traffic.clone(), spec.response_timeout);
    tokio::spawn(async move {
        tokio::select! {
            ended = connection.with_upgrades() => if let Err(error) = ended {
                debug!(%error, "an upstream connection ended early");
            },
            () = watched.stalls(stall_limit) => warn!("a client took nothing of its answer; the upstream's connection is closed"),
        }
        drop(place);
    });
    Ok(Connected { sender, traffic })
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
