//! The listener: accepts connections and hands each to the worker with the fewest.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use crate::http::drain::Drain;
use crate::proxy::server::{Accepted, Workers};

/// The pause after a failed accept: out of file descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(20);

/// The data listener, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSpec {
    /// Where it listens.
    pub address: SocketAddr,
    /// The longest time for a request's head.
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
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for ListenerSpec {
    fn default() -> ListenerSpec {
        ListenerSpec {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
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

/// The places for connections, whose number may change.
pub(super) struct Places {
    free: Arc<Semaphore>,
    count: AtomicUsize,
}

impl Places {
    pub(super) fn new(count: usize) -> Places {
        Places { free: Arc::new(Semaphore::new(count)), count: AtomicUsize::new(count) }
    }

    /// Waits for a place.
    async fn take(&self) -> OwnedSemaphorePermit {
        self.free.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Makes it so many places. Those that are to go and are taken go when their connections end, before anybody new
    /// gets one.
    pub(super) fn resize(&self, count: usize) {
        let before = self.count.swap(count, Ordering::AcqRel);
        if let Some(more) = count.checked_sub(before) {
            return self.free.add_permits(more);
        }
        let surplus = before - count;
        let taken = surplus - self.free.forget_permits(surplus);
        if let Some(taken) = u32::try_from(taken).ok().filter(|taken| *taken > 0) {
            let free = self.free.clone();
            tokio::spawn(async move {
                let permits = free.acquire_many_owned(taken).await.expect("the semaphore is never closed");
                permits.forget();
            });
        }
    }
}

/// Accepts connections for ever. At the limit the next one waits in the kernel's queue.
pub(super) async fn accept(listener: &TcpListener, places: &Places, workers: &Workers, open: &Drain) {
    loop {
        let place = places.take().await;
        let accepted = listener.accept().await.and_then(|(stream, address)| Ok((stream.into_std()?, address)));
        match accepted {
            Ok((stream, address)) => workers.hand_over(Accepted { stream, address, place, open: open.begin() }),
            Err(error) if is_the_clients(&error) => debug!(%error, "a connection ended before it was accepted"),
            Err(error) => {
                warn!(%error, "cannot accept connections");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_come_and_go_as_they_are_free() {
        let places = Places::new(3);
        let taken = [places.take().await, places.take().await];
        places.resize(1);
        // One of them was free; the other one is owed by the first that ends.
        tokio::task::yield_now().await;
        let [first, second] = taken;
        drop(first);
        tokio::task::yield_now().await;
        assert_eq!(places.free.available_permits(), 0);
        drop(second);
        tokio::task::yield_now().await;
        assert_eq!(places.free.available_permits(), 1);
        places.resize(4);
        assert_eq!(places.free.available_permits(), 4);
    }
}
