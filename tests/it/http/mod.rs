//! What a gateway owes, in raw bytes: the numbers are those of the requirements in the proxy's HTTP page.

mod fields;
mod forwarding;
mod framing;
mod grpc;
mod http2;
mod http2_upstream;
mod limits;
pub mod raw;
mod replay;
mod targets;
mod upstream_race;
mod upstream_tls;
mod upstream_unix;
