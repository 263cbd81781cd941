//! Servers and clients for the tests.

pub mod proxy;
pub mod redis;
pub mod tcp_proxy;
pub mod upstream;
