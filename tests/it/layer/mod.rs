//! The layer through its public API: what a client sees, line by line, in process and over real sockets.

mod axum;
mod drained;
mod faulty;
mod fingerprints;
mod keys;
mod limits;
mod observe;
mod outcomes;
mod passing;
mod races;
mod ready;
mod replay;
mod scopes;
mod spool;
mod stand;
mod store_down;
mod wire;
