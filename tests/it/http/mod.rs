//! What a gateway owes, in raw bytes: the numbers are those of the requirements in the proxy's HTTP page.

mod certificates;
mod crowd;
mod fields;
mod forwarding;
mod frames;
mod framing;
mod grpc;
mod hostile;
mod http2;
mod http2_upstream;
mod keys;
mod large;
mod limits;
mod malformed_http2;
pub mod raw;
mod replay;
mod smuggling;
mod targets;
mod tls;
mod trailers;
mod unix;
mod upgrade;
mod upstream_race;
mod upstream_tls;
mod upstream_unix;
mod websocket;
