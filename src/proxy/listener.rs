//! The listener: accepts connections and hands each to the worker with the fewest.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

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
            trusted_proxies: Vec::new(),
        }
    }
}
