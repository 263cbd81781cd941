//! The protocol: how a key takes effect once.

pub mod store;
pub mod terms;
