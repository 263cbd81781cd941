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
mod large;
mod limits;
pub mod raw;
mod replay;
mod targets;
mod tls;
mod unix;
mod upgrade;
mod upstream_race;
mod upstream_tls;
mod upstream_unix;
mod websocket;
