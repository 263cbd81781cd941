//! What is fuzzed: each module has a `check` that takes any bytes and panics when something is wrong.
//!
//! The tests of the program take these modules too, and run the seeds through them.

pub mod answer;
pub mod canonical_json;
pub mod config;
pub mod key;
mod readings;
pub mod record;
pub mod request;
mod sent;
mod stage;
pub mod wire;
