//! The proxy: listener, connections, router, forwarding, upstream connections.

pub mod connection;
pub mod forward;
pub mod headers;
pub mod listener;
pub mod router;
pub mod server;
pub mod upstream;
