//! What is seen from outside: logs, access lines, metrics.

pub mod logs;
pub mod metrics;
pub mod timed;
