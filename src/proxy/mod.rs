//! The proxy: listener, connections, routes, the upstream pool.

pub mod connection;
pub mod forward;
pub mod headers;
pub mod listener;
pub mod router;
pub mod server;
pub mod upstream;
