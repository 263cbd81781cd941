//! What a gateway owes, in raw bytes: the numbers are those of the requirements in the proxy's HTTP page.

mod fields;
mod forwarding;
mod framing;
mod http2;
mod limits;
pub mod raw;
mod replay;
mod targets;
mod upgrade;
mod websocket;
