//! The upstream: where it is, and the connections to it.
//!
//! The pool is ours, over `hyper::client::conn`: it knows of each connection how many bytes were handed to the kernel,
//! which is what tells a request that was never sent from one of which nobody knows, and it never sends anything
//! twice by itself.

mod addresses;
pub mod body;
pub mod connect;
pub mod frame;
pub mod lease;
mod multiplexed;
pub mod pool;
mod race;
pub mod socket;
mod stream;
pub mod tls;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::tls::ClientTls;

/// An upstream, as configured. Limits hold for all workers together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSpec {
    /// Its name, which is the namespace of its keys unless the policy says otherwise.
    pub name: Arc<str>,
    /// What its connections go over.
    pub transport: Transport,
    /// Host name or address, without brackets around an IPv6 one; `localhost` behind a Unix socket.
    pub host: Arc<str>,
    /// The port; 0 behind a Unix socket.
    pub port: u16,
    /// What goes into the Host field where the client's is not passed on.
    pub authority: Arc<str>,
    /// Name, TCP and TLS together.
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

/// What connections go over, and so which version of HTTP they speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// TCP to host and port, with HTTP/1.1.
    Tcp,
    /// TCP to host and port, with HTTP/2 by prior knowledge (RFC 9113 section 3.3).
    H2c,
    /// TLS over TCP to host and port, with the version that the server chooses (RFC 7301).
    Tls(Arc<ClientTls>),
    /// The socket at this path, with HTTP/1.1.
    Unix(Arc<Path>),
}

impl UpstreamSpec {
    /// Its URL.
    pub fn url(&self) -> String {
        match &self.transport {
            Transport::Tcp => format!("http://{}", self.authority),
            Transport::H2c => format!("h2c://{}", self.authority),
            Transport::Tls(_) => format!("https://{}", self.authority),
            Transport::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
impl UpstreamSpec {
    /// One for tests that look at something else.
    pub(crate) fn example() -> UpstreamSpec {
        UpstreamSpec {
            name: "example".into(),
            transport: Transport::Tcp,
            host: "127.0.0.1".into(),
            port: 9,
            authority: "127.0.0.1:9".into(),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(4),
            max_connections: 256,
            preserve_host: true,
        }
    }
}
