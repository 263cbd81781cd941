//! The listener: accepts connections and hands each to the worker with the fewest.

pub mod address;
pub(super) mod places;
mod socket_file;

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::http::drain::Drain;
use crate::proxy::listener::address::{Address, PeerAddress, TrustedPeer};
use crate::proxy::listener::places::{Capacity, MOMENT, Places};
use crate::proxy::listener::socket_file::SocketFile;
use crate::proxy::server::{Accepted, Workers};
use crate::proxy::tls::TlsSpec;

/// The pause after a failed accept: out of file descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(20);

/// The data listener, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSpec {
    /// Where it listens.
    pub address: Address,
    /// The certificates; without them connections are in clear text.
    pub tls: Option<TlsSpec>,
    /// The longest time for a TLS handshake and a request's head together.
    pub header_timeout: Duration,
    /// The longest time between two chunks of a body.
    pub body_timeout: Duration,
    /// The longest time between two requests of a connection.
    pub idle_timeout: Duration,
    /// How long a shutdown waits for requests under way.
    pub shutdown_grace: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// All request and response buffers together, in bytes.
    pub max_buffered_bytes: usize,
    /// Where large bodies of requests lie while they are held; `None` is the system's folder for temporary files.
    pub spool_dir: Option<PathBuf>,
    /// All bodies there together, in bytes.
    pub max_spooled_bytes: u64,
    /// Peers that may set X-Forwarded-* and Forwarded.
    pub trusted_proxies: Vec<TrustedPeer>,
}

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// On an address and a port.
    Tcp(TcpListener),
    /// On a path, which is removed when this is dropped: before the socket is closed, which keeps its identity.
    Unix(SocketFile, UnixListener),
}

/// A connection on its way to a worker's runtime.
pub(super) enum Detached {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A connection's socket.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Default for ListenerSpec {
    fn default() -> ListenerSpec {
        ListenerSpec {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)).into(),
            tls: None,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            shutdown_grace: Duration::from_secs(30),
            max_connections: 4096,
            max_buffered_bytes: 256 << 20,
            spool_dir: None,
            max_spooled_bytes: 10 << 30,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Listener {
    /// Listens on an address.
    ///
    /// # Errors
    /// It is taken, or must not be used.
    pub async fn bind(address: &Address) -> io::Result<Listener> {
        match address {
            Address::Socket(address) => Ok(Listener::Tcp(TcpListener::bind(address).await?)),
            Address::Unix(path) => {
                let (listener, file) = SocketFile::bind(path)?;
                Ok(Listener::Unix(file, UnixListener::from_std(listener)?))
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn address(&self) -> io::Result<Address> {
        Ok(match self {
            Listener::Tcp(listener) => Address::Socket(listener.local_addr()?),
            Listener::Unix(file, _) => Address::Unix(file.path().to_owned()),
        })
    }

    async fn accept(&self) -> io::Result<(Detached, PeerAddress)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Detached::Tcp(stream.into_std()?), address.into()))
            }
            Listener::Unix(_, listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Detached::Unix(stream.into_std()?), PeerAddress::Unix))
            }
        }
    }
}

impl Detached {
    /// Makes it a socket of the runtime that this is called on.
    pub(super) fn attach(self) -> io::Result<Socket> {
        Ok(match self {
            Detached::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream)?),
            Detached::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// Accepts connections for ever.
pub(super) async fn accept(listener: &Listener, capacity: &Capacity, workers: &Workers, open: &Drain) {
    let mut places = Places::new(capacity);
    let mut is_crowded = false;
    loop {
        let door = places.door();
        let accepted = tokio::select! {
            biased;
            never = places.tend() => match never {},
            accepted = async { door.await; next(listener, is_crowded).await } => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let (entry, activity) = places.enter();
                is_crowded = entry.is_in_hall();
                workers.hand_over(Accepted { stream, address, activity, entry, open: open.begin() });
            }
            Err(error) if is_the_clients(&error) => debug!(%error, "a connection ended before it was accepted"),
            Err(error) => {
                warn!(%error, "cannot accept connections");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Accepts a connection. In a crowd those that come within a moment come in together.
async fn next(listener: &Listener, is_crowded: bool) -> io::Result<(Detached, PeerAddress)> {
    if is_crowded {
        tokio::select! {
            biased;
            accepted = listener.accept() => return accepted,
            () = ready(()) => sleep(MOMENT).await,
        }
    }
    listener.accept().await
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
