//! The tower layer: [`IdempotencyLayer`] puts the protocol around any service of `http` requests.
//!
//! Keys are looked for in the request's head; a request that the policy does not cover passes without a copy, a spawn
//! or a lock. Everything else is held: its body is read, the key is reserved, and the service is called from a task of
//! its own, whose answer is recorded before it leaves.

pub(crate) mod answer;
pub mod attempt;
pub mod body;
pub mod budget;
mod collect;
pub mod drain;
mod execute;
pub(crate) mod keyed;
pub mod layer;
pub mod observe;
pub mod policy;
pub mod refusal;
pub(crate) mod replay;
mod reply;
pub mod report;
pub mod service;
pub mod spool;
pub(crate) mod upgrade;

pub use attempt::{Attempt, ClientCert, Disposition};
pub use layer::IdempotencyLayer;
pub use policy::Policy;
pub use service::Idempotency;
