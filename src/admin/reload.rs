//! Reloading, as an operator asks for it.

use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Admin;
use super::problem::Problem;

/// Reads the configuration again, and tells when that is done.
pub type Reload = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Reloaded> + Send>> + Send + Sync>;

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// These settings are other ones now.
    Applied(Vec<String>),
    /// Everything is as it was.
    Unchanged,
    /// The new configuration is wrong, as this report says; the old one stays.
    Wrong(String),
    /// The new configuration has to wait for a restart, for this reason; the old one stays.
    Refused(String),
}

impl Admin {
    /// Reloads; the answer comes when the new configuration is in force.
    pub(super) async fn reload(&self) -> Result<Value, Problem> {
        match (self.reload)().await {
            Reloaded::Applied(changes) => Ok(json!({ "result": "applied", "changes": changes })),
            Reloaded::Unchanged => Ok(json!({ "result": "unchanged", "changes": [] })),
            Reloaded::Wrong(report) => Err(Problem::WrongConfiguration(report)),
            Reloaded::Refused(reason) => Err(Problem::NeedsRestart(reason)),
        }
    }
}
