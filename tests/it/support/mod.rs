//! Servers and clients for the tests.

pub mod authority;
pub mod certificates;
pub mod client;
pub mod proxy;
pub mod redis;
pub mod tcp_proxy;
pub mod tls_upstream;
pub mod upstream;
pub mod waiting;
pub mod wire;
