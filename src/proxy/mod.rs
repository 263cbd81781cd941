//! The proxy: listener, connections, router, forwarding, upstream connections.

pub mod connection;
pub mod forward;
pub mod gateway;
pub mod generation;
pub mod headers;
pub mod listener;
mod read;
pub mod router;
pub mod server;
pub mod tls;
mod tunnel;
pub mod upstream;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
