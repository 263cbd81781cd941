//! The upstream: where it is, and the connections to it.
//!
//! The pool is ours, over `hyper::client::conn`: it knows of each connection how many bytes were handed to the kernel,
//! which is what tells a request that was never sent from one of which nobody knows, and it never sends anything
//! twice by itself.

pub mod body;
pub mod connect;
pub mod frame;
mod multiplexed;
pub mod pool;
pub mod socket;

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
    /// Which version of HTTP it speaks.
    pub version: UpstreamVersion,
    /// Name and TCP together.
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

/// Which version of HTTP an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamVersion {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge (RFC 9113 section 3.3).
    Http2,
}

#[cfg(test)]
impl UpstreamSpec {
    /// One for tests that look at something else.
    pub(crate) fn example() -> UpstreamSpec {
        UpstreamSpec {
            name: "example".into(),
            host: "127.0.0.1".into(),
            port: 9,
            authority: "127.0.0.1:9".into(),
            version: UpstreamVersion::Http1,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(4),
            max_connections: 256,
            preserve_host: true,
        }
    }
}
