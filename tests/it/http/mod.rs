//! What a gateway owes, in raw bytes: the numbers are those of the requirements in the proxy's HTTP page.

mod fields;
mod forwarding;
mod frames;
mod framing;
mod grpc;
mod http2;
mod http2_upstream;
mod keys;
mod limits;
mod malformed_http2;
pub mod raw;
mod replay;
mod smuggling;
mod targets;
mod trailers;
mod upgrade;
mod upstream_race;
mod upstream_tls;
mod upstream_unix;
mod websocket;
