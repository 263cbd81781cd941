//! The upstream: where it is, and the connections to it.

use std::sync::Arc;
use std::time::Duration;

/// An upstream, as configured. Limits hold for all workers together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSpec {
    /// Its name, which is the namespace of its keys unless the policy says otherwise.
    pub name: Arc<str>,
    /// Host name or address, without brackets around an IPv6 one.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// What goes into the Host field where the client's is not passed on.
    pub authority: Arc<str>,
    /// Name, TCP together.
    pub connect_timeout: Duration,
    /// From the last request byte to the response head, then between two chunks; of a held response the whole
    /// exchange.
    pub response_timeout: Duration,
    /// How long a connection may lie idle and still be used again.
    pub idle_timeout: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// Passes the client's Host on.
    pub preserve_host: bool,
}
